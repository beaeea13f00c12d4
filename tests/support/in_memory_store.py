"""The store port without Redis, for unit tests of what the refresher decides.

It has what those decisions depend on, and no more: due grants, leases, intents, the verdicts on answers and
outcomes, rejected clients and unavailable endpoints with their half-open probes, and the events. It knows no
rate budget, no slow start, no patience with holders that are gone, no restarts of the store, one client an
endpoint, and every registration as proved. `tests/contract` holds it to what `RedisStore` does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from worker.core.events import Event
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.outcomes import THROTTLED, Counted
from worker.core.ports import (
    Claim,
    Commit,
    Committed,
    DueClients,
    Epoch,
    FailureOf,
    FailureVerdict,
    KeptReply,
    Lease,
    LeasedElsewhere,
    Paused,
    Recovering,
    Refusal,
    RefusalVerdict,
    RefusalWords,
    ReplyKept,
    Verdict,
)
from worker.core.providers import Client

FAILURES_TO_OPEN = 5


@dataclass(frozen=True, slots=True)
class Needed:
    """How many refusals, and of how many grants, mean the client."""

    grants: int
    refusals: int
    compared: int = 0
    compares: bool = False


NEEDED = {
    RefusalWords.CLIENT: Needed(1, 1),
    RefusalWords.EITHER: Needed(10, 1, compared=3),
    RefusalWords.NOTHING: Needed(10, 5, compared=3, compares=True),
    RefusalWords.GRANT: Needed(10, 3, compared=3, compares=True),
}
NO_END = 2**53 - 1  # later than any instant
OUT_OF_WORK = {Status.FAILED, Status.PAUSED}


@dataclass(slots=True)
class Record:
    """One grant as it is stored."""

    grant: Grant
    due_at: int | None
    fence: int = 0
    lease_until: int = 0
    last: int = 0  # the fence of the last outcome


@dataclass(slots=True)
class ClientRecord:
    """What is known of a client and of its endpoint."""

    rejected: bool = False
    accepted_at: int = 0
    generation: int = 0
    refusals: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # first at, last at, how many
    refreshed_at: int = 0
    believed_at: int | None = None
    is_wary: bool = False
    tried_all: bool = False
    compared: int = 0
    probe_at: int = 0
    throttled_until: int = 0
    answered_at: int = 0
    unavailable: bool = False
    recovered_at: int = 0
    endpoint_suspect: str | None = None
    endpoint_probe_at: int = 0
    failures: list[tuple[str, int]] = field(default_factory=list)  # grant, when its request left

    def is_probed(self, now: int) -> bool:
        """Whether the client is rejected, and that is not yet believed of its grants."""
        return self.rejected and (self.believed_at is None or self.believed_at > now)

    def admits(self, now: int) -> bool:
        """Whether anything may be claimed, if only one grant as a probe."""
        return (
            self.throttled_until <= now
            and not (self.is_probed(now) and self.probe_at > now)
            and not (self.unavailable and self.endpoint_probe_at > now)
        )


class InMemoryStore:
    """Grants, leases, schedule and events of one process.

    Args:
        now: the store's clock, Unix ms.
        lease_ms: how long a lease lasts.
        probe_ms: how long after a rejection, an outage or a failed probe the next probe is due.
    """

    def __init__(self, now: Callable[[], int], *, lease_ms: int = 60_000, probe_ms: int = 60_000) -> None:
        self.records: dict[str, Record] = {}
        self.events: list[Event] = []
        self.replies: list[KeptReply] = []  # the number of the first is 1
        self._now = now
        self._lease_ms = lease_ms
        self._probe_ms = probe_ms
        self._clients: dict[str, ClientRecord] = {}
        self._fence = 0
        self._is_recovered = False

    def put(self, grant: Grant, due_at: int | None) -> None:
        """Import a grant."""
        self.records[grant.id] = Record(grant, due_at)

    def client(self, name: str) -> ClientRecord:
        """What is known of a client."""
        return self._clients.setdefault(name, ClientRecord())

    async def due_clients(self, offset: int, limit: int) -> DueClients:
        """One page of the clients that something may be claimed of now."""
        now = self._now()
        names = sorted({each.grant.client for each in self.records.values()})
        due = [name for name in names if self._is_due(name, now)][offset:]
        return DueClients(due[:limit], has_more=len(due) > limit)

    def _is_due(self, name: str, now: int) -> bool:
        known = self.client(name)
        is_probe = known.is_probed(now) or known.unavailable
        return known.admits(now) and bool(self._due(name, NO_END if is_probe else now))

    async def claim(self, client: Client, limit: int, runner: str) -> Claim:  # noqa: ARG002 the port has it
        """Lease what is due, or one grant alone as a probe."""
        now, known = self._now(), self.client(client.name)
        if not self._is_recovered:
            return Claim(now, [], drained=True, wait_ms=0, generation=0, recovering=True)
        if not known.admits(now):
            return Claim(now, [], drained=True, wait_ms=0, generation=known.generation)
        is_probe = known.is_probed(now) or known.unavailable
        limit = 1 if is_probe or known.is_wary else limit
        due = self._due(client.name, NO_END if is_probe or known.is_wary else now)
        if known.is_wary:  # the healthiest are tried first
            untried = [each for each in reversed(due) if each.grant.id not in known.refusals]
            known.tried_all = not untried
            due = untried or due
        found = due[:limit]
        leases = [
            replace(
                self._lease(each),
                client_probe=known.rejected,
                endpoint_probe=known.unavailable,
                comparison=known.is_wary,
            )
            for each in found
            if each.lease_until <= now
        ]
        if leases and known.rejected:
            known.probe_at = now + self._lease_ms
        if leases and known.unavailable:
            known.endpoint_probe_at = now + self._lease_ms
        drained = is_probe or len(found) < limit
        return Claim(now, leases, drained=drained, wait_ms=0, generation=known.generation)

    async def lease(
        self,
        grant_id: str,
        *,
        even_paused: bool = False,
        reply: int | None = None,
        ends_promise: bool = False,  # noqa: ARG002 nothing is promised here
        refused_version: int | None = None,  # noqa: ARG002 nor refused
    ) -> Lease | LeasedElsewhere | Recovering | Paused | ReplyKept | None:
        """Lease one grant, due or not; one that has a kept reply only to adopt it."""
        record = self.records.get(grant_id)
        if not self._is_recovered:
            return Recovering()
        if record is None:
            return None
        kept = record.grant.kept_reply
        if reply is not None and reply != kept:
            return None
        if record.grant.status is Status.PAUSED and reply is None and not even_paused:
            return Paused()
        if kept is not None and reply is None:
            return ReplyKept(kept)
        if record.lease_until > self._now():
            return LeasedElsewhere(record.lease_until)
        return self._lease(record)

    async def commit(self, commit: Commit) -> Committed:
        """Store an answer if and only if the lineage is still its own."""
        successor = commit.change.grant
        record = self.records.get(successor.id)
        if record is None:
            return Committed(Verdict.GONE, 0, None)
        stored, is_ours = record.grant, record.fence <= commit.fence
        if record.last == commit.fence:
            return Committed(Verdict.KNOWN, stored.version, stored.status)
        if stored.lineage != commit.base_lineage:
            if is_ours:
                record.lease_until = 0
            return Committed(Verdict.SUPERSEDED, stored.version, stored.status)
        if (stored.version, stored.status) != (commit.base_version, commit.base_status):
            return Committed(Verdict.REBASE, stored.version, stored.status)
        self._note_answer(stored.client, successor.issued_at, refreshed=stored.id)
        if is_ours:
            record.lease_until = 0
        record.grant = replace(successor, in_doubt=stored.in_doubt and not is_ours)
        record.last = commit.fence
        self._tell(record, commit.change)
        return Committed(Verdict.STORED, successor.version, successor.status)

    async def keep_reply(self, kept: KeptReply) -> Verdict:
        """Keep a reply that nobody could read, and stop its endpoint."""
        grant, record = kept.change.grant, self.records.get(kept.change.grant.id)
        if record is None:
            return Verdict.GONE
        if kept in self.replies:
            return Verdict.KNOWN
        if record.fence <= kept.fence:
            record.lease_until = 0
        stored = record.grant
        if (stored.lineage, stored.version) != (grant.lineage, grant.version):
            return Verdict.SUPERSEDED
        self.replies.append(kept)
        record.last, record.due_at = kept.fence, None
        if stored.status in OUT_OF_WORK:
            record.grant = replace(stored, kept_reply=len(self.replies), in_doubt=True)
        else:
            record.grant = replace(grant, kept_reply=len(self.replies))
        if stored.status is Status.ACTIVE and kept.change.event is not None:
            self.events.append(kept.change.event)
        known, now = self.client(stored.client), self._now()
        if known.unavailable and kept.endpoint_probe:
            known.endpoint_probe_at = now + self._probe_ms
        elif not known.unavailable and kept.sent_at > known.recovered_at:
            known.unavailable, known.endpoint_probe_at = True, now + self._probe_ms
            known.endpoint_suspect = None
            self.events.append(kept.outage)
        return Verdict.STORED

    async def record_outcome(
        self,
        lease: Lease,
        change: Change,
        answered_at: int | None = None,
        believed_at: int | None = None,  # noqa: ARG002 the port has it
        counted: Counted | None = None,  # noqa: ARG002 nothing is counted here
    ) -> Verdict:
        """Store an outcome without tokens, if the lease is still ours."""
        record = self.records.get(change.grant.id)
        if record is None:
            return Verdict.GONE
        if answered_at is not None:
            self._note_answer(record.grant.client, answered_at)
        if record.last == lease.fence:
            return Verdict.STORED
        if record.fence != lease.fence:
            return Verdict.STALE
        record.last, record.lease_until = lease.fence, 0
        if record.grant.lineage != change.grant.lineage:
            return Verdict.SUPERSEDED
        if record.grant.status is Status.PAUSED or record.grant.kept_reply is not None:
            record.grant = replace(record.grant, in_doubt=change.grant.in_doubt)
            return Verdict.STORED
        record.grant = change.grant
        self._tell(record, change)
        return Verdict.STORED

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
        """Compare a refusal with what the client's other grants are answered."""
        known, now = self.client(client.name), self._now()
        is_rejection = words is RefusalWords.GRANT
        if known.rejected:
            if is_rejection and (known.believed_at is None or known.believed_at <= now):
                return RefusalVerdict(Refusal.GRANT, claims_stop=False)
            if lease.client_probe:
                known.probe_at = now + self._probe_ms
            return RefusalVerdict(Refusal.UNCHANGED, claims_stop=True)
        if sent_at <= known.accepted_at:
            return RefusalVerdict(Refusal.UNCHANGED, claims_stop=True)
        first_at, _, number = known.refusals.pop(lease.grant.id, (now, now, 0))
        known.refusals[lease.grant.id] = (first_at, now, number + 1)
        if known.refreshed_at > first_at:
            return RefusalVerdict(Refusal.GRANT, claims_stop=False)
        at_work = sum(
            each.grant.client == client.name and each.grant.status not in OUT_OF_WORK
            for each in self.records.values()
        )
        refused = [each for each in known.refusals.values() if each[1] > known.refreshed_at]
        needed = NEEDED[words]
        if needed.compares and at_work < 2:
            return RefusalVerdict(Refusal.ALONE, claims_stop=False)
        if is_rejection and len(refused) < needed.refusals:
            return RefusalVerdict(Refusal.GRANT, claims_stop=False)
        in_all = sum(number for _, _, number in refused)
        known.compared += known.is_wary and lease.comparison
        are_enough = len(refused) >= min(needed.grants, max(at_work, 1))
        are_compared = known.compared >= min(needed.compared, max(at_work - 1, 0))
        if (known.tried_all or (are_enough and are_compared)) and in_all >= needed.refusals:
            known.rejected, known.is_wary, known.probe_at = True, False, now + self._probe_ms
            known.tried_all, known.compared = False, 0
            known.believed_at = now + believe_ms if is_rejection else None
            self.events.append(event)
            return RefusalVerdict(Refusal.CHANGED, claims_stop=True)
        was_wary, known.is_wary = known.is_wary, True
        return RefusalVerdict(Refusal.UNDECIDED, claims_stop=not was_wary)

    async def accept_client(self, client: Client, event: Event, lease: Lease, *, is_refreshed: bool) -> bool:
        """Let a rejected client's grants be claimed again."""
        known = self.client(client.name)
        if not known.rejected or (known.believed_at is not None and not is_refreshed):
            return False
        known.rejected, known.accepted_at, known.generation = False, self._now(), known.generation + 1
        known.believed_at, known.refreshed_at = None, self._now() + 1
        known.refusals.pop(lease.grant.id, None)
        self.events.append(event)
        return True

    async def record_failure(
        self,
        client: Client,
        event: Event,
        lease: Lease,
        *,
        sent_at: int,
        retry_after_ms: int | None,
        throttled: bool,
        chance: float,  # noqa: ARG002 the port has it
    ) -> FailureVerdict:
        """Attribute an attempt without a usable answer; the endpoint's failures are counted."""
        known, now = self.client(client.name), self._now()
        if throttled:
            known.throttled_until = max(known.throttled_until, now + (retry_after_ms or 1_000))
        is_failure = event.data["reason"] not in THROTTLED
        whose = self._whose(known, lease, sent_at, throttled=throttled)
        if whose is FailureOf.PROVIDER and is_failure and known.unavailable and lease.endpoint_probe:
            known.endpoint_probe_at = now + self._probe_ms
        elif whose is FailureOf.PROVIDER and is_failure and sent_at > known.recovered_at:
            known.failures.append((lease.grant.id, sent_at))
            self._open_breaker(known, event)
        claims_stop = not known.admits(now) or known.rejected or known.unavailable
        return FailureVerdict(whose, claims_stop)

    async def record_recovery(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let an unavailable endpoint's grants be claimed again."""
        known = self.client(client.name)
        if not known.unavailable:
            return False
        known.unavailable, known.recovered_at = False, self._now()
        known.failures.clear()
        if known.endpoint_suspect == lease.grant.id:
            known.endpoint_suspect = None
        self.events.append(event)
        return True

    async def heartbeat(self, trouble: str, untaken: Sequence[str] = ()) -> Epoch:  # noqa: ARG002 the port has them
        """Say that this process lives."""
        return Epoch(1, recovering=False)

    async def finish_recovery(self, epoch: Epoch) -> Epoch:
        """From now on this process may claim."""
        self._is_recovered = True
        return epoch

    async def reassert(self, lease: Lease) -> None:
        """Nothing is ever forgotten here."""

    async def leave(self, owner: str | None = None) -> None:
        """Nobody else is here."""

    def _due(self, client_name: str, until: int) -> Sequence[Record]:
        found = [
            (each.due_at, grant_id)
            for grant_id, each in self.records.items()
            if each.grant.client == client_name and each.due_at is not None and each.due_at <= until
        ]
        return [self.records[grant_id] for _, grant_id in sorted(found)]

    def _lease(self, record: Record) -> Lease:
        """Take a lease, and store the intent with it; the lease shows the grant as it was."""
        before = record.grant
        self._fence += 1
        record.fence, record.lease_until = self._fence, self._now() + self._lease_ms
        record.grant = replace(before, in_doubt=True)
        if before.status not in OUT_OF_WORK and before.kept_reply is None:
            record.due_at = record.lease_until
        return Lease(before, record.fence, record.lease_until)

    def _tell(self, record: Record, change: Change) -> None:
        record.due_at = None if record.grant.status in OUT_OF_WORK else change.due_at
        if change.event is not None:
            self.events.append(change.event)

    def _note_answer(self, client_name: str, sent_at: int, *, refreshed: str | None = None) -> None:
        known = self.client(client_name)
        known.answered_at = max(known.answered_at, sent_at)
        if refreshed is not None:
            known.refreshed_at, known.is_wary = max(known.refreshed_at, sent_at), False
            known.tried_all, known.compared = False, 0
            known.refusals.pop(refreshed, None)
        if refreshed is not None and known.endpoint_suspect == refreshed:
            known.endpoint_suspect = None

    def _whose(self, known: ClientRecord, lease: Lease, sent_at: int, *, throttled: bool) -> FailureOf:
        """A failure is the grant's where the endpoint answered others since the grant's first one."""
        grant = lease.grant
        if throttled or (not known.unavailable and sent_at <= known.recovered_at):
            return FailureOf.PROVIDER
        first_at = sent_at
        if not known.unavailable:
            if known.endpoint_suspect == grant.id:
                return FailureOf.GRANT
            before = (at for of, at in known.failures if of == grant.id and at > grant.issued_at)
            first_at = min(sent_at, *before, sent_at)
        return FailureOf.GRANT if known.answered_at >= first_at else FailureOf.PROVIDER

    def _open_breaker(self, known: ClientRecord, event: Event) -> None:
        in_a_row = [of for of, at in known.failures if at > known.answered_at]
        if len(in_a_row) < FAILURES_TO_OPEN:
            return
        known.unavailable, known.endpoint_probe_at = True, self._now() + self._probe_ms
        known.endpoint_suspect = in_a_row[0] if len(set(in_a_row)) == 1 else None
        self.events.append(event)
