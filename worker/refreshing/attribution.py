"""Find out whose failure it was: the grant's, the client's or the endpoint's.

Rules:
- A refusal that may mean the grant or the client is checked: a client-credentials request asks about the
  client alone. One check serves every request that left before it, because many requests meet a wrong secret
  at once.
- A refusal is compared with what the client's other grants are answered: the store says whom it means. A
  refused client is paused before its grant is put back, so nothing can claim the grant in between.
- Where every grant of a client is rejected, that is the client's incident first; it is believed later.
- An attempt without a readable reply is compared with others at the same endpoint: it is the grant's failure
  only if others were answered meanwhile.
- A refusal of the client on demand pauses none: this process may have other settings than the workers.
- A readable reply to a probe lets its client or its endpoint work again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog

from worker.core import lifecycle
from worker.core.events import EventType, client_event, provider_event
from worker.core.outcomes import (
    EVERY_GRANT_REJECTED,
    AttemptOutcome,
    ClientNotConfirmed,
    ClientRejected,
    Outcome,
    Refreshed,
    Rejected,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.policy import Rules
from worker.core.ports import (
    ClientCheck,
    Clock,
    FailureOf,
    Lease,
    Refusal,
    RefusalVerdict,
    RefusalWords,
    Store,
    TokenEndpoint,
)
from worker.core.protocol import REDIRECT
from worker.core.providers import Client
from worker.core.refusals import CLIENT_FOR_CERTAIN
from worker.refreshing.patience import until_stored

T = TypeVar("T")


log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Attempt:
    """One attempt to refresh a grant, as far as it has come.

    Attributes:
        sent_at: when its first request left, Unix ms; before that, when it began.
        in_doubt: an earlier request with this refresh token may have been acted on.
        on_demand: it was asked for, rather than due.
        lost: its unreadable first reply, where the token was sent twice.
    """

    lease: Lease
    client: Client
    sent_at: int
    in_doubt: bool
    on_demand: bool
    lost: Unknown | None = None


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that brought no tokens, and whose failure that is.

    Attributes:
        outcome: the outcome, after any check.
        is_the_grants: it counts against the grant. Otherwise the grant is put back as it was.
        claims_stop: nothing more of this client may be sent for now.
        with_all: it was rejected, and so is every grant of the client.
    """

    outcome: AttemptOutcome
    is_the_grants: bool
    claims_stop: bool = False
    with_all: bool = False


