"""What a body holds: JSON or a form, however a server, a proxy or the way it came have dressed it.

Rules:
- Good JSON is decoded once, and nothing else is tried. All else here is for bodies that are not.
- Nothing is made up: a value is taken only if all of it came. A number at the very end may have had more
  digits, so it is left out.
- A name that stands twice in one object with two values has neither: it is `TWICE`.
- The work is bounded: a hostile body costs tenths of a second, not more.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_plus

MAX_STARTS: Final = 32  # places in a text at which JSON is looked for
MAX_MENDS: Final = 3
MAX_PIECES: Final = 50_000  # of a text that is mended
MAX_DEPTH: Final = 50  # of JSON that has to be mended; what lies deeper is left out
MAX_WRAPPINGS: Final = 3  # JSON in a string of JSON in a string of JSON
MAX_FIELDS: Final = 1_000

# Around a body: blanks, NULs and byte order marks.
JUNK: Final = " \t\r\n\f\v\0\ufeff"


class Twice(Enum):
    """The value of a name that stands twice, with two values."""

    TWICE = auto()


TWICE: Final = Twice.TWICE


class Document(NamedTuple):
    """A body as far as it could be read.

    Attributes:
        values: the JSON values in it; a form is an object of texts. One, unless text stands around them.
        text: the whole body as text; empty where it was good JSON.
        is_bare: the body is its one value, without any text around it.
        lost: what came after the last complete value of a body that breaks off; `None` where it is complete.
    """

    values: tuple[Any, ...]
    text: str = ""
    is_bare: bool = True
    lost: str | None = None


def read_document(body: bytes, *, is_whole: bool = True) -> Document:
    """Read any bytes; never raises.

    Args:
        body: decompressed.
        is_whole: the body ended where it was said to end.
    """
    try:
        value = _STRICT_DECODER.decode(body.decode())
    except (ValueError, RecursionError):
        return _read_text(_decoded(body), is_whole=is_whole)
    if isinstance(value, dict) and not _names_a_token_twice(body):
        return Document((value,))
    return _read_text(_decoded(body), is_whole=is_whole)


def read_inner(text: str) -> Any:
    """The JSON object or list, or the form, that is wrapped in a string of a document; else `None`."""
    inner = text.strip(JUNK)
    if not inner.startswith(("{", "[", '"')) and not _FORM.fullmatch(inner):
        return None
    document = _read_text(inner, is_whole=True)
    is_good = len(document.values) == 1 and document.is_bare and document.lost is None
    return document.values[0] if is_good else None


def _names_a_token_twice(body: bytes) -> bool:
    return body.count(b'"access_token"') > 1 or body.count(b'"refresh_token"') > 1


def _decoded(body: bytes) -> str:
    """Bytes that are no text become lone surrogates, which no token may hold."""
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if body.startswith(mark):
            return body[2:].decode(encoding, "replace")
    if body[1:2] == b"\0" and body[:1] != b"\0":
        return body.decode("utf-16-le", "replace")
    if body[:1] == b"\0" and body[1:2] not in {b"\0", b""}:
        return body.decode("utf-16-be", "replace")
    return body.decode("utf-8-sig", "surrogateescape")


def _read_text(text: str, *, is_whole: bool, wrappings: int = 0) -> Document:
    stripped = text.strip(JUNK)
    try:
        value = _DECODER.decode(stripped)
    except (ValueError, RecursionError):
        return _read_other(stripped, is_whole=is_whole)
    if isinstance(value, str) and wrappings < MAX_WRAPPINGS:
        inner = _read_text(value, is_whole=is_whole, wrappings=wrappings + 1)
        return inner if inner.values else Document((), stripped)
    return Document((value,), stripped)


def _read_other(text: str, *, is_whole: bool) -> Document:
    form = text.lstrip("?#&")
    if _FORM.fullmatch(form):
        return _read_form(form, is_whole=is_whole)
    values, lost, covers_all = _json_inside(text)
    return Document(values, text, is_bare=covers_all, lost=lost)


# Forms (as GitHub and Facebook answered for years).

_FORM: Final = re.compile(r"[A-Za-z_][\w.\-\[\]]*=[^\s\"<>{}]*", re.ASCII)
_IS_TOKEN: Final = re.compile(r"(?i)(?:access|refresh)[_-]?token")


def _read_form(text: str, *, is_whole: bool) -> Document:
    """A form; the last field of one that breaks off may have been longer."""
    fields = text.split("&", MAX_FIELDS)
    lost = None if is_whole else fields.pop()
    return Document((_object(_form_pair(field) for field in fields if field),), text, lost=lost)


def _form_pair(field: str) -> tuple[str, str]:
    """A `+` in a token is a plus that nobody quoted: no token holds a space."""
    name, _, value = field.partition("=")
    name = unquote_plus(name)
    return name, (unquote if _IS_TOKEN.fullmatch(name) else unquote_plus)(value)


# JSON.


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    for name in made:
        values = [value for each, value in pairs if each == name and value not in (None, "")]
        if values:
            made[name] = values[0] if all(value == values[0] for value in values) else TWICE
    return made


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # noqa: PLR2004 `int` refuses very long ones


_STRICT_DECODER: Final = json.JSONDecoder()
# Lenient: raw line breaks in strings, numbers of any length.
_DECODER: Final = json.JSONDecoder(strict=False, parse_int=_number, object_pairs_hook=_object)
_START: Final = re.compile(r"[{\[]\s*[\"{\[]")
_IS_PAGE: Final = re.compile(r"(?i)<(?:!doctype|html|head|body|script)\b")


def _json_inside(text: str) -> tuple[tuple[Any, ...], str | None, bool]:
    """JSON with a warning in front or behind, called as a function, cut off or nested without end.

    Returns the values, what was lost at the end, and whether the values are all there is. A web page holds
    JSON that is not meant for us.
    """
    values: list[Any] = []
    at = mends = 0
    is_all = True
    for _ in range(MAX_STARTS):
        start = _START.search(text, at)
        if start is None:
            return tuple(values), None, is_all and not text[at:].strip(JUNK)
        if _IS_PAGE.search(text, at, start.start()):
            return (), None, False
        is_all = is_all and not text[at : start.start()].strip(JUNK)
        try:
            value, at = _DECODER.raw_decode(text, start.start())
            values.append(value)
        except (ValueError, RecursionError):
            mends += 1
            mended = _mend(text, start.start()) if mends <= MAX_MENDS else None
            if mended is None:
                at, is_all = start.start() + 1, False
                continue
            values.append(mended.value)
            if mended.lost is not None:
                return tuple(values), mended.lost, is_all
            at = mended.end
    return (), None, False  # too much to tell what it is


@dataclass(frozen=True, slots=True)
class _Mended:
    value: Any
    end: int
    lost: str | None


_PIECE: Final = re.compile(
    r'\s*(?:(?P<string>"[^"\\]*(?:\\.[^"\\]*)*")|(?P<mark>[{}\[\],:])|(?P<word>[^\s{}\[\],:"]+))', re.DOTALL
)
_CLOSER: Final = {"{": "}", "[": "]"}
_BRACKETS: Final = frozenset("{}[]")


class _Mender:
    """Copies JSON piece by piece, up to its end or the last value that is complete.

    It leaves out what is nested too deep, and commas before a closing bracket.
    """

    def __init__(self, start: int) -> None:
        self.complete_at = start  # in the text: behind the last value that is complete
        self.is_open = True
        self._pieces: list[str] = []
        self._kept = 0  # pieces up to there
        self._closers: list[str] = []  # of the brackets that are open
        self._left_out = 0  # how many of those are nested too deep

    def add(self, piece: re.Match[str]) -> bool:
        """Take one piece; returns whether it may stand here."""
        string, mark, word = piece.groups()
        if mark in _CLOSER:
            may_stand = self._begin(mark)
        elif mark in _CLOSER.values():
            may_stand = self._close(mark)
        else:
            may_stand = True
            if not self._left_out:
                if mark == ",":  # the value before it is complete, even if it is a number
                    self._complete(piece.start())
                self._pieces.append(string or mark or word)
        if mark in _BRACKETS or (string and self._is_value()):
            self._complete(piece.end())
        return may_stand

    def text(self) -> str:
        """All that is complete, with every bracket closed."""
        closers = self._closers[: len(self._closers) - self._left_out]
        return "".join(self._pieces[: self._kept] + closers[::-1])

    def _complete(self, at: int) -> None:
        self.complete_at, self._kept = at, len(self._pieces)

    def _begin(self, bracket: str) -> bool:
        if self._closers[-1:] == ["}"] and not self._left_out and self._pieces[-1] != ":":
            return False
        if self._left_out or len(self._closers) >= MAX_DEPTH:
            if not self._left_out:
                self._pieces.append("null")
            self._left_out += 1
        else:
            self._pieces.append(bracket)
        self._closers.append(_CLOSER[bracket])
        return True

    def _close(self, bracket: str) -> bool:
        if self._closers.pop() != bracket:
            return False
        self.is_open = bool(self._closers)
        if self._left_out:
            self._left_out -= 1
            return True
        if self._pieces[-1] == ",":
            self._pieces.pop()
        self._pieces.append(bracket)
        return True

    def _is_value(self) -> bool:
        before = self._pieces[-2]
        return before == ":" or (self._closers[-1] == "]" and before in {"[", ","})


def _mend(text: str, start: int) -> _Mended | None:
    """JSON that begins at `start` and that `json` refuses; `None` where it is no JSON."""
    mender = _Mender(start)
    at = start
    for _ in range(MAX_PIECES):
        piece = _PIECE.match(text, at)
        if piece is None:  # the end, or a string that has none
            break
        if not mender.add(piece):
            return None
        at = piece.end()
        if not mender.is_open:
            break
    try:
        value = _DECODER.decode(mender.text())
    except (ValueError, RecursionError):
        return None
    return _Mended(value, at, text[mender.complete_at :] if mender.is_open else None)
