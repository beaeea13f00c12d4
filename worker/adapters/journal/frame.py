"""Entries in a file, so framed that one damaged place does not cost what follows.

A file is its first line, then frames, then the zeros of the room that is left. A frame is a mark of 4 bytes,
the payload's length, the CRC-32 of length and payload (both big-endian), and the payload.

Rules:
- The length is in the checksum: a mark whose sector was lost behind it is no empty frame.
- Where no sound frame stands, the next one is searched for by its mark, behind zeros as well: the pages of
  one write may reach the disk in any order.
"""

import re
import struct
from collections.abc import Iterator
from typing import Final
from zlib import crc32

FIRST_LINE: Final = b"evergrant journal 1\n"
MARK: Final = b"\xf5\x9eGj"  # begins with a byte that UTF-8 never has

_any_first_line = re.compile(rb"evergrant journal \d+\n").match
_HEAD: Final = struct.Struct(">4sII")
_LENGTH: Final = struct.Struct(">I")


def framed(payload: bytes) -> bytes:
    """A payload as it stands in the file."""
    return _HEAD.pack(MARK, len(payload), _checksum(payload)) + payload


def is_of_another_release(content: bytes) -> bool:
    """Whether the first line names another layout; sound frames may be in it all the same."""
    first_line = _any_first_line(content)
    return first_line is not None and first_line[0] != FIRST_LINE


def payloads(content: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Every sound payload with its frame's offset; `None` with the offset where a damaged place begins."""
    first_line = _any_first_line(content)
    at = 0 if first_line is None else first_line.end()
    while at < len(content):
        payload = _payload_at(content, at)
        if payload is not None:
            yield at, payload
            at += _HEAD.size + len(payload)
            continue
        damaged_at, at = at, content.find(MARK, at + 1)
        if at < 0:
            at = len(content)
            if _is_blank(content[damaged_at:]):
                return
        yield damaged_at, None


def _payload_at(content: bytes, at: int) -> bytes | None:
    if len(content) - at < _HEAD.size:
        return None
    mark, length, checksum = _HEAD.unpack_from(content, at)
    begin = at + _HEAD.size
    if mark != MARK or length > len(content) - begin:
        return None
    payload = content[begin : begin + length]
    return payload if _checksum(payload) == checksum else None


def _checksum(payload: bytes) -> int:
    return crc32(payload, crc32(_LENGTH.pack(len(payload))))


def _is_blank(content: bytes) -> bool:
    return content.count(0) == len(content)
