"""Grants, leases, schedule and events in Redis: what the refresher sees of them.

Each method is one call of one script in `lua/`, which holds the rules. This file only packs and unpacks.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from worker.adapters.clock import SLOW_REPLY_MS, RedisClock
from worker.adapters.cloud_events import to_json
from worker.adapters.store import record, signatures
from worker.adapters.store.claiming import Claiming, claim_id
from worker.adapters.store.scripts import Scripts
from worker.core.events import Event
from worker.core.grant import Status
from worker.core.lifecycle import Change
from worker.core.measures import Gathered
from worker.core.outcomes import THROTTLED, Counted
from worker.core.ports import (
    Claim,
    ClockJump,
    Commit,
    Committed,
    DueClients,
    Epoch,
    FailureOf,
    FailureVerdict,
    KeptReply,
    Lease,
    LeasedElsewhere,
    Moved,
    NotLeased,
    Paused,
    Promised,
    Recovering,
    Refusal,
    RefusalVerdict,
    RefusalWords,
    RefusedLately,
    ReplyKept,
    StoreUnavailableError,
    Unproven,
    Verdict,
)
from worker.core.providers import Client
from worker.core.reasons import Reason
from worker.core.registry import WORKER_ALIVE_MS, Reserved, UnreadableRecordError

log = structlog.get_logger(__name__)

MOST_NAMED = 20  # grants in one heartbeat

# What claim.lua says a grant is tried for; these may add up.
CLIENT_PROBE, ENDPOINT_PROBE, COMPARISON = 1, 2, 4

# What lease.lua says where it gives no lease.
NOT_LEASED: Final[dict[bytes, Callable[..., Moved | NotLeased]]] = {
    b"held": LeasedElsewhere,
    b"unproven": lambda until: Unproven(until or None),
    b"recovering": Recovering,
    b"paused": Paused,
    b"kept": ReplyKept,
    b"promised": Promised,
    b"refused_lately": RefusedLately,
    b"moved": Moved,
    b"gone": lambda: None,
}


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How long leases and waits last, and how many events are kept.

    Attributes:
        lease_ms: longer than one whole refresh can take.
        events_kept: about how many events the stream holds.
        first_probe_ms: after a client was rejected; each further one waits twice as long.
        longest_probe_ms: the longest such wait.
        first_endpoint_probe_ms: after an endpoint became unavailable; each further one waits twice as long.
        longest_endpoint_probe_ms: the longest such wait.
    """

    lease_ms: int
    events_kept: int
    first_probe_ms: int
    longest_probe_ms: int
    first_endpoint_probe_ms: int
    longest_endpoint_probe_ms: int


