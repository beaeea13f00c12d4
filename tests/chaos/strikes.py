"""What each kind of strike does to a live deployment.

Rules:
- A strike is a context: it strikes on entry, puts right again on exit, and names the process it struck.
- The store's own data is touched in one way only: a server that is dead and locked out forgets its last
  writes, as a server does if its machine fails before the disk was synced.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import redis

from tests.chaos.plan import Kind, Strike
from tests.chaos.processes import Posts, frozen, kill_child, kill_group, writing_no_file
from tests.support.live import LiveDeployment
from worker.adapters.embedded import EmbeddedServerError

EVERYSEC_SECONDS = 1.5  # with the looser fsync, before the store is killed
FORGOTTEN_SECONDS = 1.0
DEATH_SECONDS = 5.0
ANSWERS_WAITED_FOR = 10

PROVIDER_FAULTS: dict[Kind, Callable[[int], dict[str, str | float]]] = {
    Kind.OUTAGE: lambda _: {"kind": "outage", "form": "close"},
    Kind.OUTAGE_503: lambda _: {"kind": "outage", "form": "503"},
    Kind.STATUS_503: lambda _: {"kind": "status", "status": 503},
    Kind.DROP_BEFORE: lambda number: {"kind": "drop_before", "times": 5 + number % 30},
    Kind.DROP_AFTER: lambda number: {"kind": "drop_after", "times": 1 + number % 3},
    Kind.HANG: lambda _: {"kind": "hang"},
    Kind.SLOW: lambda number: {"kind": "latency", "ms": 200, "jitter_ms": 500, "seed": number},
}


class Strikes:
    """Strikes against one live deployment.

    Args:
        live: whose store and provider are struck.
        workers: its workers.
        beats: its beats.
    """

    def __init__(self, live: LiveDeployment, workers: Posts, beats: Posts) -> None:
        self._live = live
        self._workers = workers
        self._beats = beats

    @contextmanager
    def carried_out(self, strike: Strike) -> Iterator[int | None]:
        """Strike for as long as the block lasts."""
        struck: AbstractContextManager[int | None]
        match strike.kind:
            case Kind.WORKER_KILLED:
                struck = self._killed(self._workers, strike.number)
            case Kind.BEAT_KILLED:
                struck = self._killed(self._beats, strike.number)
            case Kind.CHILD_KILLED:
                struck = self._child_killed(strike.number)
            case Kind.WORKER_FROZEN | Kind.WORKER_FROZEN_LONG:
                struck = self._worker_frozen(strike.number)
            case Kind.DISK_REFUSES:
                struck = self._disk_refusing(strike.number)
            case Kind.STORE_FROZEN | Kind.STORE_FROZEN_LONG:
                struck = self._store_frozen()
            case Kind.STORE_KILLED | Kind.STORE_KILLED_EVERYSEC | Kind.STORE_FORGETS:
                struck = self._store_killed(strike.kind)
            case _:
                struck = self._provider_faulty(PROVIDER_FAULTS[strike.kind](strike.number))
        with struck as pid:
            yield pid

    @contextmanager
    def _killed(self, posts: Posts, number: int) -> Iterator[int]:
        with posts.taken(number) as post:
            kill_group(post.process)
            try:
                yield post.process.pid
            finally:
                post.start_again()

    @contextmanager
    def _child_killed(self, number: int) -> Iterator[int | None]:
        with self._workers.taken(number) as post:
            yield kill_child(post.process.pid, number)

    @contextmanager
    def _worker_frozen(self, number: int) -> Iterator[int]:
        with self._workers.taken(number) as post, frozen(-post.process.pid):
            yield post.process.pid

    @contextmanager
    def _disk_refusing(self, number: int) -> Iterator[int]:
        """The worker is not killed meanwhile: without a disk its memory is all there is of an answer."""
        with self._workers.taken(number) as post, writing_no_file(post.process.pid):
            yield post.process.pid

    @contextmanager
    def _store_frozen(self) -> Iterator[int]:
        pid = self._store_pid()
        with frozen(pid):
            yield pid

    @contextmanager
    def _store_killed(self, kind: Kind) -> Iterator[int]:
        pid = self._store_pid()
        written: dict[Path, int] = {}
        if kind is not Kind.STORE_KILLED:
            with closing(redis.Redis.from_url(self._live.server.url)) as store:
                store.config_set("appendfsync", "everysec")
            time.sleep(EVERYSEC_SECONDS)
        if kind is Kind.STORE_FORGETS:
            written = {log: log.stat().st_size for log in self._append_only_files()}
            time.sleep(FORGOTTEN_SECONDS)
        os.kill(pid, signal.SIGKILL)
        try:
            with self._locked_out() as is_dead:
                for log, size in written.items():
                    if is_dead and log.exists():
                        os.truncate(log, size)
                yield pid
        finally:
            self._live.server.open()

    def _store_pid(self) -> int:
        """Whose child the present server is does not matter: a worker may have started it first."""
        self._live.server.open()
        for _ in range(ANSWERS_WAITED_FOR):  # a busy machine's take longer than a second
            with suppress(EmbeddedServerError):
                return self._live.server.server_pid
        return self._live.server.server_pid

    def _append_only_files(self) -> list[Path]:
        return sorted((self._live.directory / "data").rglob("*.incr.aof"))

    @contextmanager
    def _locked_out(self) -> Iterator[bool]:
        """Keep everyone from bringing the dead server back; tells whether nobody was quicker."""
        with (self._live.directory / "data" / "server.lock").open("rb") as lock:
            end = time.monotonic() + DEATH_SECONDS
            while not (is_ours := _locked(lock.fileno())) and time.monotonic() < end:
                time.sleep(0.001)
            yield is_ours

    @contextmanager
    def _provider_faulty(self, fault: dict[str, str | float]) -> Iterator[None]:
        kind = str(fault.pop("kind"))
        with self._live.sandbox.fault(kind, **fault):
            yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
