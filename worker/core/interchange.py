"""The import line and the export line: one grant as one JSON object.

A line is a token response with an id and a client, so what an application stored goes in as it is; what is
exported goes in again. Rules:
- Bad input raises `LineError` with one reason that says what is accepted; it never repeats a value, which
  may be a token.
- Fields that are not ours are ignored, as RFC 6749 section 5.1 asks of a client.
- No end is dropped in silence: each word that lifetimes.py knows is read, or the line is refused.
"""

import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from worker.core import lifetimes
from worker.core.events import rfc3339
from worker.core.grant import ENDLESS_MS, Grant, Status, TokenPair, lineage_of
from worker.core.lifecycle import refresh_lifetime_ms
from worker.core.lifetimes import ACCESS, REFRESH, SOON_MS, Flaw, Instant, Reading, Span
from worker.core.protocol import sender_constrained
from worker.core.providers import Client, GrantType

MAX_ID_CHARS = 256
MAX_TOKEN_CHARS = 65_536
MAX_TEXT_CHARS = 4_096
MAX_LABELS = 16
MAX_LABEL_CHARS = 256
NO_TOKEN = frozenset({"", "null", "undefined", "none"})  # what other languages write for nothing
NEVER = "never"
LONGEST_NUMBER = 4_000  # digits; Python converts a few more


class LineError(Exception):
    """What is wrong with a line, in one clause."""


@dataclass(frozen=True, slots=True)
class Line:
    """One grant as it came, its pair still to be sealed into the record.

    Attributes:
        states_end: whether the line says when its access token ends, or has none.
    """

    grant: Grant
    pair: TokenPair
    states_end: bool


def read_line(text: str | bytes, clients: Mapping[str, Client], now: int) -> Line:
    """Read one import line.

    Args:
        text: a JSON object, UTF-8.
        clients: the configured clients by name.
        now: taken as the time of issue where the line names none.

    Raises:
        LineError: it is no grant.
    """
    fields = _json_object(text)
    client = _client(fields, clients)
    grant_id = _grant_id(fields)
    _refuse_sender_constrained(fields)
    pair = _pair(fields, client)
    stated_issue = _instant(fields, "issued_at") or _instant(fields, "created_at")
    # Clocks differ; a token cannot have been issued after now, and an early end is the safe one.
    issued_at = min(stated_issue or now, now)
    stated_end = _access_end(fields, issued_at, issue_is_stated=stated_issue is not None)
    end = stated_end or _unstated_end(pair, client, stated_issue, issued_at)
    grant = Grant(
        id=grant_id,
        client=client.name,
        status=_status(fields),
        version=_version(fields),
        lineage=lineage_of(grant_id, pair.refresh_token),
        sealed=b"",
        issued_at=issued_at,
        access_expires_at=issued_at if pair.access_token is None else end.at,
        refresh_issued_at=issued_at,
        refresh_expires_at=_believed_end(client, pair, issued_at, _refresh_end(fields, issued_at)),
        authorized_at=_instant(fields, "authorized_at"),
        scope=_scope(fields),
        labels=_labels(fields),
        stated_life_ms=end.life_ms,
    )
    states_end = not _is_assumed(fields) and stated_end is not None
    return Line(grant, pair, states_end or pair.access_token is None)


def write_line(grant: Grant, pair: TokenPair | None) -> dict[str, Any]:
    """One grant as an export line; without its tokens where `pair` is `None`."""
    line: dict[str, Any] = {"id": grant.id, "client": grant.client}
    if pair is not None:
        line |= {"access_token": pair.access_token, "refresh_token": pair.refresh_token}
    line |= _ends(grant)
    line |= {
        "refresh_token_expires_at": rfc3339(grant.refresh_expires_at),
        "issued_at": rfc3339(grant.issued_at),
        "authorized_at": rfc3339(grant.authorized_at),
        "scope": grant.scope,
        "labels": dict(grant.labels),
        "status": grant.status.value,
        "version": grant.version,
    }
    return {name: value for name, value in line.items() if value is not None}


