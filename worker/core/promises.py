"""Promises: how long a handed-out access token will work, and why one cannot be had.

Rules:
- A promise says until when Evergrant does not rotate a grant. Only a person's order, or an API that refused
  the token, ends it sooner.
- A promise lasts as long as the caller asks, and some minutes where no refresh is due sooner. What a caller
  asks may put the refresh off, up to the latest safe one (`policy.promisable_until`); what nobody asked for
  may not.
- While a refresh may be on its way, or its reply is unknown, nothing is promised.
- Where no promise can be given, a code says why. The token is handed out all the same if it works for as long
  as was asked: `HandedOut.unpromised` says why nothing is promised.
- Who got which token is in the audit stream before the caller has it.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from worker.core import policy
from worker.core.grant import ENDLESS_MS, Grant, Status, StoredGrant
from worker.core.policy import Rules
from worker.core.providers import DAY_MS, MINUTE_MS, SECOND_MS, Client

MARGIN_MS: Final = 2 * SECOND_MS  # a promise ends so long before its access token does
BRIEF_MS: Final = SECOND_MS  # enough for a caller who did not say how long the token must work
USUAL_MS: Final = 5 * MINUTE_MS
LONGEST_MS: Final = DAY_MS  # of a token that no refresh ends and that has no end of its own
BEARER: Final = "Bearer"


@dataclass(frozen=True, slots=True)
class Spans:
    """How long promises last, in ms; the constants say what each is."""

    margin_ms: int = MARGIN_MS
    brief_ms: int = BRIEF_MS
    usual_ms: int = USUAL_MS
    longest_ms: int = LONGEST_MS


SPANS: Final = Spans()


class Refusal(StrEnum):
    """Why a token, or a promise for it, cannot be had; the HTTP face has the same codes."""

    NO_SUCH_GRANT = "no_such_grant"
    GRANT_FAILED = "grant_failed"  # the person must connect again
    GRANT_PAUSED = "grant_paused"
    TTL_UNREACHABLE = "ttl_unreachable"  # no token of this grant can be promised for so long
    PROMISED = "promised"  # the refresh that is needed would break an outstanding promise
    TOO_MANY_REQUESTS = "too_many_requests"  # the grant was refreshed for a refused token a moment ago
    PROVIDER_UNAVAILABLE = "provider_unavailable"  # no new tokens come, or not yet
    CLIENT_REJECTED = "client_rejected"
    STORE_UNAVAILABLE = "store_unavailable"  # away or recovering, or no answer could be kept safe


TRY_AGAIN: Final = frozenset(
    {Refusal.PROMISED, Refusal.TOO_MANY_REQUESTS}
    | {Refusal.PROVIDER_UNAVAILABLE, Refusal.CLIENT_REJECTED, Refusal.STORE_UNAVAILABLE}
)
"""The refusals that end by themselves."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for.

    Attributes:
        grant_id: whose token.
        min_ttl_ms: how long it must work; `None` for as long as no refresh is due.
        refused_version: the API answered 401 to the token of this version; `None` where it did not.
        actor: who asks, for the audit stream.
        origin: where from: an address, or a command.
    """

    grant_id: str
    min_ttl_ms: int | None
    actor: str
    origin: str
    refused_version: int | None = None


class Verdict(StrEnum):
    """What the store made of a request."""

    PROMISED = "promised"
    UNPROMISED = "unpromised"  # handed out as it is
    UNPLANNED = "unplanned"  # nobody has said yet until when its pair may be promised
    SHORT = "short"  # it cannot be promised for so long
    IN_DOUBT = "in_doubt"  # the reply to an earlier refresh is unknown: the token may be dead
    REFUSED = "refused"  # it is the version that the API refused
    LEASED = "leased"  # a refresh is on its way
    RECOVERING = "recovering"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Plan:
    """Until when the pair of a version may be promised.

    Attributes:
        version: of the pair.
        promisable_until: the latest safe refresh; `ENDLESS_MS` for no end.
        outlives: its access token lives on after a refresh, so that a promise holds none back.
    """

    version: int
    promisable_until: int
    outlives: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store says to a request.

    Attributes:
        now: the store's clock, Unix ms.
        epoch: the store's, in which it was said.
        until: the end of the promise that was given; of an outstanding promise; or of the lease.
        stored: the grant; `None` where the store recovers or has no such grant.
        obstacle: what keeps anybody from refreshing it now; `None` for nothing.
        opens_at: until when.
    """

    verdict: Verdict
    now: int
    epoch: int
    until: int = 0
    stored: StoredGrant | None = None
    obstacle: Refusal | None = None
    opens_at: int = 0


