"""What due grants cost when they belong to thousands of clients, beside as many grants of one client.

Rules:
- Each fleet has a deployment of its own, with its clients in one file. All of its grants are due, and nothing
  is sent: the cost is that of sweeps, claims and reads alone.
- Claims are made as a drain makes them: page by page, several at once, and no more for a client than its
  share of the slots.
- Redis's cost is the processor time of its process, its log included. Wall time includes its fsyncs.
- A worker is timed from exec to its `ready` line, and until Redis would let each of its processes claim. Its
  processor time until then is that of all its processes.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Final, TypeVar
from unittest.mock import patch

from bench.bed import ACCESS_SECONDS, PREFIX, Bed, cpu_seconds, line_of, made_up
from config import load_settings
from worker.core import lifecycle
from worker.core.interchange import read_line
from worker.refreshing.drain import CALLS_AT_ONCE, CHUNK, PAGE
from worker.refreshing.slots import WORTH_A_CLAIM
from worker.runtime.assembly import Runtime, open_runtime
from worker.runtime.deployment import deploy

IMPORTED_TOGETHER: Final = 1000
HEARTBEAT_SECONDS: Final = 1.0  # longer without one, and an epoch would begin
LONG_LEASES: Final = 60  # seconds of a request: on a busy machine leases would run out among the claims
CONCURRENCIES: Final = (1, 2)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many clients with so many grants together."""

    clients: int
    grants: int


def measure(clients: int, grants: int, repeats: int) -> dict[str, object]:
    """The costs of one client's grants and of as many of `clients`, and a worker's start with these."""
    fleets = (Fleet(1, grants), Fleet(clients, grants))
    costs = [[_costs(fleet) for fleet in fleets] for _ in range(repeats)]
    return {
        "fleets": [
            {"clients": fleet.clients, "grants": grants, **_medians([turn[place] for turn in costs])}
            for place, fleet in enumerate(fleets)
        ],
        "start": [_start(clients, processes, repeats) for processes in CONCURRENCIES],
    }


def _medians(costs: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(each[name] for each in costs) for name in costs[0]}


@contextmanager
def _deployed(clients: int) -> Iterator[Bed]:
    with made_up(log_level="info", http_timeout_seconds=LONG_LEASES) as bed:
        fields = [name for name in bed.environment if name.startswith("EVERGRANT_CLIENTS__")]
        for name in fields:
            del bed.environment[name]
        path = bed.directory / "clients.json"
        path.write_text(
            json.dumps({"clients": {_name(place): _client(bed, place) for place in range(clients)}})
        )
        path.chmod(0o600)
        bed.environment["EVERGRANT_CLIENTS_FILE"] = str(path)
        yield bed


def _name(place: int) -> str:
    return f"tenant-{place:05d}"


def _client(bed: Bed, place: int) -> dict[str, str]:
    return {
        "provider": "oauth2",
        "client_id": f"id-{place}",
        "client_secret": f"secret of {place}",
        "token_url": bed.endpoint_url,
    }


def _costs(fleet: Fleet) -> dict[str, float]:
    with _deployed(fleet.clients) as bed, patch.dict(os.environ, bed.environment):
        return asyncio.run(_measure(bed, fleet))


async def _measure(bed: Bed, fleet: Fleet) -> dict[str, float]:
    async with open_runtime(deploy(load_settings(), print)) as runtime:
        await _fill(bed, runtime, fleet)
        beating = asyncio.create_task(_beat(runtime))
        await runtime.store.claim(runtime.clients.get(_name(0), 0), 0, "")  # loads the script
        taken = {
            "sweep": await _timed(bed, runtime.sweeping.reserve_runners),
            "status": await _timed(bed, lambda: _read_all(runtime)),
            "claims": await _timed(bed, lambda: _claim_all(runtime, fleet)),
        }
        beating.cancel()
    return {f"{what}_{how}": value for what, each in taken.items() for how, value in each.items()}


