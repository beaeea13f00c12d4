"""The client of a grant that somebody asks about, which may have been configured a moment ago."""

from contextlib import suppress

from worker.core.ports import Clients
from worker.core.providers import Client


def configured_client(clients: Clients, name: str) -> Client | None:
    """The client of this name; `None` where none is configured, or it was removed."""
    with suppress(KeyError):
        client = clients.get(name, 0)  # looks at its source where the name is new
        if name in clients.names():
            return client
    return None
