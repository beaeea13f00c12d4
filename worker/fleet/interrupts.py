"""Work that an interrupt must not break off."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[None, None, T]) -> T:
    """Finish work in spite of interrupts: what is on its way may hold, or end, the only living tokens."""
    task = asyncio.create_task(work)
    interrupt = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interrupt = error
    done = task.result()
    if interrupt is not None:
        raise interrupt
    return done