class Renewal(StrEnum):
    """What became of a promise that was given back."""

    RESTORED = "restored"
    KEPT = "kept"  # the store knew it
    BEHIND = "behind"  # the store has an older pair still
    MOVED = "moved"  # another pair took its place, or is about to
    GONE = "gone"


class PromiseStore(Protocol):
    """Hands out tokens. Each method is one atomic script."""

    async def hand_out(
        self, request: Request, request_id: str, *, plan: Plan | None = None, is_unpromised: bool = False
    ) -> Answer:
        """Promise the token that is asked for, and write the audit entry.

        Args:
            request: what is asked for.
            request_id: names it; a repeated one is promised the same, and audited once.
            plan: for the pair that an earlier answer called unplanned.
            is_unpromised: hand the token out as it is, if it works for as long as was asked.

        Raises:
            StoreUnavailableError: the store did not answer.
            UnreadableRecordError: the grant's record cannot be read.
        """

    async def renew(self, grant_id: str, version: int, until: int) -> Renewal:
        """Give back a promise that the store may have forgotten.

        Raises:
            StoreUnavailableError: the store did not answer.
            UnreadableRecordError: the grant's record cannot be read.
        """


@dataclass(frozen=True, slots=True)
class HandedOut:
    """An access token, and how long it will work.

    Attributes:
        access_token: in the clear.
        grant: as it is stored.
        until: Unix ms; Evergrant does not rotate the grant before. `now` where nothing is promised.
        now: the store's clock when it was promised.
        unpromised: why nothing is promised; `None` where something is.
        opens_at: when it is worth asking again for a promise; 0 where nobody knows.
    """

    access_token: str = field(repr=False)
    grant: Grant
    until: int
    now: int
    unpromised: Refusal | None = None
    opens_at: int = 0

    @property
    def expires_in(self) -> int:
        """The promise in whole seconds; 0 where there is none."""
        return max(self.until - self.now, 0) // SECOND_MS

    def document(self) -> dict[str, Any]:
        """What every face shows of it."""
        return {
            "access_token": self.access_token,
            "token_type": self.grant.token_type or BEARER,
            "expires_in": self.expires_in,
            "scope": self.grant.scope,
            "grant": self.grant.id,
            "version": self.grant.version,
        }


def plan_for(grant: Grant, client: Client, rules: Rules) -> Plan:
    """Until when the present pair of a grant may be promised."""
    until = policy.promisable_until(grant, client, rules)
    is_ended_by_us = client.refresh_kills_access_token and policy.is_refreshable(grant, client)
    return Plan(grant.version, ENDLESS_MS if until is None else until, outlives=not is_ended_by_us)


def reach_ms(grant: Grant, client: Client, rules: Rules) -> int | None:
    """The longest that a fresh token could be promised, to judge by the present one; `None` for ever.

    `None` too where nobody knows yet: only a pair that Evergrant asked for was issued when its record says.
    """
    until = policy.promisable_until(grant, client, rules)
    if grant.version == 0 or until is None:
        return None
    return (
        until - MARGIN_MS - grant.issued_at if until == grant.access_expires_at else until - grant.issued_at
    )


def refusal_of(stored: StoredGrant, now: int) -> tuple[Refusal, int] | None:
    """Why a grant cannot be refreshed for a caller now, and until when; `None` where it can be tried.

    A grant whose last attempt failed has its own time for the next one: callers do not hurry it.
    """
    grant = stored.grant
    match grant.status:
        case Status.FAILED:
            return Refusal.GRANT_FAILED, 0
        case Status.PAUSED:
            return Refusal.GRANT_PAUSED, 0
        case Status.FAILING if grant.kept_reply is not None:
            return Refusal.PROVIDER_UNAVAILABLE, 0
        case Status.FAILING if stored.due_at is not None and stored.due_at > now:
            return Refusal.PROVIDER_UNAVAILABLE, stored.due_at
        case _:
            return None
