"""The time from when a grant came due until its new tokens were stored, with the default sweep of 5 seconds.

Rules:
- Two fleets: one comes due evenly over a day, the other within one minute of it. The day and the minute are
  compressed; lifetimes are not, so each grant comes due once.
- A grant's due time is read from the schedule before the first grant is due. Its event has the time at which
  it was stored. Both are by Redis's clock.
- Each grant's time of issue is chosen so that it comes due at its place. Its jitter follows from its id.
- Worker and beat run for more than one sweep before the first grant is due.
"""

import json
import time
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import Final

from bench.bed import ACCESS_SECONDS, CLIENT, PREFIX, Bed, line_of, made_up
from worker.core.policy import JITTER, Rules, jitter

MINUTES_A_DAY: Final = 1440
SWEEP_SECONDS: Final = 5
START_SECONDS: Final = 20.0  # of the import, the worker and the scheduler together
IMPORTED_PER_SECOND: Final = 3000  # at the least
PAGE: Final = 10_000
REFRESHED: Final = "evergrant.grant.refreshed"


def measure(grants: int, day_seconds: float, in_flight: int) -> dict[str, dict[str, float]]:
    """How late so many grants are, spread over the day and within one minute of it."""
    return {
        "spread": _lateness(grants, day_seconds, in_flight),
        "same_minute": _lateness(grants, day_seconds / MINUTES_A_DAY, in_flight),
    }


def _lateness(grants: int, within_seconds: float, in_flight: int) -> dict[str, float]:
    settings = {"in_flight": in_flight, "sweep_seconds": SWEEP_SECONDS, "events_kept": 2 * grants + PAGE}
    with made_up(**settings) as bed:
        _import(bed, grants, within_seconds)
        due = _due_times(bed)
        with bed.workers(), bed.beat():
            _check_in_time(min(due.values()))
            bed.wait_until(lambda: bed.refreshed() >= grants)
        stored = _stored_times(bed)
    late = [stored[grant_id] - due_at for grant_id, due_at in due.items()]
    return {
        "grants": grants,
        "seconds": max(stored.values()) - min(due.values()),
        "p50": median(late),
        "p99": quantiles(late, n=100)[-1],
        "max": max(late),
    }


def _import(bed: Bed, grants: int, within_seconds: float) -> None:
    """Store grants that come due one after another, the first once all are stored and a worker runs."""
    path = bed.directory / "spread.jsonl"
    first = time.time() + START_SECONDS + grants / IMPORTED_PER_SECOND
    with path.open("w") as file:
        for number in range(grants):
            line = _line_due_at(first + within_seconds * number / grants, number)
            file.write(json.dumps(line) + "\n")
    bed.run("evergrant", "grants", "import", str(path))


def _line_due_at(due_at: float, number: int) -> dict[str, object]:
    """An import line that is due then by the policy."""
    line = line_of(number, datetime.now(UTC))
    share = Rules().refresh_at + JITTER * jitter(str(line["id"]))
    issued_at = datetime.fromtimestamp(due_at - ACCESS_SECONDS * share, UTC)
    return line | {"issued_at": issued_at.isoformat()}


def _due_times(bed: Bed) -> dict[str, float]:
    """When each grant is due, Unix seconds."""
    schedule = bed.redis.zrange(f"{PREFIX}schedule:{CLIENT}", 0, -1, withscores=True)
    return {grant_id.decode(): due_ms / 1000 for grant_id, due_ms in schedule}


def _check_in_time(first_due_at: float) -> None:
    """Refuse to measure if the worker started too late."""
    if time.time() + 2 * SWEEP_SECONDS > first_due_at:
        raise RuntimeError("the first grants came due before a worker ran; is this machine busy?")


def _stored_times(bed: Bed) -> dict[str, float]:
    """When each grant's new tokens were stored, Unix seconds."""
    stored: dict[str, float] = {}
    last = "0"
    while page := bed.redis.xrange(PREFIX + "events", min=f"({last}", count=PAGE):
        for entry_id, fields in page:
            last = entry_id.decode()
            event = json.loads(fields[b"event"])
            if event["type"] == REFRESHED:
                stored[event["subject"]] = int(last.partition("-")[0]) / 1000
    return stored
