"""Grants, leases, schedule and events in Redis: what the refresher sees of them.

Every method is one call of one script in `lua/`, which holds the rules; this file only packs and unpacks.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from worker.adapters.clock import RedisClock
from worker.adapters.cloud_events import to_json
from worker.adapters.store import record
from worker.adapters.store.scripts import Scripts
from worker.core.events import Event
from worker.core.grant import Status
from worker.core.lifecycle import Change
from worker.core.outcomes import THROTTLED
from worker.core.ports import (
    Claim,
    Commit,
    Committed,
    Epoch,
    FailureOf,
    FailureVerdict,
    Lease,
    LeasedElsewhere,
    Paused,
    Recovering,
    Refusal,
    StoreUnavailableError,
    Verdict,
)
from worker.core.providers import Client
from worker.core.registry import UnreadableRecordError

log = structlog.get_logger(__name__)

# How claim.lua says what a grant was let through for; it may be both.
CLIENT_PROBE, ENDPOINT_PROBE = 1, 2


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How long things last at the store.

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
        clock: set from every reply that tells the time.
        limits: how long things last.
        source: the `source` of its events.
        owner: names this process in its leases.
    """

    def __init__(
        self, scripts: Scripts, clock: RedisClock, limits: StoreLimits, *, source: str, owner: str
    ) -> None:
        self._scripts = scripts
        self._clock = clock
        self._limits = limits
        self._source = source
        self._owner = owner
        self._confirmed = 0  # the epoch in which this process may claim

    async def claim(self, client: Client, limit: int, runner: str) -> Claim:
        """Lease up to `limit` due grants of a client, each with its intent.

        One whose record cannot be read here costs the others nothing. Its lease runs out by itself: another
        release may be able to read it, or this one when it was put right.
        """
        asked_at = self._clock.stopwatch()
        now, generation, drained, wait_ms, let_through, found, recovering = await self._scripts.run(
            "claim",
            client.name,
            _claim_id(),
            self._owner,
            limit,
            self._limits.lease_ms,
            "" if client.rate_per_second is None else client.rate_per_second,
            runner,
            self._confirmed,
            client.token_url,
        )
        self._clock.set(now, asked_at=asked_at)
        leases = []
        for packed, in_doubt, grant_id in zip(found[::3], found[1::3], found[2::3], strict=True):
            try:
                leases.append(_lease(grant_id, packed, in_doubt=in_doubt, let_through=let_through))
            except UnreadableRecordError as problem:
                await self._tell_of_unreadable(problem)
        return Claim(now, leases, bool(drained), wait_ms, generation, bool(recovering))

    async def lease(self, grant_id: str) -> Lease | LeasedElsewhere | Recovering | Paused | None:
        """Lease one grant whether it is due or not; `None` where there is no such grant."""
        lease_ms, asked_at = self._limits.lease_ms, self._clock.stopwatch()
        reply = await self._scripts.run(
            "lease", grant_id, _claim_id(), self._owner, lease_ms, self._confirmed
        )
        match reply:
            case [b"leased", now, packed, in_doubt]:
                self._clock.set(now, asked_at=asked_at)
                return _lease(grant_id.encode(), packed, in_doubt=in_doubt, let_through=0)
            case [b"held", until]:
                return LeasedElsewhere(until)
            case [b"recovering"]:
                return Recovering()
            case [b"paused"]:
                return Paused()
            case _:
                return None

    async def commit(self, commit: Commit) -> Committed:
        """Store an answer if and only if the lineage is still its own."""
        change = commit.change
        grant = change.grant
        verdict, version, status = await self._scripts.run(
            "commit",
            grant.id,
            commit.fence,
            commit.base_lineage,
            commit.base_version,
            commit.base_status.value,
            grant.sealed,
            grant.lineage,
            grant.issued_at,
            _instant(grant.access_expires_at),
            grant.refresh_issued_at,
            _instant(grant.refresh_expires_at),
            grant.scope or "",
            grant.status.value,
            _instant(change.due_at),
            _instant(change.attention_at),
            self._event(change.event),
            self._limits.events_kept,
            grant.root,
        )
        stored_status = Status(status.decode()) if status else None
        return Committed(Verdict(verdict.decode()), version, stored_status)

    async def record_outcome(self, lease: Lease, change: Change, answered_at: int | None = None) -> Verdict:
        """Store an outcome without tokens, if the lease is still ours.

        `answered_at` is when the request left that the endpoint answered readably; `None` where it did not.
        """
        grant = change.grant
        verdict = await self._scripts.run(
            "record_outcome",
            grant.id,
            lease.fence,
            grant.lineage,
            grant.status.value,
            grant.streak,
            grant.reason or "",
            "1" if grant.in_doubt else "0",
            _instant(grant.noticed_at),
            _instant(change.due_at),
            _instant(change.attention_at),
            self._event(change.event),
            self._limits.events_kept,
            _instant(answered_at),
        )
        return Verdict(verdict.decode())

    async def reject_client(self, client: Client, event: Event, lease: Lease, *, sent_at: int) -> Refusal:
        """Pause a client that was refused under `lease`. A refused probe puts the next one off."""
        answer = await self._scripts.run(
            "client",
            "reject",
            client.name,
            self._event(event),
            self._limits.events_kept,
            event.id,
            lease.grant.id,
            sent_at,
            "1" if lease.client_probe else "0",
            self._limits.first_probe_ms,
            self._limits.longest_probe_ms,
            event.data["reason"] or "",
        )
        return Refusal(answer.decode())

    async def accept_client(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let a rejected client's grants be claimed again; returns whether it was rejected."""
        kept, told = self._limits.events_kept, self._event(event)
        answer = await self._scripts.run(
            "client", "accept", client.name, told, kept, event.id, lease.grant.id
        )
        return Refusal(answer.decode()) is Refusal.CHANGED

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
        """Find out whose trouble an attempt without a usable answer is; the endpoint's is counted."""
        reason = event.data["reason"] or ""
        whose, claims_stop = await self._scripts.run(
            "endpoint",
            "record_failure",
            client.token_url,
            self._event(event),
            self._limits.events_kept,
            event.id,
            lease.grant.id,
            client.name,
            sent_at,
            "1" if lease.endpoint_probe else "0",
            reason,
            "0" if reason in THROTTLED else "1",
            "1" if throttled else "0",
            _instant(retry_after_ms),
            chance,
            self._limits.first_endpoint_probe_ms,
            self._limits.longest_endpoint_probe_ms,
        )
        return FailureVerdict(FailureOf(whose.decode()), bool(claims_stop))

    async def record_recovery(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let an unavailable endpoint's grants be claimed again; returns whether it was unavailable."""
        kept, told = self._limits.events_kept, self._event(event)
        answer = await self._scripts.run(
            "endpoint", "record_recovery", client.token_url, told, kept, event.id, lease.grant.id
        )
        return bool(answer == b"changed")

    async def reserve_runners(
        self, client_name: str, *, share: int, place_ms: int, candidates: Sequence[str]
    ) -> tuple[int, int]:
        """How many grants are due, and how many of the candidate refreshers to start for them.

        Args:
            client_name: whose grants.
            share: due grants that one refresher takes on.
            place_ms: how long a place is kept for one that does not claim.
            candidates: runner ids, as many as there may be at once.
        """
        due, starting = await self._scripts.run(
            "reserve_runners", client_name, share, len(candidates), place_ms, *candidates
        )
        return due, starting

    async def release_runner(self, client_name: str, runner: str) -> None:
        """Give a refresher's place back."""
        await self._scripts.run("release_runner", client_name, runner)

    async def heartbeat(self, trouble: str) -> Epoch:
        """Say that this process is present, and what keeps it from claiming, if anything."""
        asked_at = self._clock.stopwatch()
        now, number, recovering = await self._scripts.run(
            "heartbeat", self._owner, self._limits.lease_ms, trouble
        )
        self._clock.set(now, asked_at=asked_at)
        return Epoch(number, bool(recovering))

    async def finish_recovery(self, epoch: Epoch) -> Epoch:
        """Say that this process has given back what it knows; from then on it claims in this epoch."""
        number, recovering = await self._scripts.run(
            "finish_recovery", self._owner, self._limits.lease_ms, epoch.number
        )
        self._confirmed = epoch.number
        return Epoch(number, bool(recovering))

    async def reassert(self, lease: Lease) -> None:
        """Take back a lease that the store may have forgotten."""
        await self._scripts.run("reassert", lease.grant.id, lease.fence, self._owner, lease.until)

    async def leave(self, owner: str | None = None) -> None:
        """Say that this process is gone, or another one that is known to be."""
        await self._scripts.run("leave", owner or self._owner)

    async def _tell_of_unreadable(self, problem: UnreadableRecordError) -> None:
        log.error("grant.unreadable", grant=problem.grant_id, problem=str(problem))
        with suppress(StoreUnavailableError):  # the others' leases are worth more than a note
            await self._scripts.run("note_unreadable", problem.grant_id)

    def _event(self, event: Event | None) -> bytes:
        return b"" if event is None else to_json(event, self._source)


def _lease(grant_id: bytes, packed: bytes, *, in_doubt: Any, let_through: int) -> Lease:
    grant, fence, until = record.unpack(grant_id.decode(), packed, in_doubt=bool(in_doubt))
    return Lease(
        grant,
        fence,
        until,
        client_probe=bool(let_through & CLIENT_PROBE),
        endpoint_probe=bool(let_through & ENDPOINT_PROBE),
    )


def _instant(at: int | None) -> str | int:
    return "" if at is None else at


def _claim_id() -> str:
    return secrets.token_hex(8)
