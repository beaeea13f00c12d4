"""What one attempt to refresh a grant came to, and what that says of the grant.

Every attempt ends as exactly one `AttemptOutcome`: the `Outcome` of its request, or an outcome that no
request has. No outcome contains text that a server wrote, except for registered error
codes: any other text could hold a secret.
"""

from dataclasses import dataclass, field

# Details of an `Unavailable` by which the server asks for fewer requests.
THROTTLED = frozenset({"http_429", "slow_down"})


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The server issued tokens: the grant is alive, and the pair it was refreshed with may be dead.

    Attributes:
        refresh_token: `None` where the reply had none: the old one stays valid (RFC 6749 section 6).
        expires_in_ms: the access token's lifetime; `None` where it never expires.
        refresh_expires_in_ms: the refresh token's lifetime; `None` where the reply states no credible one.
        scope: what was granted, divided by spaces; `None` where the reply states no readable scope.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in_ms: int | None
    refresh_expires_in_ms: int | None
    scope: str | None = field(repr=False)


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
    """

    code: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No tokens for now: the request was not acted on, or the server said to wait. The grant is unharmed.

    Attributes:
        detail: a registered error code, `http_<status>`, or a word of ours for what went wrong.
        retry_after_ms: for how long the server asked not to be asked; `None` where it did not say.
        may_have_acted: the fault may have struck after the server rotated the tokens.
    """

    detail: str
    retry_after_ms: int | None = None
    may_have_acted: bool = False

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


Outcome = Refreshed | Rejected | ClientRejected | Unavailable | Unknown


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
    """Nothing was sent: no key of the ring opens the grant's tokens."""


@dataclass(frozen=True, slots=True)
class LeaseTooShort:
    """Nothing was sent: the lease would have ended before the request's deadline.

    This process may have been frozen.
    """


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing was sent: the drain ended, or its client is to be left alone for now."""


AttemptOutcome = Outcome | ClientNotConfirmed | CannotUnseal | LeaseTooShort | Stopped
