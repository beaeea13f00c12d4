"""What the scheduled tasks do: reserve places for refreshers, and run one.

A place is held at the store for as long as a lease, from its reservation and again from each claim. So a task
that is lost costs no more than its leases do, and neither two beats nor two sweeps start more refreshers than
the due grants need.
"""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from typing import Final

import structlog

from worker.core.ports import StoreUnavailableError
from worker.runtime.assembly import Runtime
from worker.runtime.timing import lease_ms

MOST_RUNNERS: Final = 4  # of one client
GIVE_BACK_SECONDS: Final = 5.0  # then the place comes free by itself, as a lost task's does
ROUNDS: Final = 4  # times its requests in flight: what one refresher is expected to take on

log = structlog.get_logger(__name__)


async def reserve_runners(runtime: Runtime) -> list[tuple[str, str]]:
    """The (client, runner id) to start now: one for each client before any has a second.

    So a client whose provider hangs does not keep another's refresher waiting in the queue.
    """
    settings = runtime.deployment.settings
    share = ROUNDS * settings.in_flight
    started: dict[str, list[str]] = {}
    for client in runtime.clients:
        candidates = [str(uuid.uuid4()) for _ in range(MOST_RUNNERS)]
        try:
            due, starting = await runtime.store.reserve_runners(
                client.name, share=share, place_ms=lease_ms(settings), candidates=candidates
            )
        except StoreUnavailableError as problem:
            log.warning("sweep.store_away", problem=str(problem))
            break
        if due or starting:
            log.info("sweep", client=client.name, due=due, starting=starting)
        started[client.name] = candidates[:starting]
    turns = zip_longest(*([(client, runner) for runner in ids] for client, ids in started.items()))
    return [start for turn in turns for start in turn if start is not None]


async def run_refresher(runtime: Runtime, client: str, runner: str, stop: Callable[[], bool]) -> None:
    """Refresh what a client has due, and give the place back, whatever comes of it."""
    if client not in runtime.clients:
        log.warning("refresh.client_not_configured", client=client)
        return
    try:
        attempted = await runtime.refresher.drain(client, runner, stop)
    except StoreUnavailableError as problem:
        log.warning("refresh.store_away", client=client, problem=str(problem))
        return
    finally:
        await _give_back(runtime, client, runner)
    log.info("refresh.done", client=client, attempted=attempted)


async def _give_back(runtime: Runtime, client: str, runner: str) -> None:
    """Let another take this place, if the store hears of it in time: this task may be about to be ended."""
    with suppress(StoreUnavailableError, TimeoutError):
        async with asyncio.timeout(GIVE_BACK_SECONDS):
            await runtime.store.release_runner(client, runner)
