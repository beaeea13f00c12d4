"""The world outside, one noun a module. Most implement a port of the core (`ports.py`, `registry.py`).

store/                    grants, leases, schedule and events in Redis, by Lua scripts
journal/                  answers on this machine's disk, from before their commit until a while after it
token_endpoint.py         the authorization server over httpx
endpoint_on_first_use.py  the same for commands, which mostly do without
credentials.py            how a client proves who it is
log_observer.py           what happens, as lines of the log
guarded_observer.py       an observer that raises costs nobody anything
sealing.py                AES-256-GCM with a key ring
key_file.py               the sealing key of a single machine
clock.py                  Redis TIME between two calls
cloud_events.py           events as CloudEvents JSON
embedded.py               the Valkey server that makes a single machine need no other
"""
