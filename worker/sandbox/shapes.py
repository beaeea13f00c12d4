"""The shapes in which servers have given living tokens: bodies that are not RFC 6749's, and broken HTTP.

Each comes from a bug report about a real server. The server has acted by then, so whoever cannot read one
loses the grant. A shape is all bytes of a response; the connection is closed behind it, as those servers do.

Rules:
    - Every shape holds both tokens whole, and says nothing that contradicts them.
"""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Shape = Callable[[Mapping[str, Any]], bytes]

_OK: Final = "HTTP/1.1 200 OK"
_PHP_WARNING: Final = "<br />\n<b>Deprecated</b>: Optional parameter before required in <b>token.php</b>\n"


def shaped(shape: str, reply: Mapping[str, Any]) -> bytes:
    """The bytes of a 200 that gives a token response in one of `SHAPES`."""
    return SHAPES[shape](reply)


def buried(reply: Mapping[str, Any], depth: int) -> bytes:
    """A 200 with a token response within so many lists: deeper than JSON readers go."""
    return _whole(b"[" * depth + _json(reply) + b"]" * depth)


def _whole(body: bytes, *headers: str, status_line: str = _OK) -> bytes:
    """A response as HTTP has it."""
    return _framed(body, f"Content-Length: {len(body)}", *headers, status_line=status_line)


def _framed(body: bytes, *headers: str, status_line: str = _OK) -> bytes:
    """A response whose headers are taken as they are."""
    head = [status_line, "Content-Type: application/json", "Connection: close", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def _text(reply: Any) -> str:
    return json.dumps(reply)


def _json(reply: Any) -> bytes:
    return _text(reply).encode()


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


_BODIES: Final[Mapping[str, Shape]] = {
    "form": lambda reply: urlencode(reply).encode(),
    "wrapped": lambda reply: _json({"code": 0, "data": reply}),
    "buried_in_objects": lambda reply: _json({"response": {"result": {"oauth": reply}}}),
    "list": lambda reply: _json([reply]),
    "camel_case": lambda reply: _json({_camel(name): value for name, value in reply.items()}),
    "numbers_as_text": lambda reply: _json({name: str(value) for name, value in reply.items()}),
    "json_in_a_string": lambda reply: _json(_text(reply)),
    "warning_in_front": lambda reply: (_PHP_WARNING + _text(reply)).encode(),
    "byte_order_mark": lambda reply: _text(reply).encode("utf-8-sig"),
    "utf_16": lambda reply: _text(reply).encode("utf-16"),
    "trailing_comma": lambda reply: _json(reply)[:-1] + b",}",
    "cut_off_behind_the_tokens": lambda reply: _json(reply)[:-1] + b', "scope": "WORK',
    "errors_beside": lambda reply: _json({**reply, "errors": [{"message": "deprecated"}]}),
    "gzip_that_nobody_mentions": lambda reply: gzip.compress(_json(reply)),
}

_BROKEN_HTTP: Final[Mapping[str, Shape]] = {
    "length_too_large": lambda reply: _framed(_json(reply), f"Content-Length: {len(_json(reply)) + 9}"),
    "length_that_is_no_number": lambda reply: _framed(_json(reply), "Content-Length: all"),
    "two_lengths": lambda reply: _whole(_json(reply), "Content-Length: 7"),
    "doubly_framed": lambda reply: _whole(_chunked(_json(reply)), "Transfer-Encoding: chunked"),
    "chunked_without_end": lambda reply: _framed(
        _chunked(_json(reply)).removesuffix(b"0\r\n\r\n"), "Transfer-Encoding: chunked"
    ),
    "said_to_be_chunked": lambda reply: _framed(_json(reply), "Transfer-Encoding: chunked"),
    "header_without_a_colon": lambda reply: _whole(_json(reply), "Strict-Transport-Security"),
    "unknown_encoding": lambda reply: _whole(_json(reply), "Content-Encoding: utf-8"),
    "said_to_be_gzip": lambda reply: _whole(_json(reply), "Content-Encoding: gzip"),
    "bare_line_feeds": lambda reply: _framed(b"").replace(b"\r\n", b"\n") + _json(reply),
    "unknown_version": lambda reply: _whole(_json(reply), status_line="HTTP/2 200 OK"),
    "no_head": _json,
}


def _in_a_whole_response(body: Shape) -> Shape:
    return lambda reply: _whole(body(reply))


SHAPES: Final[Mapping[str, Shape]] = {
    **{name: _in_a_whole_response(body) for name, body in _BODIES.items()},
    **_BROKEN_HTTP,
}
