"""Authorization servers as data: what each promises, and where it departs from RFC 6749.

A server's oddity is a field of its `Provider`, never a branch in the code that reads replies. A lifetime is
either what the documentation says where replies are silent, or a cap on what a reply may claim.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from worker.core.outcomes import NoLifetime

if TYPE_CHECKING:
    from worker.core.ports import ClientCredentials

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
DAY_MS = 24 * 60 * MINUTE_MS


class GrantType(StrEnum):
    """How a client's grants get their next access token."""

    REFRESH_TOKEN = "refresh_token"
    CLIENT_CREDENTIALS = "client_credentials"


# These hold for every provider: a client of the kind `oauth2` may be at any server, and no server is known to
# use one of the codes for anything else.
_REJECTED_CODES = frozenset(
    {"bad_refresh_token"}  # GitHub; HubSpot, in capitals
    | {"invalid_refresh_token", "token_expired", "token_revoked"}  # Slack; Twitch, as a sentence
    | {"interaction_required", "consent_required", "login_required", "bad_token"}  # Microsoft, see MSAL
    | {"invalid_rapt", "rapt_required"}  # Google: its owner asks for a new sign-in
    | {"invalid_code"}  # Zoho, with a 200
    | {"invalid_token", "expired_token", "refresh_token_expired", "refresh_token_revoked"}  # many
)
_RESET_HEADERS = (
    # PagerDuty developer-docs, Rate Limits; draft-ietf-httpapi-ratelimit-headers.
    "ratelimit-reset",
    # github.com/buddy/api-go-sdk.
    "x-rate-limit-reset",
    # GitHub, Discord and many more.
    *("x-ratelimit-reset-after", "x-ratelimit-reset"),
)


@dataclass(frozen=True, slots=True)
class Provider:
    """What one kind of authorization server promises.

    Attributes:
        base_url: used when the client names none; `None` where there is no default.
        token_path: appended to the base URL; `None` where the client has to name a whole token URL.
        authorize_path: of the authorization endpoint (RFC 6749 section 3.1), appended likewise.
        authorize_parameters: what that endpoint wants beside those of RFC 6749.
        revoke_path: of the revocation endpoint (RFC 7009), appended to the base URL; `None` where no
            documentation names one.
        access_lifetime_ms: of an access token whose reply states none; `None` if unknown, `NEVER` if it has
            no end.
        refresh_lifetime_ms: a refresh token's lifetime where the reply states none; `None` if unknown.
        refresh_lifetime_cap_ms: the longest refresh lifetime that is believed of a reply.
        absolute_lifetime_ms: of the grant, from the person's consent; no refresh extends it.
        resend_after_unknown: whether the same refresh token is sent once more after an unreadable reply.
        rejected_codes: error codes that mean `invalid_grant` (RFC 6749 section 5.2) in other words, in snake
            case. A provider with codes of its own adds them to the default.
        ambiguous_message: what the server says both of a dead refresh token and of a wrong client secret,
            without an error code; a bare 401 is then ambiguous too. A client-credentials request tells which.
        errors_void_tokens: `errors` beside tokens mean that the request failed, and the tokens are not taken.
        reset_headers: headers, in lower case, that say when to come back after a 408 or 429 without
            `Retry-After`, by preference: in seconds from now, or at a Unix time.
        known_scopes: the documented ones; empty where the server's owner defines them. Others may exist.
        scopes_within: the scopes that a scope contains, by its name.
        wants_scopes: nobody can sign in who asks for none.
    """

    name: str
    base_url: str | None = None
    token_path: str | None = None
    authorize_path: str | None = None
    authorize_parameters: tuple[tuple[str, str], ...] = ()
    revoke_path: str | None = None
    access_lifetime_ms: int | NoLifetime | None = None
    refresh_lifetime_ms: int | None = None
    refresh_lifetime_cap_ms: int | None = None
    absolute_lifetime_ms: int | None = None
    resend_after_unknown: bool = True
    rejected_codes: frozenset[str] = _REJECTED_CODES
    ambiguous_message: str | None = None
    errors_void_tokens: bool = False
    reset_headers: tuple[str, ...] = _RESET_HEADERS
    known_scopes: frozenset[str] = frozenset()
    scopes_within: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wants_scopes: bool = False

    def unknown_among(self, scopes: Iterable[str]) -> list[str]:
        """The scopes that no documentation names; none where the server's owner defines them."""
        return sorted(set(scopes) - self.known_scopes) if self.known_scopes else []

    def contained_in(self, scope: str) -> frozenset[str]:
        """The scopes that a scope contains, by whatever steps; without itself."""
        found: set[str] = set()
        open_ends = [scope]
        while open_ends:
            inner = [each for each in self.scopes_within.get(open_ends.pop(), ()) if each not in found]
            found.update(inner)
            open_ends += inner
        return frozenset(found)


