"""Which tokens a document holds, wherever in it they stand.

RFC 6749 section 5.1 has them at the top of one JSON object, and where they are there the rest is ignored.
Servers also wrap them, put them into a list and write their names in camel case. Rules:
- Exactly one access token, and at most one refresh token, or nothing: it is never guessed which is meant.
- What stands for nothing (`null`, blanks, `undefined`) is no token, and never takes a living one's place.
- A refresh token that is there and cannot be read spoils the document: the grant would go on with a refresh
  token that the server has most likely used up.
"""

import re
from collections.abc import Iterator, Mapping
from enum import Enum, StrEnum, auto
from typing import Any, Final, NamedTuple

from worker.core.documents import TWICE, Document, read_inner

MAX_DEPTH: Final = 10
MAX_NODES: Final = 5_000

# In lower case.
_STAND_FOR_NOTHING: Final = frozenset(
    {"null", "(null)", "<null>", "undefined", "none", "nil", "nan", "false", "true", "[object object]"}
)
_is_plain: Final = re.compile(r"[0-9A-Za-z][!-~]{14,}").fullmatch  # as nearly every token
_has_control: Final = re.compile(r"[\0-\x1f\x7f]").search
_names_a_token: Final = re.compile(r"(?i)(?:access|refresh)[ _-]?token").search
_BLANKS: Final = " \t\r\n\f\v\0\ufeff"


class Flaw(StrEnum):
    """Why no tokens are taken from a document."""

    EMPTY = "empty"
    NO_DOCUMENT = "not_json"  # nor a form
    WITHOUT_TOKEN = "without_token"
    AMBIGUOUS = "ambiguous"
    SPOILED = "unreadable_refresh_token"
    CUT_OFF = "cut_off"
    WITH_ERRORS = "with_errors"


class Issued(NamedTuple):
    """The tokens of a document, with the fields beside them.

    Attributes:
        fields: by the names of RFC 6749 (`expires_in`, whatever the document calls it).
        is_cut: the document breaks off: a field that is missing may have been in the rest.
    """

    access_token: str
    refresh_token: str | None
    fields: Mapping[str, Any]
    is_cut: bool = False


class _Unreadable(Enum):
    """A token that is there and cannot be sent."""

    TOKEN = auto()


def issued_in(document: Document, *, wants_refresh_token: bool = True) -> Issued | Flaw:
    """The tokens that a document gives.

    Args:
        document: of a reply.
        wants_refresh_token: the grant has one, so one that may be in the lost part of the document is missed.
    """
    top = document.values[0] if document.is_bare and len(document.values) == 1 else None
    issued = (_at_the_top(top, document) if isinstance(top, dict) else None) or _anywhere(document)
    if isinstance(issued, Issued) and issued.is_cut and issued.refresh_token is None and wants_refresh_token:
        return Flaw.CUT_OFF
    return issued


def holds_a_token(document: Document) -> bool:
    """Whether there is any token at all in a document, though it cannot be told whose or what it is."""
    holders = _holders(document)
    return holders is None or any(
        _token(each.get(name)) is not None for each in holders for name in ("access_token", "refresh_token")
    )


def _at_the_top(top: dict[str, Any], document: Document) -> Issued | Flaw | None:
    """As RFC 6749 has it; `None` where the object itself has no access token."""
    access_token, refresh_token = _token(top.get("access_token")), _token(top.get("refresh_token"))
    if type(access_token) is str and type(refresh_token) is str:
        return Issued(access_token, refresh_token, top, document.lost is not None)
    fields = _with_known_names(top)
    access_token = _token(fields.get("access_token"))
    if access_token is None:
        return None
    if isinstance(access_token, _Unreadable):
        return Flaw.AMBIGUOUS if fields["access_token"] is TWICE else Flaw.WITHOUT_TOKEN
    refresh_token = _token(fields.get("refresh_token"))
    if refresh_token is None and any(isinstance(each, dict | list) for each in top.values()):
        refresh_token = _only(_refresh_tokens_beside(access_token, _holders(document)))
    if isinstance(refresh_token, Flaw):
        return refresh_token
    if isinstance(refresh_token, _Unreadable):
        return Flaw.SPOILED
    return Issued(access_token, refresh_token, fields, is_cut=document.lost is not None)


