"""What is measured: what a process counts until its heartbeat, and what a scrape is told.

Rules:
- What changes with a grant is counted by the script of the change, so that both are stored or neither.
- What changes nothing (how long a refresh took, a token that was refused) is counted by the process where it
  happens, and added to the store's counters with its next heartbeat: nothing on the way of a refresh waits.
- A batch has a number, and is sent again under it until the store has it: no count is added twice. A process
  that is killed takes along what it counted since its last heartbeat, a second's worth.
- No counter is named after a grant. Clients, outcomes and keys are few.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from worker.core.grant import Status
from worker.core.providers import SECOND_MS

MOST_IN_A_BATCH: Final = 500
MOST_KEYS: Final = 50  # a damaged seal names a key that nobody has
OF_NO_CLIENT: Final = ""

LATENESS_SECONDS: Final = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0)
DURATION_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Spread(StrEnum):
    """What is measured as a histogram."""

    LATENESS = "lateness"  # from when a grant came due until its new tokens went to the store
    DURATION = "duration"  # from when a refresh was taken up until its outcome went to the store

    @property
    def bounds(self) -> Sequence[float]:
        """The upper bounds of its buckets, in seconds; one more has no bound."""
        return LATENESS_SECONDS if self is Spread.LATENESS else DURATION_SECONDS


def bucket_name(bound: float | None) -> str:
    """A bound as counters and histograms have it."""
    return "+Inf" if bound is None else f"{bound:g}"


def _counters(what: Spread) -> tuple[Sequence[float], Sequence[tuple[str, str]], tuple[str, str]]:
    """A histogram's bounds, the counter of each of its buckets, and that of its sum."""
    buckets = tuple((OF_NO_CLIENT, f"{what}:{bucket_name(bound)}") for bound in (*what.bounds, None))
    return what.bounds, buckets, (OF_NO_CLIENT, f"{what}:sum")


# Named once: each refresh is counted.
_COUNTERS: Final = {what: _counters(what) for what in Spread}


@dataclass(frozen=True, slots=True)
class Batch:
    """Some of what a process has counted.

    Attributes:
        number: grows with each batch of a process.
        counts: a client or none, a counter, by how much.
    """

    number: int
    counts: tuple[tuple[str, str, int], ...]


class Gathered:
    """What one process has counted and the store does not have yet."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._under_way = Batch(0, ())
        self._keys: set[str] = set()

    def measured(self, what: Spread, ms: int) -> None:
        """One more refresh took so long."""
        bounds, buckets, total = _COUNTERS[what]
        ms = max(ms, 0)
        self._counts[buckets[bisect_left(bounds, ms / SECOND_MS)]] += 1
        self._counts[total] += ms

    def refused(self, client: str | None, outcome: str) -> None:
        """One more caller got no token."""
        self._counts[client or OF_NO_CLIENT, f"served:{outcome}"] += 1

    def not_unsealed(self, key: str) -> None:
        """One more attempt lacked this key."""
        if key not in self._keys and len(self._keys) >= MOST_KEYS:
            key = ""
        self._keys.add(key)
        self._counts[OF_NO_CLIENT, f"unsealed:{key}"] += 1

    def batch(self) -> Batch:
        """The batch that the store is to add: the last one again, until it is added."""
        if not self._under_way.counts:
            taken = [(name, self._counts.pop(name)) for name in list(self._counts)[:MOST_IN_A_BATCH]]
            counts = tuple((*name, by) for name, by in taken if by)
            self._under_way = Batch(self._under_way.number + bool(counts), counts)
        return self._under_way

    def added(self, batch: Batch) -> None:
        """The store has this batch."""
        if batch.number == self._under_way.number:
            self._under_way = Batch(batch.number, ())


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many refreshes took how long.

    Attributes:
        counts: by the bound of their bucket, as `bucket_name` has it; none counts those of a smaller bound.
    """

    what: Spread
    counts: Mapping[str, int]
    sum_ms: int

    def cumulative(self) -> Sequence[tuple[str, int]]:
        """Each bound, and how many took no longer; the last one is all."""
        told, so_far = [], 0
        for bound in (*self.what.bounds, None):
            name = bucket_name(bound)
            so_far += self.counts.get(name, 0)
            told.append((name, so_far))
        return told


@dataclass(frozen=True, slots=True)
class ClientMeasures:
    """What is measured of one client.

    Attributes:
        endpoint: the token endpoint that it was last claimed for, or is configured with; empty for none.
        grants: how many, by status.
        due: how many wait to be refreshed.
        first_due_at: when the first one in the schedule is or was due, Unix ms; `None` where none ever is.
        soonest_expiry_at: the first end of an access token among those that are due first.
        refreshed: rotations that were stored.
        late: those among them whose old token had ended.
        refreshes: attempts that brought no tokens, by what they came to.
        served: token calls, by what they came to.
    """

    name: str
    is_accepted: bool
    endpoint: str
    is_available: bool
    grants: Mapping[Status, int]
    due: int
    first_due_at: int | None
    soonest_expiry_at: int | None
    refreshed: int
    late: int
    refreshes: Mapping[str, int]
    served: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FleetMeasures:
    """What a scrape is told.

    Attributes:
        unread_clients: of which something in the store cannot be read.
        served: token calls for grants of which nothing is known, by what they came to.
        workers: processes that run refresh tasks.
        swept_at: when a sweep last looked for due grants, Unix ms; `None` for never.
        unreadable: grants whose records could not be read.
        untaken: grants whose answers the store fails at; each process names up to 20.
        unsealed: attempts for which a key was missing, by the key's id.
        memory_used: of the store's server, bytes; `None` where it does not say.
        memory_limit: the same; `None` where it has none.
    """

    clients: Sequence[ClientMeasures]
    unread_clients: int
    served: Mapping[str, int]
    lateness: Histogram
    duration: Histogram
    workers: int
    swept_at: int | None
    unreadable: int
    untaken: int
    unsealed: Mapping[str, int]
    memory_used: int | None = None
    memory_limit: int | None = None
    undelivered: Mapping[str, int] = field(default_factory=dict)


class Measures(Protocol):
    """Reads what is measured."""

    async def read(self, configured: Mapping[str, str]) -> FleetMeasures:
        """All of it, of every client that is configured or ever had a grant.

        Args:
            configured: the token URLs of the configured clients by their names; empty where nobody knows.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
