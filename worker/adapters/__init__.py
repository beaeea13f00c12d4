"""The world outside, one noun a module; each implements a port of `worker.core.ports`.

store/             grants, leases, schedule and events in Redis, by Lua scripts
journal/           answers on this machine's disk, from before their commit until a while after it
token_endpoint.py  the authorization server over httpx
sealing.py         AES-256-GCM with a key ring
clock.py           Redis TIME between two calls
cloud_events.py    events as CloudEvents JSON
embedded.py        the Valkey server that makes a single machine need no other
"""