def _ends(grant: Grant) -> dict[str, Any]:
    """The access token's end, and its whole life where the end does not follow from that."""
    life_ms, ends_at = grant.stated_life_ms, grant.access_expires_at
    if ends_at is None:
        return {"expires_at": NEVER if life_ms == ENDLESS_MS else None}
    ends: dict[str, Any] = {"expires_at": rfc3339(ends_at)}
    if life_ms is None:
        ends["expires_at_is_assumed"] = ends_at > grant.issued_at or None
    elif life_ms not in {ends_at - grant.issued_at, ENDLESS_MS}:
        ends["expires_in"] = life_ms / 1000
    return ends


def _json_object(text: str | bytes) -> dict[str, Any]:
    try:
        document = _parsed(text)
    except (ValueError, RecursionError):
        raise LineError("is not JSON") from None
    if not isinstance(document, dict):
        raise LineError("is JSON but no object")
    return document


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> float:
    """Infinity for a number too long to convert, so that it costs its field and not the whole line."""
    return int(digits) if len(digits) <= LONGEST_NUMBER else math.inf


def _client(fields: dict[str, Any], clients: Mapping[str, Client]) -> Client:
    name = _required(fields, "client", MAX_ID_CHARS)
    if name not in clients:
        known = ", ".join(sorted(clients)) or "none is configured"
        raise LineError(f"client is not configured; known: {known}")
    return clients[name]


def _grant_id(fields: dict[str, Any]) -> str:
    grant_id = _required(fields, "id", MAX_ID_CHARS)
    if not grant_id.isprintable():
        raise LineError("id takes printable characters")
    return grant_id


def _refuse_sender_constrained(fields: dict[str, Any]) -> None:
    token_type = fields.get("token_type")
    is_text = token_type is None or isinstance(token_type, str)
    if not is_text or sender_constrained(token_type) is not None:
        raise LineError(
            "token_type takes Bearer; tokens that are bound to a key, such as DPoP's, cannot be used"
        )


def _pair(fields: dict[str, Any], client: Client) -> TokenPair:
    access_token = _token(fields, "access_token")
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        return TokenPair(access_token)
    refresh_token = _token(fields, "refresh_token")
    if access_token is None and refresh_token is None:
        raise LineError("access_token is missing")
    return TokenPair(access_token, refresh_token)


def _believed_end(client: Client, pair: TokenPair, issued_at: int, stated_end: int | None) -> int | None:
    if pair.refresh_token is None:
        return None
    stated_ms = None if stated_end is None else max(stated_end - issued_at, 0)
    lifetime_ms = refresh_lifetime_ms(client, stated_ms)
    return None if lifetime_ms is None else issued_at + lifetime_ms


@dataclass(frozen=True, slots=True)
class _End:
    """When an access token ends (`None`: never, or nobody knows), and how long it was stated to live."""

    at: int | None
    life_ms: int | None


def _access_end(fields: dict[str, Any], issued_at: int, *, issue_is_stated: bool) -> _End | None:
    """What the line states: the first moment, else the first span counted from the issue.

    A line without its issue says when the token ends, not how long it lives. What is left is then remembered
    as its life, unless that is too little to go by.
    """
    names = ACCESS.instants + ACCESS.spans
    if any(value == NEVER for _, value in lifetimes.stated_in(fields, names)):
        return _End(None, ENDLESS_MS)
    stated = _stated(fields, names)
    if not stated:
        return None
    ends_at = _counted(stated[0], issued_at)
    spans = [found.ms for found in stated if isinstance(found, Span) and found.ms > 0]
    if spans:
        return _End(ends_at, spans[0])
    life_ms = ends_at - issued_at
    is_known = life_ms > 0 if issue_is_stated else life_ms >= SOON_MS
    return _End(ends_at, life_ms if is_known and not _is_assumed(fields) else None)


def _is_assumed(fields: dict[str, Any]) -> bool:
    """Whether an export says that the end it has was assumed."""
    value = fields.get("expires_at_is_assumed")
    if value not in (None, True, False):
        raise LineError("expires_at_is_assumed takes true or false")
    return value is True


