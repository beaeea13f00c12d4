"""The packed record: one grant as one MessagePack array under one Redis key.

Half the memory of a hash, on every Redis; Lua reads and writes it with `cmsgpack`. `SCHEMA` declares each
field once: packing, unpacking and the field positions in Lua come from it.

Rules:
- Absent is `false`, never nil: a nil would make a Lua array a map.
- Instants are integers, in Unix ms; spans too, in ms. Strings are raw bytes.
- A new field goes to the end and is optional: records of an older release lack it, and records of a newer
  one may have more.
- This is format 1. Any other change makes a new format, whose records begin with the byte 0xc1, which
  MessagePack never uses, and the format's number. A release leaves records of a newer format as they are.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any, Final

import msgpack

from worker.core.failures import NewerRecordError, UnreadableRecordError
from worker.core.grant import Grant, Status

FORMAT: Final = 1
OTHER_FORMAT: Final = 0xC1


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a value of a grant is written in its record.

    Attributes:
        encode: from the grant's value; `None` where they are the same.
        decode: to the grant's value; `None` where they are the same.
        optional: `None` in the grant, or an empty text, is `false` in the record.
    """

    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None
    optional: bool = False


def _labels_to_bytes(labels: Mapping[str, str]) -> bytes | bool:
    return json.dumps(dict(labels), separators=(",", ":")).encode() if labels else False


def _labels_from_bytes(packed: bytes | bool) -> dict[str, str]:  # noqa: FBT001 msgpack's false
    return dict(json.loads(packed)) if isinstance(packed, bytes) else {}