# buddy.works/docs/api/getting-started/oauth2, "Supported scopes".
_BUDDY_SCOPES = frozenset(
    {"WORKSPACE", "PROJECT_DELETE", "REPOSITORY_READ", "REPOSITORY_WRITE"}
    | {"EXECUTION_INFO", "EXECUTION_RUN", "EXECUTION_MANAGE"}
    | {"ENVIRONMENT_INFO", "ENVIRONMENT_ADD", "ENVIRONMENT_MANAGE"}
    | {"USER_INFO", "USER_KEY", "USER_EMAIL", "MEMBER_EMAIL", "MANAGE_EMAILS"}
    | {"INTEGRATION_INFO", "WEBHOOK_INFO", "WEBHOOK_ADD", "WEBHOOK_MANAGE"}
    | {"VARIABLE_ADD", "VARIABLE_INFO", "VARIABLE_MANAGE", "TOKEN_INFO", "TOKEN_MANAGE"}
)

# The same table: "EXECUTION_MANAGE: ... includes EXECUTION_RUN" and the like.
_BUDDY_SCOPES_WITHIN = {
    "REPOSITORY_WRITE": ("REPOSITORY_READ",),
    "EXECUTION_MANAGE": ("EXECUTION_RUN",),
    "EXECUTION_RUN": ("EXECUTION_INFO",),
    "MANAGE_EMAILS": ("USER_EMAIL",),
}

# What PagerDuty's page on App Registration lists under Permission Scope; `openid` is granted beside them.
_PAGERDUTY_SCOPES = frozenset(
    {"incidents.read", "incidents.write", "services.read", "services.write", "schedules.read"}
    | {"schedules.write", "escalation_policies.read", "escalation_policies.write", "oncalls.read"}
    | {"users.read", "users.write", "teams.read", "teams.write"}
    | {"webhook_subscriptions.read", "webhook_subscriptions.write", "openid"}
)

# buddy.works/docs/api/getting-started/oauth2: "Refresh tokens are valid for 6 months", but its sample reply
# states 158112000 s (1,830 days) and a newer one 15811201 s (183 days). Hence the cap of 183 days.
# Access tokens of its old applications never end, and their replies are silent about it.
# For every refusal Buddy replies 401 with 'Wrong authentication data'; its PHP client takes `errors` in a 200
# for a failure.
BUDDY = Provider(
    name="buddy",
    base_url="https://api.buddy.works",
    token_path="/oauth2/token",
    authorize_path="/oauth2/authorize",
    authorize_parameters=(("type", "web_server"),),
    revoke_path="/oauth2/revoke",  # buddy.works/docs/api/oauth/revoke
    access_lifetime_ms=NoLifetime.NEVER,
    refresh_lifetime_ms=183 * DAY_MS,
    refresh_lifetime_cap_ms=183 * DAY_MS,
    ambiguous_message="Wrong authentication data",
    errors_void_tokens=True,
    known_scopes=_BUDDY_SCOPES,
    scopes_within=_BUDDY_SCOPES_WITHIN,
    wants_scopes=True,  # the same page, "Web application flow": scope is required
)

