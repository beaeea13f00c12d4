"""Evergrant keeps OAuth 2.0 grants alive.

core/         pure decisions: when a grant is due, what a reply means, what becomes of a grant
refresher.py  the one place where effects are ordered: lease, intent, send, journal, commit
in_flight.py  how many attempts a drain has at work, and how many of them on the wire
answers.py    an answer, from the moment it is read until the store has it
presence.py   this process as the store knows it, and what it gives back to a store that forgot
adapters/     Redis with its Lua, the journal, the token endpoint, sealing, the embedded server
assembly.py     settings -> objects, in the process that uses them
celery.py     the Celery app and its schedule: what `celery -A worker` finds
cli/          the `evergrant` command
sandbox/      an authorization server that rotates strictly, for the demo and the tests
"""
