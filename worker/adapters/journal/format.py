"""How answers stand in a file: one commit as bytes, framed, and found again where the file is damaged.

A file is its first line, then frames, then the zeros of its unused room. A frame is a mark of 4 bytes,
the length of the entry, the CRC-32 of length and entry (both numbers big-endian), and the entry. An
entry is one commit as a msgpack list that begins with its version.

Rules:
- Values are read by their place in the list. A new field of a grant goes at its end and has a default,
  which an older entry is read with; any other change is a new version.
- A commit is read back equal to what was written, lone surrogates in a server's strings included.
- The only secret in a commit is the token pair, and that is sealed before it comes here.
- The checksum covers the length too: a mark followed by zeros, as a lost sector leaves it, is not an
  empty frame.
- Where no sound frame stands, the next mark is searched for, behind zeros too: the pages of one write
  may reach the disk in any order.
- One damaged place costs no other answer. It is logged without its content, and the rest is read.
- What a newer release wrote is kept for it: such a file does not count as read completely.
"""

import errno
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgpack
import structlog

from worker.core.events import Event, EventType
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.ports import Commit

log = structlog.get_logger(__name__)

VERSION: Final = 1
FIRST_LINE: Final = b"evergrant journal 1\n"
MARK: Final = b"\xf5\x9eGj"  # begins with a byte that UTF-8 never has
BLOCK_BYTES: Final = 4096

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
        commits: in the order they were written.
        complete: whether nothing is left in it for another release, or for a disk that can be read again.
    """

    commits: list[Commit]
    complete: bool


def pack(commit: Commit) -> bytes:
    """Write a commit down as an entry.

    Raises:
        TypeError: a value in it has no bytes; so do the next two.
        ValueError: see above.
        OverflowError: see above.
    """
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
        _values_of(change.grant),
        None if event is None else (event.type, event.id, event.subject, event.at, event.data),
    ]
    packed: bytes = msgpack.packb(values, default=_as_dict, unicode_errors="surrogatepass")
    return packed


def unpack(entry: bytes) -> Commit:
    """Read an entry.

    Raises:
        UnknownEntryError: it is of another version.
    """
    try:
        values = msgpack.unpackb(entry, unicode_errors="surrogatepass", strict_map_key=False)
        if values[0] != VERSION:
            raise UnknownEntryError
        _, fence, base_lineage, base_version, base_status, due_at, attention_at, grant, event = values
        change = Change(_grant(grant), due_at, attention_at, None if event is None else _event(event))
        return Commit(fence, base_lineage, base_version, Status(base_status), change)
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
    commits: list[Commit] = []
    damaged: list[int] = []
    unknown: list[int] = [0] if _is_of_another_release(content) else []
    for offset, entry in entries_in(content):
        if entry is None:
            damaged.append(offset)
            continue
        try:
            commits.append(unpack(entry))
        except UnknownEntryError:
            unknown.append(offset)
    if damaged:
        log.warning("journal.damaged", file=str(path), offset=damaged[0], places=len(damaged))
    if unknown:
        log.warning("journal.not_understood", file=str(path), offset=unknown[0], entries=len(unknown))
    return Reading(commits, complete=not unknown)


def last_of_each_grant(commits: Iterable[Commit]) -> list[Commit]:
    """For each grant the commit with the highest fence, oldest first; of two with one fence the later."""
    last: dict[str, Commit] = {}
    for commit in commits:
        grant_id = commit.change.grant.id
        known = last.get(grant_id)
        if known is None or known.fence <= commit.fence:
            last[grant_id] = commit
    return sorted(last.values(), key=attrgetter("fence"))


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


def _content(path: Path) -> bytes:
    """A file's bytes; a block that the disk cannot read comes as zeros, so that it costs no other."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        return b"".join(_block(descriptor, offset, size) for offset in range(0, size, BLOCK_BYTES))
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
