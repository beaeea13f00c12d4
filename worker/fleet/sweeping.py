"""What the scheduled tasks do: reserve places for runners, and run one.

A runner is one refresh task, queued or at work. Its place is reserved at the store for as long as a lease
lasts, and each claim renews it. So a lost task costs no more than its leases do, and two beats or two sweeps
start no more runners than the due grants need.

A place that nobody uses keeps others from starting. So a runner that ends gives its place back, however it
ends, and as soon as the store takes it.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from worker.core.ports import StoreUnavailableError
from worker.core.registry import RunnerPlaces
from worker.refresher import Refresher

MOST_RUNNERS: Final = 16  # of a deployment: a runner that no process is free for waits in the queue
GIVE_BACK_SECONDS: Final = 5.0  # the first try, which its task waits for
GIVE_BACK_PAUSE_SECONDS: Final = 1.0
ROUNDS: Final = 4  # one runner takes on this many times its requests in flight

log = structlog.get_logger(__name__)


class Sweeping:
    """Starts runners for what is due, and runs them.

    Args:
        places: where a runner's place is reserved.
        refresher: this process's.
        in_flight: requests that one runner has in flight at once.
        place_ms: how long a place is kept for a runner that does not claim: as long as a lease.
        run_seconds: how long a runner claims. While requests that hang are still in flight then, it goes on
            for the endpoints that answer, at most as long as a lease.
    """

    def __init__(
        self, *, places: RunnerPlaces, refresher: Refresher, in_flight: int, place_ms: int, run_seconds: float
    ) -> None:
        self._places = places
        self._refresher = refresher
        self._share = ROUNDS * in_flight
        self._place_ms = place_ms
        self._run_seconds = run_seconds
        self._giving_back: set[asyncio.Task[None]] = set()

    async def reserve_runners(self) -> list[str]:
        """The ids of the runners to start now."""
        candidates = [str(uuid.uuid4()) for _ in range(MOST_RUNNERS)]
        try:
            found = await self._places.reserve_runners(
                share=self._share, place_ms=self._place_ms, candidates=candidates
            )
        except StoreUnavailableError as problem:
            log.warning("sweep.store_away", problem=str(problem))
            return []
        for client in found.unreadable:
            log.error("sweep.client_unreadable", client=client)
        if found.due or found.starting:
            log.info("sweep", due=found.due, clients=found.clients, starting=found.starting)
        return candidates[: found.starting]

    async def run_refresher(self, runner: str, stop: Callable[[], bool]) -> bool:
        """Refresh what is due for a while, and give the place back, also after an error.

        Returns whether its time was up, and so something may be left that is due.

        Args:
            runner: the place that was reserved.
            stop: says when to claim nothing more.
        """
        end = time.monotonic() + self._run_seconds
        last_end = end + self._place_ms / 1000
        try:
            attempted = await self._refresher.drain(
                runner,
                lambda: stop() or time.monotonic() > last_end,
                winds_down=lambda: time.monotonic() > end,
            )
        except StoreUnavailableError as problem:
            log.warning("refresh.store_away", problem=str(problem))
            return False
        finally:
            await self.give_back([runner])
        log.info("refresh.done", attempted=attempted)
        return time.monotonic() > end

    async def give_back(self, runners: Sequence[str]) -> None:
        """Free places, without a long wait for the store: this task may be about to be killed.

        While the store is away, this goes on beside other tasks until the places have ended by themselves.
        """
        if not await self._free(runners):
            trying = asyncio.create_task(self._free_later(runners))
            self._giving_back.add(trying)
            trying.add_done_callback(self._giving_back.discard)

    async def _free_later(self, runners: Sequence[str]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._place_ms / 1000):
                while True:
                    await asyncio.sleep(GIVE_BACK_PAUSE_SECONDS)
                    if await self._free(runners):
                        return

    async def _free(self, runners: Sequence[str]) -> bool:
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                for runner in runners:
                    await self._places.release_runner(runner)
        except (StoreUnavailableError, TimeoutError):
            return False
        return True