AS_IT_IS: Final = Encoding()
FLAG: Final = Encoding(decode=bool)
TEXT: Final = Encoding(str.encode, bytes.decode)
OPTIONAL_TEXT: Final = Encoding(str.encode, bytes.decode, optional=True)
OPTIONAL_NUMBER: Final = Encoding(decode=int, optional=True)
OPTIONAL_MS: Final = OPTIONAL_NUMBER
STATUS: Final = Encoding(str.encode, {status.value.encode(): status for status in Status}.__getitem__)
LABELS: Final = Encoding(_labels_to_bytes, _labels_from_bytes)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    Attributes:
        name: of its position in Lua.
        attribute: of `Grant`; `None` where only scripts read the field.
        encoding: of the attribute's value.
        at_rest: its value in an imported record, where it has no attribute.
        is_later: added since the first release.
    """

    name: str
    attribute: str | None = None
    encoding: Encoding = AS_IT_IS
    at_rest: int | bool = False
    is_later: bool = False


SCHEMA: Final = (
    # The front: what leasing reads and writes, up to CLIENT.
    Field("LEASE_OWNER"),
    Field("LEASE_UNTIL", at_rest=0),
    Field("FENCE", at_rest=0),
    Field("INTENT", "in_doubt", FLAG),  # a refresh may have been sent whose outcome is not stored
    Field("ACCESS_EXPIRES_AT", "access_expires_at", OPTIONAL_MS),
    Field("STATUS", "status", STATUS),
    Field("CLIENT", "client", TEXT),
    # The rest.
    Field("VERSION", "version"),
    Field("LINEAGE", "lineage"),
    Field("SEALED", "sealed"),
    Field("ISSUED_AT", "issued_at"),
    Field("REFRESH_ISSUED_AT", "refresh_issued_at"),
    Field("REFRESH_EXPIRES_AT", "refresh_expires_at", OPTIONAL_MS),
    Field("AUTHORIZED_AT", "authorized_at", OPTIONAL_MS),
    Field("SCOPE", "scope", OPTIONAL_TEXT),
    Field("LABELS", "labels", LABELS),
    Field("STREAK", "streak"),
    Field("REASON", "reason", OPTIONAL_TEXT),
    Field("NOTICED_AT", "noticed_at", OPTIONAL_MS),
    Field("LAST", at_rest=0),  # the fence whose outcome was stored last
    Field("IMPORTED", "root"),  # the lineage that was imported last: the stored pair descends from it
    Field("REJECTED_AT", "rejected_at", OPTIONAL_MS, is_later=True),
    Field("STATED_LIFE", "stated_life_ms", OPTIONAL_MS, is_later=True),
    Field("KEPT_REPLY", "kept_reply", OPTIONAL_NUMBER, is_later=True),
    Field("NARROWED", "narrowed", OPTIONAL_TEXT, is_later=True),
    Field("TOKEN_TYPE", "token_type", OPTIONAL_TEXT, is_later=True),
    # Of the present pair: until when a hand-out may promise it; absent until its first hand-out.
    Field("PROMISABLE_UNTIL", is_later=True),
    Field("OUTLIVES", is_later=True),  # its access token lives on after the next refresh
    Field("PROMISED_UNTIL", is_later=True),  # until then it is not rotated
)
FIELDS: Final = tuple(field.name for field in SCHEMA)
FRONT: Final = FIELDS.index("CLIENT") + 1

# What packing and unpacking need of the schema, looked up once: a claim unpacks records by the hundred.
_LEASE_UNTIL, _FENCE, _INTENT, _ROOT = map(FIELDS.index, ("LEASE_UNTIL", "FENCE", "INTENT", "IMPORTED"))
_LATER: Final = sum(field.is_later for field in SCHEMA)
_DECODED: Final = tuple(
    (i, field.encoding.decode, field.encoding.optional)
    for i, field in enumerate(SCHEMA)
    if field.encoding.decode is not None
)
_POSITIONS: Final = {field.attribute: i for i, field in enumerate(SCHEMA)}
_values_of_grant: Final = itemgetter(
    *(_POSITIONS[attribute.name] for attribute in fields(Grant) if attribute.name != "id")
)


def lua_positions() -> str:
    """The constants that every script starts with, on one line."""
    names, positions = ", ".join(FIELDS), ", ".join(str(i + 1) for i in range(len(FIELDS)))
    return f"local {names}, FRONT, WIDTH = {positions}, {FRONT}, {len(FIELDS)}\n"


def pack(grant: Grant) -> bytes:
    """The record of an imported grant: no lease, no attempt yet; without a root, its pair is one."""
    values = [_encode(grant, field) for field in SCHEMA]
    values[_ROOT] = grant.root or grant.lineage
    # The old raw type for strings, which every cmsgpack reads.
    packed: bytes = msgpack.packb(values, use_bin_type=False)
    return packed


def _encode(grant: Grant, field: Field) -> Any:
    if field.attribute is None:
        return field.at_rest
    value, encoding = getattr(grant, field.attribute), field.encoding
    if encoding.optional and (value is None or value == ""):
        return False
    return value if encoding.encode is None else encoding.encode(value)


def unpack(grant_id: str, packed: bytes, *, in_doubt: bool | None = None) -> tuple[Grant, int, int]:
    """Read a record: the grant, the fence of its lease, and that lease's end in ms.

    Args:
        grant_id: the id it was stored under.
        packed: the record.
        in_doubt: what the intent said before the present lease set its own; `None` where there is no lease.

    Raises:
        UnreadableRecordError: it is not a record, or one of a newer release.
    """
    if len(packed) > 1 and packed[0] == OTHER_FORMAT:
        raise NewerRecordError(grant_id, packed[1], FORMAT)
    try:
        return _unpack(grant_id, packed, in_doubt=in_doubt)
    except Exception:  # noqa: BLE001 the text of any error may hold what is stored
        raise UnreadableRecordError(grant_id) from None


def _unpack(grant_id: str, packed: bytes, *, in_doubt: bool | None) -> tuple[Grant, int, int]:
    values = msgpack.unpackb(packed, raw=True)
    if len(values) < len(SCHEMA):  # an older release wrote it
        values += [False] * min(len(SCHEMA) - len(values), _LATER)
    if in_doubt is not None:
        values[_INTENT] = in_doubt
    for i, decode, optional in _DECODED:
        value = values[i]
        values[i] = None if optional and value is False else decode(value)
    return Grant(grant_id, *_values_of_grant(values)), values[_FENCE], values[_LEASE_UNTIL]
