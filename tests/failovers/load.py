"""A load without pause on one worker and one beat, and when each of them went on after a trouble.

The settings are the defaults but for short tokens, because how soon a deployment goes on depends on how long
its leases, sweeps and pauses are.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis

from tests.chaos.evidence import gather
from tests.chaos.metronome import Metronome
from tests.chaos.rest import restless
from tests.chaos.verdict import Verdict
from tests.support.live import LiveDeployment
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.chaos.driver import Struck

LATENCY_MS = 300  # of every answer, so that a burst of refreshes takes a while
REFRESH_AT = 0.5  # of a token's life: what is left then outlasts a store that is away
REST_SECONDS = 8.0  # that a due grant may wait for the next sweep while all is well
SETTLE_SECONDS = 90.0
DEFAULTS = ("SWEEP_SECONDS", "HTTP_TIMEOUT_SECONDS", "PROBE_SECONDS")
LISTEN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Comeback:
    """When a deployment went on, in Unix seconds; infinite for never.

    Attributes:
        published_at: beat had a sweep in the broker's queue.
        swept_at: a worker had run one.
        rotated_at: a grant that was claimed since was rotated by the provider.
    """

    published_at: float
    swept_at: float
    rotated_at: float

    @property
    def complete_at(self) -> float:
        """When worker and beat were back. A sweep may wait longer: every child may be refreshing."""
        return max(self.published_at, self.rotated_at)

    @property
    def is_complete(self) -> bool:
        """Whether they are, and a sweep has run."""
        return max(self.complete_at, self.swept_at) < inf


class Load:
    """The processes of one deployment under load; a context, which ends what watches them.

    Attributes:
        struck: nothing, so that the judge excuses nothing.
        stalls: when the machine was held up.
        ended_by_themselves: the exit codes of the processes that were gone at the end.
        seen_tokens: secrets of many moments of the run.
    """

    def __init__(self, live: LiveDeployment) -> None:
        self._live = live
        self._processes = {"worker": live.start_worker(), "beat": live.start_beat()}
        self._over = threading.Event()
        metronome = Metronome(live.directory / "metronome", self._over)
        self._ticking = threading.Thread(target=metronome.run)
        self.struck: list[Struck] = []
        self.stalls = metronome.stalls
        self.ended_by_themselves: list[int] = []
        self.seen_tokens: set[str] = set()

    def __enter__(self) -> Self:
        self._ticking.start()
        self._live.wait_until(lambda: self.rotations() > 0, "the first rotation")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        codes = [process.poll() for process in self._processes.values()]
        self.ended_by_themselves = [code for code in codes if code is not None]
        self._over.set()
        self._ticking.join()

    def children(self) -> set[int]:
        """The worker's child processes."""
        return self._live.children(self._processes["worker"].pid)

    def open_files(self) -> int:
        """Of the worker's main process and beat, sockets included."""
        files = (Path(f"/proc/{each.pid}/fd").iterdir() for each in self._processes.values())
        return sum(len(list(each)) for each in files)

    def rotations(self) -> int:
        """So far, at the provider."""
        return self._live.sandbox.totals()["refreshes"]

    def settle(self) -> list[str]:
        """Wait until what a trouble has held up is done; returns the grants that are not at rest then."""
        return restless(self._live, SETTLE_SECONDS, rest=REST_SECONDS)

    def get_under_way(self) -> None:
        """Wait until the last trouble is over and requests are on their way again, for the next one to meet.

        What is due is refreshed in a burst after each sweep.
        """
        self.settle()
        self.seen_tokens |= self._live.living_tokens()
        before = self.rotations()
        eventually(lambda: self.rotations() > before)

    def wait_for_comeback(self, since: float, broker: Path, what: str) -> Comeback:
        """Wait until worker and beat have gone on.

        Args:
            since: when the trouble ended, in Unix seconds.
            broker: the socket of the Redis where beat's sweeps arrive.
            what: is waited for, in words.
        """
        published_at = first_sweep_published(broker, since)
        self._live.wait_until(lambda: self.comeback(since, published_at).is_complete, what)
        return self.comeback(since, published_at)

    def comeback(self, since: float, published_at: float) -> Comeback:
        """When the deployment went on after a moment, in Unix seconds."""
        lines = [line for line in logged(self._live) if line["at"] > since]
        claimed_at = _first(line["at"] for line in lines if line["event"] == "grants.claimed")
        return Comeback(
            published_at=published_at,
            swept_at=_first(line["at"] for line in lines if _is_end_of_sweep(line["event"])),
            rotated_at=_first(
                visit["at"]
                for visit in self._live.sandbox.log()
                if visit["acted"] and visit["at"] > claimed_at
            ),
        )


def judged(live: LiveDeployment, lines: list[str], load: Load, left: list[str]) -> tuple[Verdict, list[str]]:
    """Stop a deployment and judge the run; returns what must never happen and did too, a line each.

    Args:
        lines: of the import.
        load: has ended.
        left: the grants that are not at rest.
    """
    live.stop()
    verdict = Verdict(gather(live, lines, load), refresh_at=REFRESH_AT)
    return verdict, [*verdict.violations(), *(f"not at rest: {each}" for each in left)]


def summary(live: LiveDeployment, verdict: Verdict) -> str:
    """A run in one line."""
    totals = live.sandbox.totals()
    return (
        f"{len(verdict.failed)} failed, {len(verdict.lost)} lost, {totals['superseded']} superseded tokens"
        f" presented, {totals['expired']} expired; {totals['refreshes']} rotations, at most"
        f" {verdict.overdue_seconds:.1f} s overdue"
    )


def use_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a live deployment's processes use the product's own intervals, and refresh early."""
    for name in DEFAULTS:
        monkeypatch.delenv(f"EVERGRANT_{name}")
    monkeypatch.setenv("EVERGRANT_REFRESH_AT", str(REFRESH_AT))


def logged(live: LiveDeployment) -> Iterator[dict[str, Any]]:
    """The lines of the log that are whole, each with `at` in Unix seconds."""
    for text in live.log.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # not ours, or still being written
            continue
        yield line | {"at": datetime.fromisoformat(line["timestamp"]).timestamp()}


def first_sweep_published(broker: Path, since: float) -> float:
    """Wait until beat has put a sweep into the queue of a Redis broker; returns when, in Unix seconds.

    Args:
        broker: its socket.
        since: sweeps before this moment do not count.
    """
    ends_at = time.monotonic() + LISTEN_SECONDS
    listening: Any = redis.Redis(
        unix_socket_path=str(broker), socket_timeout=LISTEN_SECONDS
    )  # partly untyped
    with listening, listening.monitor() as monitor, suppress(redis.TimeoutError):
        while time.monotonic() < ends_at:
            heard = monitor.next_command()
            if heard["time"] > since and _is_sweep(heard["command"]):
                return float(heard["time"])
    return inf


def _is_sweep(command: str) -> bool:
    return command.startswith("LPUSH ") and "tasks.sweep" in command


def _is_end_of_sweep(event: str) -> bool:
    return event.startswith("Task tasks.sweep") and " succeeded " in event


def _first(moments: Iterator[float]) -> float:
    return min(moments, default=inf)
