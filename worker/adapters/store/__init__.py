"""Redis as the store: packed records, the Lua scripts that change them, and the two views of them.

record.py       one grant as one packed value: the schema
lua/            every change, one atomic script each; prelude.lua comes before all of them
scripts.py      loads and runs them, in groups
redis_store.py  what the refresher does: claim, commit, settle
fleet.py        what operators do: import, list, pause, count, read events
"""