def _unstated_end(pair: TokenPair, client: Client, stated_issue: int | None, issued_at: int) -> _End:
    """What is taken for the end where the line states none: documented, or so near that a refresh tells."""
    documented_ms = lifetimes.documented_ms(client)
    is_refreshable = pair.refresh_token is not None or client.grant_type is GrantType.CLIENT_CREDENTIALS
    if documented_ms == ENDLESS_MS or not is_refreshable:
        return _End(None, None)
    if documented_ms is not None and stated_issue is not None:
        return _End(issued_at + documented_ms, None)
    return _End(issued_at + SOON_MS, None)


def _refresh_end(fields: dict[str, Any], issued_at: int) -> int | None:
    """What the line states; a span of 0 counts as none, as in a reply."""
    stated = _stated(fields, REFRESH.instants + REFRESH.spans)
    return next((_counted(found, issued_at) for found in stated if found != Span(0)), None)


def _stated(fields: dict[str, Any], names: tuple[str, ...]) -> list[Span | Instant]:
    """What stands under these names, in their order.

    Raises:
        LineError: something stands there that is no time.
    """
    stated = []
    for name, value in lifetimes.stated_in(fields, names):
        found = lifetimes.read(name, value)
        if isinstance(found, Flaw):
            raise _no_time(name, found, "seconds, RFC 3339 or Unix seconds")
        stated.append(found)
    return stated


def _counted(found: Span | Instant, issued_at: int) -> int:
    return found.at if isinstance(found, Instant) else issued_at + found.ms


def _instant(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    found = lifetimes.read(name, value)
    if not isinstance(found, Instant):
        raise _no_time(name, found, "RFC 3339 or Unix seconds")
    return found.at


def _no_time(name: str, found: Reading, takes: str) -> LineError:
    if found is Flaw.WITHOUT_ZONE:
        return LineError(f"{name} takes RFC 3339 with a time zone, such as 2026-11-22T08:00:00Z")
    return LineError(f"{name} takes {takes}, from 2000 to 2100")


def _scope(fields: dict[str, Any]) -> str | None:
    """Text, or a list of it, which is joined by spaces as RFC 6749 section 3.3 divides scopes."""
    scopes = fields.get("scope")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        return _text(fields, "scope", MAX_TEXT_CHARS)
    return _text({"scope": " ".join(scopes)}, "scope", MAX_TEXT_CHARS)


def _status(fields: dict[str, Any]) -> Status:
    value = fields.get("status")
    if value is None:
        return Status.ACTIVE
    if not isinstance(value, str) or value not in _names(Status):
        raise LineError(f"status takes {', '.join(Status)}")
    return Status(value)


def _version(fields: dict[str, Any]) -> int:
    version = fields.get("version", 0)
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**31:
        raise LineError("version takes a whole number, 0 or more")
    return version


def _labels(fields: dict[str, Any]) -> Mapping[str, str]:
    labels = fields.get("labels")
    if labels is None:
        return {}
    good = (
        isinstance(labels, dict)
        and len(labels) <= MAX_LABELS
        and all(_is_text(each, MAX_LABEL_CHARS) for pair in labels.items() for each in pair)
    )
    if not good:
        raise LineError(f"labels takes an object of at most {MAX_LABELS} strings")
    return labels  # type: ignore[no-any-return] # just checked


def _required(fields: dict[str, Any], name: str, most: int) -> str:
    value = _text(fields, name, most)
    if value is None:
        raise LineError(f"{name} is missing")
    return value


def _token(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if isinstance(value, str) and value.strip().lower() in NO_TOKEN:
        raise LineError(f"{name} is missing: a blank or a word for nothing stands there; or leave it out")
    return _text(fields, name, MAX_TOKEN_CHARS)


def _text(fields: dict[str, Any], name: str, most: int) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not _is_text(value, most) or not value:
        raise LineError(f"{name} takes a string of 1 to {most} characters")
    return str(value)


def _is_text(value: object, most: int) -> bool:
    """Whether it is a string that can be written as UTF-8; a lone surrogate cannot."""
    if not isinstance(value, str) or len(value) > most:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value) if not value.isascii() else True


def _names(statuses: type[Status]) -> Container[str]:
    return {status.value for status in statuses}
