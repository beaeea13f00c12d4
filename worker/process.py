"""One event loop and one runtime for a whole process, kept between Celery tasks.

Rules:
- Built at the first task, so after Celery's fork; connections and TLS sessions then last.
- A task that broke off (a time limit struck inside the loop) leaves nothing behind: the next builds anew.
- `draining` is one byte shared between a worker's main process and its children: set when the worker is asked
  to stop, it ends claiming, and what is in flight is finished.
"""

import asyncio
import mmap
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from worker.wiring import Deployment, Runtime, open_runtime

T = TypeVar("T")

_draining = mmap.mmap(-1, 1)


def start_draining() -> None:
    """Ask every child of this process to claim nothing more."""
    _draining[0] = 1


def is_draining() -> bool:
    """Whether the worker is stopping."""
    return bool(_draining[0])


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
