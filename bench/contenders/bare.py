"""A loop that only asks for tokens: no store, no sealing, no rules.

    python -m bench.contenders.bare KIND URL IN_FLIGHT NUMBER

Prints the seconds from the first request to the last answer, and the processor seconds between them, as JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import urlencode

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

Ask = Callable[[], Awaitable[bytes]]

FORM: Final = {
    "grant_type": "refresh_token",
    "refresh_token": "r" * 80,
    "client_id": "bench",
    "client_secret": "bench",
}
TYPE: Final = {"Content-Type": "application/x-www-form-urlencoded"}
# Generous: a request that waits for a connection uses up its deadline.
PATIENCE_SECONDS: Final = 60.0
NO_LIMIT: Final = httpx.Limits(max_connections=10_000, max_keepalive_connections=10_000)


async def _httpx(url: str, opened: AsyncExitStack) -> Ask:
    """Httpx as it comes."""
    client = await opened.enter_async_context(httpx.AsyncClient(limits=NO_LIMIT, timeout=PATIENCE_SECONDS))

    async def ask() -> bytes:
        return (await client.post(url, data=FORM)).content

    return ask


async def _httpx_over_aiohttp(url: str, opened: AsyncExitStack) -> Ask:
    """Httpx's client over aiohttp's transport, the fastest that fits its API."""
    transport = AiohttpTransport(limits=NO_LIMIT)
    client = await opened.enter_async_context(
        httpx.AsyncClient(transport=transport, timeout=PATIENCE_SECONDS)
    )

    async def ask() -> bytes:
        return (await client.post(url, data=FORM)).content

    return ask


async def _transport(url: str, opened: AsyncExitStack) -> Ask:
    """The same transport, called directly."""
    transport = await opened.enter_async_context(AiohttpTransport(limits=NO_LIMIT))
    headers, body = TYPE, urlencode(FORM).encode()

    async def ask() -> bytes:
        request = httpx.Request("POST", url, headers=headers, content=body)
        response = await transport.handle_async_request(request)
        try:
            return await response.aread()
        finally:
            await response.aclose()

    return ask


async def _aiohttp(url: str, opened: AsyncExitStack) -> Ask:
    """Aiohttp's own client."""
    connector = aiohttp.TCPConnector(limit=0)
    session = await opened.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def ask() -> bytes:
        async with session.post(url, data=FORM) as response:
            return await response.read()

    return ask


KINDS: Final = {
    "httpx": _httpx,
    "httpx-aiohttp": _httpx_over_aiohttp,
    "transport": _transport,
    "aiohttp": _aiohttp,
}


async def _drain(ask: Ask, in_flight: int, number: int) -> None:
    left = number

    async def keep_asking() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            json.loads(await ask())

    await asyncio.gather(*(keep_asking() for _ in range(in_flight)))


async def _main(kind: str, url: str, in_flight: int, number: int) -> None:
    async with AsyncExitStack() as opened:
        ask = await KINDS[kind](url, opened)
        wall, cpu = time.perf_counter(), time.process_time()
        await _drain(ask, in_flight, number)
        taken = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    sys.stdout.write(json.dumps(taken) + "\n")


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
