"""What the product takes: bytes of Redis for a grant, memory of a worker over time, seconds to start.

Rules:
- The bytes of a grant are the growth of the server's `used_memory` over an import: its record, its place in
  the schedule and its share of every counter.
- The memory of a worker is the resident memory of the process that refreshes. It is always busy: the
  endpoint's tokens live so short that every grant is due again at once.
- A start is timed from exec, in a deployment of its own. A worker is ready once Redis would let it claim.
"""

import time
from statistics import median
from typing import Final

import psutil

from bench.bed import PREFIX, Bed, made_up

MIB: Final = 2**20
REFRESHED_GRANTS: Final = 10_000
SHORT_LIFE_SECONDS: Final = 2


def bytes_a_grant(number: int) -> dict[str, float]:
    """How many bytes a grant takes in Redis, and how fast grants were imported, start-up included."""
    with made_up() as bed:
        before = _used_bytes(bed)
        seconds = bed.import_grants(number, due=False)
        used = _used_bytes(bed) - before
    return {"grants": number, "bytes_a_grant": used / number, "imported_per_second": number / seconds}


def worker_memory(first: int, last: int, in_flight: int) -> dict[str, float]:
    """A worker's memory after `first` and after `last` refreshes; `growth` is relative to `first`."""
    with made_up(in_flight=in_flight, expires_in=SHORT_LIFE_SECONDS) as bed:
        bed.import_grants(min(first, REFRESHED_GRANTS), due=True)
        with bed.workers() as main, bed.beat():
            rss_first, rss_last = (_rss_mib_after(number, bed, main) for number in (first, last))
    return {
        "first": first,
        "last": last,
        "rss_first_mib": rss_first,
        "rss_last_mib": rss_last,
        "growth": rss_last / rss_first - 1,
    }


def start_up(repeats: int) -> dict[str, float]:
    """The median seconds until the help is printed, and until a worker may claim."""
    return {
        "help_seconds": median(_help_seconds() for _ in range(repeats)),
        "worker_ready_seconds": median(_worker_ready_seconds() for _ in range(repeats)),
    }


def _used_bytes(bed: Bed) -> int:
    return int(bed.redis.info("memory")["used_memory"])


def _rss_mib_after(number: int, bed: Bed, main: psutil.Process) -> float:
    """Resident memory of the worker's child as soon as so many refreshes are stored."""
    bed.wait_until(lambda: bed.refreshed() >= number)
    return float(main.children()[-1].memory_info().rss) / MIB


def _help_seconds() -> float:
    with made_up() as bed:
        began = time.perf_counter()
        bed.run("evergrant", "--help")
        return time.perf_counter() - began


def _worker_ready_seconds() -> float:
    with made_up() as bed:
        began = time.perf_counter()
        with bed.workers():
            bed.wait_until(lambda: _may_claim(bed))
            return time.perf_counter() - began


def _may_claim(bed: Bed) -> bool:
    """Whether the only process has finished recovery, and the store waits for no other."""
    has_finished = bed.redis.scard(PREFIX + "recovered") > 0
    return has_finished and not bed.redis.hexists(PREFIX + "epoch", "ends_at")
