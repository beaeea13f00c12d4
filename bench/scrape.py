"""What a scrape of /metrics costs, by the number of stored grants and of clients.

Rules:
- Each size has a store of its own, filled by the product's import script. None of its grants is due.
- Each cost is the median of many scrapes, in milliseconds: on the server, the scripts of a scrape together;
  for the service, a whole scrape, and the making of its text, which is done beside the event loop.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any, Final

from bench.claims import Store, open_store
from worker.adapters.exposition import expose

REPEATS: Final = 50
WARM_UPS: Final = 5


def measure(sizes: Sequence[tuple[int, int]]) -> list[dict[str, float]]:
    """What it costs at each of these sizes: grants and clients."""
    return [asyncio.run(_measure(grants, clients)) for grants, clients in sizes]


async def _measure(grants: int, clients: int) -> dict[str, float]:
    async with AsyncExitStack() as opened:
        store = await open_store(opened, grants, clients)
        taken = [await _scrape(store) for _ in range(WARM_UPS + REPEATS)][WARM_UPS:]
    costs = {name: median(each[name] for each in taken) for name in taken[0]}
    return {"grants": grants, "clients": clients, **costs}


async def _scrape(store: Store) -> dict[str, float]:
    on_server = _server_us(store)
    began = time.perf_counter()
    await store.runtime.metrics.text()
    scraped = time.perf_counter() - began
    on_server = _server_us(store) - on_server
    measures = await store.runtime.metrics.read()
    began = time.perf_counter()
    text, _ = expose(measures)
    return {
        "on_server_ms": on_server / 1000,
        "scrape_ms": scraped * 1000,
        "text_ms": (time.perf_counter() - began) * 1000,
        "kilobytes": len(text) / 1000,
    }


def _server_us(store: Store) -> float:
    """How long the server has spent in what grows with clients; a script's own commands are within it."""
    stats: dict[str, Any] = store.bed.redis.info("commandstats")
    return sum(float(stats.get(f"cmdstat_{name}", {"usec": 0})["usec"]) for name in ("evalsha", "smembers"))
