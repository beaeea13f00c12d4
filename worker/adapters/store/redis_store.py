"""Grants, leases, schedule and events in Redis: what the refresher sees of them.

Each method is one call of one script in `lua/`, which holds the rules. This file only packs and unpacks.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from worker.adapters.clock import RedisClock
from worker.adapters.cloud_events import to_json
from worker.adapters.store import record, signatures
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

# What claim.lua says a grant probes; it may be both.
CLIENT_PROBE, ENDPOINT_PROBE = 1, 2


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
    """

    def __init__(
        self, scripts: Scripts, clock: RedisClock, limits: StoreLimits, *, source: str, owner: str
    ) -> None:
        self._scripts = scripts
        self._clock = clock
        self._limits = limits
        self._source = source
        self._owner = owner
        self._recovered_epoch = 0  # where this process may claim

    async def claim(self, client: Client, limit: int, runner: str) -> Claim:
        """Lease up to `limit` due grants of a client, each with its intent.

        A record that cannot be read never costs the other leases. Its own lease runs out by itself: another
        release may be able to read it, or this one once it is put right.
        """
        asked_at = self._clock.stopwatch()
        now, generation, drained, wait_ms, probe, found, recovering = await self._scripts.run(
            signatures.Claim(
                client=client.name,
                claim_id=_claim_id(),
                owner=self._owner,
                limit=limit,
                lease_ms=self._limits.lease_ms,
                rate=client.rate_per_second,
                runner=runner or None,
                recovered_epoch=self._recovered_epoch,
                token_url=client.token_url,
            )
        )
        self._clock.set(now, asked_at=asked_at)
        leases = []
        for packed, in_doubt, grant_id in zip(found[::3], found[1::3], found[2::3], strict=True):
            try:
                leases.append(_lease(grant_id, packed, in_doubt=in_doubt, probe=probe))
            except UnreadableRecordError as problem:
                await self._note_unreadable(problem)
        return Claim(now, leases, bool(drained), wait_ms, generation, bool(recovering))

    async def lease(self, grant_id: str) -> Lease | LeasedElsewhere | Recovering | Paused | None:
        """Lease one grant whether it is due or not; `None` where there is no such grant."""
        asked_at = self._clock.stopwatch()
        reply = await self._scripts.run(
            signatures.Lease(
                id=grant_id,
                claim_id=_claim_id(),
                owner=self._owner,
                lease_ms=self._limits.lease_ms,
                recovered_epoch=self._recovered_epoch,
            )
        )
        match reply:
            case [b"leased", now, packed, in_doubt]:
                self._clock.set(now, asked_at=asked_at)
                return _lease(grant_id.encode(), packed, in_doubt=in_doubt, probe=0)
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
            )
        )
        stored_status = Status(status.decode()) if status else None
        return Committed(Verdict(verdict.decode()), version, stored_status)

    async def record_outcome(self, lease: Lease, change: Change, answered_at: int | None = None) -> Verdict:
        """Store an outcome without tokens, if the lease is still ours.

        `answered_at` is when the request left that the endpoint answered readably; `None` where it did not.
        """
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
            )
        )
        return Verdict(verdict.decode())

    async def reject_client(self, client: Client, event: Event, lease: Lease, *, sent_at: int) -> Refusal:
        """Pause a client that was refused under `lease`. A refused probe puts the next one off."""
        answer = await self._scripts.run(
            signatures.RejectClient(
                client=client.name,
                event=self._json(event),
                events_kept=self._limits.events_kept,
                event_id=event.id,
                grant=lease.grant.id,
                sent_at=sent_at,
                is_probe=lease.client_probe,
                first_probe_ms=self._limits.first_probe_ms,
                longest_probe_ms=self._limits.longest_probe_ms,
                reason=event.data["reason"] or "",
            )
        )
        return Refusal(answer.decode())

    async def accept_client(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let a rejected client's grants be claimed again; returns whether it was rejected."""
        answer = await self._scripts.run(
            signatures.AcceptClient(
                client=client.name,
                event=self._json(event),
                events_kept=self._limits.events_kept,
                event_id=event.id,
                grant=lease.grant.id,
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

    async def reserve_runners(
        self, client_name: str, *, share: int, place_ms: int, candidates: Sequence[str]
    ) -> tuple[int, int]:
        """How many grants are due, and how many of the candidate runners to start for them.

        Args:
            client_name: whose grants.
            share: due grants that one runner takes on.
            place_ms: how long a place is kept for a runner that does not claim.
            candidates: ids of new runners, as many as the client may have at once.
        """
        due, starting = await self._scripts.run(
            signatures.ReserveRunners(
                client=client_name, share=share, place_ms=place_ms, candidates=tuple(candidates)
            )
        )
        return due, starting

    async def release_runner(self, client_name: str, runner: str) -> None:
        """Give a runner's place back."""
        await self._scripts.run(signatures.ReleaseRunner(client=client_name, runner=runner))

    async def heartbeat(self, trouble: str) -> Epoch:
        """Say that this process lives, and why it claims nothing; `trouble` is empty where it claims."""
        asked_at = self._clock.stopwatch()
        now, number, recovering = await self._scripts.run(
            signatures.Heartbeat(
                owner=self._owner, recovery_ms=self._limits.lease_ms, trouble=trouble or None
            )
        )
        self._clock.set(now, asked_at=asked_at)
        return Epoch(number, bool(recovering))

    async def finish_recovery(self, epoch: Epoch) -> Epoch:
        """Say that this process has given back what it knows; from then on it claims in this epoch."""
        number, recovering = await self._scripts.run(
            signatures.FinishRecovery(
                owner=self._owner, recovery_ms=self._limits.lease_ms, known_epoch=epoch.number
            )
        )
        self._recovered_epoch = epoch.number
        return Epoch(number, bool(recovering))

    async def reassert(self, lease: Lease) -> None:
        """Take back a lease that the store may have forgotten."""
        await self._scripts.run(
            signatures.Reassert(id=lease.grant.id, fence=lease.fence, owner=self._owner, until_at=lease.until)
        )

    async def leave(self, owner: str | None = None) -> None:
        """Say that this process is gone, or that `owner` is."""
        await self._scripts.run(signatures.Leave(owner=owner or self._owner))

    async def _note_unreadable(self, problem: UnreadableRecordError) -> None:
        log.error("grant.unreadable", grant=problem.grant_id, problem=str(problem))
        with suppress(StoreUnavailableError):  # the other leases are worth more than a note
            await self._scripts.run(signatures.NoteUnreadable(id=problem.grant_id))

    def _json(self, event: Event) -> bytes:
        return to_json(event, self._source)


def _lease(grant_id: bytes, packed: bytes, *, in_doubt: Any, probe: int) -> Lease:
    grant, fence, until = record.unpack(grant_id.decode(), packed, in_doubt=bool(in_doubt))
    return Lease(
        grant,
        fence,
        until,
        client_probe=bool(probe & CLIENT_PROBE),
        endpoint_probe=bool(probe & ENDPOINT_PROBE),
    )


def _claim_id() -> str:
    return secrets.token_hex(8)
