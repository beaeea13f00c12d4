"""The packed record: one grant as one MessagePack array under one Redis key.

Half the memory of a hash, on every Redis; Lua reads and writes it with `cmsgpack`. `FIELDS` is the schema:
the scripts get their field positions from it.

Rules: absent is `false`, never nil (a nil would make a Lua array a map); instants are integers; strings are
raw bytes.
"""

import json

import msgpack

from worker.core.grant import Grant, Status
from worker.core.registry import UnreadableRecordError

FIELDS = (
    "LEASE_OWNER",
    "LEASE_UNTIL",
    "FENCE",
    "INTENT",  # a refresh may have been sent whose outcome is not stored
    "ACCESS_EXPIRES_AT",
    "STATUS",
    "CLIENT",
    "VERSION",
    "LINEAGE",
    "SEALED",
    "ISSUED_AT",
    "REFRESH_ISSUED_AT",
    "REFRESH_EXPIRES_AT",
    "AUTHORIZED_AT",
    "SCOPE",
    "LABELS",
    "STREAK",
    "REASON",
    "NOTICED_AT",
    "LAST",  # the fence whose outcome was stored last
    "IMPORTED",  # the lineage that came from outside last: what is stored now descends from it
    "REJECTED_AT",
)
FRONT = FIELDS.index("CLIENT") + 1  # of a record: what leasing reads and writes, and nothing behind it


def lua_positions() -> str:
    """The constants that every script starts with, on one line."""
    names, positions = ", ".join(FIELDS), ", ".join(str(i + 1) for i in range(len(FIELDS)))
    return f"local {names}, FRONT = {positions}, {FRONT}\n"


def pack(grant: Grant) -> bytes:
    """A record at rest: no lease, no attempt yet."""
    values = [
        False,
        0,
        0,
        grant.in_doubt,
        _or_false(grant.access_expires_at),
        grant.status.value.encode(),
        grant.client.encode(),
        grant.version,
        grant.lineage,
        grant.sealed,
        grant.issued_at,
        grant.refresh_issued_at,
        _or_false(grant.refresh_expires_at),
        _or_false(grant.authorized_at),
        grant.scope.encode() if grant.scope else False,
        json.dumps(dict(grant.labels), separators=(",", ":")).encode() if grant.labels else False,
        grant.streak,
        grant.reason.encode() if grant.reason else False,
        _or_false(grant.noticed_at),
        0,
        grant.lineage,
        _or_false(grant.rejected_at),
    ]
    # The old raw type for strings: the one that every cmsgpack reads.
    packed: bytes = msgpack.packb(values, use_bin_type=False)
    return packed


def unpack(grant_id: str, packed: bytes, *, in_doubt: bool | None = None) -> tuple[Grant, int, int]:
    """Read a record: the grant, the fence of its lease, and that lease's end in ms.

    Args:
        grant_id: the id it was stored under.
        packed: the record.
        in_doubt: what the intent said before the present lease set its own; `None` where there is none.

    Raises:
        UnreadableRecordError: it is none.
    """
    try:
        return _unpack(grant_id, packed, in_doubt=in_doubt)
    except Exception:  # noqa: BLE001 whatever it is; its text may hold what is stored
        raise UnreadableRecordError(grant_id) from None


def _unpack(grant_id: str, packed: bytes, *, in_doubt: bool | None) -> tuple[Grant, int, int]:
    # In the order of FIELDS; a newer release may have added some at the end.
    (
        _lease_owner,
        lease_until,
        fence,
        intent,
        access_expires_at,
        status,
        client,
        version,
        lineage,
        sealed,
        issued_at,
        refresh_issued_at,
        refresh_expires_at,
        authorized_at,
        scope,
        labels,
        streak,
        reason,
        noticed_at,
        _last,
        imported,
        *later,
    ) = msgpack.unpackb(packed, raw=True)
    grant = Grant(
        id=grant_id,
        client=client.decode(),
        status=Status(status.decode()),
        version=version,
        lineage=lineage,
        sealed=sealed,
        issued_at=issued_at,
        access_expires_at=_or_none(access_expires_at),
        refresh_issued_at=refresh_issued_at,
        refresh_expires_at=_or_none(refresh_expires_at),
        authorized_at=_or_none(authorized_at),
        scope=scope.decode() if scope else None,
        labels=json.loads(labels) if labels else {},
        streak=streak,
        reason=reason.decode() if reason else None,
        in_doubt=bool(intent) if in_doubt is None else in_doubt,
        noticed_at=_or_none(noticed_at),
        root=imported,
        rejected_at=_or_none(later[0]) if later else None,
    )
    return grant, fence, lease_until


def _or_false(instant: int | None) -> int | bool:
    return False if instant is None else instant


def _or_none(instant: int | bool) -> int | None:  # noqa: FBT001 msgpack's false stands for absent
    return None if instant is False else int(instant)
