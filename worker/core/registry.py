"""What the use cases see of the store: the grants, the state of the fleet, and the event stream.

The refresher changes grants under leases (`ports.py`). Operators, importers and reports use these ports
instead: changes are atomic like the refresher's, reads may be a moment old. Where the store does not answer,
each method raises `StoreUnavailableError`.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from worker.core.audit import By
from worker.core.events import Event
from worker.core.failures import NewerRecordError as NewerRecordError  # noqa: PLC0414 found here by others
from worker.core.failures import UnreadableRecordError as UnreadableRecordError  # noqa: PLC0414 found here by others
from worker.core.grant import Grant, Status
from worker.core.grant import StoredGrant as StoredGrant  # noqa: PLC0414 found here by others
from worker.core.lifecycle import Change
from worker.core.ports import ClockJump, Lease
from worker.core.providers import Client

MOST_OF_A_STREAM_ID = 2**63
WORKER_ALIVE_MS = 10_000  # a worker's child sends a heartbeat every second
BEAT_ALIVE_MS = 20_000  # a beat sends one every two seconds


OnUnreadable = Callable[[UnreadableRecordError], object]


def refuse_unreadable(problem: UnreadableRecordError) -> None:
    """Raise it: the default where the caller does not collect unreadable records."""
    raise problem


class ImportVerdict(StrEnum):
    """What became of an import."""

    STORED = "stored"
    EXISTS = "exists"
    MOVED = "moved"  # the stored version is not the one to be replaced
    DESCENDS = "descends"  # the stored pair was made from this one, which is dead by now
    NEWER = "newer"  # the stored pair was issued after this one
    UNKNOWN_FORMAT = "unknown_format"  # a newer release wrote the stored record


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of an import, and the version and lineage that are stored now."""

    verdict: ImportVerdict
    version: int
    lineage: bytes


class Operation(StrEnum):
    """What an operator can ask of one grant."""

    PAUSE = "pause"
    RESUME = "resume"
    DELETE = "delete"


class OperationResult(StrEnum):
    """The result of an operation."""

    DONE = "done"
    UNCHANGED = "unchanged"
    KEPT = "kept"  # a reply is kept for the grant, and comes first
    GONE = "gone"
    OTHER_STATUS = "other_status"  # than the one that it was to have
    UNKNOWN_FORMAT = "unknown_format"  # a newer release wrote its record


class ResealResult(StrEnum):
    """What became of a pair that was sealed anew."""

    DONE = "done"
    GONE = "gone"
    CHANGED = "changed"  # the grant has another pair by now
    LEASED = "leased"  # its holder may be about to replace the pair


@dataclass(frozen=True, slots=True)
class GrantPage:
    """Some of a client's grants, in the order of their ids.

    Attributes:
        last: the id after which the next page begins; `None` where there is none.
    """

    grants: Sequence[StoredGrant]
    last: str | None


