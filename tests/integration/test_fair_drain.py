"""One process and many clients: what hangs at one of them delays no other."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from tests.support.callables import Configure, Enroll, OpenRefresher, SeedSealed
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Grant
from worker.core.ports import Claim, DueClients
from worker.core.providers import Client
from worker.core.registry import StoredGrant
from worker.refresher import Refresher
from worker.refreshing import drain, slots
from worker.refreshing.slots import FIRST
from worker.sandbox.client import Sandbox

HANGING_CLIENTS = 12


class Silence:
    """A server that takes requests and never says a word.

    Attributes:
        url: what each client's token endpoint begins with.
        requests: how many have come.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests = 0
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Silence"]:
        """Listen for as long as the block lasts."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self.end()
            server.close()

    def end(self) -> None:
        """Break off every connection."""
        for writer in self._open:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        while await reader.read(65536):
            self.requests += 1


@pytest.fixture
async def silence() -> AsyncIterator[Silence]:
    """The server that hangs."""
    async with Silence().listening() as server:
        yield server


HangingRefresher = Callable[..., Awaitable[Refresher]]


@pytest.fixture
def open_among_hanging(
    silence: Silence,
    sandbox: Sandbox,
    configure: Configure,
    open_refresher: OpenRefresher,
    seed_sealed: SeedSealed,
) -> HangingRefresher:
    """A refresher with a healthy client, beside many with due grants whose endpoints hang."""

    async def start() -> Refresher:
        clients = configure(sandbox.token_url)
        for place in range(HANGING_CLIENTS):
            clients = configure(f"{silence.url}/{place}", f"h{place}")
        for place in range(HANGING_CLIENTS):
            for number in range(10):
                await seed_sealed(f"h{place}-{number}", client=f"h{place}")
        return await open_refresher(clients, in_flight=20, paced=True)

    return start


async def _until_rotated(registry: RedisRegistry, grants: list[Grant]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all([(await _find(registry, grant.id)).grant.version for grant in grants]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def _find(registry: RedisRegistry, grant_id: str) -> StoredGrant:
    stored = await registry.find(grant_id)
    assert stored is not None
    return stored


@pytest.mark.slow
async def test_hanging_endpoints_keep_no_other_client_waiting(
    silence: Silence,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_among_hanging: HangingRefresher,
    registry: RedisRegistry,
) -> None:
    grants = await enroll(sandbox, configure(sandbox.token_url), 60, age=0.8)  # due last
    refresher = await open_among_hanging()
    stopping: list[bool] = []
    draining = asyncio.create_task(refresher.drain("", lambda: bool(stopping)))

    await _until_rotated(registry, grants)

    assert silence.requests
    leased = Counter(lease.grant.client for lease in refresher.held())
    assert max(leased.values()) <= FIRST  # nothing is leased ahead of what hangs
    stopping.append(True)
    silence.end()
    await draining


@pytest.mark.parametrize("lately_seconds", [30.0, 0.0])
async def test_a_drain_whose_time_is_up_goes_on_for_those_that_answered_last_while_others_hang(
    silence: Silence,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_among_hanging: HangingRefresher,
    registry: RedisRegistry,
    monkeypatch: pytest.MonkeyPatch,
    lately_seconds: float,
) -> None:
    monkeypatch.setattr(slots, "LATELY_SECONDS", lately_seconds)
    before = await enroll(sandbox, configure(sandbox.token_url), 5)
    refresher = await open_among_hanging()
    late: list[bool] = []
    claimed_late: set[str] = set()
    claim = RedisStore.claim

    async def noted(store: RedisStore, client: Client, limit: int, runner: str) -> Claim:
        if late:
            claimed_late.add(client.name)
        return await claim(store, client, limit, runner)

    monkeypatch.setattr(RedisStore, "claim", noted)
    draining = asyncio.create_task(refresher.drain("", lambda: False, winds_down=lambda: bool(late)))
    await _until_rotated(registry, before)
    late.append(True)

    came_due_later = await enroll(sandbox, configure(sandbox.token_url), 30)
    await _until_rotated(registry, came_due_later)
    assert silence.requests
    assert claimed_late == {"acme"}  # what was claimed before may be sent, or sent once more
    assert not draining.done()

    silence.end()  # each is sent once more under its lease, and that hangs as well
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not draining.done():
            silence.end()
            await asyncio.sleep(0.02)


async def test_the_store_looks_at_one_page_of_due_clients_a_second_however_many_there_are(
    silence: Silence, open_among_hanging: HangingRefresher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "LOOK_UP_SECONDS", second := 0.05)
    monkeypatch.setattr(drain, "PAGE", HANGING_CLIENTS // 3)
    listings: list[float] = []
    enough = asyncio.Event()
    due_clients = RedisStore.due_clients

    async def noted(store: RedisStore, offset: int, limit: int) -> DueClients:
        if offset == 0:
            listings.append(asyncio.get_running_loop().time())
        if len(listings) == 5:
            enough.set()
        return await due_clients(store, offset, limit)

    monkeypatch.setattr(RedisStore, "due_clients", noted)
    refresher = await open_among_hanging()
    draining = asyncio.create_task(refresher.drain("", enough.is_set))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await enough.wait()
        while not draining.done():
            silence.end()
            await asyncio.sleep(0.02)

    pages = 4  # the last one is empty
    gaps = [later - earlier for earlier, later in pairwise(listings)]
    assert min(gaps) >= pages * second
