"""Find the tokens in a reply that `protocol.py` cannot read: in JSON or in forms, however deep.

Rules:
- Nothing is guessed. Exactly one access token and at most one refresh token go by the names that servers use;
  otherwise a person says where they are.
- No depth is too deep, for nothing here recurses. What is cut off or broken costs only what follows it.
- A path is the names and places that lead to a value, joined by dots: `data.0.access_token`. A text that
  holds a document is gone through as if the document stood there.
- Nothing that is shown of a reply repeats one of its values, or a name that may be one.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from worker.core.lifetimes import MAX_LIFETIME_MS
from worker.core.outcomes import NoLifetime, Refreshed

Value = str | float | bool | None

# Names without their case, hyphens and underscores.
ACCESS_TOKEN: Final = "accesstoken"
REFRESH_TOKEN: Final = "refreshtoken"
EXPIRES_IN: Final = frozenset({"expiresin"})
REFRESH_EXPIRES_IN: Final = frozenset({"refreshtokenexpiresin", "refreshexpiresin"})
ENDED_MS: Final = 1  # the shortest lifetime there is
NAMES_SHOWN: Final = 6  # of the end of a long path

_token = re.compile(r"""\s*(?:([{}\[\],:])|(")|(-?\d[\d.eE+-]*)|(true|false|null))""").match
_is_harmless = re.compile(r"[A-Za-z_$@][A-Za-z_$@:-]{0,39}[0-9]{0,2}").fullmatch
_strings: Final = json.JSONDecoder(strict=False)
_WORDS: Final = {"true": True, "false": False, "null": None}


class SalvageError(Exception):
    """There is no one answer in a reply; the message is one clause that shows no value."""


@dataclass(frozen=True, slots=True)
class Node:
    """A place in a reply. Places share their parents: thousands of values may lie thousands of levels deep.

    Attributes:
        name: of the field, or the number in a list.
    """

    parent: "Node | None"
    name: str = field(repr=False)
    depth: int

    def names(self, most: int | None = None) -> list[str]:
        """The names that lead here, or the last ones of them."""
        found: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None and (most is None or len(found) < most):
            found.append(node.name)
            node = node.parent
        return found[::-1]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of a reply."""

    at: Node
    value: Value = field(repr=False)

    @property
    def path(self) -> str:
        """What `--access-token` takes."""
        return ".".join(self.at.names())

    def shown(self) -> str:
        """Its place, type and length; nothing of its value."""
        if isinstance(self.value, str):
            return f"{shown(self.at)}: text, {len(self.value)} characters"
        kind = {bool: "true or false", float: "number", type(None): "null"}[type(self.value)]
        return f"{shown(self.at)}: {kind}"


@dataclass(frozen=True, slots=True)
class Directions:
    """What a person says of a reply; `None` where it is to be found by its name.

    Attributes:
        access_token: a path.
        refresh_token: a path.
        expires_in_ms: the access token's lifetime.
    """

    access_token: str | None = None
    refresh_token: str | None = None
    expires_in_ms: int | None = None


def salvage(body: bytes, directions: Directions, held: str | None) -> Refreshed:
    """The tokens in a reply's body.

    Where a person names a refresh token and there is no access token, the refresh token is taken alone: the
    answer then has the access token that is held already, at its end, so that a refresh follows at once.

    Args:
        body: of the reply.
        directions: what a person says of it.
        held: the access token that the grant has.

    Raises:
        SalvageError: there is no access token, or more than one of a kind, or none where the path leads.
    """
    found = list(leaves_of(body))
    tokens = [leaf for leaf in found if _is_token(leaf.value)]
    access = _one(tokens, ACCESS_TOKEN, directions.access_token, "access token", "--access-token")
    refresh = _one(tokens, REFRESH_TOKEN, directions.refresh_token, "refresh token", "--refresh-token")
    if access is None and refresh is not None and directions.refresh_token is not None and held is not None:
        return Refreshed(held, str(refresh.value), ENDED_MS, None, None)
    if access is None:
        raise SalvageError(
            "it has no access token by that name: say where it is with --access-token PATH,"
            " or take a refresh token alone with --refresh-token PATH"
        )
    beside = [leaf for leaf in found if leaf.at.parent is access.at.parent]
    expires_in_ms = directions.expires_in_ms or _lifetime_ms(beside, EXPIRES_IN)
    return Refreshed(
        access_token=str(access.value),
        refresh_token=None if refresh is None else str(refresh.value),
        expires_in_ms=NoLifetime.UNKNOWN if expires_in_ms is None else expires_in_ms,
        refresh_expires_in_ms=_lifetime_ms(beside, REFRESH_EXPIRES_IN),
        scope=None,
    )


def leaves_of(body: bytes) -> Iterator[Leaf]:
    """Every value in a reply's body, in their order; a body that is no document is one text."""
    waiting = [Leaf(Node(None, "", 0), _decoded(body))]
    while waiting:
        leaf = waiting.pop()
        within = list(_document(leaf.at, leaf.value)) if isinstance(leaf.value, str) else []
        if within:
            waiting += reversed(within)
        else:
            yield leaf


def shown(at: Node) -> str:
    """A place as it may be shown: of a long path the end, and only what looks like a field's name."""
    if at.depth == 0:
        return "the body"
    names = [
        name if _is_harmless(name) or name.isdecimal() else f"(a name of {len(name)} characters)"
        for name in at.names(NAMES_SHOWN)
    ]
    above = at.depth - len(names)
    return ".".join([*([f"({above} levels)"] if above else []), *names])


def _document(at: Node, text: str) -> Iterator[Leaf]:
    """The values of a text that is JSON or a form; none of another text."""
    if text.lstrip()[:1] in {"{", "[", '"'}:
        return _json_leaves(at, text)
    fields = parse_qsl(text, keep_blank_values=True) if "=" in text else []
    if not any(_plain(name) in {ACCESS_TOKEN, REFRESH_TOKEN} for name, _ in fields):
        return iter(())
    return (Leaf(Node(at, name, at.depth + 1), value) for name, value in fields)


@dataclass(slots=True)
class _Level:
    """An object or a list that is being gone through; `name` is of the present field, `place` in the list."""

    at: Node
    is_object: bool
    name: str | None = None
    place: int = 0

    def here(self) -> Node:
        name = self.name or "" if self.is_object else str(self.place)
        return Node(self.at, name, self.at.depth + 1)

    def go_on(self) -> None:
        self.name = None
        self.place += 1


def _json_leaves(root: Node, text: str) -> Iterator[Leaf]:
    """The values of a JSON text, as far as it can be followed."""
    levels: list[_Level] = []
    position = 0
    while (token := _token(text, position)) is not None:
        mark, quote, number, word = token.groups()
        position = token.end()
        try:
            string, position = _strings.raw_decode(text, position - 1) if quote else ("", position)
            value: Value = string if quote else float(number) if number else _WORDS.get(word)
        except ValueError:
            return
        level = levels[-1] if levels else None
        if mark is None:
            if quote and level is not None and level.is_object and level.name is None:
                level.name = string
                continue
            yield Leaf(root if level is None else level.here(), value)
        elif mark in "{[":
            levels.append(_Level(root if level is None else level.here(), mark == "{"))
        elif mark in "}]" and levels:
            levels.pop()
        elif mark == "," and level is not None:
            level.go_on()
        if not levels:
            return


def _decoded(body: bytes) -> str:
    try:
        return body.decode(json.detect_encoding(body), "surrogateescape").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return body.decode("latin-1")


def _one(leaves: Sequence[Leaf], name: str, path: str | None, what: str, option: str) -> Leaf | None:
    if path is not None:
        most = path.count(".") + 1
        found = [leaf for leaf in leaves if leaf.at.depth <= most and leaf.path == path]
        if not found:
            raise SalvageError(f"{option}: it has no text at {path!r}")
    else:
        found = [leaf for leaf in leaves if _plain(leaf.at.name) == name]
    if len({leaf.value for leaf in found}) > 1:
        places = ", ".join(shown(leaf.at) for leaf in found[:NAMES_SHOWN])
        raise SalvageError(f"it has more than one {what}, at {places}: choose one with {option} PATH")
    return found[0] if found else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _is_token(value: Value) -> bool:
    """Whether it can be sent again: a lone surrogate, from a broken escape or byte, cannot be encoded."""
    if not isinstance(value, str) or not value:
        return False
    return not value.isspace() and not any("\ud800" <= char <= "\udfff" for char in value)


def _lifetime_ms(leaves: Sequence[Leaf], names: Collection[str]) -> int | None:
    """Of the first field by one of these names that holds seconds."""
    for leaf in leaves:
        value = leaf.value
        if _plain(leaf.at.name) not in names or isinstance(value, bool) or value is None:
            continue
        try:
            seconds = float(value)
        except ValueError:
            continue
        if seconds > 0:  # false for NaN
            return max(int(min(seconds * 1000, MAX_LIFETIME_MS)), 1)
    return None
