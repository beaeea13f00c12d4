"""The use cases: tokens on demand, imports, the report, and what the scheduled tasks do."""
