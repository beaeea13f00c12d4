"""Token calls a second of one service process, and how long a call takes, beside a bare endpoint.

The bare endpoint reads one key from the same Redis and writes nothing. A token call looks its API key up,
promises, audits, and waits until Redis has that on its disk.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

import aiohttp

from bench.bed import PREFIX, ROOT, Bed, made_up
from tests.support.servers import free_port

OURS: Final = "evergrant"
BARE: Final = "starlette"
GRANTS: Final = 1_000


@dataclass(frozen=True)
class Calls:
    """What callers met.

    Attributes:
        per_second: answers.
        p50_ms, p99_ms: from the request to its answer.
    """

    per_second: float
    p50_ms: float
    p99_ms: float


def measure(contender: str, *, callers: int, number: int) -> Calls:
    """So many calls by so many callers at once, for grants that need no refresh."""
    with made_up() as bed:
        bed.import_grants(GRANTS, due=False)
        port = free_port()
        url = f"http://127.0.0.1:{port}/v1/token/"
        key = bed.run("evergrant", "api-keys", "new", "bench", "--scopes", "tokens").strip()
        with _ours(bed, port) if contender == OURS else _bare(bed, port):
            return asyncio.run(_call(url, key, callers, number))


@contextmanager
def _ours(bed: Bed, port: int) -> Iterator[None]:
    with bed.process("evergrant", "serve", EVERGRANT_HTTP_PORT=str(port)):
        yield


@contextmanager
def _bare(bed: Bed, port: int) -> Iterator[None]:
    key = next(bed.redis.scan_iter(PREFIX + "grant:*", count=1_000)).decode()
    command = [sys.executable, "-m", "bench.contenders.one_key", str(port), bed.redis_url, key]
    with subprocess.Popen(command, cwd=ROOT) as child:  # noqa: S603 our own
        try:
            yield
        finally:
            child.terminate()


async def _call(url: str, key: str, callers: int, number: int) -> Calls:
    took: list[float] = []
    headers = {"Authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(limit=callers)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
        await _until_served(http, url)
        numbers = iter(range(number))

        async def call() -> None:
            for each in numbers:
                began = time.perf_counter()
                async with http.post(f"{url}user-{each % GRANTS:07d}/buddy", json={}) as answer:
                    answer.raise_for_status()
                    await answer.read()
                took.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        seconds = time.perf_counter() - began
    parts = quantiles(took, n=100)
    return Calls(number / seconds, parts[49] * 1000, parts[98] * 1000)


async def _until_served(http: aiohttp.ClientSession, url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            async with http.post(f"{url}user-{0:07d}/buddy", json={}) as answer:
                if answer.ok:
                    return
        except aiohttp.ClientConnectionError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("the service does not answer")
        await asyncio.sleep(0.05)
