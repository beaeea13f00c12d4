"""What a sweep and a claim cost, by the number of stored grants.

Rules:
- Each size has a store of its own, and the stores take turns, because the machine's speed drifts. The
  product's import script fills them, with one sealed pair for all grants: nothing here unseals them.
- The sweep and the claim are those of the worker's tasks. The sweep finds nothing due. The claimed grants are
  spread over all stored ones, and are given back before the next claim.
- Each cost is the median of many calls, in microseconds: for the caller, from call to reply with its fsync;
  and on the server, the script alone.
"""

import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import Final, TypeVar
from unittest.mock import patch

from bench.bed import CLIENT, PREFIX, Bed, line_of, made_up
from config import load_settings
from worker.core import lifecycle
from worker.core.grant import Grant
from worker.core.interchange import read_line
from worker.core.ports import Claim
from worker.core.providers import Client
from worker.refreshing.drain import CHUNK
from worker.runtime.assembly import Runtime, open_runtime
from worker.runtime.deployment import deploy

SIZES: Final = (50, CHUNK)  # of a claim in a fleet without a backlog, and in one with a backlog
REPEATS: Final = 200
WARM_UPS: Final = 20
IMPORTED_TOGETHER: Final = 1000
LONG_AGO: Final = 1  # Unix milliseconds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Taken:
    """Microseconds that one call took."""

    us: float
    on_server_us: float


@dataclass(frozen=True, slots=True)
class Store:
    """A store of one size, and what talks to it."""

    stored: int
    bed: Bed
    runtime: Runtime


def measure(stored: Sequence[int]) -> list[dict[str, float]]:
    """What both cost at each of these sizes."""
    return asyncio.run(_measure(stored))


async def _measure(stored: Sequence[int]) -> list[dict[str, float]]:
    async with AsyncExitStack() as opened:
        stores = [await open_store(opened, number) for number in stored]
        taken: list[defaultdict[str, list[Taken]]] = [defaultdict(list) for _ in stores]
        for turn in range(WARM_UPS + REPEATS):
            for store, of_store in zip(stores, taken, strict=True):
                # Each time: seconds without a heartbeat would begin an epoch, and nothing could be claimed.
                await store.runtime.store.finish_recovery(await store.runtime.store.heartbeat(""))
                of_store["sweep"].append(await _sweep(store))
                for size in SIZES:
                    of_store[f"claim_of_{size}"].append(await _claim(store, size, turn))
    return [
        {"stored": store.stored, **_medians(of_store)} for store, of_store in zip(stores, taken, strict=True)
    ]


async def open_store(opened: AsyncExitStack, number: int, clients: int = 1) -> Store:
    """A store of so many grants, of so many clients, at rest."""
    bed = opened.enter_context(made_up())
    with patch.dict(os.environ, bed.environment):
        runtime = await opened.enter_async_context(open_runtime(deploy(load_settings(), print)))
    await _fill(runtime, number, clients)
    bed.prove_client()
    bed.wait_until(lambda: _is_at_rest(bed))
    return Store(number, bed, runtime)


async def _fill(runtime: Runtime, number: int, clients: int) -> None:
    """Import so many grants; none is due for hours. Only the first client is configured."""
    now, client = await runtime.registry.now(), _client(runtime)
    line = read_line(json.dumps(line_of(0, datetime.now(UTC))), {CLIENT: client}, now)
    sealed = runtime.deployment.keys.seal(line.grant, line.pair)
    model = replace(line.grant, sealed=sealed)
    for start in range(0, number, IMPORTED_TOGETHER):
        places = range(start, min(start + IMPORTED_TOGETHER, number))
        await asyncio.gather(
            *(
                _import_grant(runtime, replace(model, id=_id(place), client=_name(place % clients)), now)
                for place in places
            )
        )


async def _import_grant(runtime: Runtime, grant: Grant, now: int) -> None:
    change = lifecycle.admit(grant, _client(runtime), runtime.rules, now)
    await runtime.registry.import_grant(change, replaces=None)


async def _sweep(store: Store) -> Taken:
    """Sweep while nothing is due."""
    started, taken = await _timed(store.bed, store.runtime.sweeping.reserve_runners())
    if started:
        raise RuntimeError("a sweep found something due")
    return taken


async def _claim(store: Store, size: int, turn: int) -> Taken:
    """Make so many grants due, claim them and give them back; other grants each time."""
    runtime, spacing = store.runtime, max(store.stored // size, 1)
    chosen = {_id((turn + place * spacing) % store.stored): LONG_AGO for place in range(size)}
    store.bed.redis.zadd(f"{PREFIX}schedule:{CLIENT}", chosen)
    claim, taken = await _timed(store.bed, runtime.store.claim(_client(runtime), size, ""))
    if len(claim.leases) != len(chosen):
        raise RuntimeError(f"claimed {len(claim.leases)} of {len(chosen)}; recovering: {claim.recovering}")
    await _give_back(runtime, claim)
    return taken


async def _give_back(runtime: Runtime, claim: Claim) -> None:
    client = _client(runtime)
    changes = [lifecycle.admit(lease.grant, client, runtime.rules, claim.now) for lease in claim.leases]
    await asyncio.gather(*map(runtime.store.record_outcome, claim.leases, changes))


async def _timed(bed: Bed, call: Awaitable[T]) -> tuple[T, Taken]:
    on_server = _script_us(bed)
    began = time.perf_counter()
    answer = await call
    seconds = time.perf_counter() - began
    return answer, Taken(seconds * 1e6, _script_us(bed) - on_server)


def _script_us(bed: Bed) -> float:
    """How long the server has spent in scripts."""
    return float(bed.redis.info("commandstats")["cmdstat_evalsha"]["usec"])


def _is_at_rest(bed: Bed) -> bool:
    """Whether the server is not rewriting its log; it does so for a while after a store has grown."""
    state = bed.redis.info("persistence")
    return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]


def _medians(taken: Mapping[str, Sequence[Taken]]) -> dict[str, float]:
    """The median of each kind, without the first calls: one of them had to load the script."""
    medians = {}
    for kind, each in taken.items():
        medians[f"{kind}_us"] = median(one.us for one in each[WARM_UPS:])
        medians[f"{kind}_on_server_us"] = median(one.on_server_us for one in each[WARM_UPS:])
    return medians


def _client(runtime: Runtime) -> Client:
    return runtime.clients.get(CLIENT, 0)


def _name(number: int) -> str:
    return f"{CLIENT}_{number}" if number else CLIENT


def _id(number: int) -> str:
    return f"user-{number:07d}/buddy"
