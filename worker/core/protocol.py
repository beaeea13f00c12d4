"""The token request, and any reply to it read as an Outcome.

RFC 6749 sections 2.3.1, 4.4, 5 and 6, plus what real servers do beside it. Rules:
- Any status with any bytes gives an Outcome; nothing here raises on what a server sends.
- Tokens that came are never thrown away for a flaw beside them: in a lifetime, in a scope, in the JSON of any
  other field.
- `Rejected` only where the server says so in words; whatever may mean anything else leaves the grant be.
- What a server wrote is repeated only when it is a registered code: anything else could hold a secret.
"""

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote_plus

from worker.core.outcomes import ClientRejected, Outcome, Refreshed, Rejected, Unavailable, Unknown
from worker.core.providers import DAY_MS, SECOND_MS, Client, ClientAuthentication, Provider

MAX_LIFETIME_MS = 10 * 365 * DAY_MS
FALLBACK_LIFETIME_MS = 60 * 60 * SECOND_MS

# RFC 6749 section 5.2 first; then what GitHub and Slack say of a dead refresh token in its place.
GRANT_REJECTED = frozenset(
    {"invalid_grant"} | {"bad_refresh_token", "invalid_refresh_token", "token_expired", "token_revoked"}
)
CLIENT_REJECTED = frozenset(
    {"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
)
TRANSIENT = frozenset({"temporarily_unavailable", "server_error", "slow_down"})


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One POST to a token endpoint, form-encoded; it holds secrets, so its `repr` shows none."""

    url: str
    form: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: `headers` with lower-case names, `body` up to the size cap."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def refresh_request(client: Client, secret: str, refresh_token: str) -> TokenRequest:
    """RFC 6749 section 6; no `scope`, which leaves it as granted."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return _authenticated(client, secret, form)


def client_credentials_request(client: Client, secret: str, *, with_scope: bool = True) -> TokenRequest:
    """RFC 6749 section 4.4; scopes are divided by spaces."""
    form = {"grant_type": "client_credentials"}
    if client.scopes and with_scope:
        form["scope"] = " ".join(client.scopes)
    return _authenticated(client, secret, form)


def read_reply(reply: Reply, provider: Provider, now: int) -> Outcome:
    """Say what a token endpoint's reply means.

    Args:
        reply: any status, any headers, any bytes.
        provider: whose reply it is.
        now: for a `Retry-After` that names a date.
    """
    document = _json_object(reply.body)
    code = _error_code(document)
    status = reply.status
    if status in {408, 429}:
        return Unavailable(f"http_{status}", _wait_ms(reply.headers, now))
    if status >= 500:
        return _read_server_fault(reply, code, now)
    if 200 <= status < 300:
        return _read_success(document, code, status)
    if code is not None:
        return _read_error(code, reply.headers, now)
    if provider.ambiguous_message is not None and (status == 401 or _says(document, provider)):
        return Rejected(f"http_{status}", ambiguous=True)
    if status == 401:
        return ClientRejected("http_401")
    return Unavailable(f"http_{status}", _retry_after_ms(reply.headers, now))


def _authenticated(client: Client, secret: str, form: dict[str, str]) -> TokenRequest:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if client.authentication is ClientAuthentication.BASIC:
        # Section 2.3.1: id and secret are form-encoded before they are joined.
        pair = f"{quote_plus(client.client_id)}:{quote_plus(secret)}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    else:
        form |= {"client_id": client.client_id, "client_secret": secret}
    return TokenRequest(client.token_url, form, headers)


def _read_server_fault(reply: Reply, code: str | None, now: int) -> Outcome:
    detail = f"http_{reply.status}"
    retry_after_ms = _retry_after_ms(reply.headers, now)
    throttled = reply.status == 503 or code == "temporarily_unavailable" or retry_after_ms is not None
    if throttled:
        # A fault in front of the server, or behind the rotation: nobody says which.
        return Unavailable(detail, retry_after_ms, may_have_acted=True)
    return Unknown(detail)


def _read_success(document: dict[str, Any] | None, code: str | None, status: int) -> Outcome:
    if document is None:
        return Unknown(f"http_{status}_not_json")
    access_token = _token(document.get("access_token"))
    if access_token is None:
        if code is not None:
            return _read_error(code, {}, 0)
        return Unknown(f"http_{status}_without_token")
    if document.get("errors"):
        return Unknown(f"http_{status}_with_errors")
    return Refreshed(
        access_token=access_token,
        refresh_token=_token(document.get("refresh_token")),
        expires_in_ms=_access_lifetime_ms(document),
        refresh_expires_in_ms=_lifetime_ms(document.get("refresh_token_expires_in")),
        scope=_scope(document.get("scope")),
    )


def _read_error(code: str, headers: Mapping[str, str], now: int) -> Outcome:
    if code in GRANT_REJECTED:
        return Rejected(code)
    if code in CLIENT_REJECTED:
        return ClientRejected(code)
    if code == "invalid_request":  # said of our request, of the client's settings, and of dead tokens
        return Rejected(code, ambiguous=True)
    if code in TRANSIENT:
        return Unavailable(code, _retry_after_ms(headers, now))
    return Unavailable("unrecognized_error_code", _retry_after_ms(headers, now))


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except ValueError:
        document = _leniently(body)
    except RecursionError:
        return None
    return document if isinstance(document, dict) else None


def _leniently(body: bytes) -> Any:
    """What can be read of JSON that is not quite: a name in Latin-1, a raw line break, a number too long.

    Bytes that are no UTF-8 become lone surrogates, so that no token which had them is taken for readable.
    """
    try:
        return json.loads(body.decode("utf-8-sig", "surrogateescape"), strict=False, parse_int=float)
    except (ValueError, RecursionError):
        return None


def _says(document: dict[str, Any] | None, provider: Provider) -> bool:
    """Whether the errors of a Buddy-style document hold the provider's message."""
    errors = document.get("errors") if document is not None else None
    if not isinstance(errors, list):
        return False
    return any(
        isinstance(each, dict) and each.get("message") == provider.ambiguous_message for each in errors
    )


def _error_code(document: dict[str, Any] | None) -> str | None:
    code = document.get("error") if document is not None else None
    return code if isinstance(code, str) and code else None


def _token(value: object) -> str | None:
    """Any text that can be sent again; a lone surrogate, from a broken escape or a broken byte, cannot."""
    if not isinstance(value, str) or not value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _scope(value: object) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"[\x20-\x7e]{1,4096}", value):
        return value
    return None


