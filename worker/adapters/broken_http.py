"""A reply read from its bytes, where they are no HTTP that a client takes.

RFC 9112 wants such a message refused, to keep proxies from being deceived. Behind it may stand the only
living tokens of a grant, and nothing is forwarded here. So: the first status line counts, header lines that
cannot be read are left out, and of the two ways to say where a body ends neither is believed too much.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_STATUS: Final = re.compile(rb"(?i)\s*HTTP/\d+(?:\.\d+)?[ \t]+([1-9]\d\d)(?!\d)[^\n]*(?:\n|$)")
_END_OF_HEAD: Final = re.compile(rb"(?:^|\n)[ \t]*\r?\n|\r\r")
_CHUNK_SIZE: Final = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\n]*)?\r?\n")
_INTERIM: Final = range(100, 200)


@dataclass(frozen=True, slots=True)
class BrokenReply:
    """What came.

    Attributes:
        headers: by name in lower case.
        body: without chunk sizes, still compressed.
        is_whole: the body ended where one of the headers says.
        has_head: there were a status line and an end of the headers; without them all that came is the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool
    has_head: bool = True


def read_broken(raw: bytes, *, is_closed: bool = True) -> BrokenReply:
    """Read all that came for one request.

    Args:
        raw: from the first byte.
        is_closed: the server closed the connection, so that a body without a length is whole.
    """
    while status := _STATUS.match(raw):
        end = _END_OF_HEAD.search(raw, status.end() - 1)
        if end is None:
            return BrokenReply(int(status[1]), {}, raw[status.end() :], is_whole=False, has_head=False)
        head, rest = raw[status.end() : end.start()], raw[end.end() :]
        if int(status[1]) not in _INTERIM:
            return _with_body(int(status[1]), _headers_of(head), rest, is_closed=is_closed)
        raw = rest
    return BrokenReply(200, {}, raw, is_whole=False, has_head=False)


def _headers_of(head: bytes) -> dict[str, str]:
    lines = (line.partition(b":") for line in head.splitlines())
    return {
        name.strip().decode("latin-1").lower(): value.strip().decode("latin-1")
        for name, colon, value in lines
        if colon and name.strip()
    }


def _with_body(status: int, headers: dict[str, str], rest: bytes, *, is_closed: bool) -> BrokenReply:
    if "chunked" in headers.get("transfer-encoding", "").lower() and _CHUNK_SIZE.match(rest):
        body, is_whole = _joined(rest)
        return BrokenReply(status, headers, body, is_whole)
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and len(length) < 16:  # noqa: PLR2004 it counts bytes
        return BrokenReply(status, headers, rest, len(rest) >= int(length))
    return BrokenReply(status, headers, rest, is_closed)


def _joined(rest: bytes) -> tuple[bytes, bool]:
    """The chunks; from the first that is no chunk on, all as it came."""
    body = bytearray()
    at = 0
    while size := _CHUNK_SIZE.match(rest, at):
        begin, length = size.end(), int(size[1], 16)
        if length == 0:
            return bytes(body), True
        body += rest[begin : begin + length]
        at = begin + length
        ending = re.compile(rb"\r?\n|$").match(rest, at)
        if ending is None:
            break
        at = ending.end()
    return bytes(body + rest[at:]), False
