"""Evergrant keeps OAuth 2.0 grants alive.

core/         pure decisions: when a grant is due, what a reply means, what becomes of a grant
refresher.py  the one place where effects are ordered: lease, intent, send, journal, commit
refreshing/   what one refresh needs: answers on their way to the store, limits of what is in flight
recovery/     keeps a process known to the store, and gives back what the store forgot
fleet/        what is done with many grants, or with one on demand
adapters/     Redis with its Lua, the journal, the token endpoint, sealing, the embedded server
runtime/      settings -> objects, in the process that uses them
celery.py     the Celery app and its schedule: what `celery -A worker` finds
cli/          the `evergrant` command
http/         the HTTP service
sandbox/      an authorization server that rotates strictly, for the demo and the tests
"""
