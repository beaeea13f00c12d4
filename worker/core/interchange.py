"""The import line and the export line: one grant as one JSON object.

A line is a token response with an id and a client, so what an application stored goes in as it is; what is
exported goes in again. Rules:
- Bad input raises `LineError` with one reason that says what is accepted; it never repeats a value, which
  may be a token.
- Fields that are not ours are ignored, as RFC 6749 section 5.1 asks of a client.
"""

import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from worker.core.events import rfc3339
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.lifecycle import refresh_lifetime_ms
from worker.core.providers import Client, GrantType

MAX_ID_CHARS = 256
MAX_TOKEN_CHARS = 65_536
MAX_TEXT_CHARS = 4_096
MAX_LABELS = 16
MAX_LABEL_CHARS = 256
MAX_SECONDS = 315_360_000  # ten years
EARLIEST_SECONDS = 946_684_800  # 2000-01-01
LATEST_SECONDS = 4_102_444_800  # 2100-01-01


class LineError(Exception):
    """What is wrong with a line, in one clause."""


@dataclass(frozen=True, slots=True)
class Line:
    """One grant as it came, its pair still to be sealed into the record."""

    grant: Grant
    pair: TokenPair


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
    pair = _pair(fields, client)
    # Clocks differ; a token cannot have been issued after now, and an early end is the safe one.
    issued_at = min(_instant(fields, "issued_at") or now, now)
    refresh_ends_at = _end(fields, "refresh_token_expires", issued_at)
    grant = Grant(
        id=grant_id,
        client=client.name,
        status=_status(fields),
        version=_version(fields),
        lineage=lineage_of(grant_id, pair.refresh_token),
        sealed=b"",
        issued_at=issued_at,
        access_expires_at=issued_at if pair.access_token is None else _end(fields, "expires", issued_at),
        refresh_issued_at=issued_at,
        refresh_expires_at=_believed_end(client, pair, issued_at, refresh_ends_at),
        authorized_at=_instant(fields, "authorized_at"),
        scope=_text(fields, "scope", MAX_TEXT_CHARS),
        labels=_labels(fields),
    )
    return Line(grant, pair)


def write_line(grant: Grant, pair: TokenPair | None) -> dict[str, Any]:
    """One grant as an export line; without its tokens where `pair` is `None`."""
    line: dict[str, Any] = {"id": grant.id, "client": grant.client}
    if pair is not None:
        line |= {"access_token": pair.access_token, "refresh_token": pair.refresh_token}
    line |= {
        "expires_at": rfc3339(grant.access_expires_at),
        "refresh_token_expires_at": rfc3339(grant.refresh_expires_at),
        "issued_at": rfc3339(grant.issued_at),
        "authorized_at": rfc3339(grant.authorized_at),
        "scope": grant.scope,
        "labels": dict(grant.labels),
        "status": grant.status.value,
        "version": grant.version,
    }
    return {name: value for name, value in line.items() if value is not None}


def _json_object(text: str | bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise LineError("is not JSON") from None
    if not isinstance(document, dict):
        raise LineError("is JSON but no object")
    return document


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


def _pair(fields: dict[str, Any], client: Client) -> TokenPair:
    access_token = _text(fields, "access_token", MAX_TOKEN_CHARS)
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        return TokenPair(access_token)
    refresh_token = _text(fields, "refresh_token", MAX_TOKEN_CHARS)
    if access_token is None and refresh_token is None:
        raise LineError("access_token is missing")
    return TokenPair(access_token, refresh_token)


def _believed_end(client: Client, pair: TokenPair, issued_at: int, stated_end: int | None) -> int | None:
    if pair.refresh_token is None:
        return None
    stated_ms = None if stated_end is None else max(stated_end - issued_at, 0)
    lifetime_ms = refresh_lifetime_ms(client, stated_ms)
    return None if lifetime_ms is None else issued_at + lifetime_ms


def _end(fields: dict[str, Any], name: str, issued_at: int) -> int | None:
    """`..._at` if it stands, else `..._in` counted from the issue; neither means never."""
    at = _instant(fields, f"{name}_at")
    if at is not None:
        return at
    seconds = fields.get(f"{name}_in")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise LineError(f"{name}_in takes a number of seconds")
    if isinstance(seconds, float) and not math.isfinite(seconds):
        raise LineError(f"{name}_in takes a number of seconds")
    if not 0 <= seconds <= MAX_SECONDS:
        raise LineError(f"{name}_in takes 0 to {MAX_SECONDS} seconds; leave it out for never")
    return issued_at + int(seconds * 1000)


def _instant(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise LineError(f"{name} takes RFC 3339 or Unix seconds")
    seconds = _rfc3339_seconds(value, name) if isinstance(value, str) else value
    if not EARLIEST_SECONDS <= seconds <= LATEST_SECONDS:  # also false for NaN
        raise LineError(f"{name} takes a time from 2000 to 2100")
    return int(seconds * 1000)


def _rfc3339_seconds(text: str, name: str) -> float:
    try:
        at = datetime.fromisoformat(text.upper())  # RFC 3339 section 5.6: t and z may be lower case
        if at.tzinfo is None:
            raise LineError(f"{name} takes RFC 3339 with a time zone, such as 2026-11-22T08:00:00Z")
        return at.astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        raise LineError(f"{name} takes RFC 3339 or Unix seconds") from None


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
