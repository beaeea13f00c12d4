"""Redis as the store: packed records, the Lua scripts that change them, and Python views of both.

record.py         one grant as one packed record: the schema
lua/              each change is one atomic script; prelude.lua precedes each, and lists all keys
signatures.py     the typed arguments of each script
transitions.py    the lifecycle's table, for the scripts
scripts.py        loads the scripts and runs their calls in groups
write_concern.py  what a write needs to count as stored
redis_store.py    what the refresher does: claim, commit, record outcomes
registry.py       what operators do: import, pause, find, list
fleet_state.py    what the store knows of clients, endpoints and processes
event_stream.py   reads the events
reads.py          plain reads, with the port's error where the server does not answer
durability.py     checks what the server promises to keep
"""