async def _fill(bed: Bed, runtime: Runtime, fleet: Fleet) -> None:
    """Import the grants, all of them due; one sealed pair serves for all, because nothing unseals it."""
    client, now = runtime.clients.get(_name(0), 0), await runtime.registry.now()
    issued_at = datetime.now(UTC) - timedelta(seconds=ACCESS_SECONDS * 7 / 8)
    line = read_line(json.dumps(line_of(0, issued_at) | {"client": client.name}), {client.name: client}, now)
    model = replace(line.grant, sealed=runtime.deployment.keys.seal(line.grant, line.pair))

    async def store(place: int) -> None:
        grant = replace(model, id=f"user-{place:07d}", client=_name(place % fleet.clients))
        change = lifecycle.admit(grant, client, runtime.rules, now)
        await runtime.registry.import_grant(change, replaces=None)

    for begin in range(0, fleet.grants, IMPORTED_TOGETHER):
        await asyncio.gather(*map(store, range(begin, min(begin + IMPORTED_TOGETHER, fleet.grants))))
    for each in runtime.clients:  # as if each had refreshed a grant long ago
        bed.redis.hset(f"{PREFIX}client:{each.name}", "proved", each.registration)
    bed.wait_until(lambda: not bed.redis.info("persistence")["aof_rewrite_in_progress"])


async def _beat(runtime: Runtime) -> None:
    while True:
        await runtime.store.finish_recovery(await runtime.store.heartbeat(""))
        await asyncio.sleep(HEARTBEAT_SECONDS)


async def _read_all(runtime: Runtime) -> None:
    await runtime.fleet_state.of_clients(await runtime.fleet_state.client_names())


async def _claim_all(runtime: Runtime, fleet: Fleet) -> None:
    """Claim every grant.

    Raises:
        RuntimeError: nothing is due any more, and some were not claimed.
    """
    limit, claimed = CHUNK if fleet.clients == 1 else WORTH_A_CLAIM, 0
    while claimed < fleet.grants:
        names = list((await runtime.store.due_clients(0, PAGE)).names)
        if not names:
            raise RuntimeError(f"claimed {claimed} of {fleet.grants}")
        while names:
            some, names = names[:CALLS_AT_ONCE], names[CALLS_AT_ONCE:]
            asked = [runtime.store.claim(runtime.clients.get(name, 0), limit, "") for name in some]
            claims = await asyncio.gather(*asked)
            claimed += sum(len(claim.leases) for claim in claims)
            names += [name for name, claim in zip(some, claims, strict=True) if not claim.drained]


async def _timed(bed: Bed, work: Callable[[], Awaitable[object]]) -> dict[str, float]:
    used, began = _redis_seconds(bed), time.perf_counter()
    await work()
    return {"seconds": time.perf_counter() - began, "redis_seconds": _redis_seconds(bed) - used}


def _redis_seconds(bed: Bed) -> float:
    """Processor time of the server's process."""
    used = bed.redis.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def _start(clients: int, processes: int, repeats: int) -> dict[str, float]:
    taken = [_start_once(clients, processes) for _ in range(repeats)]
    return {"processes": processes, "clients": clients, **_medians(taken)}


def _start_once(clients: int, processes: int) -> dict[str, float]:
    with _deployed(clients) as bed:
        began = datetime.now(UTC)
        with bed.workers(processes) as main:
            bed.wait_until(lambda: bed.redis.scard(PREFIX + "recovered") >= processes)
            may_claim, used = datetime.now(UTC), cpu_seconds(main)
            bed.wait_until(lambda: _ready_at(bed) is not None)
            ready = _ready_at(bed) or may_claim
    return {
        "ready_seconds": (ready - began).total_seconds(),
        "may_claim_seconds": (may_claim - began).total_seconds(),
        "processor_seconds": used,
    }


def _ready_at(bed: Bed) -> datetime | None:
    """When the worker logged that it is ready."""
    for line in (bed.directory / "celery.log").read_text().splitlines():
        if ' ready."' in line:
            return datetime.fromisoformat(json.loads(line)["timestamp"])
    return None
