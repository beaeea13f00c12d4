"""The one place where effects are ordered: lease, intent, send, journal, commit.

Rules:
- A refresh token is presented only under its grant's lease, whose taking also stored the intent.
- After a reply that could not be read the same token is sent once more, soon, under the same lease: a
  server with a grace period answers, and with a strict one nothing more can be lost.
- An answer, once here, is on the disk before the store is asked to take it (answers.py). While one waits for
  the store, or the disk has no room for another, nothing is claimed.
- What is wrong with the client or the provider is never held against a grant. Once it is known, what was
  claimed and has not been sent is given back.
- Decisions are the core's; this file only asks, sends and stores.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog

from worker.core import lifecycle, policy
from worker.core.events import EventType, client_event, provider_event
from worker.core.grant import Grant, TokenPair
from worker.core.outcomes import ClientRejected, Outcome, Refreshed, Rejected, Unavailable, Unknown
from worker.core.policy import Action, Rules
from worker.core.ports import (
    ClientCheck,
    Clients,
    Clock,
    Commit,
    FailureOf,
    Journal,
    JournalError,
    Lease,
    Refusal,
    Sealer,
    Store,
    StoreUnavailableError,
    TokenEndpoint,
    UnsealError,
)
from worker.core.providers import Client
from worker.refreshing.answers import Answers
from worker.refreshing.in_flight import InFlight

T = TypeVar("T")
Failure = Rejected | ClientRejected | Unavailable | Unknown

log = structlog.get_logger(__name__)

CHUNK = 150  # grants a claim takes at most: two fill a drain, and more at once cost a large store too much
RESEND_PAUSE_SECONDS = 0.5
STORE_PAUSE_SECONDS = 0.2
TOO_LATE_PAUSE_MS = 1_000
NO_ANSWER_PAUSE_MS = 1_000  # enough of them in a row open the breaker
CLIENT_NOT_CONFIRMED = "client_not_confirmed"  # a readable answer, though not a telling one
LOOK_UP_SECONDS = 1.0  # however long the rate budget asks to wait: `stop` may have been said meanwhile


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard one refresher works.

    Attributes:
        in_flight: requests at once.
        request_ms: the longest that one request takes; none leaves with less than this of its lease left.
        store_patience_seconds: how long anything but an answer is offered to a store that is away.
    """

    in_flight: int = 100
    request_ms: int = 10_000
    store_patience_seconds: float = 15.0


