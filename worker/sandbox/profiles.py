"""How the imitated authorization servers differ, as data.

A profile is what the provider documents; where the documentation is silent, the strictest reading.
Lifetimes are in seconds. None means that the server leaves the field out or has no such limit.
"""

from __future__ import annotations

import base64
import re
import secrets
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DAY = 86_400

ErrorStyle = Literal["buddy", "rfc6749"]

_RFC_SCOPES = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*")  # RFC 6749 section 3.3
# A client that writes Buddy's "+" as %2B sends one name with a plus in it.
_BUDDY_SCOPES = re.compile(r"[A-Z_]+( [A-Z_]+)*")


def _buddy_refresh_token() -> str:
    # 60 bytes are 80 characters of base64; Buddy's have letters and digits only.
    return base64.b64encode(secrets.token_bytes(60), altchars=b"bX").decode()


def _uuid() -> str:
    return str(uuid.uuid4())


def _opaque() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one kind of authorization server replies, and where."""

    name: str
    authorize_path: str
    token_path: str
    revoke_path: str
    token_type: str
    new_access_token: Callable[[], str]
    new_refresh_token: Callable[[], str]
    error_style: ErrorStyle
    basic_for: frozenset[str]
    """Grant types that accept credentials by HTTP Basic; in the body they always work."""
    credentials_give_refresh_token: bool
    """Whether the reply to a client_credentials request has a refresh token too."""
    scope: str | None
    """The scope that replies state."""
    refresh_seconds: int
    stated_refresh_seconds: int | None
    """The refresh token's life that replies state."""
    absolute_seconds: int | None
    """The life of a grant from consent, which no refresh extends."""
    authorization_needs: Mapping[str, str] = field(default_factory=dict)
    """What every authorization request must have beside RFC 6749's parameters."""
    requires_scope: bool = False
    scope_syntax: re.Pattern[str] = _RFC_SCOPES
    drops_unknown_scopes: bool = False
    """Whether scopes that do not exist are left out in silence."""
    added_scopes: tuple[str, ...] = ()
    """Scopes that every grant has."""
    requires_pkce: bool = False
    redirects_below: bool = False
    """Whether a redirect URI may be a path below a registered one."""
    states_issuer: bool = False
    """Whether answers to an authorization request name the server (RFC 9207)."""


BUDDY = Profile(
    name="buddy",
    authorize_path="/oauth2/authorize",
    token_path="/oauth2/token",
    revoke_path="/oauth2/revoke",
    token_type="Bearer",
    new_access_token=_uuid,
    new_refresh_token=_buddy_refresh_token,
    error_style="buddy",
    basic_for=frozenset({"client_credentials"}),
    credentials_give_refresh_token=True,
    scope=None,
    refresh_seconds=183 * DAY,
    # Buddy's sample reply states ten times the six months that its page promises.
    stated_refresh_seconds=1830 * DAY,
    absolute_seconds=None,
    authorization_needs={"type": "web_server"},
    requires_scope=True,
    scope_syntax=_BUDDY_SCOPES,
    redirects_below=True,
)

PAGERDUTY = Profile(
    name="pagerduty",
    authorize_path="/oauth/authorize",
    token_path="/oauth/token",
    revoke_path="/oauth/revoke",
    token_type="bearer",
    new_access_token=lambda: f"pdus+_0XBPWQQ_{_uuid()}",
    new_refresh_token=lambda: f"pdus+_1XBPWQQ_{_uuid()}",
    error_style="rfc6749",
    basic_for=frozenset(),
    credentials_give_refresh_token=False,
    scope="openid incidents.read incidents.write services.read",
    refresh_seconds=30 * DAY,
    stated_refresh_seconds=None,
    absolute_seconds=365 * DAY,
    requires_scope=True,
    drops_unknown_scopes=True,
    added_scopes=("openid",),
    requires_pkce=True,
)

OAUTH2 = Profile(
    name="oauth2",
    authorize_path="/authorize",
    token_path="/token",
    revoke_path="/revoke",
    token_type="Bearer",
    new_access_token=_opaque,
    new_refresh_token=_opaque,
    error_style="rfc6749",
    basic_for=frozenset({"authorization_code", "refresh_token", "client_credentials"}),
    credentials_give_refresh_token=False,
    scope=None,
    refresh_seconds=30 * DAY,
    stated_refresh_seconds=None,
    absolute_seconds=None,
    states_issuer=True,
)

PROFILES = {profile.name: profile for profile in (BUDDY, PAGERDUTY, OAUTH2)}