class Attribution:
    """Finds out whose failure it was, and records it at the store.

    Args:
        store: records failures, pauses clients, opens breakers.
        endpoint: is asked about a client alone.
        clock: the store's.
        rules: the deployment's; they say for how long the rejection of every grant is not believed.
        chance: 0 to 1, for the jitter.
        patience_seconds: how long a failure or recovery is offered to a store that is away.
    """

    def __init__(
        self,
        *,
        store: Store,
        endpoint: TokenEndpoint,
        clock: Clock,
        rules: Rules,
        chance: Callable[[], float],
        patience_seconds: float,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._clock = clock
        self._rules = rules
        self._chance = chance
        self._patience_seconds = patience_seconds
        self._checks: dict[str, _Check] = {}  # the last one of each client

    async def find_out(self, attempt: Attempt, failure: Outcome) -> FailedAttempt:
        """Whose failure it was.

        Raises:
            StoreUnavailableError: the store stayed away; the lease brings the grant back.
        """
        if isinstance(failure, Rejected) and failure.ambiguous:
            return await self._of_any(attempt, await self._tell_apart(failure, attempt))
        return await self._of_any(attempt, failure)

    async def note_recovery(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        """After a readable reply to a probe, let its client or its endpoint work again.

        A rejection after a lost first reply does not count: the endpoint may lose every reply with tokens.
        """
        lease, client = attempt.lease, attempt.client
        if lease.client_probe and isinstance(outcome, Refreshed | Rejected):
            await self.accept_client(lease, client, is_refreshed=isinstance(outcome, Refreshed))
        if isinstance(outcome, Rejected) and attempt.lost is not None:
            return
        if lease.endpoint_probe and isinstance(outcome, Refreshed | Rejected | ClientRejected):
            await self._record_recovery(lease, client)

    async def accept_client(self, lease: Lease, client: Client, *, is_refreshed: bool) -> None:
        """Let a rejected client work again, if it was rejected."""
        now = self._clock.now()
        event = client_event(EventType.CLIENT_RECOVERED, client, attempt=lease.fence, now=now)
        accept = partial(self._store.accept_client, client, event, lease, is_refreshed=is_refreshed)
        if await self._until_stored(accept):
            log.info("client.recovered", client=client.name)

    async def _of_any(self, attempt: Attempt, failure: Outcome | ClientNotConfirmed) -> FailedAttempt:
        match failure:
            case Rejected():
                return await self._of_rejection(attempt, failure)
            case ClientRejected(code=code) as refusal:
                words = RefusalWords.CLIENT if _names_the_client(refusal) else RefusalWords.EITHER
                return await self._of_refusal(attempt, refusal, words, code)
            case ClientNotConfirmed(code=code):
                return await self._of_refusal(attempt, failure, RefusalWords.NOTHING, code)
            case Unavailable(refused=True, detail=detail) if not attempt.lease.endpoint_probe:
                return await self._of_refusal(attempt, failure, RefusalWords.NOTHING, detail)
            case Unavailable() | Unknown():
                return await self._of_no_answer(attempt, failure)
            case Refreshed() | Unread():
                raise ValueError(f"{type(failure).__name__} is no failure of anybody")

    async def _of_rejection(self, attempt: Attempt, rejection: Rejected) -> FailedAttempt:
        claims_stop = await self._replies_are_lost(attempt)
        verdict = await self._whom_it_means(attempt, RefusalWords.GRANT, EVERY_GRANT_REJECTED)
        return FailedAttempt(
            rejection,
            is_the_grants=True,
            claims_stop=claims_stop or verdict.claims_stop,
            with_all=verdict.whom not in {Refusal.GRANT, Refusal.ALONE},
        )

    async def _of_refusal(
        self,
        attempt: Attempt,
        refusal: ClientRejected | ClientNotConfirmed | Unavailable,
        words: RefusalWords,
        code: str,
    ) -> FailedAttempt:
        """Whose failure a refusal is that does not say for certain that it means the grant."""
        if attempt.on_demand:
            return FailedAttempt(refusal, is_the_grants=isinstance(refusal, ClientNotConfirmed))
        verdict = await self._whom_it_means(attempt, words, code)
        match verdict.whom, refusal:
            case Refusal.GRANT, Unavailable():
                return FailedAttempt(refusal, is_the_grants=True)
            case Refusal.GRANT, _ if code.startswith(REDIRECT):
                # Redirects that come and go: something in front of the server, and no word of the grant.
                return FailedAttempt(Unavailable(code), is_the_grants=True)
            case Refusal.GRANT, _:
                claims_stop = await self._replies_are_lost(attempt)
                return FailedAttempt(Rejected(code), is_the_grants=True, claims_stop=claims_stop)
            case Refusal.ALONE, Unavailable():
                return await self._of_no_answer(attempt, refusal)
            case Refusal.ALONE, _:
                return FailedAttempt(refusal, is_the_grants=True)
            case _:
                # Even if the client was accepted meanwhile: what waits has the refused credentials.
                return FailedAttempt(refusal, is_the_grants=False, claims_stop=verdict.claims_stop)

    async def _of_no_answer(self, attempt: Attempt, failure: Unavailable | Unknown) -> FailedAttempt:
        whose, claims_stop = await self._record_failure(attempt, failure)
        return FailedAttempt(failure, whose is FailureOf.GRANT, claims_stop)

    async def _replies_are_lost(self, attempt: Attempt) -> bool:
        """Count a lost first reply against the endpoint, although the second reply rejected the token.

        The server has used the token up, and its reply could not be read. If it does so with every grant, the
        breaker must open before all of them are lost.
        """
        if attempt.lost is None:
            return False
        _, claims_stop = await self._record_failure(attempt, attempt.lost)
        return claims_stop

    async def _whom_it_means(self, attempt: Attempt, words: RefusalWords, code: str) -> RefusalVerdict:
        """Compare a refusal with what the client's other grants are answered; the client may be paused."""
        client = attempt.client
        event = client_event(
            EventType.CLIENT_REJECTED,
            client,
            attempt=attempt.lease.fence,
            now=self._clock.now(),
            reason=code,
        )
        record = partial(
            self._store.record_refusal,
            client,
            event,
            attempt.lease,
            words=words,
            sent_at=attempt.sent_at,
            believe_ms=self._rules.believe_ms,
        )
        verdict = await self._until_stored(record)
        if verdict.whom is Refusal.CHANGED:
            log.warning("client.rejected", client=client.name, code=code)
        return verdict

    async def _record_failure(
        self, attempt: Attempt, failure: Unavailable | Unknown
    ) -> tuple[FailureOf, bool]:
        """Whose failure a missing readable reply is, and whether this client's claims stop.

        A `Retry-After` throttles the whole client.
        """
        lease, client, now = attempt.lease, attempt.client, self._clock.now()
        event = provider_event(
            EventType.PROVIDER_UNAVAILABLE, client, attempt=lease.fence, now=now, reason=failure.detail
        )
        record = partial(
            self._store.record_failure,
            client,
            event,
            lease,
            sent_at=attempt.sent_at,
            retry_after_ms=lifecycle.throttle_ms(failure),
            throttled=isinstance(failure, Unavailable) and failure.throttled,
            chance=self._chance(),
        )
        verdict = await self._until_stored(record)
        return verdict.whose, verdict.claims_stop

    async def _record_recovery(self, lease: Lease, client: Client) -> None:
        now = self._clock.now()
        event = provider_event(EventType.PROVIDER_RECOVERED, client, attempt=lease.fence, now=now)
        if await self._until_stored(partial(self._store.record_recovery, client, event, lease)):
            log.info("provider.recovered", endpoint=client.token_url)

    async def _tell_apart(self, refusal: Rejected, attempt: Attempt) -> Outcome | ClientNotConfirmed:
        """Whether an ambiguous refusal meant the grant or the client."""
        match await self._check(attempt.client, attempt.sent_at):
            case ClientCheck.ACCEPTED:
                return replace(refusal, ambiguous=False)
            case ClientCheck.REJECTED:
                return ClientRejected(refusal.code, checked=True)
            case ClientCheck.UNKNOWN:
                return ClientNotConfirmed(refusal.code)

    async def _check(self, client: Client, sent_at: int) -> ClientCheck:
        """Check the client, or share a check that left after this request.

        An older check proves nothing: the secret may have changed since.
        """
        known = self._checks.get(client.name)
        if known is None or known.client != client or known.at <= sent_at:
            now = self._clock.now()
            check = self._endpoint.check(client, self._clock.by_redis(now))
            known = _Check(client, now, asyncio.create_task(check))
            self._checks[client.name] = known
        return await asyncio.shield(known.task)

    async def _until_stored(self, offer: Callable[[], Awaitable[T]]) -> T:
        return await until_stored(offer, self._patience_seconds)


def _names_the_client(refusal: ClientRejected) -> bool:
    """Whether a refusal certainly means the client: servers give the other codes for single grants too."""
    return refusal.checked or refusal.code in CLIENT_FOR_CERTAIN


@dataclass(frozen=True, slots=True)
class _Check:
    client: Client
    at: int
    task: asyncio.Task[ClientCheck]