@dataclass(frozen=True, slots=True)
class ClientState:
    """One client's part of the fleet.

    Attributes:
        state: `accepted` or `rejected`.
        reason: why it was rejected.
        probe_at: when a rejected client is tried again.
        provider_state: `available` or `unavailable`: its token endpoint, which other clients may share.
        provider_reason: what came last in place of a usable answer.
        unavailable_since: when it became so.
        endpoint_probe_at: when an unavailable endpoint is tried again.
        throttled_until: until when the server asked the client to wait.
        claimed_at: when a worker last asked for what is due.
        grants: how many, by status.
        due: how many wait to be refreshed.
        next_due_at: when the next one is due.
        soonest_expiry_at: of the access tokens of the grants that are due first.
        refreshed: rotations since the deployment began.
        late: rotations that came after the old access token's end.
        unanswered: refreshes in a row to which its available token endpoint gave no usable answer.
        unanswered_since: when the first of those left.
    """

    name: str
    state: str
    reason: str | None
    rejected_at: int | None
    probe_at: int | None
    provider_state: str
    provider_reason: str | None
    unavailable_since: int | None
    endpoint_probe_at: int | None
    throttled_until: int | None
    claimed_at: int | None
    grants: Mapping[Status, int]
    due: int
    next_due_at: int | None
    soonest_expiry_at: int | None
    refreshed: int
    late: int
    unanswered: int = 0
    unanswered_since: int | None = None


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that refresh what is due: workers' children; and the beats that tell them to look.

    Attributes:
        alive: how many sent a heartbeat in the last seconds.
        able: how many of those have no trouble.
        heard: when each sent its last heartbeat, by process; those that ended in order are not there.
        beats: the same of beats.
        troubles: why some of them claim nothing, by process.
        recovering_until: when the store's recovery is over at the latest; `None` where it is not recovering.
        refusal: why the store takes no writes, with the server's code; empty where it takes them.
        memory_share: how much of its memory the store uses, from 0 to 1; `None` where it has no limit, or
            does not say.
        untaken: the grants whose answers the store fails at.
        clock_jump: how the server's clock was last set; `None` where it never was.
    """

    alive: int
    able: int
    troubles: Mapping[str, str]
    recovering_until: int | None
    refusal: str = ""
    memory_share: float | None = None
    untaken: Sequence[str] = ()
    clock_jump: ClockJump | None = None
    heard: Mapping[str, int] = field(default_factory=dict)
    beats: Mapping[str, int] = field(default_factory=dict)

    def lives_a_beat(self, now: int) -> bool:
        """Whether a beat sent a heartbeat in the last seconds."""
        return any(now - at <= BEAT_ALIVE_MS for at in self.beats.values())


@dataclass(frozen=True, slots=True)
class StoreLife:
    """Since when the store is what it is. Instants are Unix ms.

    Attributes:
        began_at: when the first process reached it; a store that is flushed begins anew. `None` where nobody
            has reached it, or an earlier release began it.
        epoch: the number of its epoch, which is when that began; `None` where nobody has reached it.
        is_empty: whether it never had a grant.
    """

    began_at: int | None
    epoch: int | None
    is_empty: bool

    def lacks(self, fence: int) -> bool:
        """Whether it began after the lease with this fence, which is at least its own time in µs."""
        return self.is_empty or (self.began_at is not None and fence < self.began_at * 1000)

    def changed_at(self, now: int) -> int:
        """When it last may have lost something: just now, where it is empty."""
        return now if self.is_empty else max(self.began_at or 0, self.epoch or 0)


@dataclass(frozen=True, slots=True)
class StoredReply:
    """What is known of a kept reply. Instants are Unix ms.

    Attributes:
        number: names it.
        grant: whose it is.
        client: the grant's.
        token_url: who sent it.
        version: of the pair that was presented.
        fence: of the lease under which it came.
        sent_at: when the request left.
        received_at: when the reply came.
        detail: why it could not be read.
        size: bytes of its body.
        access_expires_at: when the grant's present access token ends; `None` for never.
    """

    number: int
    grant: str
    client: str
    token_url: str
    version: int
    fence: int
    sent_at: int
    received_at: int
    detail: str
    size: int
    access_expires_at: int | None


def is_stream_id(text: str) -> bool:
    """Whether a text names a place in a stream: `1795322840527-0`, or `1795322840527`."""
    match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", text, re.ASCII)
    return match is not None and all(int(part or 0) < MOST_OF_A_STREAM_ID for part in match.groups())


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One event: its id in the stream, and the CloudEvent."""

    id: str
    event: Mapping[str, Any]


class Registry(Protocol):
    """All grants of a deployment."""

    async def now(self) -> int:
        """The store's clock, Unix ms."""

    async def ahead_ms(self) -> int:
        """How far the store's clock is ahead of the server's; 0 unless that was set back."""

    async def import_grant(
        self, change: Change, *, replaces: int | None, by: By | None = None
    ) -> ImportResult:
        """Store a grant that came from outside.

        Args:
            change: the sealed grant and when it is due.
            replaces: the version that must be stored; `None` where the grant must be new.
            by: who asked for it, for the audit stream; `None` for nobody.
        """

    async def operate(
        self,
        grant_id: str,
        operation: Operation,
        *,
        only_if: Status | None = None,
        by: By | None = None,
    ) -> OperationResult:
        """Pause, resume or delete one grant, if it has the status that is named. Asking twice is harmless."""

    async def reseal(self, grant_id: str, sealed: bytes, resealed: bytes) -> ResealResult:
        """Put a pair back sealed anew, if it is still the stored one and nobody has leased its grant."""

    async def forget_revoked(self, lease: Lease) -> bool:
        """Delete a grant whose tokens were revoked under `lease`, and end the lease.

        Returns whether no grant is left: one that was given other tokens since stays.
        """

    async def find(self, grant_id: str) -> StoredGrant | None:
        """One grant, or `None`.

        Raises:
            UnreadableRecordError: its record cannot be read.
        """

    async def find_each(self, grant_ids: Sequence[str]) -> Sequence[Grant | UnreadableRecordError | None]:
        """What is stored of each of some grants, in their order and in one round trip."""

    def walk(
        self, client: str | None = None, *, unreadable: OnUnreadable = refuse_unreadable
    ) -> AsyncIterator[StoredGrant]:
        """Every grant, or every grant of a client, in no particular order."""

    async def page(
        self,
        client: str,
        after: str,
        most: int,
        *,
        prefix: str = "",
        unreadable: OnUnreadable = refuse_unreadable,
    ) -> GrantPage:
        """The grants of a client that follow the id `after`, in the order of their ids; `""` begins.

        With a prefix only those whose ids begin with it; others cost nothing.

        The order of a client's grants changes with no refresh: whoever pages through them meets each grant
        that is there all the while, once.
        """

    async def needing_attention(
        self, most: int, *, unreadable: OnUnreadable = refuse_unreadable
    ) -> list[tuple[StoredGrant, int | None]]:
        """Grants that may need a person, and when something ends for them; soonest first."""

    async def noted_unreadable(self, most: int) -> list[UnreadableRecordError]:
        """Some of the grants whose records a claim could not read, as far as they still cannot be read."""


