"""The one place where effects are ordered: lease, intent, send, journal, commit.

Rules:
- A refresh token is presented only under its grant's lease. Taking the lease has also stored the intent.
- Where no reply came the same token is sent once more, soon, under the same lease. A server with a grace
  period answers; with a strict one nothing more can be lost.
- A reply with a 2xx that cannot be read is kept whole, for it most likely holds the only living tokens. Its
  token is not sent again, and its endpoint is sent nothing more but probes.
- A token to which this machine has the answer is not presented: the answer is stored (refreshing/answers.py).
- An answer is on the disk before the store is asked to take it (refreshing/answers.py).
- A fault of the client or of the provider never counts against a grant (refreshing/attribution.py). Once it
  is known, claimed grants that were not sent yet are given back.
- The core decides; this file only asks, sends and stores.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import structlog

from worker.core import lifecycle, policy
from worker.core.events import EventType, provider_event
from worker.core.failures import MissingKeyError, StoreUnavailableError, UnsealError
from worker.core.grant import Grant, TokenPair
from worker.core.outcomes import (
    AnswerKnown,
    AttemptOutcome,
    CannotUnseal,
    ClientRejected,
    Counted,
    LeaseTooShort,
    Outcome,
    Refreshed,
    Rejected,
    Stopped,
    Unknown,
    Unread,
    counted_as,
)
from worker.core.policy import RESEND_PAUSE_SECONDS, Action, Rules
from worker.core.ports import (
    Clients,
    Clock,
    Commit,
    Journal,
    JournalError,
    KeptReply,
    Lease,
    Observer,
    RefreshReport,
    Sealer,
    Store,
    TokenEndpoint,
)
from worker.core.providers import Client, GrantType
from worker.core.reasons import Reason
from worker.refreshing.answers import Answers
from worker.refreshing.attribution import Attempt, Attribution, FailedAttempt
from worker.refreshing.drain import Drain, Turn
from worker.refreshing.in_flight import InFlight
from worker.refreshing.patience import until_stored

log = structlog.get_logger(__name__)

TOO_LATE_PAUSE_MS = 1_000
ANSWER_PAUSE_MS = 10_000  # an answer is offered more often than its grant is claimed
NO_ANSWER_PAUSE_MS = 1_000  # enough of them in a row open the breaker


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard one refresher works.

    Attributes:
        in_flight: requests at once, of all clients.
        request_ms: the longest that one request takes; none is sent under a lease that ends sooner.
        store_patience_seconds: how long anything but an answer is offered to a store that is away; an
            answer is offered until the store has it.
    """

    in_flight: int = 100
    request_ms: int = 10_000
    store_patience_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """A reply that could not be read, which is kept by now, and its grant."""

    outcome: Unread
    grant: Grant


