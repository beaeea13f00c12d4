"""Repeat a call to the store while it is away, up to a limit."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from worker.core.ports import StoreUnavailableError

T = TypeVar("T")

PAUSE_SECONDS: Final = 0.2


async def until_stored(offer: Callable[[], Awaitable[T]], patience_seconds: float) -> T:
    """Call the store, again and again while it is away.

    Raises:
        StoreUnavailableError: it was still away after `patience_seconds`.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_seconds
    while True:
        try:
            return await offer()
        except StoreUnavailableError:
            if loop.time() > give_up_at:
                raise
            await asyncio.sleep(PAUSE_SECONDS)
