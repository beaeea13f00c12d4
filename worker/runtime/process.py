"""One event loop and one runtime for a whole process, in a thread of their own, as long as the process lives.

Rules:
- Begun after Celery's fork. Connections and TLS sessions outlast tasks, and so does the process's presence
  at the store: answers are offered and leases given back whether a task is at hand or not.
- The loop is uvloop's. What was there before it is none of the garbage collector's business any more, and the
  collector looks for cycles seldom: a request makes hundreds of objects that all go by themselves
  (docs/performance.md says what that is worth).
- A task waits in the main thread, where signals strike; nothing in the loop is interrupted by one.
- Being told to stop ends claiming, never what is in flight: an answer on its way may hold the only living
  tokens. `draining` is one byte shared between a worker's main process and its children.
- Nothing is closed under a task: whatever broke off the wait for it, closing waits for its end.
"""

import gc
import mmap
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Future, wait
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from worker.runtime.assembly import Runtime, open_runtime
from worker.runtime.deployment import Deployment
from worker.runtime.timing import longest_run_seconds

T = TypeVar("T")

LOOK_UP_SECONDS: Final = 1.0
COLLECT_AFTER: Final = 50_000  # objects more than before; by default it is 700, a few requests' worth

_draining = mmap.mmap(-1, 1)


class _Task:
    """The task at hand, as signals see it."""

    told_to_end = False


def start_draining() -> None:
    """Ask every child of this process to claim nothing more."""
    _draining[0] = 1


def spare_the_collector() -> None:
    """Let the garbage collector leave alone what is there, and look seldom at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def should_stop() -> bool:
    """Whether the task at hand should claim nothing more."""
    return bool(_draining[0]) or _Task.told_to_end


def _end_the_task_in_order() -> None:
    """Let SIGTERM, SIGQUIT, SIGHUP and the soft time limit end claiming, not drop what is in flight.

    Many supervisors signal a whole group, and the pool's own handlers raise in the middle of whatever runs.
    They are replaced with the first task, because the pool sets its own after a child has started. A signal
    ends the task at hand only: whether the worker stops is for its main process to say.
    """
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda *_: setattr(_Task, "told_to_end", True))


class Process:
    """Runs coroutines on this process's runtime.

    Args:
        deploy: finds out where things are; called in the process that will use them.
        told: the warnings about the store that were given by then.
    """

    def __init__(self, deploy: Callable[[], Deployment], told: Collection[str] = ()) -> None:
        self._deploy = deploy
        self._told = told
        self._open = ExitStack()
        self._home: tuple[BlockingPortal, Runtime] | None = None
        self._at_work: Future[Any] | None = None
        self._has_run = False

    def start(self) -> None:
        """Be present at the store from now on."""
        spare_the_collector()
        self._at_home()

    def run(self, work: Callable[[Runtime], Awaitable[T]]) -> T:
        """Run `work` to its end and return what it returns."""
        portal, runtime = self._at_home()
        if not self._has_run:
            _end_the_task_in_order()
            self._has_run = True
        _Task.told_to_end = False
        task = portal.start_task_soon(work, runtime)
        self._at_work = task
        while not task.done():
            wait([task], LOOK_UP_SECONDS)  # a signal that strikes on the way into a wait is heard after it
        return task.result()

    def close(self) -> None:
        """Leave the store, and close connections and the event loop, once no task needs them any more."""
        if self._home is not None and self._at_work is not None:
            _Task.told_to_end = True
            wait([self._at_work], longest_run_seconds(self._home[1].deployment.settings))
        self._home = self._at_work = None
        self._open.close()

    def _at_home(self) -> tuple[BlockingPortal, Runtime]:
        if self._home is None:
            with ExitStack() as opened:
                portal = opened.enter_context(
                    start_blocking_portal(name="evergrant", backend_options={"use_uvloop": True})
                )
                present = portal.wrap_async_context_manager(_present(self._deploy(), self._told))
                self._home = portal, opened.enter_context(present)
                self._open = opened.pop_all()
        return self._home


@asynccontextmanager
async def _present(deployment: Deployment, told: Collection[str]) -> AsyncIterator[Runtime]:
    async with open_runtime(deployment, told=told) as runtime, runtime.membership.kept():
        yield runtime
