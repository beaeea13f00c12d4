"""One commit as bytes, and back.

Rules:
- A list that begins with its version. Fields go by their place, so a change of the fields is a new version.
- What comes back equals what went in, lone surrogates in a server's strings included.
- The only secret in a commit is the token pair, and that is sealed before it comes here.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final

import msgpack

from worker.core.events import Event, EventType
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.ports import Commit

VERSION: Final = 1

_GRANT_FIELDS = (
    "id",
    "client",
    "status",
    "version",
    "lineage",
    "sealed",
    "issued_at",
    "access_expires_at",
    "refresh_issued_at",
    "refresh_expires_at",
    "authorized_at",
    "scope",
    "labels",
    "streak",
    "reason",
    "in_doubt",
    "noticed_at",
    "root",
    "rejected_at",
)
_grant_values = attrgetter(*_GRANT_FIELDS)


class UnknownEntryError(Exception):
    """A whole entry that this release cannot read: a newer one wrote it."""


def pack(commit: Commit) -> bytes:
    """Write a commit down."""
    change = commit.change
    event = change.event
    values = [
        VERSION,
        commit.fence,
        commit.base_lineage,
        commit.base_version,
        commit.base_status,
        change.due_at,
        change.attention_at,
        _grant_values(change.grant),
        None if event is None else (event.type, event.id, event.subject, event.at, event.data),
    ]
    packed: bytes = msgpack.packb(values, default=_plain, unicode_errors="surrogatepass")
    return packed


def unpack(packed: bytes) -> Commit:
    """Read a commit.

    Raises:
        UnknownEntryError: it is of another version.
    """
    try:
        values = msgpack.unpackb(packed, unicode_errors="surrogatepass", strict_map_key=False)
        if values[0] != VERSION:
            raise UnknownEntryError
        _, fence, base_lineage, base_version, base_status, due_at, attention_at, grant, event = values
        change = Change(_grant(grant), due_at, attention_at, None if event is None else _event(event))
        return Commit(fence, base_lineage, base_version, Status(base_status), change)
    except (ValueError, TypeError, LookupError, msgpack.UnpackException):
        # Without its cause, which might quote what it could not read.
        raise UnknownEntryError from None


def _plain(value: Any) -> dict[Any, Any]:
    """Mappings other than `dict`, which msgpack does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def _grant(values: list[Any]) -> Grant:
    named = dict(zip(_GRANT_FIELDS, values, strict=True))
    return Grant(**named | {"status": Status(named["status"])})


def _event(values: list[Any]) -> Event:
    event_type, event_id, subject, at, data = values
    return Event(EventType(event_type), event_id, subject, at, data)
