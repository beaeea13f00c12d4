"""What operators read of the store: clients, listings and events."""

import asyncio
from typing import Any

import pytest

from tests.support.callables import Answer, Seed
from worker.adapters.store.event_stream import RedisEventStream
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Status
from worker.core.providers import Client
from worker.core.registry import UnreadableRecordError


async def test_a_clients_state_counts_what_is_due_and_tells_what_comes_next(
    store: RedisStore,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    client: Client,
    seed: Seed,
    answer: Answer,
) -> None:
    now = await registry.now()
    await seed("refreshed")
    (lease,) = (await store.claim(client, 1, "")).leases
    await store.commit(answer(lease))
    await seed("due", due_in_ms=-5_000, access_expires_at=now + 900_000)
    await seed("later", due_in_ms=60_000, access_expires_at=now + 300_000)
    await seed("never ends", due_in_ms=70_000, access_expires_at=None)
    await seed("out of work", status=Status.FAILED, access_expires_at=now - 1)

    state = await fleet_state.of_client("acme")

    assert state.grants == {Status.ACTIVE: 4, Status.FAILING: 0, Status.FAILED: 1, Status.PAUSED: 0}
    assert (state.state, state.due, state.refreshed) == ("accepted", 1, 1)
    assert state.next_due_at is not None
    assert now - 6_000 < state.next_due_at < now
    assert state.soonest_expiry_at == now + 300_000


async def test_the_state_of_a_client_nobody_knows_is_empty(fleet_state: RedisFleetState) -> None:
    state = await fleet_state.of_client("nobody")

    assert (state.state, state.due, state.next_due_at, state.soonest_expiry_at) == ("accepted", 0, None, None)
    assert sum(state.grants.values()) == 0


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00garbage", id="garbage"),
        pytest.param(b"\x93\x01\x02\x03", id="too-short-an-array"),
        pytest.param(b"\xdc\x00\x15" + b"\xc1" * 21, id="what-no-messagepack-may-hold"),
        pytest.param(b"\xdc\x00\x15" + b"\xa1s" * 21, id="fields-of-other-kinds"),
    ],
)
async def test_a_record_that_cannot_be_read_is_named_and_costs_no_other_its_place(
    registry: RedisRegistry, fleet_state: RedisFleetState, seed: Seed, redis: Any, prefix: str, record: bytes
) -> None:
    for grant_id in ("one", "two"):
        await seed(grant_id, status=Status.FAILED)
        await redis.zadd(f"{prefix}attention", {grant_id: 1})
    kept = await redis.getset(f"{prefix}grant:two", record)
    walked, looked, listed = (list[UnreadableRecordError]() for _ in range(3))

    everyone = [stored.grant.id async for stored in registry.walk(unreadable=walked.append)]
    await fleet_state.of_client("acme", unreadable=looked.append)
    troubled = await registry.needing_attention(10, unreadable=listed.append)
    with pytest.raises(UnreadableRecordError, match=r"^two: its record cannot be read\.") as problem:
        await registry.find("two")

    assert everyone == [stored.grant.id for stored, _ in troubled] == ["one"]
    assert [each.grant_id for each in (*walked, *looked, *listed)] == ["two"] * 3
    assert problem.value.__suppress_context__  # what was wrong with it may quote it
    await redis.set(f"{prefix}grant:two", kept)


async def test_where_nobody_listens_a_record_that_cannot_be_read_is_an_error(
    registry: RedisRegistry, seed: Seed, redis: Any, prefix: str
) -> None:
    await seed("one")
    kept = await redis.getset(f"{prefix}grant:one", b"")

    with pytest.raises(UnreadableRecordError):
        await anext(registry.walk())
    await redis.set(f"{prefix}grant:one", kept)


async def test_events_are_read_from_where_a_reader_stopped(
    store: RedisStore, event_stream: RedisEventStream, client: Client, seed: Seed, answer: Answer
) -> None:
    assert await event_stream.last_id() == "0-0"
    for grant_id in ("one", "two", "three"):
        await seed(grant_id)
        (lease,) = (await store.claim(client, 1, "")).leases
        await store.commit(answer(lease))

    first = await event_stream.read("0-0", most=2)
    rest = await event_stream.read(first[-1].id)

    assert [entry.event["subject"] for entry in [*first, *rest]] == ["one", "two", "three"]
    assert rest[-1].id == await event_stream.last_id()
    assert await event_stream.read(rest[-1].id) == []


async def test_a_reader_that_waits_gets_the_next_event_when_it_is_told(
    store: RedisStore, event_stream: RedisEventStream, client: Client, seed: Seed, answer: Answer
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    waiting = asyncio.create_task(event_stream.read(await event_stream.last_id(), wait_ms=4_000))
    await asyncio.sleep(0)

    await store.commit(answer(lease))

    assert [entry.event["type"] for entry in await waiting] == ["evergrant.grant.refreshed"]


async def test_a_reader_that_waits_in_vain_gets_nothing(event_stream: RedisEventStream) -> None:
    assert await event_stream.read("0-0", wait_ms=10) == []
