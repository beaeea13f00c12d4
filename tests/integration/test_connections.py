"""Connections to the servers that people have: TLS, passwords, a cluster, a failover behind one address."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kombu
import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from config import load_settings
from tests.support.certificates import CertificateFiles, issue_certificate
from tests.support.proxy import OneAddress
from tests.support.servers import Valkey, directory_for_sockets, free_port, start_valkey
from tests.support.waiting import until
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.signatures import Heartbeat
from worker.core.ports import StoreUnavailableError
from worker.runtime.connections import broker, connect
from worker.runtime.deployment import deploy
from worker.runtime.store_checks import check_store

Start = Callable[..., Valkey]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server of one's own; it ends with the test."""
    with directory_for_sockets() as home, ExitStack() as ended:

        def server(name: str, **options: str) -> Valkey:
            (home / name).mkdir()
            started = start_valkey(home / name, **options)
            ended.callback(started.kill)
            return started

        yield server


@pytest.fixture
def reach_broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Let Celery's client connect to a broker of this URL."""
    monkeypatch.chdir(tmp_path)

    def reach(url: str) -> None:
        monkeypatch.setenv("EVERGRANT_BROKER_URL", url)
        told = broker(load_settings())
        options = {"socket_timeout": 5, "max_retries": 0, **told.options}
        with kombu.Connection(told.url, ssl=told.tls or False, transport_options=options) as connection:
            channel: Any = connection.default_channel
            channel.client.ping()

    return reach


async def answers(url: str) -> bool:
    """Whether the store answers at this URL."""
    async with connect(url, "{test}:") as redis:
        client: Any = redis
        return bool(await client.ping())


# TLS


@pytest.fixture(scope="module")
def server_files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return issue_certificate(tmp_path_factory.mktemp("server"), "redis")


@pytest.fixture(scope="module")
def client_files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return issue_certificate(tmp_path_factory.mktemp("client"), "evergrant")


