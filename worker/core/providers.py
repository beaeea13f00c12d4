"""The authorization servers, as data: what each promises, and where it departs from RFC 6749.

Lifetimes are what the documentation says where the reply is silent, and caps on what a reply may
claim. A server is odd by a field here, never by a branch elsewhere.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.core.ports import ClientCredentials

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
DAY_MS = 24 * 60 * MINUTE_MS


class GrantType(StrEnum):
    """How a client's grants get their next access token."""

    REFRESH_TOKEN = "refresh_token"
    CLIENT_CREDENTIALS = "client_credentials"


@dataclass(frozen=True, slots=True)
class Provider:
    """What one kind of authorization server promises.

    Attributes:
        token_path: appended to a base URL; `None` where only a whole token URL will do.
        base_url: used when the client names none.
        refresh_lifetime_ms: of a refresh token whose reply states none.
        refresh_lifetime_cap_ms: never believe a reply that claims more.
        absolute_lifetime_ms: from the person's consent; no refresh moves it.
        resend_after_unknown: send the same refresh token once more when no reply could be read.
        ambiguous_message: what the server says of a dead refresh token and of a wrong client secret
            alike, without an RFC 6749 code; a client-credentials request tells them apart.
        known_scopes: the documented ones, none where they are the server's own; others may exist.
    """

    name: str
    base_url: str | None = None
    token_path: str | None = None
    refresh_lifetime_ms: int | None = None
    refresh_lifetime_cap_ms: int | None = None
    absolute_lifetime_ms: int | None = None
    resend_after_unknown: bool = True
    ambiguous_message: str | None = None
    known_scopes: frozenset[str] = frozenset()


# buddy.works/docs/api/getting-started/oauth2, "Supported scopes".
_BUDDY_SCOPES = frozenset(
    {"WORKSPACE", "PROJECT_DELETE", "REPOSITORY_READ", "REPOSITORY_WRITE"}
    | {"EXECUTION_INFO", "EXECUTION_RUN", "EXECUTION_MANAGE"}
    | {"ENVIRONMENT_INFO", "ENVIRONMENT_ADD", "ENVIRONMENT_MANAGE"}
    | {"USER_INFO", "USER_KEY", "USER_EMAIL", "MEMBER_EMAIL", "MANAGE_EMAILS"}
    | {"INTEGRATION_INFO", "WEBHOOK_INFO", "WEBHOOK_ADD", "WEBHOOK_MANAGE"}
    | {"VARIABLE_ADD", "VARIABLE_INFO", "VARIABLE_MANAGE", "TOKEN_INFO", "TOKEN_MANAGE"}
)

# buddy.works/docs/api/getting-started/oauth2: "Refresh tokens are valid for 6 months", while its sample
# states 158112000 s (1,830 days) and a newer one 15811201 s (183 days): never believe more than 183.
# 'Wrong authentication data' (401) is all it says, whatever was wrong.
BUDDY = Provider(
    name="buddy",
    base_url="https://api.buddy.works",
    token_path="/oauth2/token",
    refresh_lifetime_ms=183 * DAY_MS,
    refresh_lifetime_cap_ms=183 * DAY_MS,
    ambiguous_message="Wrong authentication data",
    known_scopes=_BUDDY_SCOPES,
)

# PagerDuty developer-docs, OAuth functionality and Private Apps: refresh replies state no refresh
# lifetime; a Scoped user token lives a year from consent, a Classic one three.
PAGERDUTY_SCOPED = Provider(
    name="pagerduty",
    base_url="https://identity.pagerduty.com",
    token_path="/oauth/token",
    refresh_lifetime_ms=30 * DAY_MS,
    absolute_lifetime_ms=365 * DAY_MS,
)
PAGERDUTY_CLASSIC = Provider(
    name="pagerduty",
    base_url="https://identity.pagerduty.com",
    token_path="/oauth/token",
    refresh_lifetime_ms=210 * DAY_MS,
    absolute_lifetime_ms=3 * 365 * DAY_MS,
)

OAUTH2 = Provider(name="oauth2")


@dataclass(frozen=True, slots=True)
class Client:
    """Our registration at a provider: everything a token request needs but the grant's own token.

    Attributes:
        credentials: at least one. A request is tried with each in turn until one is not refused: the new
            secret first, then the one that it replaces.
        scopes: asked for by client-credentials requests only.
        rate_per_second: refreshes at most; `None` for no limit.
    """

    name: str
    provider: Provider
    token_url: str
    client_id: str
    credentials: tuple["ClientCredentials", ...] = field(repr=False)
    grant_type: GrantType = GrantType.REFRESH_TOKEN
    scopes: tuple[str, ...] = ()
    rate_per_second: float | None = None
