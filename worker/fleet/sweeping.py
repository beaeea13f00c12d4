"""What the scheduled tasks do: reserve places for runners, and run one.

A runner is one refresh task, queued or at work. Its place is reserved at the store for as long as a lease
lasts, and each claim renews it. So a lost task costs no more than its leases do, and two beats or two sweeps
start no more runners than the due grants need.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import zip_longest
from typing import Final

import structlog

from worker.core.ports import StoreRefusedError, StoreUnavailableError
from worker.core.providers import Client
from worker.core.registry import RunnerPlaces
from worker.refresher import Refresher

MOST_RUNNERS: Final = 4  # of one client
GIVE_BACK_SECONDS: Final = 5.0  # a place that is not given back expires, as a lost task's does
ROUNDS: Final = 4  # one runner takes on this many times its requests in flight

log = structlog.get_logger(__name__)


class Sweeping:
    """Starts runners for what is due, and runs them.

    Args:
        places: where a runner's place is reserved.
        refresher: this process's.
        clients: the configured clients.
        in_flight: requests that one runner has in flight at once.
        place_ms: how long a place is kept for a runner that does not claim: as long as a lease.
    """

    def __init__(
        self,
        *,
        places: RunnerPlaces,
        refresher: Refresher,
        clients: Iterable[Client],
        in_flight: int,
        place_ms: int,
    ) -> None:
        self._places = places
        self._refresher = refresher
        self._clients = clients
        self._share = ROUNDS * in_flight
        self._place_ms = place_ms

    async def reserve_runners(self) -> list[tuple[str, str]]:
        """The (client, runner id) pairs to start now: one for each client before any client has a second.

        The order matters: a client whose provider hangs must not keep another's runner in the queue.
        """
        started: dict[str, list[str]] = {}
        for client in self._clients:
            candidates = [str(uuid.uuid4()) for _ in range(MOST_RUNNERS)]
            try:
                due, starting = await self._places.reserve_runners(
                    client.name, share=self._share, place_ms=self._place_ms, candidates=candidates
                )
            except StoreRefusedError as problem:
                # What is stored of one client stops no other.
                log.error("sweep.refused", client=client.name, problem=str(problem))  # noqa: TRY400
                continue
            except StoreUnavailableError as problem:
                log.warning("sweep.store_away", problem=str(problem))
                break
            if due or starting:
                log.info("sweep", client=client.name, due=due, starting=starting)
            started[client.name] = candidates[:starting]
        turns = zip_longest(*([(client, runner) for runner in ids] for client, ids in started.items()))
        return [start for turn in turns for start in turn if start is not None]

    async def run_refresher(self, client: str, runner: str, stop: Callable[[], bool]) -> None:
        """Refresh what a client has due, and give the place back, also after an error.

        Args:
            client: whose grants.
            runner: the place that was reserved.
            stop: says when to claim nothing more.
        """
        try:
            if client not in {each.name for each in self._clients}:
                log.warning("refresh.client_not_configured", client=client)
                return
            attempted = await self._refresher.drain(client, runner, stop)
        except StoreUnavailableError as problem:
            log.warning("refresh.store_away", client=client, problem=str(problem))
            return
        finally:
            await self._give_back(client, runner)
        log.info("refresh.done", client=client, attempted=attempted)

    async def _give_back(self, client: str, runner: str) -> None:
        """Free the place, without a long wait for the store: this task may be about to be killed."""
        with suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                await self._places.release_runner(client, runner)