@pytest.fixture
async def over_tls(
    valkey_socket: Path, server_files: CertificateFiles, client_files: CertificateFiles
) -> AsyncIterator[str]:
    """The URL of a server that asks its clients for a certificate, without options."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(server_files.certificate, server_files.key)
    tls.load_verify_locations(client_files.authority)
    tls.verify_mode = ssl.CERT_REQUIRED
    async with OneAddress(valkey_socket, tls).running() as address:
        yield f"rediss://127.0.0.1:{address.port}/0"


async def test_a_private_authority_and_a_client_certificate_serve_store_and_broker_alike(
    over_tls: str,
    server_files: CertificateFiles,
    client_files: CertificateFiles,
    reach_broker: Callable[[str], None],
) -> None:
    ours = f"ssl_certfile={client_files.certificate}&ssl_keyfile={client_files.key}"
    trusting = f"{over_tls}?ssl_ca_certs={server_files.authority}&{ours}"
    assert await answers(trusting)
    await asyncio.to_thread(reach_broker, trusting)

    for wrong in (f"?{ours}", f"?ssl_ca_certs={server_files.authority}"):
        with pytest.raises(RedisError):
            await answers(over_tls + wrong)
        with pytest.raises(Exception, match=r"(?i)ssl|certificate|connection"):
            await asyncio.to_thread(reach_broker, over_tls + wrong)


async def test_a_certificate_that_is_not_verified_is_warned_of(
    over_tls: str,
    client_files: CertificateFiles,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ours = f"ssl_certfile={client_files.certificate}&ssl_keyfile={client_files.key}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", f"{over_tls}?ssl_cert_reqs=none&{ours}")
    monkeypatch.setenv("EVERGRANT_KEYS", "k1:" + "A" * 43 + "=")
    warnings = await asyncio.to_thread(check_store, deploy(load_settings(), lambda _: None))
    assert warnings[0].startswith("EVERGRANT_REDIS_URL: the server's certificate is not verified")
    assert any("append-only file" in warning for warning in warnings), "the server was not asked"


# Users and passwords

SPECIAL = "p@ss:w/o?r%d[]&=+,;é"


@pytest.mark.parametrize("place", ["tcp", "ipv6", "unix"])
async def test_any_character_may_be_in_a_user_and_a_password(
    start: Start, place: str, reach_broker: Callable[[str], None]
) -> None:
    port = str(free_port())
    server = start("s", port=port, bind="127.0.0.1 ::1")
    async with Redis(unix_socket_path=str(server.socket)) as redis:
        client: Any = redis
        await client.execute_command("ACL", "SETUSER", "us:er", "on", f">{SPECIAL}", "~*", "&*", "+@all")
        await client.execute_command("ACL", "SETUSER", "default", "off")
    login = f"{quote('us:er', safe='')}:{quote(SPECIAL, safe='')}@"
    where = {"tcp": f"127.0.0.1:{port}/1", "ipv6": f"[::1]:{port}/1", "unix": f"{server.socket}?db=1"}
    url = f"{'unix' if place == 'unix' else 'redis'}://{login}{where[place]}"

    assert await answers(url)
    await asyncio.to_thread(reach_broker, url)


# A cluster


async def test_the_node_that_has_the_slot_is_found_and_followed_when_the_slot_moves(start: Start) -> None:
    prefix = "{evergrant}:"
    slot = key_slot(prefix.encode())
    ports = [free_port(), free_port()]
    options = {"cluster_enabled": "yes", "cluster_require_full_coverage": "no", "bind": "127.0.0.1"}
    servers = [start(f"n{port}", port=str(port), **options) for port in ports]
    first, second = (Redis(unix_socket_path=str(server.socket)) for server in servers)
    nodes: list[Any] = [first, second]
    try:
        names = [(await node.execute_command("CLUSTER", "MYID")).decode() for node in nodes]
        await nodes[1].execute_command("CLUSTER", "ADDSLOTS", slot)
        await nodes[0].execute_command("CLUSTER", "ADDSLOTS", 0)
        await nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", ports[1])
        async with connect(f"redis-cluster://127.0.0.1:{ports[0]}", prefix) as redis:
            await until(lambda: _knows(nodes[0], slot, ports[1]))
            await until(lambda: _is_up(redis))
            await Scripts(redis, prefix).run(Heartbeat("this", 1000, None))
            assert await nodes[1].dbsize() > 0

            await nodes[1].flushall()
            for node in reversed(nodes):
                await node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[0])
            await until(lambda: _knows(nodes[1], slot, ports[0]))
            await until(lambda: _is_up(nodes[0]))
            await Scripts(redis, prefix).run(Heartbeat("this", 1000, None))
            assert await nodes[0].dbsize() > 0
    finally:
        for node in nodes:
            await node.aclose()


async def _knows(node: Any, slot: int, port: int) -> bool:
    ranges = await node.execute_command("CLUSTER", "SLOTS")
    return (slot, port) in [(first, primary[1]) for first, _, primary, *_ in ranges]


async def _is_up(redis: Any) -> bool:
    try:
        return bool(await redis.set("{evergrant}:barrier", ""))
    except RedisError:
        return False


# A failover behind one address


async def test_a_primary_that_became_a_replica_behind_one_address_is_left(start: Start, prefix: str) -> None:
    old, new = start("old", port="0"), start("new", port="0")
    async with (
        OneAddress(old.socket).running() as address,
        connect(f"redis://127.0.0.1:{address.port}", prefix) as redis,
        Redis(unix_socket_path=str(old.socket)) as demoted,
    ):
        scripts = Scripts(redis, prefix)
        await scripts.run(Heartbeat("this", 1000, None))
        await demoted.replicaof("127.0.0.1", "1")  # nobody is there: it stays a replica
        address.server = new.socket

        with pytest.raises(StoreUnavailableError):
            await scripts.run(Heartbeat("this", 1000, None))
        _, epoch, *_ = await scripts.run(Heartbeat("this", 1000, None))
        assert epoch > 0