class FleetState(Protocol):
    """The state of clients, token endpoints and processes."""

    async def client_names(self) -> list[str]:
        """Every client that ever had a grant here."""

    async def of_client(self, name: str, *, unreadable: OnUnreadable = refuse_unreadable) -> ClientState:
        """One client's part of the fleet."""

    async def of_clients(
        self, names: Sequence[str], *, unreadable: OnUnreadable = refuse_unreadable
    ) -> Sequence[ClientState]:
        """Each client's part of the fleet, in the order of the names."""

    async def life(self) -> StoreLife:
        """Since when the store is what it is."""

    async def processes(self) -> list[str]:
        """Every process that has not left: those that live, and dead ones whose journal nobody took over."""

    async def workers(self) -> Workers:
        """The processes that live, and what keeps them from claiming."""


@dataclass(frozen=True, slots=True)
class ListedEnds:
    """Grants on the list of those that may need a person, which end in a span of days.

    Attributes:
        days: how many end on each day.
        soonest: some of them, those that end first, each with its end.
    """

    days: Sequence[int]
    soonest: Sequence[tuple[Grant, int]]


class Schedules(Protocol):
    """When the grants of each client are due, and which of them end."""

    async def now(self) -> int:
        """The store's clock, Unix ms."""

    async def due_before(self, clients: Sequence[str], before: int) -> Sequence[int]:
        """How many grants of each client are due before an instant."""

    async def sample(
        self, client: str, before: int, most: int, *, unreadable: OnUnreadable = refuse_unreadable
    ) -> Sequence[StoredGrant]:
        """The grants of a client that are due before an instant; of more than `most` an even sample."""

    async def ending(
        self,
        start: int,
        until: int,
        most: int,
        *,
        only: str | None = None,
        unreadable: OnUnreadable = refuse_unreadable,
    ) -> ListedEnds:
        """Listed grants that end after `start` and until `until`.

        Args:
            start: Unix ms.
            until: Unix ms, whole days later.
            most: the most grants that are read.
            only: the client whose grants to count, among those that are read; `None` for all.
            unreadable: called for each record that cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a sweep found due, and the runners to start for it.

    Once there is enough for all candidates, nothing more is counted.

    Attributes:
        due: grants.
        clients: that have some.
        starting: how many of the candidates have a place now, the first ones.
        unreadable: clients whose part of the store cannot be read; they are left out for a while.
    """

    due: int
    clients: int
    starting: int
    unreadable: Sequence[str]


class RunnerPlaces(Protocol):
    """The places of runners: how many may work at once."""

    async def reserve_runners(self, *, share: int, place_ms: int, candidates: Sequence[str]) -> Reserved:
        """Reserve places for as many of the candidates as the due grants take.

        Args:
            share: how many due grants one runner takes on.
            place_ms: how long a place is kept for a runner that does not claim.
            candidates: ids of new runners, as many as there may be at once.
        """

    async def release_runner(self, runner: str) -> None:
        """Give a runner's place back."""


class Replies(Protocol):
    """The kept replies of a deployment."""

    async def all(self) -> Sequence[StoredReply]:
        """Every kept reply, the first one first."""

    async def find(self, number: int) -> StoredReply | None:
        """One kept reply, or `None`."""

    async def sealed(self, number: int) -> bytes | None:
        """The reply itself, sealed; `None` where it is gone."""

    async def overdue(self, now: int) -> Sequence[StoredReply]:
        """Those whose grants have to fail: their access tokens have ended."""

    async def expire(self, reply: StoredReply, change: Change | None) -> bool:
        """Let the grant of an overdue reply fail; returns whether it did.

        `change` is `None` where the grant is not failing, and nothing is to be done.
        """

    async def reseal(self, number: int, sealed: bytes, resealed: bytes) -> bool:
        """Put a kept reply back sealed anew; returns whether it was still there."""

    async def drop(self, number: int) -> bool:
        """Give a reply up; its grant's token is tried again. Returns whether there was one."""

    async def reopen(self, client: Client, event: Event, grant_id: str) -> bool:
        """Let an endpoint be used again that was stopped for replies of which none is left.

        Returns whether it was stopped.

        Args:
            client: at that endpoint.
            event: emitted if the endpoint was stopped.
            grant_id: the grant whose reply was read last.
        """


class EventStream(Protocol):
    """What the deployment tells its consumers."""

    async def read(self, since: str, *, most: int = 500, wait_ms: int | None = None) -> Sequence[StreamEntry]:
        """Events after the stream id `since`, oldest first; waits for one where `wait_ms` is given."""

    async def read_back(self, before: str | None, *, most: int) -> Sequence[StreamEntry]:
        """Events before a stream id, newest first; `None` begins with the last one."""

    async def last_id(self) -> str:
        """The stream id to start from for what is still to come."""
