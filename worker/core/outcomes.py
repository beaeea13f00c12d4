"""What one attempt to refresh a grant came to, and what that says of the grant.

Every attempt ends as exactly one `AttemptOutcome`: the `Outcome` of its request, or an outcome that no
request has. No outcome contains text that a server wrote, except for error codes: one harmless word that is
no part of a secret that was sent. Any other text could hold a secret.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Final

# The reason of a client's incident that no single refusal names.
EVERY_GRANT_REJECTED = "every_grant_rejected"
# Details of an `Unavailable` by which the server asks for fewer requests. `slow_down` is of RFC 8628 section
# 3.5; the others are Slack's and what gateways say.
THROTTLED = frozenset(
    {"http_429", "slow_down", "ratelimited", "rate_limited", "rate_limit_exceeded", "too_many_requests"}
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        headers: by name, looked up in lower case.
        body: decompressed where that was possible, no longer than the adapter's size cap.
        is_whole: the body ended where it was said to end, and below the cap.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    is_whole: bool = field(default=True, repr=False)


class NoLifetime(Enum):
    """What a reply says of a token's end, where it names none."""

    NEVER = auto()
    UNKNOWN = auto()  # silent, or nonsense


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The server issued tokens: the grant is alive, and the pair it was refreshed with may be dead.

    Attributes:
        refresh_token: `None` where the reply had none: the old one stays valid (RFC 6749 section 6).
        expires_in_ms: the access token's lifetime; 0 where the reply states 0 or less.
        refresh_expires_in_ms: the refresh token's lifetime; `None` where the reply states no credible one.
        scope: what was granted, divided by spaces; `None` where the reply states no readable scope.
        audience: whom the access token is for; `None` where the reply does not say.
        token_type: `None` for Bearer; else the registered name of a type that needs a proof with each call.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in_ms: int | NoLifetime
    refresh_expires_in_ms: int | None
    scope: str | None = field(repr=False)
    audience: tuple[str, ...] | None = field(default=None, repr=False)
    token_type: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server says that the grant is dead, for good; it did not act on the request.

    Attributes:
        code: the server's error code, or `http_<status>` where it sent none.
        ambiguous: the reply may as well mean that the client was rejected.
    """

    code: str
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class ClientRejected:
    """The server refuses the client; the reply says nothing about the grant, which keeps its tokens.

    Attributes:
        code: the server's error code, or `http_<status>` where it sent none.
        checked: a request that asks about the client alone was refused too.
    """

    code: str
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No tokens for now: the request was not acted on, or the server said to wait. The grant is unharmed.

    Attributes:
        detail: the server's error code, `http_<status>` (`http_302_redirected` for a redirect), or a word of
            ours for what went wrong.
        retry_after_ms: for how long the server asked not to be asked; `None` where it did not say.
        may_have_acted: the fault may have struck after the server rotated the tokens.
        refused: the server answered, and neither failed nor asked to wait: it refused in words that nobody
            knows, said nothing with its 4xx, or sent us elsewhere. It may say the same for ever.
    """

    detail: str
    retry_after_ms: int | None = None
    may_have_acted: bool = False
    refused: bool = False

    @property
    def throttled(self) -> bool:
        """Whether the server asked for fewer requests, rather than failed to answer."""
        return self.retry_after_ms is not None or self.detail in THROTTLED


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request was sent and no readable reply came: the server may have rotated the tokens.

    Attributes:
        detail: `http_<status>`, perhaps with a suffix, or a word of ours for what went wrong.
    """

    detail: str


@dataclass(frozen=True, slots=True)
class Unread:
    """A reply with a 2xx came whose tokens nobody could read: the server has most likely rotated.

    The reply is kept whole, and the token that was presented is not presented again.

    Attributes:
        detail: `http_<status>` with a word of ours for what is wrong with it.
        reply: all that came.
    """

    detail: str
    reply: Reply = field(repr=False)


Outcome = Refreshed | Rejected | ClientRejected | Unavailable | Unknown | Unread


@dataclass(frozen=True, slots=True)
class ClientNotConfirmed:
    """The server refused the grant or the client, and a check of the client was not conclusive.

    The grant is tried again; the client is not paused.

    Attributes:
        code: of the refusal.
    """

    code: str


@dataclass(frozen=True, slots=True)
class CannotUnseal:
    """Nothing was sent: no key of the ring opens the grant's tokens.

    Attributes:
        missing_key: the id of the key that sealed them, where the ring lacks it; else they were changed.
    """

    missing_key: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseTooShort:
    """Nothing was sent: the lease would have ended before the request's deadline.

    This process may have been frozen.
    """


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing was sent: the drain ended, or its client is to be left alone for now."""


@dataclass(frozen=True, slots=True)
class AnswerKnown:
    """Nothing was sent: this machine has the answer to this very refresh token, which is used up.

    Attributes:
        is_stored: the store has the answer by now; otherwise it is offered again.
    """

    is_stored: bool


AttemptOutcome = Outcome | ClientNotConfirmed | CannotUnseal | LeaseTooShort | Stopped | AnswerKnown


class Counted(StrEnum):
    """As what an attempt without tokens is counted."""

    REJECTED = "rejected"
    CLIENT_REJECTED = "client_rejected"
    CLIENT_NOT_CONFIRMED = "client_not_confirmed"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"
    UNREAD = "unread"
    CANNOT_UNSEAL = "cannot_unseal"
    LEASE_TOO_SHORT = "lease_too_short"


REFRESHED: Final = "refreshed"  # where the tokens of an attempt are stored

_COUNTED: Final[Mapping[type[AttemptOutcome], Counted]] = {
    Rejected: Counted.REJECTED,
    ClientRejected: Counted.CLIENT_REJECTED,
    ClientNotConfirmed: Counted.CLIENT_NOT_CONFIRMED,
    Unavailable: Counted.UNAVAILABLE,
    Unknown: Counted.UNKNOWN,
    Unread: Counted.UNREAD,
    CannotUnseal: Counted.CANNOT_UNSEAL,
    LeaseTooShort: Counted.LEASE_TOO_SHORT,
}


def counted_as(outcome: AttemptOutcome) -> Counted | None:
    """As what an attempt is counted; `None` for tokens, and where nothing was to be sent after all."""
    return _COUNTED.get(type(outcome))
