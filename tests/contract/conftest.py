"""The stores under one contract, each with a way to move its time and to look at its grants."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from redis.asyncio import Redis

from tests.support.in_memory_store import InMemoryStore
from worker.adapters.clock import RedisClock
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.store.event_stream import RedisEventStream
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.grant import Grant, Status, lineage_of
from worker.core.lifecycle import Change
from worker.core.ports import Store
from worker.core.providers import OAUTH2, Client
from worker.core.registry import ImportVerdict, Operation, StoredGrant

if TYPE_CHECKING:
    from pathlib import Path

MINUTE_MS = 60_000
CLIENT = Client("acme", OAUTH2, "http://127.0.0.1:9/token", "id", (ClientSecretPost("secret"),))


class Subject(Protocol):
    """A store under the contract, and what a test needs besides the port."""

    store: Store

    async def now(self) -> int:
        """The store's clock."""

    async def put(self, grant: Grant, due_at: int | None) -> None:
        """Import a grant."""

    async def pause(self, grant_id: str) -> None:
        """Pause a grant, as an operator does."""

    async def found(self, grant_id: str) -> StoredGrant:
        """A grant as it is stored."""

    async def events(self) -> list[str]:
        """The types of all events so far."""

    async def make_probes_due(self) -> None:
        """Let the next half-open probes be due now, as waiting would."""


class InRedis:
    """The real one."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        scripts = Scripts(redis, prefix)
        self.store: Store = RedisStore(
            scripts,
            RedisClock(),
            StoreLimits(
                lease_ms=MINUTE_MS,
                events_kept=1_000,
                first_probe_ms=MINUTE_MS,
                longest_probe_ms=MINUTE_MS,
                first_endpoint_probe_ms=MINUTE_MS,
                longest_endpoint_probe_ms=MINUTE_MS,
            ),
            source="evergrant/test",
            owner="this",
        )
        self._redis: Any = redis
        self._prefix = prefix
        self._registry = RedisRegistry(redis, scripts, prefix)
        self._stream = RedisEventStream(redis, prefix)

    async def now(self) -> int:
        return await self._registry.now()

    async def put(self, grant: Grant, due_at: int | None) -> None:
        await self._redis.hset(f"{self._prefix}client:{CLIENT.name}", "proved", CLIENT.registration)
        result = await self._registry.import_grant(Change(grant, due_at, None, None), replaces=None)
        assert result.verdict is ImportVerdict.STORED

    async def pause(self, grant_id: str) -> None:
        await self._registry.operate(grant_id, Operation.PAUSE)

    async def found(self, grant_id: str) -> StoredGrant:
        stored = await self._registry.find(grant_id)
        assert stored is not None
        return stored

    async def events(self) -> list[str]:
        return [entry.event["type"] for entry in await self._stream.read("0-0")]

    async def make_probes_due(self) -> None:
        await self._redis.hset(f"{self._prefix}client:{CLIENT.name}", "probe_at", "1")
        await self._redis.hset(f"{self._prefix}endpoint:{CLIENT.token_url}", "probe_at", "1")


class InMemory:
    """The double, with a clock that each look moves on by a millisecond."""

    def __init__(self) -> None:
        self._at = 1_700_000_000_000
        self._double = InMemoryStore(self._tick, lease_ms=MINUTE_MS, probe_ms=MINUTE_MS)
        self.store: Store = self._double

    def _tick(self) -> int:
        self._at += 1
        return self._at

    async def now(self) -> int:
        return self._tick()

    async def put(self, grant: Grant, due_at: int | None) -> None:
        self._double.put(grant, due_at)

    async def pause(self, grant_id: str) -> None:
        record = self._double.records[grant_id]
        record.grant, record.due_at = replace(record.grant, status=Status.PAUSED), None

    async def found(self, grant_id: str) -> StoredGrant:
        record = self._double.records[grant_id]
        return StoredGrant(record.grant, record.due_at, record.lease_until or None)

    async def events(self) -> list[str]:
        return [event.type.value for event in self._double.events]

    async def make_probes_due(self) -> None:
        known = self._double.client(CLIENT.name)
        known.probe_at = known.endpoint_probe_at = 1


@pytest.fixture(params=["Redis", "memory"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """A store that may claim."""
    if request.param == "memory":
        in_memory = InMemory()
        await in_memory.store.finish_recovery(await in_memory.store.heartbeat(""))
        yield in_memory
        return
    socket: Path = request.getfixturevalue("valkey_socket")
    async with Redis.from_url(f"unix://{socket}") as redis:
        in_redis = InRedis(redis, f"{{{uuid.uuid4().hex}}}:")
        await in_redis.store.finish_recovery(await in_redis.store.heartbeat(""))
        yield in_redis


def a_grant(grant_id: str, now: int) -> Grant:
    """A grant of an hour's access token, issued 50 minutes ago."""
    return Grant(
        id=grant_id,
        client=CLIENT.name,
        status=Status.ACTIVE,
        version=0,
        lineage=lineage_of(grant_id, "r0"),
        sealed=b"sealed",
        issued_at=now - 50 * MINUTE_MS,
        access_expires_at=now + 10 * MINUTE_MS,
        refresh_issued_at=now - 50 * MINUTE_MS,
        refresh_expires_at=None,
        authorized_at=None,
    )
