"""The configured token endpoints, asked whether they are what the settings say."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Protocol

from worker.core.providers import Client
from worker.core.reachability import Reach, Reached

AT_ONCE: Final = 64
DEADLINE_SECONDS: Final = 30.0


class Reachable(Protocol):
    """Whatever asks a token endpoint the harmless question."""

    async def reach(self, client: Client) -> Reached:
        """Ask a client's once, within a deadline. Sends no token and no secret."""


async def examine(
    endpoint: Reachable, clients: Iterable[Client], *, deadline_seconds: float = DEADLINE_SECONDS
) -> Mapping[str, Reached]:
    """Ask each token URL once, as one of its clients, several at once; returns what came of it by URL.

    A URL that could not be asked before the deadline has timed out.
    """
    one_of_each = {client.token_url: client for client in clients}
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(client: Client) -> Reached:
        async with slots:
            return await endpoint.reach(client)

    asking = {url: asyncio.create_task(ask(one_of_each[url])) for url in sorted(one_of_each)}
    if asking:
        await asyncio.wait(asking.values(), timeout=deadline_seconds)
    late = [task for task in asking.values() if task.cancel()]
    await asyncio.gather(*late, return_exceptions=True)
    return {url: Reached(Reach.TIMES_OUT) if task in late else task.result() for url, task in asking.items()}


def clients_by_url(clients: Iterable[Client]) -> Mapping[str, list[str]]:
    """The names of the clients that use each token URL."""
    names: dict[str, list[str]] = {}
    for client in sorted(clients, key=lambda each: each.name):
        names.setdefault(client.token_url, []).append(client.name)
    return names


def registered_twice(clients: Iterable[Client]) -> Collection[list[str]]:
    """Clients that are one registration at the same server: settings that were swapped or copied."""
    names: dict[tuple[str, str], list[str]] = {}
    for client in sorted(clients, key=lambda each: each.name):
        names.setdefault((client.token_url, client.client_id), []).append(client.name)
    return [each for each in names.values() if len(each) > 1]
