"""One event loop and one runtime for a whole process, kept between Celery tasks.

Rules:
- Built at the first task, so after Celery's fork; connections and TLS sessions then last.
- A task that broke off leaves nothing behind: the next builds anew.
- Being told to stop ends claiming, never what is in flight: an answer on its way may hold the only living
  tokens. `draining` is one byte shared between a worker's main process and its children.
"""

import asyncio
import mmap
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from worker.wiring import Deployment, Runtime, open_runtime

T = TypeVar("T")

_draining = mmap.mmap(-1, 1)


class _Task:
    """The task at hand, as signals see it."""

    told_to_end = False


def start_draining() -> None:
    """Ask every child of this process to claim nothing more."""
    _draining[0] = 1


def should_stop() -> bool:
    """Whether the task at hand should claim nothing more."""
    return bool(_draining[0]) or _Task.told_to_end


def _end_the_task_in_order() -> None:
    """Let SIGTERM, SIGHUP and the soft time limit end claiming instead of dropping answers in flight.

    Many supervisors signal a whole group, and the pool's own handlers raise in the middle of whatever runs.
    They are replaced with the first task, because the pool sets its own after a child has started. A signal
    ends the task at hand only: whether the worker stops is for its main process to say.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda *_: setattr(_Task, "told_to_end", True))


class Process:
    """Runs coroutines on this process's runtime.

    Args:
        deploy: finds out where things are; called once the runtime is needed.
    """

    def __init__(self, deploy: Callable[[], Deployment]) -> None:
        self._deploy = deploy
        self._runner: asyncio.Runner | None = None
        self._open: AsyncExitStack | None = None
        self._runtime: Runtime | None = None

    def run(self, work: Callable[[Runtime], Awaitable[T]]) -> T:
        """Run `work` to its end and return what it returns."""
        if self._runner is None:
            self._runner = asyncio.Runner()
            _end_the_task_in_order()
        _Task.told_to_end = False
        try:
            return self._runner.run(self._with_runtime(work))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close connections and the event loop."""
        runner, self._runner = self._runner, None
        opened, self._open, self._runtime = self._open, None, None
        if runner is None:
            return
        with runner:
            if opened is not None:
                runner.run(opened.aclose())

    async def _with_runtime(self, work: Callable[[Runtime], Awaitable[T]]) -> T:
        if self._runtime is None:
            self._open = AsyncExitStack()
            self._runtime = await self._open.enter_async_context(open_runtime(self._deploy()))
        return await work(self._runtime)
