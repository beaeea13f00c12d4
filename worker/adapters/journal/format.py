"""How answers stand in a file: each one as bytes, framed, and found again where the file is damaged.

A file is its first line, then frames, then the zeros of its unused room. A frame is a mark of 4 bytes,
the length of the entry, the CRC-32 of length and entry (both numbers big-endian), and the entry. An
entry is a msgpack list: a commit begins with its version, every other kind with its name and its version.

Rules:
- Values are read by their place in the list. A new field of a grant goes at its end and has a default,
  which an older entry is read with; any other change is a new version.
- An entry is read back equal to what was written, lone surrogates in a server's strings included.
- The only secrets in an entry are the token pair and the reply, and they are sealed before they come here.
- The checksum covers the length too: a mark followed by zeros, as a lost sector leaves it, is not an
  empty frame.
- Where no sound frame stands, the next mark is searched for, behind zeros too: the pages of one write
  may reach the disk in any order.
- One damaged place costs no other answer. It is logged without its content, and the rest is read.
- What a newer release wrote is kept for it: such a file does not count as read completely.
"""

import contextlib
import errno
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgpack
import structlog

from worker.core.audit import By
from worker.core.connecting import Confirmed, Consent, Wanted
from worker.core.events import Event, EventType
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.ports import Commit, Entry, KeptReply

log = structlog.get_logger(__name__)

VERSION: Final = 1
# An earlier release takes a kind for a version that it does not know, and keeps the file.
REPLY: Final = "reply"
CONSENT: Final = "consent"
CONFIRMED: Final = "confirmed"
KIND_VERSION: Final = 1  # of each of these
FIRST_LINE: Final = b"evergrant journal 1\n"
MARK: Final = b"\xf5\x9eGj"  # begins with a byte that UTF-8 never has
BLOCK_BYTES: Final = 4096
FIRST_BYTES: Final = 64 * 1024  # of a file, in which its first answer is sought

_GRANT_FIELDS: Final = tuple(field.name for field in fields(Grant))
_grant_values = attrgetter(*_GRANT_FIELDS)
_any_first_line = re.compile(rb"evergrant journal \d+\n").match
_HEAD: Final = struct.Struct(">4sII")
_LENGTH: Final = struct.Struct(">I")


class UnknownEntryError(Exception):
    """An undamaged entry that this release cannot read, because a newer one wrote it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from a file.

    Attributes:
        entries: in the order they were written.
        complete: whether nothing is left in it for another release, or for a disk that can be read again.
    """

    entries: list[Entry]
    complete: bool

    @property
    def commits(self) -> list[Commit]:
        """The commits among them."""
        return [entry for entry in self.entries if isinstance(entry, Commit)]


def pack(entry: Entry) -> bytes:
    """Write an entry down.

    Raises:
        TypeError: a value in it has no bytes; so do the next two.
        ValueError: see above.
        OverflowError: see above.
    """
    match entry:
        case Commit():
            values = _values_of_commit(entry)
        case KeptReply():
            values = _values_of_reply(entry)
        case Consent():
            values = _values_of_consent(entry)
        case Confirmed():
            values = _values_of_confirmed(entry)
    packed: bytes = msgpack.packb(values, default=_as_dict, unicode_errors="surrogatepass")
    return packed


def _values_of_commit(commit: Commit) -> list[Any]:
    return [
        VERSION,
        commit.fence,
        commit.base_lineage,
        commit.base_version,
        commit.base_status,
        *_values_of_change(commit.change),
    ]


def _values_of_reply(kept: KeptReply) -> list[Any]:
    return [
        REPLY,
        KIND_VERSION,
        kept.fence,
        *_values_of_change(kept.change),
        kept.sealed,
        kept.size,
        kept.detail,
        kept.sent_at,
        kept.received_at,
        kept.registration,
        kept.endpoint_probe,
        _values_of_event(kept.outage),
    ]


def _values_of_consent(consent: Consent) -> list[Any]:
    wanted = consent.wanted
    return [
        CONSENT,
        KIND_VERSION,
        consent.fence,
        *_values_of_change(consent.change),
        consent.sign_in,
        consent.code,
        consent.until,
        consent.origin,
        [wanted.grant, wanted.client, wanted.scopes, wanted.labels, wanted.return_to],
        [wanted.by.actor, wanted.by.origin],
    ]


def _values_of_confirmed(confirmed: Confirmed) -> list[Any]:
    return [
        CONFIRMED,
        KIND_VERSION,
        confirmed.fence,
        *_values_of_change(confirmed.change),
        confirmed.sign_in,
        confirmed.base_version,
        confirmed.base_status,
        confirmed.revokes,
        [confirmed.by.actor, confirmed.by.origin],
    ]


