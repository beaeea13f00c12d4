"""An event loop without a clock of its own and without input or output.

Rules:
- What is ready runs in the order it became ready, until nothing is. The world then decides what happens next,
  so whatever runs between two effects is one step.
- Timers and work for other threads are steps of the world: time passes only when the world lets it.
- Everything that runs belongs to the process in whose context it was started.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

PROCESS: "contextvars.ContextVar[Process | None]" = contextvars.ContextVar("process", default=None)


class Loop(asyncio.AbstractEventLoop):
    """What asyncio needs of a loop, and no more."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._ready: deque[asyncio.Handle] = deque()
        self.surprises: list[dict[str, Any]] = []

    def run_ready(self) -> None:
        """Run until every task waits for an effect."""
        ready = self._ready
        asyncio._set_running_loop(self)  # noqa: SLF001 what every loop calls
        try:
            while ready:
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()  # noqa: SLF001
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001

    def time(self) -> float:
        return self._world.now_us / 1e6

    def call_soon(  # type: ignore[override] # typeshed names the arguments' types
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment] # there is one thread

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        self._world.add_timer(round(when * 1e6), handle, process)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it is skipped when its time has come

    def put(self, handle: asyncio.Handle) -> None:
        """A timer whose time has come."""
        self._ready.append(handle)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.tasks.add(task)
            task.add_done_callback(process.tasks.discard)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """What product code gives to a thread is work on the disk."""
        del executor
        return self._world.in_thread(lambda: func(*args))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.surprises.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
