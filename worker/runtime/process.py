"""One event loop and one runtime for a whole worker process, in a thread of their own.

Rules:
- They begin after Celery's fork and live as long as the process. Connections and TLS sessions outlast tasks.
  So does the heartbeat: answers are offered and recoveries finished while no task runs, too.
- The loop is uvloop's. Start-up objects are frozen out of the garbage collector, which looks for cycles
  seldom: reference counting frees the hundreds of objects that a request makes (docs/performance.md has the
  gain).
- A task waits in the main thread, where signals arrive; no signal interrupts the loop.
- A stopping process claims nothing more, but finishes what is in flight: an answer on its way may hold the
  only living tokens.
- Nothing is closed while a task runs. If the wait for the task was interrupted, closing waits for its end.
"""

import asyncio
import gc
import mmap
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Future, wait
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, Final, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from worker.runtime import liveness
from worker.runtime.assembly import Runtime, open_runtime
from worker.runtime.deployment import Deployment
from worker.runtime.timing import longest_run_seconds

T = TypeVar("T")

LOOK_UP_SECONDS: Final = 1.0
COLLECT_AFTER: Final = 50_000  # objects more than before; by default it is 700, a few requests' worth

_draining = mmap.mmap(-1, 1)  # one byte, shared by a worker's main process and its children


class _Task:
    """The running task, as signal handlers see it."""

    should_end = False


def start_draining() -> None:
    """Ask every child of this process to claim nothing more."""
    _draining[0] = 1


def spare_the_collector() -> None:
    """Freeze the objects that exist out of the garbage collector, and have it run seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def should_stop() -> bool:
    """Whether the running task should claim nothing more."""
    return bool(_draining[0]) or _Task.should_end


def _end_the_task_in_order() -> None:
    """Have SIGTERM, SIGQUIT, SIGHUP and the soft time limit only stop the running task from claiming.

    Many supervisors signal a whole process group, and the pool's own handlers raise in the middle of the
    running code. They are replaced when the first task starts, because the pool sets them after a child has
    started. A signal affects the running task only: the main process decides whether the worker stops.
    """
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda *_: setattr(_Task, "should_end", True))


class Process:
    """Runs coroutines on this process's runtime.

    Args:
        deploy: finds out where things are; called in the process that uses them.
        warned: the warnings about the store that were logged before the fork.
    """

    def __init__(self, deploy: Callable[[], Deployment], warned: Collection[str] = ()) -> None:
        self._deploy = deploy
        self._warned = warned
        self._resources = ExitStack()
        self._opened: tuple[BlockingPortal, Runtime] | None = None
        self._task: Future[Any] | None = None
        self._has_run = False

    def start(self) -> None:
        """Open the runtime and keep the heartbeat from now on."""
        spare_the_collector()
        self._ensure_open()

    def run(self, work: Callable[[Runtime], Awaitable[T]]) -> T:
        """Run `work` to its end and return what it returns."""
        portal, runtime = self._ensure_open()
        if not self._has_run:
            _end_the_task_in_order()
            self._has_run = True
        _Task.should_end = False
        task = portal.start_task_soon(work, runtime)
        self._task = task
        while not task.done():
            wait([task], LOOK_UP_SECONDS)  # a signal just before a wait is handled after it
        return task.result()

    def close(self) -> None:
        """Wait for the running task, then leave the store and close connections and the event loop."""
        if self._opened is not None and self._task is not None:
            _Task.should_end = True
            wait([self._task], longest_run_seconds(self._opened[1].deployment.settings))
        self._opened = self._task = None
        self._resources.close()

    def _ensure_open(self) -> tuple[BlockingPortal, Runtime]:
        if self._opened is None:
            with ExitStack() as opened:
                portal = opened.enter_context(
                    start_blocking_portal(name="evergrant", backend_options={"use_uvloop": True})
                )
                runtime = portal.wrap_async_context_manager(as_member(self._deploy(), self._warned, "worker"))
                self._opened = portal, opened.enter_context(runtime)
                self._resources = opened.pop_all()
        return self._opened


@asynccontextmanager
async def as_member(deployment: Deployment, warned: Collection[str], role: str) -> AsyncIterator[Runtime]:
    """Be a process of the deployment for as long as the block lasts: known to the store, and to probes.

    Args:
        deployment: where things are.
        warned: the warnings about the store that were logged at start.
        role: which heartbeat probes look at.
    """
    async with (
        open_runtime(deployment, warned=warned, is_worker=role == "worker") as runtime,
        _shown_to_probes(deployment, role),
        runtime.membership.kept(),
    ):
        yield runtime


@asynccontextmanager
async def _shown_to_probes(deployment: Deployment, role: str) -> AsyncIterator[None]:
    """Touch this process's heartbeat file from the event loop, so that a loop that hangs is noticed."""
    heartbeat = liveness.Heartbeat(deployment.heartbeats, role)

    async def keep_beating() -> None:
        while True:
            heartbeat.beat()
            await asyncio.sleep(liveness.HEARTBEAT_SECONDS)

    with suppress(OSError):  # the main process, which has the same directory, has said why
        heartbeat.begin()
    beating = asyncio.create_task(keep_beating())
    try:
        yield
    finally:
        beating.cancel()
        heartbeat.end()
