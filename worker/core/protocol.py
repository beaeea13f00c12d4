"""Token requests, and what any reply to one means.

RFC 6749 sections 4.4, 5 and 6, with what real servers do beside it. Rules:
- Any status with any bytes gives an outcome: no function here raises because of what a server sent.
- A flaw beside the tokens never costs the tokens: not in a lifetime, a scope or the JSON of another field.
- A reply means `Rejected` only where the server says so in words. Anything else leaves the grant alone.
- An outcome repeats a server's text only if it is a registered code: other text could hold a secret.
- No provider is named here: where one departs from the RFC, its `Provider` says how.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from worker.core.outcomes import ClientRejected, Outcome, Refreshed, Rejected, Unavailable, Unknown
from worker.core.providers import DAY_MS, SECOND_MS, Client, Provider, ResetUnit

MAX_LIFETIME_MS = 10 * 365 * DAY_MS
FALLBACK_LIFETIME_MS = 60 * 60 * SECOND_MS

# RFC 6749 section 5.2, but `invalid_grant` and `invalid_request`.
CLIENT_REJECTED = frozenset(
    {"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
)
# RFC 6749 section 4.1.2.1, used at token endpoints too; `slow_down` is RFC 8628 section 3.5.
TRANSIENT = frozenset({"temporarily_unavailable", "server_error", "slow_down"})

_HEADERS: Mapping[str, str] = {"Accept": "application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One form-encoded POST to a token endpoint. It holds secrets, so its `repr` shows the URL only."""

    url: str
    form: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        headers: by name, looked up in lower case.
        body: decompressed, no longer than the adapter's size cap.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def refresh_request(client: Client, refresh_token: str) -> TokenRequest:
    """RFC 6749 section 6, not yet authenticated; without `scope`, which leaves the scope as granted."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return TokenRequest(client.token_url, form, _HEADERS)


def client_credentials_request(client: Client, *, with_scope: bool = True) -> TokenRequest:
    """RFC 6749 section 4.4, not yet authenticated; scopes are divided by spaces."""
    form = {"grant_type": "client_credentials"}
    if client.scopes and with_scope:
        form["scope"] = " ".join(client.scopes)
    return TokenRequest(client.token_url, form, _HEADERS)


def read_reply(reply: Reply, provider: Provider, now: int) -> Outcome:
    """What a token endpoint's reply means; never raises.

    Args:
        reply: any status, any headers, any bytes.
        provider: the kind of server that sent it.
        now: Unix milliseconds, for headers that name an instant.
    """
    document = _json_object(reply.body)
    code = _error_code(document)
    status = reply.status
    if status in {408, 429}:
        return Unavailable(f"http_{status}", _wait_ms(reply.headers, provider, now))
    if status >= 500:
        return _read_server_fault(reply, code, now)
    if 200 <= status < 300:
        return _read_success(document, code, status, provider)
    if code is not None:
        return _read_error(code, provider, _retry_after_ms(reply.headers, now))
    if provider.ambiguous_message is not None and (status == 401 or _says(document, provider)):
        return Rejected(f"http_{status}", ambiguous=True)
    if status == 401:
        return ClientRejected("http_401")
    return Unavailable(f"http_{status}", _retry_after_ms(reply.headers, now))


def _read_server_fault(reply: Reply, code: str | None, now: int) -> Outcome:
    detail = f"http_{reply.status}"
    retry_after_ms = _retry_after_ms(reply.headers, now)
    throttled = reply.status == 503 or code == "temporarily_unavailable" or retry_after_ms is not None
    if throttled:
        # The fault may lie in front of the server or behind the rotation: the reply does not say.
        return Unavailable(detail, retry_after_ms, may_have_acted=True)
    return Unknown(detail)


def _read_success(
    document: dict[str, Any] | None, code: str | None, status: int, provider: Provider
) -> Outcome:
    if document is None:
        return Unknown(f"http_{status}_not_json")
    access_token = _token(document.get("access_token"))
    if access_token is None:
        if code is not None:
            return _read_error(code, provider, None)
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


def _read_error(code: str, provider: Provider, retry_after_ms: int | None) -> Outcome:
    if code == "invalid_grant" or code in provider.rejected_codes:
        return Rejected(code)
    if code in CLIENT_REJECTED:
        return ClientRejected(code)
    if code == "invalid_request":  # may mean the request, the client's settings or a dead token
        return Rejected(code, ambiguous=True)
    if code in TRANSIENT:
        return Unavailable(code, retry_after_ms)
    return Unavailable("unrecognized_error_code", retry_after_ms)


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except ValueError:
        document = _leniently(body)
    except RecursionError:
        return None
    return document if isinstance(document, dict) else None


def _leniently(body: bytes) -> Any:
    """Reads what is almost JSON: text in Latin-1, raw line breaks, numbers too long to convert.

    Bytes that are not UTF-8 become lone surrogates, which `_token` refuses.
    """
    try:
        return json.loads(body.decode("utf-8-sig", "surrogateescape"), strict=False, parse_int=float)
    except (ValueError, RecursionError):
        return None


def _says(document: dict[str, Any] | None, provider: Provider) -> bool:
    """Whether the document's list of errors holds the provider's ambiguous message."""
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
    """Any text that can be sent again. A lone surrogate, from a broken escape or byte, cannot be encoded."""
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
    """Absent means that the token never expires; nonsense means an hour, because the tokens are good."""
    if document.get("expires_in") is None:
        return None
    return _lifetime_ms(document["expires_in"]) or FALLBACK_LIFETIME_MS


def _lifetime_ms(value: object) -> int | None:
    """From seconds as a number or a string; `None` for anything that is not a lifetime."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return MAX_LIFETIME_MS if isinstance(value, int) and value > 0 else None
    if math.isnan(seconds) or seconds <= 0:
        return None
    return max(int(min(seconds * SECOND_MS, MAX_LIFETIME_MS)), 1)


def _wait_ms(headers: Mapping[str, str], provider: Provider, now: int) -> int | None:
    """How long a 408 or 429 asks to wait: `Retry-After`, else the first readable reset header.

    Other replies have reset headers too, without asking for a pause.
    """
    retry_after_ms = _retry_after_ms(headers, now)
    if retry_after_ms is not None:
        return retry_after_ms
    for header in provider.reset_headers:
        wait_ms = _until_reset_ms(headers.get(header.name, "").strip(), header.unit, now)
        if wait_ms is not None:
            return wait_ms
    return None


def _until_reset_ms(value: str, unit: ResetUnit, now: int) -> int | None:
    """Seconds have at most nine digits: a longer number is an instant, from a server with another habit."""
    match unit:
        case ResetUnit.SECONDS if re.fullmatch(r"[0-9]{1,9}", value):
            return int(value) * SECOND_MS
        case ResetUnit.UNIX_SECONDS if re.fullmatch(r"[0-9]{1,12}", value):
            return max(int(value) * SECOND_MS - now, 0)
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
        # The asctime form names no zone; every HTTP date is in GMT.
        at = (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
    return max(int(at * SECOND_MS) - now, 0)
