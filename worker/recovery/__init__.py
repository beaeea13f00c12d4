"""What a process does to be known to the store, and to give back what the store may have forgotten."""