def _values_of_change(change: Change) -> list[Any]:
    event = change.event
    return [
        change.due_at,
        change.attention_at,
        _values_of(change.grant),
        None if event is None else _values_of_event(event),
    ]


def _values_of_event(event: Event) -> list[Any]:
    return [event.type, event.id, event.subject, event.at, event.data]


def unpack(entry: bytes) -> Entry:
    """Read an entry.

    Raises:
        UnknownEntryError: it is of another version.
    """
    try:
        values = msgpack.unpackb(entry, unicode_errors="surrogatepass", strict_map_key=False)
        read_kind = _KINDS.get(values[0])
        if read_kind is not None and values[1] == KIND_VERSION:
            return read_kind(values)
        if values[0] != VERSION:
            raise UnknownEntryError
        _, fence, base_lineage, base_version, base_status, *change = values
        return Commit(fence, base_lineage, base_version, Status(base_status), _change(*change))
    except (ValueError, TypeError, LookupError, msgpack.UnpackException):
        # Without its cause, which might quote the entry.
        raise UnknownEntryError from None


def framed(entry: bytes) -> bytes:
    """An entry as it stands in a file."""
    return _HEAD.pack(MARK, len(entry), _checksum(entry)) + entry


def entries_in(content: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Find the entries in a file's content.

    Yields the offset of each sound frame with its entry, and the offset at which each damaged place begins
    with `None`.
    """
    first_line = _any_first_line(content)
    at = 0 if first_line is None else first_line.end()
    while at < len(content):
        entry = _entry_at(content, at)
        if entry is not None:
            yield at, entry
            at += _HEAD.size + len(entry)
            continue
        damaged_at, at = at, content.find(MARK, at + 1)
        if at < 0:
            at = len(content)
            if _is_blank(content[damaged_at:]):
                return
        yield damaged_at, None


def read_file(path: Path, end: int | None = None) -> Reading:
    """Read a file as far as the offset `end`; a file that was removed meanwhile holds nothing."""
    try:
        content = _content(path)[:end]
    except FileNotFoundError:
        return Reading([], complete=True)
    except OSError as error:
        log.warning("journal.unreadable", file=str(path), reason=error.strerror)
        return Reading([], complete=False)
    entries: list[Entry] = []
    damaged: list[int] = []
    unknown: list[int] = [0] if _is_of_another_release(content) else []
    for offset, entry in entries_in(content):
        if entry is None:
            damaged.append(offset)
            continue
        try:
            entries.append(unpack(entry))
        except UnknownEntryError:
            unknown.append(offset)
    if damaged:
        log.warning("journal.damaged", file=str(path), offset=damaged[0], places=len(damaged))
    if unknown:
        log.warning("journal.not_understood", file=str(path), offset=unknown[0], entries=len(unknown))
    return Reading(entries, complete=not unknown)


def read_on(path: Path, begin: int) -> tuple[list[Entry], int]:
    """Read what a file has gained behind the offset `begin`, while its owner may be writing to it.

    It is read as far as the first block of zeros: most of a file is room that nobody has written to yet.

    Returns the entries that this release can read, and where to go on: behind the last sound frame, so that
    what is incomplete is found by the next reading. A file that was removed meanwhile has gained nothing.

    Raises:
        OSError: it cannot be read.
    """
    try:
        content = _content(path, begin, whole=False)
    except FileNotFoundError:
        return [], begin
    entries: list[Entry] = []
    first_line = None if begin else _any_first_line(content)
    end = begin if first_line is None else first_line.end()
    for offset, entry in entries_in(content):
        if entry is None:
            continue
        end = begin + offset + _HEAD.size + len(entry)
        with contextlib.suppress(UnknownEntryError):
            entries.append(unpack(entry))
    return entries, end


def first_in(path: Path) -> Entry | None:
    """The first answer of a file that this release can read; `None` where its beginning has none."""
    try:
        content = _content(path, most=FIRST_BYTES)
    except OSError:
        return None
    for _, entry in entries_in(content):
        if entry is not None:
            with contextlib.suppress(UnknownEntryError):
                return unpack(entry)
    return None


def last_of_each_grant(entries: Iterable[Entry]) -> list[Entry]:
    """For each grant the commit with the highest fence, of two with one the later; and everything else.

    Oldest first. What is no commit is not replaced by a later one here: only the store knows what became of
    it.
    """
    last: dict[str, Commit] = {}
    kept: dict[int, Entry] = {}
    for entry in entries:
        if not isinstance(entry, Commit):
            kept[entry.fence] = entry
            continue
        grant_id = entry.change.grant.id
        known = last.get(grant_id)
        if known is None or known.fence <= entry.fence:
            last[grant_id] = entry
    return sorted([*last.values(), *kept.values()], key=attrgetter("fence"))


def last_answer_to(lineage: bytes, entries: Iterable[Entry]) -> Entry | None:
    """The last of the answers that used up the refresh token of this lineage."""
    found = None
    for entry in entries:
        if entry.used_up == lineage:
            found = entry
    return found


def _as_dict(value: Any) -> dict[Any, Any]:
    """Mappings other than `dict`, which msgpack does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def _values_of(grant: Grant) -> list[Any]:
    """Without the absent fields at the end, so that a release that does not know them reads the entry."""
    values = list(_grant_values(grant))
    while values[-1] is None:
        values.pop()
    return values


def _grant(values: list[Any]) -> Grant:
    if len(values) > len(_GRANT_FIELDS):
        raise UnknownEntryError  # a newer release's, which knows more of a grant
    named = dict(zip(_GRANT_FIELDS, values, strict=False))
    return Grant(**named | {"status": Status(named["status"])})


def _change(due_at: Any, attention_at: Any, grant: list[Any], event: list[Any] | None) -> Change:
    return Change(_grant(grant), due_at, attention_at, None if event is None else _event(event))


def _reply(values: list[Any]) -> KeptReply:
    _, _, fence, due_at, attention_at, grant, event, *rest = values
    sealed, size, detail, sent_at, received_at, registration, endpoint_probe, outage = rest
    return KeptReply(
        fence=fence,
        change=_change(due_at, attention_at, grant, event),
        sealed=sealed,
        size=size,
        detail=detail,
        sent_at=sent_at,
        received_at=received_at,
        registration=registration,
        endpoint_probe=endpoint_probe,
        outage=_event(outage),
    )


def _consent(values: list[Any]) -> Consent:
    _, _, fence, due_at, attention_at, grant, event, *rest = values
    sign_in, code, until, origin, wanted, by = rest
    grant_id, client, scopes, labels, return_to = wanted
    return Consent(
        fence=fence,
        sign_in=sign_in,
        code=code,
        until=until,
        change=_change(due_at, attention_at, grant, event),
        wanted=Wanted(grant_id, client, tuple(scopes), labels, return_to, By(*by)),
        origin=origin,
    )


def _confirmed(values: list[Any]) -> Confirmed:
    _, _, fence, due_at, attention_at, grant, event, *rest = values
    sign_in, base_version, base_status, revokes, by = rest
    return Confirmed(
        fence=fence,
        sign_in=sign_in,
        base_version=base_version,
        base_status=None if base_status is None else Status(base_status),
        change=_change(due_at, attention_at, grant, event),
        revokes=revokes,
        by=By(*by),
    )


_KINDS: Final[Mapping[Any, Callable[[list[Any]], Entry]]] = {
    REPLY: _reply,
    CONSENT: _consent,
    CONFIRMED: _confirmed,
}


def _event(values: list[Any]) -> Event:
    event_type, event_id, subject, at, data = values
    return Event(EventType(event_type), event_id, subject, at, data)


def _entry_at(content: bytes, at: int) -> bytes | None:
    if len(content) - at < _HEAD.size:
        return None
    mark, length, checksum = _HEAD.unpack_from(content, at)
    begin = at + _HEAD.size
    if mark != MARK or length > len(content) - begin:
        return None
    entry = content[begin : begin + length]
    return entry if _checksum(entry) == checksum else None


def _checksum(entry: bytes) -> int:
    return crc32(entry, crc32(_LENGTH.pack(len(entry))))


def _is_of_another_release(content: bytes) -> bool:
    """Whether the first line names another layout; sound frames of this one may be in it all the same."""
    first_line = _any_first_line(content)
    return first_line is not None and first_line[0] != FIRST_LINE


def _is_blank(content: bytes) -> bool:
    return content.count(0) == len(content)


def _content(path: Path, begin: int = 0, *, whole: bool = True, most: int | None = None) -> bytes:
    """A file's bytes; a block that the disk cannot read comes as zeros, so that it costs no other.

    Not `whole`, it ends before the first block of zeros; it has no more bytes than `most`.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        size = size if most is None else min(size, begin + most)
        blocks: Iterator[bytes] = (
            _block(descriptor, offset, size) for offset in range(begin, size, BLOCK_BYTES)
        )
        if not whole:
            blocks = takewhile(any, blocks)
        return b"".join(blocks)
    finally:
        os.close(descriptor)


def _block(descriptor: int, offset: int, size: int) -> bytes:
    length = min(BLOCK_BYTES, size - offset)
    try:
        # Short where a living owner has cut off unused room since the size was asked for.
        return os.pread(descriptor, length, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return bytes(length)
