"""Waiting for something to come about, without a guess at how long it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 60.0  # far longer than anything takes, on a loaded machine too; only a hang meets it
LOOK_SECONDS = 0.02

# How much sooner than asked a timer may seem to end: an event loop counts whole milliseconds, and the wall
# clock that a duration is read from is slewed meanwhile.
TIMER_SECONDS = 0.005


@contextmanager
def moved_clock() -> Iterator[Callable[[float], None]]:
    """Gives what lets seconds pass by the running loop's clock, as if this whole process were frozen."""
    loop = asyncio.get_running_loop()
    measured, passed = loop.time, [0.0]
    loop.time = lambda: measured() + sum(passed)  # type: ignore[method-assign]
    try:
        yield passed.append
    finally:
        loop.time = measured  # type: ignore[method-assign]


def eventually(holds: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(LOOK_SECONDS)


async def until(holds: Callable[[], Awaitable[object]], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something holds, while the loop goes on."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, "it never came about"
        await asyncio.sleep(LOOK_SECONDS)
