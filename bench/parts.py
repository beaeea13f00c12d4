"""Where a worker's processor time goes: each part of a refresh, measured alone.

Rules:
- Each part is the product's own code in a loop of 100 at once, as in a drain, on a worker's event loop and
  with its garbage collector settings. The time of Redis and of the endpoint is not included.
- The whole is a worker's drain. The rest is the whole less the parts: decisions, events, the event loop.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from unittest.mock import patch

import uvloop

from bench.bed import CLIENT, Bed, cpu_seconds, made_up
from config import load_settings
from worker.core import lifecycle
from worker.core.grant import TokenPair
from worker.core.outcomes import Refreshed
from worker.core.ports import Commit, Lease
from worker.refreshing.drain import CHUNK
from worker.runtime.assembly import Runtime, open_runtime
from worker.runtime.deployment import deploy
from worker.runtime.process import spare_the_collector

AT_ONCE: Final = 100


def measure(number: int) -> dict[str, float]:
    """Microseconds for one refresh, by part, over so many grants."""
    with made_up() as bed, patch.dict(os.environ, bed.environment):
        bed.import_grants(number, due=True)
        spare_the_collector()
        parts = uvloop.run(_alone(bed, number))
    with made_up(in_flight=AT_ONCE) as bed:
        bed.import_grants(number, due=True)
        child, celery = _whole(bed, number)
    rest = child - sum(parts.values())
    return {**parts, "celery": celery, "rest": rest, "whole": child + celery}


async def _alone(bed: Bed, number: int) -> dict[str, float]:
    async with open_runtime(deploy(load_settings(), print)) as runtime:
        client = runtime.clients.get(CLIENT, 0)
        pair, now = TokenPair("a" * 36, "r" * 80), await runtime.registry.now()
        http = await _cpu_us(lambda: runtime.endpoint.refresh(client, pair, now), number)
        leases, claiming = await _claimed(runtime, number)
        began = time.process_time()
        commits = [_commit(runtime, lease) for lease in leases]
        sealing = (time.process_time() - began) / number * 1e6 - _without_sealing(runtime, leases)
        left = iter(commits)
        journal = await _cpu_us(lambda: runtime.journal.write(next(left)), number)
        left_again = iter(commits)
        committing = await _cpu_us(lambda: runtime.store.commit(next(left_again)), number)
    bed.wait_until(lambda: bed.refreshed() >= number)
    return {"http": http, "redis": claiming + committing, "sealing": sealing, "journal": journal}


async def _claimed(runtime: Runtime, number: int) -> tuple[list[Lease], float]:
    """Every grant's lease, and the processor time of one claim."""
    client = runtime.clients.get(CLIENT, 0)
    await runtime.store.finish_recovery(await runtime.store.heartbeat(""))
    leases: list[Lease] = []
    began = time.process_time()
    while len(leases) < number:
        leases += (await runtime.store.claim(client, CHUNK, "")).leases
    return leases, (time.process_time() - began) / number * 1e6


def _commit(runtime: Runtime, lease: Lease) -> Commit:
    """An answer to be stored: unsealed, sealed, succeeded."""
    grant, keys = lease.grant, runtime.deployment.keys
    pair, answer = keys.open(grant), _answer(lease)
    following = lifecycle.pair_after(pair, answer, runtime.clients.get(CLIENT, 0))
    return _committing(runtime, lease, pair, answer, keys.seal_successor(grant, following))


def _answer(lease: Lease) -> Refreshed:
    grant = lease.grant
    return Refreshed("a" * 36, f"{grant.id:r<80}", 28_800_000, 15_811_200_000, grant.scope)


def _committing(runtime: Runtime, lease: Lease, pair: TokenPair, answer: Refreshed, sealed: bytes) -> Commit:
    grant, client, now = lease.grant, runtime.clients.get(CLIENT, 0), lease.until
    change = lifecycle.succeed(
        grant,
        pair,
        answer,
        client,
        runtime.rules,
        sealed=sealed,
        attempt=lease.fence,
        sent_at=now,
        now=now,
    )
    return Commit(lease.fence, grant.lineage, grant.version, grant.status, change)


def _without_sealing(runtime: Runtime, leases: Sequence[Lease]) -> float:
    """The processor time of the same commits without opening and sealing."""
    pair = TokenPair("a" * 36, "r" * 80)
    began = time.process_time()
    for lease in leases:
        _committing(runtime, lease, pair, _answer(lease), b"")
    return (time.process_time() - began) / len(leases) * 1e6


async def _cpu_us(step: Callable[[], Awaitable[object]], number: int) -> float:
    """The processor time of one step, over so many steps with a hundred at once."""
    left = number

    async def keep_on() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await step()

    began = time.process_time()
    await asyncio.gather(*(keep_on() for _ in range(AT_ONCE)))
    return (time.process_time() - began) / number * 1e6


def _whole(bed: Bed, number: int) -> tuple[float, float]:
    """A worker's drain: the time of the process that refreshes, and of its main process."""
    with bed.workers() as main:
        child = main.children()[-1]
        before = cpu_seconds(child), cpu_seconds(main)
        with bed.beat():
            bed.wait_until(lambda: bed.refreshed() >= number)
        in_child, in_both = (
            now - then for now, then in zip((cpu_seconds(child), cpu_seconds(main)), before, strict=True)
        )
    return in_child / number * 1e6, (in_both - in_child) / number * 1e6
