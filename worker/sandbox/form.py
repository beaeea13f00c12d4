"""One request at the token endpoint, read from its headers and body.

Reading never raises. A request that breaks the rules of RFC 6749 section 3.2 is passed on with its
`problem`, which the issuer replies to.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """What a client asked for. A parameter that was not sent is an empty string."""

    grant_type: str = ""
    refresh_token: str = ""
    client_id: str = ""
    client_secret: str = ""
    scope: str = ""
    used_basic: bool = False
    problem: str | None = None


def read_token_request(headers: Mapping[str, str], body: bytes) -> ReceivedRequest:
    """Read a token request; `headers` must ignore the case of names."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != _FORM:
        return ReceivedRequest(problem=f"the body must be {_FORM}")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        return ReceivedRequest(problem="the body is not UTF-8 form data")
    fields = dict(pairs)
    client_id, client_secret = fields.get("client_id", ""), fields.get("client_secret", "")
    basic = _basic_credentials(headers.get("authorization", ""))
    problem = _problem(pairs, both_ways=basic is not None and bool(client_secret))
    if basic is not None:
        client_id, client_secret = basic
    return ReceivedRequest(
        grant_type=fields.get("grant_type", ""),
        refresh_token=fields.get("refresh_token", ""),
        client_id=client_id,
        client_secret=client_secret,
        scope=fields.get("scope", ""),
        used_basic=basic is not None,
        problem=problem,
    )


def _problem(pairs: list[tuple[str, str]], *, both_ways: bool) -> str | None:
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        return f"{repeated[0]} was sent more than once"
    if both_ways:
        return "credentials were sent both in the header and in the body"
    if not dict(pairs).get("grant_type"):
        return "grant_type is missing"
    return None


def _basic_credentials(header: str) -> tuple[str, str] | None:
    """Return id and secret of a Basic header, or empty ones, which are never right, if it is unreadable."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    client_id, _, client_secret = text.partition(":")
    # RFC 6749 section 2.3.1: both halves are form-encoded before they are joined.
    return unquote_plus(client_id), unquote_plus(client_secret)