class Refresher:
    """Refreshes grants that are due, many at once, each in the order its rules ask for."""

    def __init__(
        self,
        *,
        store: Store,
        endpoint: TokenEndpoint,
        sealer: Sealer,
        journal: Journal,
        answers: Answers,
        clients: Clients,
        clock: Clock,
        rules: Rules,
        chance: Callable[[], float],
        effort: Effort,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._sealer = sealer
        self._journal = journal
        self._answers = answers
        self._clients = clients
        self._clock = clock
        self._rules = rules
        self._chance = chance
        self._effort = effort
        self._checks: dict[str, _Check] = {}  # the last one of each client
        self._held: dict[int, Lease] = {}  # by fence

    def held(self) -> list[Lease]:
        """The leases that this process works under."""
        return list(self._held.values())

    async def drain(self, client_name: str, runner: str, stop: Callable[[], bool]) -> int:
        """Refresh what a client has due until nothing is left, `stop` says so, or an answer does.

        What is in flight is always finished, and what awaits its turn then is given back. Returns how many
        grants were claimed.

        Raises:
            KeyError: no client has that name.
            StoreUnavailableError: the store went away; leases come back by themselves.
        """
        client = self._clients.get(client_name, 0)
        at_work = InFlight(self._effort.in_flight, ahead=client.rate_per_second is None)
        turn = _Turn(at_work, stop)
        attempted = 0
        try:
            while not (stop() or turn.is_closed):
                if not at_work.room:
                    await at_work.until_room(LOOK_UP_SECONDS)
                    continue
                limit = min(at_work.room, CHUNK)
                if not await self._may_claim(limit + len(at_work)):
                    break
                claim = await self._store.claim(client, limit, runner)
                client = self._clients.get(client_name, claim.generation)
                if claim.leases:
                    self._hold(claim.leases)
                    for lease in claim.leases:
                        at_work.start(self._attempt(lease, client, turn))
                attempted += len(claim.leases)
                if claim.drained or claim.recovering:
                    break
                if claim.wait_ms:
                    await asyncio.sleep(min(claim.wait_ms / 1_000, LOOK_UP_SECONDS))
        finally:  # whatever it is, answers in flight come first
            await at_work.until_done()
        return attempted

    async def _may_claim(self, answers: int) -> bool:
        """Whether nothing waits for the store or the disk, and that has room for what will be answered."""
        if self._answers.waiting or self._answers.off_disk:
            return False
        try:
            await self._journal.reserve(answers)
        except JournalError as problem:
            log.warning("claims.stopped", problem=str(problem))
            return False
        return True

    def _hold(self, leases: Sequence[Lease]) -> None:
        self._held |= {lease.fence: lease for lease in leases}

    async def refresh_one(self, lease: Lease) -> Outcome | None:
        """Refresh one leased grant now, due or not; `None` where its tokens cannot be unsealed.

        A success lets a rejected client work again. A refusal does not pause it, and a key that is missing
        is not held against the grant: whoever asked may have other settings than the workers.
        """
        client = self._clients.reread(lease.grant.client)
        try:
            self._hold([lease])
            at_once = _Turn(nullcontext(), lambda: False)
            outcome = await self._refresh(lease, client, at_once, on_demand=True)
        finally:
            del self._held[lease.fence]
        if isinstance(outcome, Refreshed):
            await self._accept_client(lease, client)
        return outcome

    async def _attempt(self, lease: Lease, client: Client, turn: "_Turn") -> None:
        try:
            await self._do_what_is_due(lease, client, turn)
        finally:
            del self._held[lease.fence]

    async def _do_what_is_due(self, lease: Lease, client: Client, turn: "_Turn") -> None:
        now = self._clock.now()
        out_of_turn = lease.client_probe or lease.endpoint_probe or lease.grant.in_doubt
        if out_of_turn and policy.is_refreshable(lease.grant, client):
            await self._refresh(
                lease, self._clients.reread(client.name) if lease.client_probe else client, turn
            )
            return
        due = policy.decide(lease.grant, client, self._rules, now)
        match due.action:
            case Action.REFRESH:
                await self._refresh(lease, client, turn)
            case Action.ANNOUNCE:
                change = lifecycle.announce(
                    lease.grant, due, client, self._rules, attempt=lease.fence, now=now
                )
                await self._record_outcome(lease, change)
            case Action.EXPIRE:
                change = lifecycle.expire(lease.grant, client, self._rules, attempt=lease.fence, now=now)
                await self._record_outcome(lease, change)
            case Action.WAIT:
                await self._put_back(lease, lease.grant, due.at, client)

    async def _refresh(
        self, lease: Lease, client: Client, turn: "_Turn", *, on_demand: bool = False
    ) -> Outcome | None:
        pair = await self._unseal(lease, client, on_demand=on_demand)
        if pair is None:
            return None
        async with turn.slot:
            sent_at = self._clock.now()
            is_over, is_too_late = turn.is_over(lease), not self._covers_a_request(lease, sent_at)
            if not is_over and not is_too_late:
                outcome, in_doubt, lost = await self._send(lease, client, pair, sent_at)
                if not isinstance(outcome, Refreshed):
                    # Whoever is next might meet the same, and waits until it is known whose failure it is.
                    attempt = _Attempt(lease, client, sent_at, in_doubt, on_demand, lost)
                    outcome, is_its_own = await self._judge(attempt, outcome, turn)
        if is_over:
            await self._put_back(lease, lease.grant, sent_at, client)
            return None
        if is_too_late:
            log.warning("refresh.lease_too_short", grant=lease.grant.id, client=client.name)
            await self._put_back(lease, lease.grant, sent_at + TOO_LATE_PAUSE_MS, client)
            return Unavailable("lease_too_short")
        if isinstance(outcome, Refreshed):
            await self._commit(lease, client, pair, outcome, sent_at)
        else:
            await self._store_failure(attempt, outcome, is_its_own=is_its_own)
        await self._tell_of_recovery(lease, client, outcome, lost)
        return outcome

    async def _unseal(self, lease: Lease, client: Client, *, on_demand: bool) -> TokenPair | None:
        try:
            return self._sealer.open(lease.grant)
        except UnsealError as error:
            log.warning("grant.cannot_unseal", problem=str(error))
        if on_demand:
            await self._put_back(lease, lease.grant, self._clock.now(), client)
        else:
            attempt = _Attempt(lease, client, self._clock.now(), lease.grant.in_doubt, on_demand)
            await self._record_grant_failure(attempt, Unavailable(lifecycle.CANNOT_UNSEAL))
        return None

    def _covers_a_request(self, lease: Lease, now: int) -> bool:
        """Whether a request sent now ends within the lease; in a process that was frozen it may not."""
        return now + self._effort.request_ms < lease.until

    async def _send(
        self, lease: Lease, client: Client, pair: TokenPair, sent_at: int
    ) -> tuple[Outcome, bool, Unknown | None]:
        """Present the refresh token, and once more if the reply is unknown.

        Returns the outcome; whether an earlier presentation may have been acted on; and what was unknown of
        the first reply, where there is a second.
        """
        outcome = await self._endpoint.refresh(client, pair, sent_at)
        if not isinstance(outcome, Unknown) or not client.provider.resend_after_unknown:
            return outcome, lease.grant.in_doubt, None
        log.warning("refresh.reply_unknown", grant=lease.grant.id, client=client.name, detail=outcome.detail)
        await asyncio.sleep(RESEND_PAUSE_SECONDS * (0.5 + self._chance()))
        now = self._clock.now()
        if not self._covers_a_request(lease, now):
            return outcome, True, None
        return await self._endpoint.refresh(client, pair, now), True, outcome

    async def _commit(
        self, lease: Lease, client: Client, pair: TokenPair, answer: Refreshed, sent_at: int
    ) -> None:
        base, now = lease.grant, self._clock.now()
        successor = lifecycle.succeed(
            base, pair, answer, client, self._rules, attempt=lease.fence, sent_at=sent_at, now=now
        )
        sealed = self._sealer.seal(base.id, successor.grant.version, successor.pair)
        change = successor.sealed(sealed)
        await self._answers.keep(Commit(lease.fence, base.lineage, base.version, base.status, change))

    async def _judge(self, attempt: "_Attempt", outcome: Failure, turn: "_Turn") -> tuple[Failure, bool]:
        """Find out whose failure it is; where it would be others' too, nothing more of the drain is sent.

        Returns the outcome for what it turned out to be, and whether it is the grant's own.
        """
        if isinstance(outcome, Rejected) and outcome.ambiguous:
            outcome = await self._tell_apart(outcome, attempt.client, attempt.sent_at)
        match outcome:
            case Rejected():
                if attempt.lost is not None:
                    # It used the token up, and its reply could not be read. Where that is so with every
                    # grant, the breaker has to open before all of them are lost.
                    await self._record_failure(attempt, attempt.lost, turn)
                return outcome, True
            case ClientRejected():
                if attempt.on_demand:
                    return outcome, False
                if await self._reject_client(attempt, outcome) is Refusal.GRANT:
                    return Rejected(outcome.code), True
                turn.is_closed = True  # accepted again or not: what awaits its turn has the same credentials
                return outcome, False
            case Unavailable(detail=detail) if detail == CLIENT_NOT_CONFIRMED:
                return outcome, True
            case Unavailable() | Unknown():
                return outcome, await self._record_failure(attempt, outcome, turn) is FailureOf.GRANT

    async def _store_failure(self, attempt: "_Attempt", outcome: Failure, *, is_its_own: bool) -> None:
        """Hold a failure against its grant, or put the grant back as it was."""
        if is_its_own:
            await self._record_grant_failure(attempt, outcome)
            return
        in_doubt = lifecycle.still_in_doubt(outcome, in_doubt=attempt.in_doubt)
        due_at = self._clock.now() if isinstance(outcome, ClientRejected) else self._soon()
        await self._put_back(
            attempt.lease, replace(attempt.lease.grant, in_doubt=in_doubt), due_at, attempt.client
        )

    async def _record_grant_failure(self, attempt: "_Attempt", outcome: Outcome) -> None:
        lease, client = attempt.lease, attempt.client
        change = lifecycle.fail(
            lease.grant,
            outcome,
            client,
            self._rules,
            in_doubt=attempt.in_doubt,
            attempt=lease.fence,
            now=self._clock.now(),
            chance=self._chance(),
        )
        answered_at = attempt.sent_at if isinstance(outcome, Rejected) and attempt.lost is None else None
        await self._record_outcome(lease, change, answered_at)
        log.warning(
            "refresh.failed",
            grant=lease.grant.id,
            client=client.name,
            outcome=repr(outcome),
            status=change.grant.status.value,
            reason=change.grant.reason,
        )

    def _soon(self) -> int:
        return self._clock.now() + int(NO_ANSWER_PAUSE_MS * (0.5 + self._chance()))

    async def _reject_client(self, attempt: "_Attempt", outcome: ClientRejected) -> Refusal:
        """Pause the client, unless the store knows that it is well and only this grant is refused.

        It is paused before the grant is put back: nothing can claim it in between.
        """
        lease, client = attempt.lease, attempt.client
        event = client_event(
            EventType.CLIENT_REJECTED,
            client,
            attempt=lease.fence,
            now=self._clock.now(),
            reason=outcome.code,
        )
        reject = partial(self._store.reject_client, client, event, lease, sent_at=attempt.sent_at)
        refusal = await self._until_stored(reject)
        if refusal is Refusal.CHANGED:
            log.warning("client.rejected", client=client.name, code=outcome.code)
        return refusal

    async def _record_failure(
        self, attempt: "_Attempt", outcome: Unavailable | Unknown, turn: "_Turn"
    ) -> FailureOf:
        """Whose trouble it is that an attempt brought no answer.

        It is the grant's where the same endpoint answered another request meanwhile. What is asked for by
        `Retry-After` holds the whole client.
        """
        lease, client, now = attempt.lease, attempt.client, self._clock.now()
        event = provider_event(
            EventType.PROVIDER_UNAVAILABLE, client, attempt=lease.fence, now=now, reason=outcome.detail
        )
        blame = partial(
            self._store.record_failure,
            client,
            event,
            lease,
            sent_at=attempt.sent_at,
            retry_after_ms=lifecycle.throttle_ms(outcome),
            throttled=isinstance(outcome, Unavailable) and outcome.throttled,
            chance=self._chance(),
        )
        blamed = await self._until_stored(blame)
        log.warning("refresh.no_answer", grant=lease.grant.id, client=client.name, detail=outcome.detail)
        if blamed.claims_stop:
            turn.is_closed = True
        return blamed.whose

    async def _tell_of_recovery(
        self, lease: Lease, client: Client, outcome: Outcome, lost: Unknown | None
    ) -> None:
        """A readable answer to a probe or a half-open probe lets its client or its provider work again.

        The rejection of a token whose first reply was lost is none: the provider may lose them all.
        """
        if lease.client_probe and isinstance(outcome, Refreshed | Rejected):
            await self._accept_client(lease, client)
        if isinstance(outcome, Rejected) and lost is not None:
            return
        if lease.endpoint_probe and isinstance(outcome, Refreshed | Rejected | ClientRejected):
            await self._record_recovery(lease, client)

    async def _accept_client(self, lease: Lease, client: Client) -> None:
        event = client_event(EventType.CLIENT_RECOVERED, client, attempt=lease.fence, now=self._clock.now())
        if await self._until_stored(partial(self._store.accept_client, client, event, lease)):
            log.info("client.recovered", client=client.name)

    async def _record_recovery(self, lease: Lease, client: Client) -> None:
        now = self._clock.now()
        event = provider_event(EventType.PROVIDER_RECOVERED, client, attempt=lease.fence, now=now)
        if await self._until_stored(partial(self._store.record_recovery, client, event, lease)):
            log.info("provider.recovered", endpoint=client.token_url)

    async def _put_back(self, lease: Lease, grant: Grant, due_at: int | None, client: Client) -> None:
        """Give the lease back with nothing learnt of the grant."""
        await self._record_outcome(lease, lifecycle.leave(grant, due_at, client, self._rules))

    async def _record_outcome(
        self, lease: Lease, change: lifecycle.Change, answered_at: int | None = None
    ) -> None:
        await self._until_stored(partial(self._store.record_outcome, lease, change, answered_at=answered_at))

    async def _tell_apart(self, outcome: Rejected, client: Client, sent_at: int) -> Failure:
        """Whether an ambiguous refusal meant the grant or the client: ask about the client alone."""
        match await self._check(client, sent_at):
            case ClientCheck.ACCEPTED:
                return replace(outcome, ambiguous=False)
            case ClientCheck.REJECTED:
                return ClientRejected(outcome.code)
            case ClientCheck.UNKNOWN:
                return Unavailable(CLIENT_NOT_CONFIRMED)

    async def _check(self, client: Client, sent_at: int) -> ClientCheck:
        """One check serves all requests that left before it: a wrong secret is met by many at once.

        An older one proves nothing: the secret may have been reset since.
        """
        known = self._checks.get(client.name)
        if known is None or known.client != client or known.at <= sent_at:
            now = self._clock.now()
            known = _Check(client, now, asyncio.create_task(self._endpoint.check(client, now)))
            self._checks[client.name] = known
        return await asyncio.shield(known.task)

    async def _until_stored(self, store: Callable[[], Awaitable[T]]) -> T:
        """Offer something to the store until it takes it, within a patience."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._effort.store_patience_seconds
        while True:
            try:
                return await store()
            except StoreUnavailableError:
                if loop.time() > give_up_at:
                    raise
                await asyncio.sleep(STORE_PAUSE_SECONDS)


@dataclass(slots=True)
class _Turn:
    """When an attempt may send.

    Attributes:
        slot: entered while its request is in flight, and until it is known whose failure it was.
        stop: says whether nothing more is to be sent.
        is_closed: the client is to wait, or it or its endpoint is in trouble.
    """

    slot: AbstractAsyncContextManager[None]
    stop: Callable[[], bool]
    is_closed: bool = False

    def is_over(self, lease: Lease) -> bool:
        """Whether a request is not to be sent any more; one that was let through alone is, to find out."""
        return self.stop() or (self.is_closed and not (lease.client_probe or lease.endpoint_probe))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One presentation that brought no tokens.

    Attributes:
        sent_at: when the first request left.
        in_doubt: an earlier presentation may have been acted on.
        on_demand: somebody asked for it.
        lost: what was unknown of its first reply, where it was made twice.
    """

    lease: Lease
    client: Client
    sent_at: int
    in_doubt: bool
    on_demand: bool
    lost: Unknown | None = None


@dataclass(frozen=True, slots=True)
class _Check:
    client: Client
    at: int
    task: asyncio.Task[ClientCheck]
