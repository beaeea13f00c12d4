"""Refreshes a second, end to end: against bare loops and the idiom, and with more than one worker process.

A worker's time runs from the first request at the endpoint until Redis has the last answer. It includes
claims, sealing, the journal, commits and Celery. A bare loop's time runs from its first request to its last
answer.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

from celery import Celery

from bench.bed import ROOT, Bed, cpu_seconds, made_up

OURS: Final = "evergrant"
IDIOM: Final = "idiom"


@dataclass(frozen=True, slots=True)
class Drain:
    """How one contender did.

    Attributes:
        per_second: tokens renewed a second.
        cpu_us: processor time of its own processes for each token, without the endpoint's and Redis's.
    """

    per_second: float
    cpu_us: float


def measure(contender: str, *, latency_ms: float, in_flight: int, number: int, processes: int = 1) -> Drain:
    """Let one contender renew so many tokens."""
    with made_up(latency_ms=latency_ms, in_flight=in_flight) as bed:
        if contender == OURS:
            return _ours(bed, number, processes)
        if contender == IDIOM:
            return _idiom(bed, number, processes)
        return _bare(bed, contender, in_flight, number)


def _ours(bed: Bed, number: int, processes: int) -> Drain:
    bed.import_grants(number, due=True)
    with bed.workers(processes) as main:
        cpu = cpu_seconds(main)
        with bed.beat():
            bed.wait_until(lambda: bed.refreshed() >= number)
        cpu = cpu_seconds(main) - cpu
        seconds = bed.committed_at() - bed.tally()["first"]
    return Drain(number / seconds, cpu / number * 1e6)


def _bare(bed: Bed, kind: str, in_flight: int, number: int) -> Drain:
    command = [
        sys.executable,
        "-m",
        "bench.contenders.bare",
        kind,
        bed.endpoint_url,
        str(in_flight),
        str(number),
    ]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S603
    taken = json.loads(done.stdout)
    return Drain(number / taken["seconds"], taken["cpu_seconds"] / number * 1e6)


def _idiom(bed: Bed, number: int, processes: int) -> Drain:
    extra = {
        "BENCH_BROKER_URL": bed.broker_url,
        "BENCH_REDIS_URL": bed.redis_url,
        "BENCH_URL": bed.endpoint_url,
    }
    command = ("celery", "-A", "bench.contenders.idiom", "worker", "--concurrency", str(processes))
    app = Celery("publisher", broker=bed.broker_url)
    for count in range(number):
        bed.redis.set(f"token:{count}", json.dumps({"refresh_token": "r" * 80}))
        app.send_task("refresh", args=(count,))

    def refreshed() -> int:
        return int(bed.redis.get("refreshed") or 0)

    with bed.process(*command, **extra) as main:
        bed.wait_until(lambda: refreshed() > 0)
        first, cpu, began = refreshed(), cpu_seconds(main), time.perf_counter()
        bed.wait_until(lambda: refreshed() >= number)
        seconds = time.perf_counter() - began
        cpu = cpu_seconds(main) - cpu
    number -= first
    return Drain(number / seconds, cpu / number * 1e6)
