"""One piece of work for all who want it at once, in one process."""

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


async def _stopped(task: asyncio.Task[T]) -> None:
    """Tell work to stop, as often as this is interrupted, and wait until it has."""
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            continue
