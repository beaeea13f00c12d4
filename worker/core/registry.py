"""What the use cases see of the store: the grants, the state of the fleet, and the event stream.

The refresher changes grants under leases (`ports.py`). Operators, importers and reports use these ports
instead: changes are atomic like the refresher's, reads may be a moment old. Where the store does not answer,
each method raises `StoreUnavailableError`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change

UNREADABLE = "its record cannot be read"
WAY_OUT = "Put the grant in anew (`evergrant grants import --replace`), or `evergrant grants delete` it."


class UnreadableRecordError(Exception):
    """A grant's record cannot be read. The message names the grant and repeats nothing of the record."""

    def __init__(self, grant_id: str) -> None:
        super().__init__(f"{grant_id}: {UNREADABLE}. {WAY_OUT}")
        self.grant_id = grant_id


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
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A grant as the store has it.

    Attributes:
        due_at: Unix ms; `None` where the grant is out of the schedule.
        lease_until: Unix ms; `None` where nobody has leased it.
    """

    grant: Grant
    due_at: int | None
    lease_until: int | None


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


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One event: its id in the stream, and the CloudEvent."""

    id: str
    event: Mapping[str, Any]


class Registry(Protocol):
    """All grants of a deployment."""

    async def now(self) -> int:
        """The store's clock, Unix ms."""

    async def import_grant(self, change: Change, *, replaces: int | None) -> ImportResult:
        """Store a grant that came from outside.

        Args:
            change: the sealed grant and when it is due.
            replaces: the version that must be stored; `None` where the grant must be new.
        """

    async def operate(self, grant_id: str, operation: Operation) -> OperationResult:
        """Pause, resume or delete one grant. Asking twice is harmless."""

    async def find(self, grant_id: str) -> StoredGrant | None:
        """One grant, or `None`.

        Raises:
            UnreadableRecordError: its record cannot be read.
        """

    def walk(
        self, client: str | None = None, *, unreadable: OnUnreadable = refuse_unreadable
    ) -> AsyncIterator[StoredGrant]:
        """Every grant, or every grant of a client, in no particular order."""

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

    async def troubles(self) -> Mapping[str, str]:
        """Why processes claim nothing, by process; only of processes that were seen lately."""


class RunnerPlaces(Protocol):
    """The places of runners: how many may work on one client at once."""

    async def reserve_runners(
        self, client_name: str, *, share: int, place_ms: int, candidates: Sequence[str]
    ) -> tuple[int, int]:
        """How many grants are due, and how many of the candidate runners to start for them.

        Args:
            client_name: whose grants.
            share: how many due grants one runner takes on.
            place_ms: how long a place is kept for a runner that does not claim.
            candidates: ids of new runners, as many as the client may have at once.
        """

    async def release_runner(self, client_name: str, runner: str) -> None:
        """Give a runner's place back."""


class EventStream(Protocol):
    """What the deployment tells its consumers."""

    async def read(self, since: str, *, most: int = 500, wait_ms: int | None = None) -> Sequence[StreamEntry]:
        """Events after the stream id `since`, oldest first; waits for one where `wait_ms` is given."""

    async def last_id(self) -> str:
        """The stream id to start from for what is still to come."""
