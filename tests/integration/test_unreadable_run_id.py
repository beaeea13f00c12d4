"""instance.py and name_instance.lua: a restart is noticed by processes that may not ask for the run id."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.callables import Seed
from tests.support.servers import Valkey, directory_for_sockets, server_version, start_valkey
from worker.adapters.clock import RedisClock
from worker.adapters.store.instance import Instance
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.scripts import Scripts
from worker.core.ports import StoreUnavailableError
from worker.core.providers import Client

WITHOUT_INFO = "managed on >pw ~* +@all -info"
RECOVERY_MS = 60_000

Process = Callable[..., RedisStore]

keeps_no_scripts = pytest.mark.skipif(server_version() < (7, 0), reason="keeps scripts over a restart")


class Servers:
    """A server that keeps its data, and what may happen to it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.present = self._start()

    @property
    def socket(self) -> Path:
        return self.present.socket

    def restart(self) -> None:
        self.present.kill()
        self.present = self._start()

    def _start(self) -> Valkey:
        return start_valkey(self.home, appendonly="yes", appendfsync="always", user=WITHOUT_INFO)


@pytest.fixture
def servers() -> Iterator[Servers]:
    with directory_for_sockets() as home:
        started = Servers(home)
        try:
            yield started
        finally:
            started.present.kill()


@pytest.fixture
def valkey_socket(servers: Servers) -> Path:
    """The server that the fixtures of `conftest.py` use here, as a user who may do everything."""
    return servers.socket


@pytest.fixture
async def process(servers: Servers, prefix: str) -> AsyncIterator[Process]:
    """The store of a process that may not read the run id."""
    connections: list[Redis] = []

    def build(
        owner: str = "this",
        *,
        socket: Path = servers.socket,
        of: str = prefix,
        username: str | None = "managed",
    ) -> RedisStore:
        password = "pw" if username else None
        connections.append(Redis(unix_socket_path=str(socket), username=username, password=password))
        limits = StoreLimits(RECOVERY_MS, 10_000, 60_000, 60_000, 10_000, 10_000)
        scripts = Scripts(connections[-1], of)
        return RedisStore(scripts, RedisClock(), limits, source="evergrant/test", owner=owner)

    yield build
    for connection in connections:
        await connection.aclose()


@keeps_no_scripts
async def test_a_process_that_may_not_read_the_run_id_claims_all_the_same(
    process: Process, client: Client, seed: Seed
) -> None:
    await seed("one")
    store = process()
    await store.finish_recovery(await store.heartbeat(""))
    assert [lease.grant.id for lease in (await store.claim(client, 10, "")).leases] == ["one"]


@keeps_no_scripts
async def test_it_claims_nothing_of_a_server_that_restarted(
    process: Process, servers: Servers, client: Client, seed: Seed
) -> None:
    await seed("one")
    store = process()
    first = await store.heartbeat("")
    await store.finish_recovery(first)
    servers.restart()

    claim = await store.claim(client, 10, "")

    assert (claim.leases, claim.recovering) == ([], True)
    second = await store.heartbeat("")
    assert second.number > first.number
    assert second.recovering


@keeps_no_scripts
async def test_a_server_whose_scripts_another_deployment_gave_back_is_a_restarted_one_all_the_same(
    process: Process, servers: Servers, client: Client
) -> None:
    store = process()
    await store.finish_recovery(await store.heartbeat(""))
    servers.restart()
    await process(of="{another}:").heartbeat("")

    assert (await store.claim(client, 10, "")).recovering


@keeps_no_scripts
async def test_processes_that_meet_a_restart_together_agree_on_one_epoch(
    process: Process, servers: Servers
) -> None:
    stores = [process(f"process-{n}") for n in range(8)]
    before = {epoch.number for epoch in await asyncio.gather(*(store.heartbeat("") for store in stores))}
    servers.restart()

    await asyncio.gather(*(store.heartbeat("") for store in stores))
    epochs = {(await store.heartbeat("")).number for store in stores}

    assert len(epochs) == 1
    assert not epochs & before


@keeps_no_scripts
async def test_a_promoted_replica_is_another_server(
    process: Process, redis: Redis, prefix: str, client: Client
) -> None:
    """The replica has the data, the name in it included; it has not got the scripts under that name."""
    store = process()
    await store.finish_recovery(await store.heartbeat(""))
    with directory_for_sockets() as home:
        replica = start_valkey(home, user=WITHOUT_INFO)
        try:
            promoted = process(socket=replica.socket)
            async with Redis(unix_socket_path=str(replica.socket)) as there:
                data: Any = await redis.dump(prefix + "epoch")
                await there.restore(prefix + "epoch", 0, data)  # what replication would have brought
            await promoted.finish_recovery(await store.heartbeat(""))

            assert (await promoted.claim(client, 10, "")).recovering
        finally:
            replica.kill()


@keeps_no_scripts
async def test_processes_that_may_read_it_and_processes_that_may_not_share_an_epoch(
    process: Process,
) -> None:
    one, other = process("one"), process("other", username=None)
    for store in (one, other):
        await store.heartbeat("")
    agreed = await one.heartbeat("")

    assert await other.heartbeat("") == agreed
    assert await one.heartbeat("") == agreed


@keeps_no_scripts
async def test_a_name_that_was_superseded_elsewhere_begins_an_epoch(
    process: Process, redis: Any, prefix: str, client: Client
) -> None:
    """A failover and back: this server still has the scripts, and the data were another server's since."""
    store = process()
    await store.finish_recovery(await store.heartbeat(""))
    await redis.hset(prefix + "epoch", "named", "0" * 32)

    assert (await store.claim(client, 10, "")).recovering


class OvertakenRedis(Redis):
    """A client that another process overtakes while it loads its scripts."""

    overtake: Callable[[], Awaitable[None]]
    is_overtaken = False

    async def script_load(self, *args: Any, **options: Any) -> Any:
        if not self.is_overtaken:
            self.is_overtaken = True
            await self.overtake()
        return await super().script_load(*args, **options)


@keeps_no_scripts
async def test_the_first_of_two_names_counts(servers: Servers, redis: Redis, prefix: str) -> None:
    async with OvertakenRedis(unix_socket_path=str(servers.socket)) as slower:
        first, second = Instance(redis, prefix), Instance(slower, prefix)
        slower.overtake = first.find

        await second.find()

    assert first.name is not None
    assert second.name == first.name


@pytest.mark.skipif(server_version() >= (7, 0), reason="keeps no scripts over a restart")
async def test_a_server_that_keeps_scripts_must_let_us_read_its_run_id(process: Process) -> None:
    with pytest.raises(StoreUnavailableError, match=r"^INFO is refused.*allow it"):
        await process().heartbeat("")
