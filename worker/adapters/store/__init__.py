"""Redis as the store: packed records, the Lua scripts that change them, and the two views of them.

record.py       one grant as one packed value: the schema
lua/            every change, one atomic script each; prelude.lua comes before all of them
scripts.py      loads and runs them, in groups
redis_store.py  what the refresher does: claim, commit, record outcomes
registry.py     what operators do: import, find, list, pause
fleet_state.py  the state of clients, token endpoints and processes
event_stream.py the events, for those who read them here
reads.py        plain reads, with the port's error where the server does not answer
"""
