"""What the product takes up: bytes of the store for a grant, memory of a worker over time, seconds to start.

Rules:
- A grant's bytes are the server's `used_memory` after an import less before it: its record, its place in the
  schedule and its share of every counter.
- A worker's memory is the resident memory of the process that refreshes, while it does nothing but that: the
  endpoint's tokens live so short that every grant is due again at once.
- A start is timed from exec, in a deployment of its own; a worker is ready when the store would let it claim.
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
    """What so many grants take in the store, and how fast they were imported, start-up included."""
    with made_up() as bed:
        before = _used_bytes(bed)
        seconds = bed.import_grants(number, due=False)
        used = _used_bytes(bed) - before
    return {"grants": number, "bytes_a_grant": used / number, "imported_per_second": number / seconds}


def worker_memory(first: int, last: int, in_flight: int) -> dict[str, float]:
    """A worker's memory after so many refreshes and after so many; `growth` is a share of the former."""
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
    """Whether the one process there is has confirmed the store's epoch, and nobody else is waited for."""
    has_confirmed = bed.redis.scard(PREFIX + "recovered") > 0
    return has_confirmed and not bed.redis.hexists(PREFIX + "epoch", "ends_at")
