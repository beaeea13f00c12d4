"""Settings -> objects: the only room that knows both the adapters and the use cases."""