class RedisStore:
    """The refresher's store.

    Args:
        scripts: the deployment's scripts.
        clock: set from every reply with the time in it.
        limits: how long things last.
        source: of the events that this process emits.
        owner: names this process in its leases.
        is_worker: this process runs refresh tasks.
        gathered: what this process has counted; it is added up in the store with the heartbeat.
    """

    def __init__(
        self,
        scripts: Scripts,
        clock: RedisClock,
        limits: StoreLimits,
        *,
        source: str,
        owner: str,
        is_worker: bool = False,
        gathered: Gathered | None = None,
    ) -> None:
        self._scripts = scripts
        self._clock = clock
        self._limits = limits
        self._source = source
        self._owner = owner
        self._is_worker = is_worker
        self._gathered = gathered or Gathered()
        self._recovered_epoch = 0  # where this process may claim
        self._claiming = Claiming(self._claim)

    async def claim(self, client: Client, limit: int, runner: str) -> Claim:
        """Lease up to `limit` due grants of a client, each with its intent.

        A record that cannot be read never costs the other leases. Its own lease runs out by itself: another
        release may be able to read it, or this one once it is put right.
        """
        asked_at = self._clock.stopwatch()
        now, answer = await self._claiming.claim(client, limit, runner)
        if answer is None:
            return Claim(now, [], drained=True, wait_ms=0, generation=0, recovering=True)
        generation, drained, wait_ms, probe, found, dues = answer
        leases = []
        for packed, in_doubt, grant_id, due_at in zip(
            found[::3], found[1::3], found[2::3], dues, strict=True
        ):
            try:
                lease = _lease(grant_id, packed, in_doubt=in_doubt, probe=probe, due_at=due_at or None)
                leases.append(self._as_this_clock_counts(lease, asked_at))
            except UnreadableRecordError as problem:
                await self._note_unreadable(problem)
        return Claim(now, leases, bool(drained), wait_ms, generation)

    async def _claim(self, runner: str, asks: tuple[signatures.Ask, ...]) -> tuple[int, int, Sequence[Any]]:
        asked_at = self._clock.stopwatch()
        now, recovering, answers = await self._scripts.run(
            signatures.Claim(
                claim_id=claim_id(),
                owner=self._owner,
                lease_ms=self._limits.lease_ms,
                runner=runner or None,
                recovered_epoch=self._recovered_epoch,
                asks=asks,
                at_least=self._clock.at_least(),
            )
        )
        self._clock.set(now, asked_at=asked_at)
        return now, recovering, answers

    async def lease(
        self,
        grant_id: str,
        *,
        even_paused: bool = False,
        reply: int | None = None,
        ends_promise: bool = False,
        refused_version: int | None = None,
    ) -> Lease | Moved | NotLeased:
        """Lease one grant whether it is due or not; `None` where there is no such grant."""
        asked_at = self._clock.stopwatch()
        answer = await self._scripts.run(
            signatures.Lease(
                id=grant_id,
                claim_id=claim_id(),
                owner=self._owner,
                lease_ms=self._limits.lease_ms,
                recovered_epoch=self._recovered_epoch,
                even_paused=even_paused,
                reply=reply,
                ends_promise=ends_promise,
                refused_version=refused_version,
                at_least=self._clock.at_least(),
            )
        )
        verdict, *said = answer
        if verdict != b"leased":
            return NOT_LEASED[verdict](*said)
        now, packed, in_doubt = said
        self._clock.set(now, asked_at=asked_at)
        lease = _lease(grant_id.encode(), packed, in_doubt=in_doubt, probe=0)
        return self._as_this_clock_counts(lease, asked_at)

    async def commit(self, commit: Commit) -> Committed:
        """Store an answer if and only if the lineage is still its own."""
        change, grant = commit.change, commit.change.grant
        verdict, version, status = await self._scripts.run(
            signatures.Commit(
                id=grant.id,
                fence=commit.fence,
                base_lineage=commit.base_lineage,
                base_version=commit.base_version,
                base_status=commit.base_status,
                sealed=grant.sealed,
                lineage=grant.lineage,
                issued_at=grant.issued_at,
                access_expires_at=grant.access_expires_at,
                refresh_issued_at=grant.refresh_issued_at,
                refresh_expires_at=grant.refresh_expires_at,
                scope=grant.scope or None,
                status=grant.status,
                due_at=change.due_at,
                attention_at=change.attention_at,
                event=None if change.event is None else self._json(change.event),
                events_kept=self._limits.events_kept,
                root=grant.root,
                stated_life_ms=grant.stated_life_ms,
                narrowed=grant.narrowed,
                token_type=grant.token_type,
                client=grant.client,
            )
        )
        stored_status = Status(status.decode()) if status else None
        return Committed(Verdict(verdict.decode()), version, stored_status)

    async def keep_reply(self, kept: KeptReply) -> Verdict:
        """Keep a reply that nobody could read, and stop its endpoint at once."""
        grant, event = kept.change.grant, kept.change.event
        verdict = await self._scripts.run(
            signatures.KeepReply(
                id=grant.id,
                client=grant.client,
                fence=kept.fence,
                version=grant.version,
                lineage=grant.lineage,
                pair=grant.sealed,
                issued_at=grant.issued_at,
                access_expires_at=grant.access_expires_at,
                refresh_issued_at=grant.refresh_issued_at,
                refresh_expires_at=grant.refresh_expires_at,
                scope=grant.scope or None,
                stated_life_ms=grant.stated_life_ms,
                root=grant.root,
                sealed=kept.sealed,
                size=kept.size,
                detail=kept.detail,
                sent_at=kept.sent_at,
                received_at=kept.received_at,
                registration=kept.registration,
                reason=Reason.REPLY_UNREAD,
                streak=grant.streak,
                event=None if event is None else self._json(event),
                token_url=kept.outage.subject,
                outage=self._json(kept.outage),
                event_id=kept.outage.id,
                events_kept=self._limits.events_kept,
                is_probe=kept.endpoint_probe,
                first_probe_ms=self._limits.first_endpoint_probe_ms,
                longest_probe_ms=self._limits.longest_endpoint_probe_ms,
                counted=Counted.UNREAD,
            )
        )
        return Verdict(verdict.decode())

    async def record_outcome(
        self,
        lease: Lease,
        change: Change,
        answered_at: int | None = None,
        believed_at: int | None = None,
        counted: Counted | None = None,
    ) -> Verdict:
        """Store an outcome without tokens, if the lease is still ours."""
        grant = change.grant
        verdict = await self._scripts.run(
            signatures.RecordOutcome(
                id=grant.id,
                fence=lease.fence,
                lineage=grant.lineage,
                status=grant.status,
                streak=grant.streak,
                reason=grant.reason or None,
                in_doubt=grant.in_doubt,
                noticed_at=grant.noticed_at,
                due_at=change.due_at,
                attention_at=change.attention_at,
                event=None if change.event is None else self._json(change.event),
                events_kept=self._limits.events_kept,
                answered_at=answered_at,
                rejected_at=grant.rejected_at,
                believed_at=believed_at,
                counted=counted,
            )
        )
        return Verdict(verdict.decode())

    async def record_refusal(
        self,
        client: Client,
        event: Event,
        lease: Lease,
        *,
        words: RefusalWords,
        sent_at: int,
        believe_ms: int,
    ) -> RefusalVerdict:
        """Find out whom a refusal means; the client is paused where it is the client."""
        whom, claims_stop = await self._scripts.run(
            signatures.RecordRefusal(
                client=client.name,
                words=words,
                event=self._json(event),
                events_kept=self._limits.events_kept,
                event_id=event.id,
                grant=lease.grant.id,
                sent_at=sent_at,
                is_probe=lease.client_probe,
                is_comparison=lease.comparison,
                first_probe_ms=self._limits.first_probe_ms,
                longest_probe_ms=self._limits.longest_probe_ms,
                believe_ms=believe_ms,
                reason=event.data["reason"] or "",
            )
        )
        return RefusalVerdict(Refusal(whom.decode()), bool(claims_stop))

    async def accept_client(self, client: Client, event: Event, lease: Lease, *, is_refreshed: bool) -> bool:
        """Let a rejected client's grants be claimed again; returns whether it was rejected."""
        answer = await self._scripts.run(
            signatures.AcceptClient(
                client=client.name,
                event=self._json(event),
                events_kept=self._limits.events_kept,
                event_id=event.id,
                grant=lease.grant.id,
                is_refreshed=is_refreshed,
            )
        )
        return bool(answer == b"changed")

    async def record_failure(
        self,
        client: Client,
        event: Event,
        lease: Lease,
        *,
        sent_at: int,
        retry_after_ms: int | None,
        throttled: bool,
        chance: float,
    ) -> FailureVerdict:
        """Attribute an attempt without a usable answer; the endpoint's failures are counted."""
        reason = event.data["reason"] or ""
        whose, claims_stop = await self._scripts.run(
            signatures.RecordFailure(
                token_url=client.token_url,
                event=self._json(event),
                events_kept=self._limits.events_kept,
                event_id=event.id,
                grant=lease.grant.id,
                client=client.name,
                sent_at=sent_at,
                is_probe=lease.endpoint_probe,
                reason=reason,
                is_failure=reason not in THROTTLED,
                throttled=throttled,
                retry_after_ms=retry_after_ms,
                chance=chance,
                first_probe_ms=self._limits.first_endpoint_probe_ms,
                longest_probe_ms=self._limits.longest_endpoint_probe_ms,
            )
        )
        return FailureVerdict(FailureOf(whose.decode()), bool(claims_stop))

    async def record_recovery(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let an unavailable endpoint's grants be claimed again; returns whether it was unavailable."""
        answer = await self._scripts.run(
            signatures.RecordRecovery(
                token_url=client.token_url,
                event=self._json(event),
                events_kept=self._limits.events_kept,
                event_id=event.id,
                grant=lease.grant.id,
            )
        )
        return bool(answer == b"changed")

    async def due_clients(self, offset: int, limit: int) -> DueClients:
        """One page of the clients that something may be claimed of now."""
        names, has_more = await self._scripts.run(signatures.DueClients(offset=offset, limit=limit))
        return DueClients([name.decode() for name in names], bool(has_more))

    async def reserve_runners(self, *, share: int, place_ms: int, candidates: Sequence[str]) -> Reserved:
        """Reserve places for as many of the candidates as the due grants take.

        Args:
            share: how many due grants one runner takes on.
            place_ms: how long a place is kept for a runner that does not claim.
            candidates: ids of new runners, as many as there may be at once.
        """
        due, clients, starting, unreadable = await self._scripts.run(
            signatures.ReserveRunners(share=share, place_ms=place_ms, candidates=tuple(candidates))
        )
        return Reserved(due, clients, starting, [name.decode() for name in unreadable])

    async def release_runner(self, runner: str) -> None:
        """Give a runner's place back."""
        await self._scripts.run(signatures.ReleaseRunner(runner=runner))

    async def heartbeat(self, trouble: str, untaken: Sequence[str] = ()) -> Epoch:
        """Say that this process lives, why it claims nothing, and whose answers the store fails at."""
        asked_at = self._clock.stopwatch()
        batch = self._gathered.batch()
        now, number, recovering, began_at, ahead_ms, jumped_at, jumped_by = await self._scripts.run(
            signatures.Heartbeat(
                owner=self._owner,
                recovery_ms=self._limits.lease_ms,
                recovered_epoch=self._recovered_epoch,
                trouble=trouble or None,
                untaken=tuple(untaken[:MOST_NAMED]),
                at_least=self._clock.at_least(),
                leapt_ms=self._clock.take_leap(),
                is_worker=self._is_worker,
                batch=batch.number,
                counts=batch.counts,
            )
        )
        self._gathered.added(batch)
        self._clock.set(now, asked_at=asked_at)
        self._clock.ahead_ms = ahead_ms
        jump = ClockJump(jumped_at, jumped_by, ahead_ms) if jumped_at else None
        return Epoch(number, bool(recovering), began_at, now, jump)

    async def finish_recovery(self, epoch: Epoch) -> Epoch:
        """Say that this process has given back what it knows; from then on it claims in this epoch."""
        number, recovering = await self._scripts.run(
            signatures.FinishRecovery(
                owner=self._owner,
                recovery_ms=self._limits.lease_ms,
                known_epoch=epoch.number,
                at_least=self._clock.at_least(),
            )
        )
        self._recovered_epoch = epoch.number
        return replace(epoch, number=number, recovering=bool(recovering))

    async def reassert(self, lease: Lease) -> None:
        """Take back a lease that the store may have forgotten."""
        await self._scripts.run(
            signatures.Reassert(id=lease.grant.id, fence=lease.fence, owner=self._owner, until_at=lease.until)
        )

    async def leave(self, owner: str | None = None) -> None:
        """Say that this process is gone, or that `owner` is dead."""
        await self._scripts.run(
            signatures.Leave(owner or self._owner, is_dead=owner is not None, alive_ms=WORKER_ALIVE_MS)
        )

    async def _note_unreadable(self, problem: UnreadableRecordError) -> None:
        log.error("grant.unreadable", grant=problem.grant_id, problem=str(problem))
        with suppress(StoreUnavailableError):  # the other leases are worth more than a note
            await self._scripts.run(signatures.NoteUnreadable(id=problem.grant_id))

    def _as_this_clock_counts(self, lease: Lease, asked_at: int) -> Lease:
        """After a slow reply this clock may be late: a lease counts from when it was asked for."""
        if self._clock.stopwatch() - asked_at <= SLOW_REPLY_MS:
            return lease
        return replace(lease, until=min(lease.until, self._clock.at(asked_at) + self._limits.lease_ms))

    def _json(self, event: Event) -> bytes:
        return to_json(event, self._source)


def _lease(grant_id: bytes, packed: bytes, *, in_doubt: Any, probe: int, due_at: int | None = None) -> Lease:
    grant, fence, until = record.unpack(grant_id.decode(), packed, in_doubt=bool(in_doubt))
    return Lease(
        grant,
        fence,
        until,
        client_probe=bool(probe & CLIENT_PROBE),
        endpoint_probe=bool(probe & ENDPOINT_PROBE),
        comparison=bool(probe & COMPARISON),
        due_at=due_at,
    )
