"""What will go wrong and when: a plan made from a seed, as data.

Rules:
- The same seed and terms give the same plan. Which process a strike meets may still differ: the plan names a
  number, and the driver counts through those that are up.
- A lane's strikes are spread about evenly, so that what one costs is seen before the next of its kind comes.
- Strikes of one lane follow one another; lanes run beside each other. So the store is never killed while it
  is stopped, but any worker may be killed meanwhile.
"""

import math
import random
from dataclasses import dataclass
from enum import StrEnum

FULL_SECONDS = 300  # the run that the full bag is made for


class Kind(StrEnum):
    """A kind of strike, by its name in the summary."""

    WORKER_KILLED = "worker killed, all its processes"
    CHILD_KILLED = "worker killed, one child of it"
    WORKER_FROZEN = "worker stopped for some seconds"
    WORKER_FROZEN_LONG = "worker stopped for longer than a lease"
    DISK_REFUSES = "worker whose disk refuses every write"
    BEAT_KILLED = "beat killed"
    STORE_KILLED = "store killed, appendfsync always"
    STORE_KILLED_EVERYSEC = "store killed, appendfsync everysec"
    STORE_FORGETS = "store killed, its last second lost"
    STORE_FROZEN = "store stopped for some seconds"
    STORE_FROZEN_LONG = "store stopped for longer than a lease"
    OUTAGE = "provider drops every connection"
    OUTAGE_503 = "provider answers 503 unread"
    STATUS_503 = "provider reads and answers 503"
    DROP_BEFORE = "provider drops requests unacted"
    DROP_AFTER = "provider acts and drops its answer"
    HANG = "provider answers nothing"
    SLOW = "provider is slow"


WORKER_KILLS = frozenset({Kind.WORKER_KILLED, Kind.CHILD_KILLED})
STORE_KILLS = frozenset({Kind.STORE_KILLED, Kind.STORE_KILLED_EVERYSEC, Kind.STORE_FORGETS})
STORE_STRIKES = STORE_KILLS | {Kind.STORE_FROZEN, Kind.STORE_FROZEN_LONG}
FREEZES = frozenset({Kind.WORKER_FROZEN, Kind.WORKER_FROZEN_LONG})


@dataclass(frozen=True, slots=True)
class Strike:
    """One thing that will go wrong.

    Attributes:
        at: seconds from the start.
        kind: what.
        seconds: how long until it is put right: the process started again, the fault lifted.
        number: which process is met, or how many requests.
    """

    at: float
    kind: Kind
    seconds: float
    number: int


@dataclass(frozen=True, slots=True)
class Turn:
    """How often a kind of strike comes in a full run, and for how long: in seconds, or in leases."""

    kind: Kind
    times: int
    shortest: float
    longest: float
    in_leases: bool = False


_OVER_A_LEASE = (1.05, 1.3)

FULL: tuple[tuple[Turn, ...], ...] = (
    (
        Turn(Kind.WORKER_KILLED, 32, 0.2, 1.5),
        Turn(Kind.CHILD_KILLED, 30, 0, 0),
    ),
    (
        Turn(Kind.WORKER_FROZEN, 10, 1.0, 6.0),
        Turn(Kind.WORKER_FROZEN_LONG, 4, *_OVER_A_LEASE, in_leases=True),
    ),
    (Turn(Kind.DISK_REFUSES, 5, 5.0, 12.0),),
    (Turn(Kind.BEAT_KILLED, 8, 0.2, 2.0),),
    (
        Turn(Kind.STORE_KILLED, 4, 0.1, 2.0),
        Turn(Kind.STORE_KILLED_EVERYSEC, 3, 0.1, 2.0),
        Turn(Kind.STORE_FORGETS, 3, 0.1, 2.0),
        Turn(Kind.STORE_FROZEN, 3, 1.0, 4.0),
        Turn(Kind.STORE_FROZEN_LONG, 1, *_OVER_A_LEASE, in_leases=True),
    ),
    (
        Turn(Kind.OUTAGE, 1, 4.0, 10.0),
        Turn(Kind.OUTAGE_503, 1, 4.0, 10.0),
        Turn(Kind.STATUS_503, 2, 4.0, 10.0),
        Turn(Kind.DROP_BEFORE, 3, 3.0, 5.0),
        Turn(Kind.DROP_AFTER, 4, 3.0, 5.0),
        Turn(Kind.HANG, 2, 3.0, 8.0),
        Turn(Kind.SLOW, 5, 5.0, 12.0),
    ),
)

SHORT: tuple[tuple[Turn, ...], ...] = (
    (
        Turn(Kind.WORKER_KILLED, 4, 0.2, 0.5),
        Turn(Kind.CHILD_KILLED, 4, 0, 0),
    ),
    (
        Turn(Kind.WORKER_FROZEN, 2, 1.0, 3.0),
        Turn(Kind.WORKER_FROZEN_LONG, 1, *_OVER_A_LEASE, in_leases=True),
    ),
    (Turn(Kind.DISK_REFUSES, 1, 4.0, 6.0),),
    (Turn(Kind.BEAT_KILLED, 1, 0.2, 1.0),),
    (
        Turn(Kind.STORE_KILLED, 1, 0.1, 0.5),
        Turn(Kind.STORE_FORGETS, 1, 0.1, 0.5),
        Turn(Kind.STORE_FROZEN, 1, 1.0, 3.0),
    ),
    (
        Turn(Kind.OUTAGE, 1, 2.0, 3.0),
        Turn(Kind.DROP_BEFORE, 1, 2.0, 3.0),
        Turn(Kind.DROP_AFTER, 1, 2.0, 3.0),
        Turn(Kind.SLOW, 1, 3.0, 5.0),
    ),
)


def scaled(bag: tuple[tuple[Turn, ...], ...], seconds: float) -> tuple[tuple[Turn, ...], ...]:
    """The full bag for a run of another length: each kind comes at least once."""
    share = seconds / FULL_SECONDS

    def scale(turn: Turn) -> Turn:
        times = max(1, math.ceil(turn.times * share))
        return Turn(turn.kind, times, turn.shortest, turn.longest, turn.in_leases)

    return tuple(tuple(scale(turn) for turn in lane) for lane in bag)


def make_plan(
    bag: tuple[tuple[Turn, ...], ...], *, seed: int, seconds: float, lease_seconds: float
) -> list[list[Strike]]:
    """Lay every lane's strikes out over the run.

    Raises:
        ValueError: a lane's strikes take longer than the run.
    """
    dice = random.Random(seed)  # noqa: S311 a seed must replay
    return [_lay_out(lane, dice, seconds, lease_seconds) for lane in bag]


def _lay_out(
    lane: tuple[Turn, ...], dice: random.Random, seconds: float, lease_seconds: float
) -> list[Strike]:
    drawn = [
        (turn.kind, dice.uniform(turn.shortest, turn.longest) * (lease_seconds if turn.in_leases else 1))
        for turn in lane
        for _ in range(turn.times)
    ]
    dice.shuffle(drawn)
    spare = seconds - sum(lasts for _, lasts in drawn)
    if spare < 0:
        raise ValueError(f"{len(drawn)} strikes take {-spare:.0f} s longer than the run of {seconds:g} s")
    shares = [dice.uniform(0.8, 1.2) for _ in range(len(drawn) + 1)]
    strikes, at = [], 0.0
    for (kind, lasts), share in zip(drawn, shares, strict=False):
        at += spare * share / sum(shares)
        strikes.append(Strike(at, kind, lasts, dice.randrange(1_000)))
        at += lasts
    return strikes
