"""One piece of work for all who want it at once, in one process: one that is under way, or the next one."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    callers: int = 0


class Flights(Generic[T]):
    """Work that is under way, by a name.

    A caller that is interrupted leaves the work to the others. The last one tells it to stop, and waits until
    it has: what is on its way may hold the only living tokens.
    """

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    async def join(self, name: str, work: Callable[[], Coroutine[None, None, T]]) -> T:
        """The result of the work under this name, which begins now unless it is under way; or its error."""
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight(asyncio.create_task(work()))
            flight.task.add_done_callback(lambda _: self._flights.pop(name, None))
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.callers == 1:
                await _stopped(flight.task)
            raise
        finally:
            flight.callers -= 1


class Rounds(Generic[T]):
    """Work that answers all who asked before it began, by a name.

    A round begins once the one before it has ended. So nobody is told what was found before they asked, and
    many who ask at once cost two rounds at most.
    """

    def __init__(self) -> None:
        self._next: dict[str, asyncio.Task[T]] = {}
        self._running: dict[str, asyncio.Task[T]] = {}

    async def join(self, name: str, work: Callable[[], Coroutine[None, None, T]]) -> T:
        """The result of the next round under this name, or its error."""
        task = self._next.get(name)
        if task is None:
            task = self._next[name] = asyncio.create_task(self._begin(name, work))
            task.add_done_callback(_heard)
        return await asyncio.shield(task)

    async def _begin(self, name: str, work: Callable[[], Coroutine[None, None, T]]) -> T:
        before = self._running.get(name)
        if before is not None:
            await asyncio.wait({before})
        self._running[name] = self._next.pop(name)  # who asks from here on waits for another round
        try:
            return await work()
        finally:
            del self._running[name]


def _heard(task: asyncio.Task[T]) -> None:
    """Take its error where every caller was interrupted: asyncio would complain that nobody did."""
    if not task.cancelled():
        task.exception()


async def _stopped(task: asyncio.Task[T]) -> None:
    """Tell work to stop, as often as this is interrupted, and wait until it has."""
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            continue