class Refresher:
    """Refreshes grants: many that are due at once, or one on demand.

    `is_away` says whether the store refused or missed this process's last heartbeat.
    """

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
        observer: Observer,
        is_away: Callable[[], bool],
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._sealer = sealer
        self._answers = answers
        self._clients = clients
        self._clock = clock
        self._rules = rules
        self._chance = chance
        self._effort = effort
        self._observer = observer
        self._is_away = is_away
        self._attribution = Attribution(
            store=store,
            endpoint=endpoint,
            clock=clock,
            rules=rules,
            chance=chance,
            patience_seconds=effort.store_patience_seconds,
        )
        self._in_flight = InFlight(effort.in_flight, effort.request_ms / 1_000)
        self._drain = Drain(
            store=store,
            journal=journal,
            answers=answers,
            clients=clients,
            observer=observer,
            at_work=self._in_flight,
        )
        self._leases: dict[int, Lease] = {}  # by fence

    def held(self) -> list[Lease]:
        """The leases that this process works under."""
        return list(self._leases.values())

    async def drain(
        self, runner: str, stop: Callable[[], bool], *, winds_down: Callable[[], bool] = lambda: False
    ) -> int:
        """Refresh what is due, of every client; returns how many grants were claimed.

        Args:
            runner: the place that was reserved for this.
            stop: whether to claim nothing more.
            winds_down: whether the time is up, but for what endpoints that answer need while requests to
                others hang.

        Raises:
            StoreUnavailableError: the store went away; leases come back by themselves.
        """
        # An answer of now could not be stored: what was claimed and not sent is given back.
        return await self._drain.run(runner, lambda: stop() or self._is_away(), winds_down, self._start)

    async def refresh_one(self, lease: Lease) -> AttemptOutcome:
        """Refresh one leased grant now, due or not.

        A success lets a rejected client work again. A refusal does not pause it, and a missing key does not
        count against the grant: this process may have other settings than the workers.
        """
        client = self._clients.reread(lease.grant.client)
        self._leases[lease.fence] = lease
        try:
            outcome = await self._refresh(lease, client, Turn(nullcontext(), lambda: False), on_demand=True)
        finally:
            del self._leases[lease.fence]
        if isinstance(outcome, Refreshed):
            await self._attribution.accept_client(lease, client, is_refreshed=True)
        return outcome

    def _start(self, lease: Lease, client: Client, turn: Turn) -> Coroutine[None, None, None]:
        self._leases[lease.fence] = lease  # from now on recovery re-asserts it
        return self._work(lease, client, turn)

    async def _work(self, lease: Lease, client: Client, turn: Turn) -> None:
        try:
            await self._do_what_is_due(lease, client, turn)
        finally:
            del self._leases[lease.fence]

    async def _do_what_is_due(self, lease: Lease, client: Client, turn: Turn) -> None:
        now = self._clock.now()
        if lease.out_of_turn and policy.is_refreshable(lease.grant, client):
            # It is probed with the settings that their source has now: they may have been put right.
            is_probe = lease.client_probe or lease.endpoint_probe
            client = self._clients.reread(client.name) if is_probe else client
            await self._refresh(lease, client, turn)
            return
        due = policy.decide(lease.grant, client, self._rules, now)
        match due.action:
            case Action.REFRESH:
                await self._refresh(lease, client, turn)
            case Action.ANNOUNCE:
                change = lifecycle.announce(
                    lease.grant, due, client, self._rules, attempt=lease.fence, now=now
                )
                await self._record(lease, change)
            case Action.EXPIRE:
                change = lifecycle.expire(lease.grant, client, self._rules, attempt=lease.fence, now=now)
                await self._record(lease, change)
            case Action.WAIT:
                await self._put_back(lease, lease.grant, due.at, client)

    async def _refresh(
        self, lease: Lease, client: Client, turn: Turn, *, on_demand: bool = False
    ) -> AttemptOutcome:
        began_at = self._clock.now()
        attempt = Attempt(lease, client, began_at, lease.grant.in_doubt, on_demand)
        outcome, grant = await self._attempt(attempt, turn)
        self._observer.refreshed(RefreshReport(lease, client, outcome, began_at, self._clock.now(), grant))
        return outcome

    async def _attempt(self, attempt: Attempt, turn: Turn) -> tuple[AttemptOutcome, Grant]:
        """Unseal, send and store; returns the outcome, and the grant as it then is."""
        known = await self._catch_up(attempt)
        if known is not None:
            return known
        try:
            pair = self._sealer.open(attempt.lease.grant)
        except UnsealError as error:
            log.warning("grant.cannot_unseal", problem=str(error))
            return await self._do_without_tokens(attempt, error)
        async with turn.slot:
            result = await self._present(attempt, pair, turn)
        outcome: AttemptOutcome = result if isinstance(result, Refreshed) else result.outcome
        match result:
            case Refreshed():
                grant = await self._commit(attempt, pair, result)
            case FailedAttempt():
                grant = await self._give_up(attempt, result)
            case _Kept(grant=grant):
                pass
        await self._attribution.note_recovery(attempt, outcome)
        return outcome, grant

    async def _catch_up(self, attempt: Attempt) -> tuple[AttemptOutcome, Grant] | None:
        """Store the answer to this very refresh token, if this machine has it: the token is dead by then."""
        try:
            grant = await self._answers.catch_up(attempt.lease)
        except (StoreUnavailableError, JournalError) as problem:
            log.warning("answer.waits", grant=attempt.lease.grant.id, problem=str(problem))
            failed = FailedAttempt(AnswerKnown(is_stored=False), is_the_grants=False)
            return failed.outcome, await self._give_up(attempt, failed)
        if grant is None:
            return None
        as_claimed = replace(attempt.lease.grant, in_doubt=True)
        await self._put_back(attempt.lease, as_claimed, self._clock.now(), attempt.client)
        return AnswerKnown(is_stored=True), grant

    async def _do_without_tokens(
        self, attempt: Attempt, problem: UnsealError
    ) -> tuple[AttemptOutcome, Grant]:
        """Put a grant back whose tokens cannot be opened; it is to blame if its key is there."""
        if not isinstance(problem, MissingKeyError):
            failed = FailedAttempt(CannotUnseal(), is_the_grants=not attempt.on_demand)
            return failed.outcome, await self._give_up(attempt, failed)
        outcome = CannotUnseal(problem.key_id)
        if attempt.on_demand:
            return outcome, await self._give_up(attempt, FailedAttempt(outcome, is_the_grants=False))
        change = lifecycle.wait_for_key(
            attempt.lease.grant,
            attempt.client,
            self._rules,
            now=self._clock.now(),
            chance=self._chance(),
        )
        await self._record(attempt.lease, change, counted=counted_as(outcome))
        return outcome, change.grant

    async def _present(
        self, attempt: Attempt, pair: TokenPair, turn: Turn
    ) -> Refreshed | FailedAttempt | _Kept:
        """Present the refresh token, unless it is too late.

        Returns the tokens, or the reply that could not be read and is kept, or whose failure it was.
        """
        sent_at = self._clock.now()
        if turn.is_over(attempt.lease):
            return FailedAttempt(Stopped(), is_the_grants=False)
        if not self._covers_a_request(attempt.lease, sent_at):
            return FailedAttempt(LeaseTooShort(), is_the_grants=False)
        attempt.sent_at = sent_at
        outcome = await self._send(attempt, pair)
        if isinstance(outcome, Refreshed):
            return outcome
        # Keep the slot until the failure is attributed: the next request might meet the same.
        if isinstance(outcome, Unread):
            kept = _Kept(outcome, await self._keep(attempt, outcome))
            turn.is_closed = True
            return kept
        failed = await self._attribution.find_out(attempt, outcome)
        turn.is_closed = turn.is_closed or failed.claims_stop
        return failed

    async def _send(self, attempt: Attempt, pair: TokenPair) -> Outcome:
        """Present the refresh token, and once more if the reply is unknown."""
        lease, client = attempt.lease, attempt.client
        first = await self._ask(client, pair, attempt.sent_at)
        if not isinstance(first, Unknown) or not client.provider.resend_after_unknown:
            return first
        attempt.in_doubt = True
        log.warning("refresh.reply_unknown", grant=lease.grant.id, client=client.name, detail=first.detail)
        await asyncio.sleep(RESEND_PAUSE_SECONDS * (0.5 + self._chance()))
        now = self._clock.now()
        if not self._covers_a_request(lease, now):
            return first
        attempt.lost = first
        return await self._ask(client, pair, now)

    async def _ask(self, client: Client, pair: TokenPair, now: int) -> Outcome:
        asked_at = asyncio.get_running_loop().time()
        outcome = await self._endpoint.refresh(client, pair, self._clock.by_redis(now))
        self._in_flight.heard(client, asked_at, outcome)
        if isinstance(outcome, Unread) and client.grant_type is GrantType.CLIENT_CREDENTIALS:
            return Unknown(outcome.detail)  # no token was used up: it is simply asked for again
        return outcome

    def _covers_a_request(self, lease: Lease, now: int) -> bool:
        """Whether a request sent now ends within the lease; after this process was frozen it may not."""
        return now + self._effort.request_ms < lease.until

    async def _commit(self, attempt: Attempt, pair: TokenPair, answer: Refreshed) -> Grant:
        base, fence = attempt.lease.grant, attempt.lease.fence
        following = lifecycle.pair_after(pair, answer, attempt.client)
        change = lifecycle.succeed(
            base,
            pair,
            answer,
            attempt.client,
            self._rules,
            sealed=self._sealer.seal_successor(base, following),
            attempt=fence,
            sent_at=attempt.sent_at,
            now=self._clock.now(),
        )
        await self._answers.keep(Commit(fence, base.lineage, base.version, base.status, change))
        return change.grant

    async def _keep(self, attempt: Attempt, unread: Unread) -> Grant:
        """Keep a reply that could not be read; returns the grant as it then is."""
        lease, client, now = attempt.lease, attempt.client, self._clock.now()
        base = lease.grant
        log.warning("refresh.reply_unread", grant=base.id, client=client.name, detail=unread.detail)
        change = lifecycle.keep(base, unread, client, self._rules, attempt=lease.fence, now=now)
        kept = KeptReply(
            fence=lease.fence,
            change=change,
            sealed=self._sealer.seal_reply(base.client, base.id, base.version, unread.reply),
            size=len(unread.reply.body),
            detail=unread.detail,
            sent_at=attempt.sent_at,
            received_at=now,
            registration=client.registration,
            endpoint_probe=lease.endpoint_probe,
            outage=provider_event(
                EventType.PROVIDER_UNAVAILABLE,
                client,
                attempt=lease.fence,
                now=now,
                reason=Reason.REPLY_UNREAD,
            ),
        )
        await self._answers.keep(kept)
        return change.grant

    async def _give_up(self, attempt: Attempt, failed: FailedAttempt) -> Grant:
        """Count a failure against its grant, or put the grant back: nothing was learnt about it."""
        lease, client, now = attempt.lease, attempt.client, self._clock.now()
        outcome, in_doubt = failed.outcome, attempt.in_doubt
        if not failed.is_the_grants:
            known = lease.grant if isinstance(outcome, CannotUnseal) else lifecycle.unsealed(lease.grant)
            grant = replace(known, in_doubt=lifecycle.still_in_doubt(outcome, in_doubt=in_doubt))
            due_at = self._next_try_at(outcome, now)
            await self._put_back(lease, grant, due_at, client, counted_as(outcome))
            return grant
        change = lifecycle.fail(
            lease.grant,
            outcome,
            client,
            self._rules,
            in_doubt=in_doubt,
            with_all=failed.with_all,
            attempt=lease.fence,
            now=now,
            chance=self._chance(),
        )
        was_answered = isinstance(outcome, Rejected) and attempt.lost is None
        rejected_at = change.grant.rejected_at if failed.with_all else None
        await self._record(
            lease,
            change,
            answered_at=attempt.sent_at if was_answered else None,
            believed_at=(
                None if rejected_at is None else policy.believed_at(change.grant, rejected_at, self._rules)
            ),
            counted=counted_as(outcome),
        )
        return change.grant

    def _next_try_at(self, outcome: AttemptOutcome, now: int) -> int:
        """When a grant is due again after an attempt from which nothing was learnt about it."""
        match outcome:
            case ClientRejected() | CannotUnseal() | Stopped():
                return now
            case LeaseTooShort():
                return now + TOO_LATE_PAUSE_MS
            case AnswerKnown():
                return now + ANSWER_PAUSE_MS
            case _:
                return now + int(NO_ANSWER_PAUSE_MS * (0.5 + self._chance()))

    async def _put_back(
        self, lease: Lease, grant: Grant, due_at: int | None, client: Client, counted: Counted | None = None
    ) -> None:
        await self._record(lease, lifecycle.leave(grant, due_at, client, self._rules), counted=counted)

    async def _record(
        self,
        lease: Lease,
        change: lifecycle.Change,
        *,
        answered_at: int | None = None,
        believed_at: int | None = None,
        counted: Counted | None = None,
    ) -> None:
        record = partial(
            self._store.record_outcome,
            lease,
            change,
            answered_at=answered_at,
            believed_at=believed_at,
            counted=counted,
        )
        await until_stored(record, self._effort.store_patience_seconds)