def _anywhere(document: Document) -> Issued | Flaw:
    holders = _holders(document)
    if holders is None:
        return Flaw.AMBIGUOUS
    found = [(_token(each.get("access_token")), each) for each in holders]
    access_tokens = {token for token, _ in found if token is not None}
    if not access_tokens:
        return _without_token(document)
    access_token = _only(access_tokens)
    refresh_token = _only({token for each in holders if (token := _token(each.get("refresh_token")))})
    if isinstance(access_token, Flaw) or isinstance(refresh_token, Flaw):
        return Flaw.AMBIGUOUS
    if isinstance(access_token, _Unreadable):
        return Flaw.WITHOUT_TOKEN
    if isinstance(refresh_token, _Unreadable):
        return Flaw.SPOILED
    if document.lost is not None and _names_a_token(document.lost):
        return Flaw.CUT_OFF
    fields = next(each for token, each in found if token == access_token)
    if not document.is_bare and refresh_token is None and not {"expires_in", "token_type"} & fields.keys():
        return Flaw.WITHOUT_TOKEN  # some object in a text, and not what a token endpoint says
    return Issued(access_token or "", refresh_token, fields, is_cut=document.lost is not None)


def _without_token(document: Document) -> Flaw:
    if document.lost is not None:
        return Flaw.CUT_OFF
    has_fields = any(isinstance(value, dict) for value in document.values)
    return Flaw.WITHOUT_TOKEN if has_fields else Flaw.NO_DOCUMENT


def _only(tokens: set[str | _Unreadable]) -> str | _Unreadable | Flaw | None:
    if len(tokens) > 1:
        return Flaw.AMBIGUOUS
    return next(iter(tokens), None)


def _refresh_tokens_beside(access_token: str, holders: list[dict[str, Any]] | None) -> set[str | _Unreadable]:
    """The refresh tokens in a document that are not another access token's."""
    return {
        token
        for each in holders or []
        if _token(each.get("access_token")) in {None, access_token}
        and (token := _token(each.get("refresh_token"))) is not None
    }


def _holders(document: Document) -> list[dict[str, Any]] | None:
    """Every object with a token, with the fields of what it stands in; `None` where there is too much."""
    holders: list[dict[str, Any]] = []
    left: list[tuple[Any, int, Mapping[str, Any]]] = [(value, 0, {}) for value in document.values]
    for _ in range(MAX_NODES):
        if not left:
            return holders
        value, depth, around = left.pop()
        if isinstance(value, str):
            value = read_inner(value) if depth else None
        if isinstance(value, dict):
            fields = _with_known_names(value)
            if "access_token" in fields or "refresh_token" in fields:
                holders.append({**around, **fields})
            beside = {name: each for name, each in fields.items() if not isinstance(each, dict | list)}
            around = {**around, **beside} if len(beside) < len(fields) else around
        if depth < MAX_DEPTH:
            left.extend((each, depth + 1, around) for each in _within(value))
    return None


def _within(value: Any) -> Iterator[Any]:
    """What may hold an object: strings are looked into where they look like one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (each for each in inner if isinstance(each, dict | list) or _looks_wrapped(each))


def _looks_wrapped(value: Any) -> bool:
    return isinstance(value, str) and _names_a_token(value) is not None


def _token(value: object) -> str | _Unreadable | None:
    """A token as it can be sent again, without blanks around it; `None` where there is none."""
    if isinstance(value, str):
        if _is_plain(value):
            return value
        return _unusual_token(value.strip(_BLANKS))
    if isinstance(value, list) and len(value) == 1:
        return _token(value[0]) if isinstance(value[0], str) else _Unreadable.TOKEN
    return _Unreadable.TOKEN if value and not isinstance(value, bool) else None


def _unusual_token(text: str) -> str | _Unreadable | None:
    """A lone surrogate, from a broken escape or byte, cannot be encoded; a line break cannot be sent."""
    if text.casefold() in _STAND_FOR_NOTHING or not any(map(str.isalnum, text)):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return _Unreadable.TOKEN
    return _Unreadable.TOKEN if _has_control(text) or "\ufffd" in text else text


# Names.

_WITHOUT_BREAKS: Final = {
    name.replace("_", ""): name
    for name in ("access_token", "refresh_token", "token_type", "expires_in", "expires_at")
}
_BREAK: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[\s.-]+")


def _with_known_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields in snake case; a name that stands in two ways, none of them exact, is `TWICE`."""
    named: dict[str, Any] = {}
    for name, value in fields.items():
        snake = snake_case(name)
        if snake != name and snake not in fields and snake in named and named[snake] != value:
            value = TWICE  # noqa: PLW2901 whose value it is cannot be told
        if snake == name or snake not in fields:
            named[snake] = value
    return named


def snake_case(name: str) -> str:
    """`accessToken`, `AccessToken` and `ACCESS-TOKEN` as `access_token`."""
    snake = _BREAK.sub("_", name.strip()).lower()
    return _WITHOUT_BREAKS.get(snake, snake)
