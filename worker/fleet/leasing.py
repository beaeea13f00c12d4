"""The lease of a grant that another may be working on: waited for, with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from worker.core.ports import LeasedElsewhere, Recovering

LOOK_AGAIN_SECONDS: Final = 0.1
RECOVERY_SLACK_SECONDS: Final = 5.0

Found = TypeVar("Found")


def longest_wait_seconds(lease_ms: int) -> float:
    """How long it makes sense to wait: the longest recovery of the store lasts as long as a lease."""
    return lease_ms / 1000 + RECOVERY_SLACK_SECONDS


async def lease_when_free(lease: Callable[[], Awaitable[Found]], seconds: float) -> Found:
    """Ask for a lease until it is given or refused; returns what was answered last.

    That is `LeasedElsewhere` or `Recovering` where the time ran out.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + seconds
    while True:
        found = await lease()
        if not isinstance(found, LeasedElsewhere | Recovering) or loop.time() >= give_up_at:
            return found
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
