"""Carries a plan out against a live deployment, and notes what was struck when.

Rules:
- Lanes run side by side. Every strike is put right in the end, also when the run is broken off.
- What ends by itself is started again, as a supervisor would, and is noted.
"""

import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.chaos.metronome import Metronome
from tests.chaos.plan import STORE_KILLS, WORKER_KILLS, Kind, Strike
from tests.chaos.processes import Posts
from tests.chaos.strikes import Strikes
from tests.support.live import LiveDeployment

WORKERS = 3
BEATS = 2
SUPERVISOR_SECONDS = 0.25
TELL_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Struck:
    """A strike that was carried out: begun, in force (what was to be dead is), put right, in Unix seconds."""

    kind: Kind
    at: float
    done_at: float
    ended_at: float
    pid: int | None


class Driver:
    """Keeps a live deployment's processes running and strikes them; a context, which ends its threads.

    Attributes:
        struck: what was struck when.
        stalls: when the machine itself was held up, processor or disk: begin and end.
        ended_by_themselves: the exit codes of processes that nobody struck.
        seen_tokens: secrets of many moments of the run.
    """

    def __init__(self, live: LiveDeployment) -> None:
        self._live = live
        self._workers = Posts(live.start_worker, WORKERS)
        self._beats = Posts(live.start_beat, BEATS)
        self._strikes = Strikes(live, self._workers, self._beats)
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=20)
        self._watchers: list[Future[None]] = []
        self._metronome = Metronome(live.directory / "metronome", self._over)
        self._began = time.monotonic()
        self.struck: list[Struck] = []
        self.stalls = self._metronome.stalls
        self.ended_by_themselves: list[int] = []
        self.seen_tokens: set[str] = set()

    def __enter__(self) -> Self:
        self._watchers = [self._pool.submit(watch) for watch in (self._supervise, self._metronome.run)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._pool.shutdown()
        if kind is None:
            for watcher in self._watchers:
                watcher.result()

    def carry_out(self, plan: list[list[Strike]]) -> None:
        """Carry out every lane to its end; afterwards no fault is left."""
        self._began = time.monotonic()
        try:
            for lane in as_completed([self._pool.submit(self._run_lane, lane) for lane in plan]):
                lane.result()
        except BaseException:
            self._over.set()
            raise

    def _run_lane(self, lane: list[Strike]) -> None:
        for strike in lane:
            if self._over.wait(max(self._began + strike.at - time.monotonic(), 0)):
                return
            at = time.time()
            with self._strikes.carried_out(strike) as pid:
                done_at = time.time()
                self._over.wait(strike.seconds)
            if strike.kind is Kind.CHILD_KILLED and pid is None:
                continue  # its worker was just starting and had none
            self.struck.append(Struck(strike.kind, at, done_at, time.time(), pid))

    def _supervise(self) -> None:
        tell_at = time.monotonic()
        while not self._over.wait(SUPERVISOR_SECONDS):
            self.ended_by_themselves += self._workers.replace_dead() + self._beats.replace_dead()
            if time.monotonic() > tell_at:
                tell_at += TELL_SECONDS
                self.seen_tokens |= self._live.living_tokens()
                self._tell()

    def _tell(self) -> None:
        kinds = Counter(struck.kind for struck in self.struck)
        worker_kills = sum(kinds[kind] for kind in WORKER_KILLS)
        store_kills = sum(kinds[kind] for kind in STORE_KILLS)
        others = sum(kinds.values()) - worker_kills - store_kills
        sys.stdout.write(
            f"{time.monotonic() - self._began:4.0f} s  {self._live.sandbox.totals()['refreshes']} rotations;"
            f" {worker_kills} worker kills, {store_kills} store kills, {others} other faults\n"
        )
        sys.stdout.flush()