# PagerDuty developer-docs, OAuth Functionality and Private Apps: replies to a refresh state no refresh
# lifetime. A Scoped user token lives one year from consent, a Classic one three. An access token lives a day
# (Scoped); a Classic one is said to live 30 days, and the sample reply states 10.
PAGERDUTY_SCOPED = Provider(
    name="pagerduty",
    base_url="https://identity.pagerduty.com",
    token_path="/oauth/token",
    authorize_path="/oauth/authorize",
    revoke_path="/oauth/revoke",  # undocumented: where other clients of PagerDuty revoke
    access_lifetime_ms=DAY_MS,
    refresh_lifetime_ms=30 * DAY_MS,
    absolute_lifetime_ms=365 * DAY_MS,
    known_scopes=_PAGERDUTY_SCOPES,
)
PAGERDUTY_CLASSIC = Provider(
    name="pagerduty",
    base_url="https://identity.pagerduty.com",
    token_path="/oauth/token",
    authorize_path="/oauth/authorize",
    revoke_path="/oauth/revoke",  # undocumented: where other clients of PagerDuty revoke
    access_lifetime_ms=10 * DAY_MS,
    refresh_lifetime_ms=210 * DAY_MS,
    absolute_lifetime_ms=3 * 365 * DAY_MS,
)

OAUTH2 = Provider(name="oauth2")


@dataclass(frozen=True, slots=True)
class Client:
    """Our registration at a provider: everything that a token request needs except the grant's own token.

    Attributes:
        credentials: at least one. A request is tried with each in turn until the client is not refused: first
            with the new secret, then with the secret that it replaces.
        scopes: asked for by client-credentials requests, and where a person signs in.
        rate_per_second: refreshes at most; `None` for no limit.
        parameters: sent with every token request as they are, in this order; a name may repeat.
        revoke_url: the revocation endpoint (RFC 7009); `None` where nobody says one.
        authorize_url: where people sign in (RFC 6749 section 3.1); `None` where nobody says it.
        redirect_uri: where they come back to, if not to this deployment's own address.
        issuer: what the server calls itself; `None` where nobody says it.
        states_issuer: whether it says so whenever it sends a person back (RFC 9207).
        revoking_ends_consent: to revoke one pair ends every pair of the same person, newer ones included.
        access_lifetime_ms: of an access token whose reply states none; `None` where nobody says it, and
            `NEVER` where it has no end.
        refresh_at: share of a token's life after which it is refreshed; `None` for the deployment's.
        min_margin_ms: the least time before a token's end at which it is refreshed; `None` for the
            deployment's.
        user_agent: what its requests call themselves.
        refresh_kills_access_token: a refresh ends the old access token; else that lives on to its own end.
        reconnect_url: the application's page on which a person connects again, with `{grant}` and `{client}`
            in place of their names; `None` where nobody says it.
    """

    name: str
    provider: Provider
    token_url: str
    client_id: str
    credentials: tuple["ClientCredentials", ...] = field(repr=False)
    grant_type: GrantType = GrantType.REFRESH_TOKEN
    scopes: tuple[str, ...] = ()
    rate_per_second: float | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    revoke_url: str | None = None
    authorize_url: str | None = None
    redirect_uri: str | None = None
    issuer: str | None = None
    states_issuer: bool = False
    revoking_ends_consent: bool = False
    access_lifetime_ms: int | NoLifetime | None = None
    refresh_at: float | None = None
    min_margin_ms: int | None = None
    user_agent: str = "evergrant"
    refresh_kills_access_token: bool = True
    reconnect_url: str | None = None

    def asked_for(self, parameter: str) -> tuple[str, ...]:
        """The values of one of its parameters."""
        return tuple(value for name, value in self.parameters if name == parameter)

    @property
    def registration(self) -> str:
        """Names all that a server sees of this client, but for its secrets.

        A registration that was changed has to prove itself anew: no server has answered it yet.
        """
        methods = (each.method for each in self.credentials[:1])
        seen = (self.token_url, self.client_id, *methods, *self.parameters)
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:32]