def _access_lifetime_ms(document: dict[str, Any]) -> int | None:
    """Absent means never (Buddy's old applications); nonsense means an hour, for the tokens are good."""
    if document.get("expires_in") is None:
        return None
    return _lifetime_ms(document["expires_in"]) or FALLBACK_LIFETIME_MS


def _lifetime_ms(value: object) -> int | None:
    """Seconds as a number, or as a string holding one; `None` for what is no lifetime at all."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return MAX_LIFETIME_MS if isinstance(value, int) and value > 0 else None
    if math.isnan(seconds) or seconds <= 0:
        return None
    return max(int(min(seconds * SECOND_MS, MAX_LIFETIME_MS)), 1)


def _wait_ms(headers: Mapping[str, str], now: int) -> int | None:
    """After a 429: `Retry-After`, else the provider's own reset header.

    Other replies carry the reset headers too, where they ask for nothing.
    """
    retry_after_ms = _retry_after_ms(headers, now)
    if retry_after_ms is not None:
        return retry_after_ms
    reset = headers.get("ratelimit-reset", "").strip()  # PagerDuty: seconds from now
    if re.fullmatch(r"[0-9]{1,9}", reset):
        return int(reset) * SECOND_MS
    reset_at = headers.get("x-rate-limit-reset", "").strip()  # Buddy: Unix seconds
    if re.fullmatch(r"[0-9]{1,12}", reset_at):
        return max(int(reset_at) * SECOND_MS - now, 0)
    return None


def _retry_after_ms(headers: Mapping[str, str], now: int) -> int | None:
    """`Retry-After` in seconds or as a date (RFC 9110 section 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value) * SECOND_MS
    return _until_date_ms(value, now) if value else None


def _until_date_ms(value: str, now: int) -> int | None:
    try:
        date = parsedate_to_datetime(value)
        # The asctime form names no zone, and every HTTP date is GMT.
        at = (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
    return max(int(at * SECOND_MS) - now, 0)
