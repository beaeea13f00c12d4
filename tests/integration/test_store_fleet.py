"""Fleet: what operators read."""

import asyncio
from collections.abc import Awaitable, Callable

from worker.adapters.store.fleet import Fleet
from worker.adapters.store.redis_store import RedisStore
from worker.core.grant import Grant, Status
from worker.core.ports import Commit
from worker.core.providers import Client

Seed = Callable[..., Awaitable[Grant]]
Answer = Callable[..., Commit]


async def test_a_clients_state_counts_what_is_due_and_tells_what_comes_next(
    store: RedisStore, fleet: Fleet, client: Client, seed: Seed, answer: Answer
) -> None:
    now = await fleet.now()
    await seed("refreshed")
    (lease,) = (await store.claim(client, 1, "")).leases
    await store.commit(answer(lease))
    await seed("due", due_in_ms=-5_000, access_expires_at=now + 900_000)
    await seed("later", due_in_ms=60_000, access_expires_at=now + 300_000)
    await seed("never ends", due_in_ms=70_000, access_expires_at=None)
    await seed("out of work", status=Status.FAILED, access_expires_at=now - 1)

    state = await fleet.client_state("acme")

    assert state.grants == {Status.ACTIVE: 4, Status.FAILING: 0, Status.FAILED: 1, Status.PAUSED: 0}
    assert (state.state, state.due, state.refreshed) == ("accepted", 1, 1)
    assert state.next_due_at is not None
    assert now - 6_000 < state.next_due_at < now
    assert state.soonest_expiry_at == now + 300_000


async def test_the_state_of_a_client_nobody_knows_is_empty(fleet: Fleet) -> None:
    state = await fleet.client_state("nobody")

    assert (state.state, state.due, state.next_due_at, state.soonest_expiry_at) == ("accepted", 0, None, None)
    assert sum(state.grants.values()) == 0


async def test_events_are_read_from_where_a_reader_stopped(
    store: RedisStore, fleet: Fleet, client: Client, seed: Seed, answer: Answer
) -> None:
    assert await fleet.last_event_id() == "0-0"
    for grant_id in ("one", "two", "three"):
        await seed(grant_id)
        (lease,) = (await store.claim(client, 1, "")).leases
        await store.commit(answer(lease))

    first = await fleet.events("0-0", most=2)
    rest = await fleet.events(first[-1].id)

    assert [entry.event["subject"] for entry in [*first, *rest]] == ["one", "two", "three"]
    assert rest[-1].id == await fleet.last_event_id()
    assert await fleet.events(rest[-1].id) == []


async def test_a_reader_that_waits_gets_the_next_event_when_it_is_told(
    store: RedisStore, fleet: Fleet, client: Client, seed: Seed, answer: Answer
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    waiting = asyncio.create_task(fleet.events(await fleet.last_event_id(), wait_ms=4_000))
    await asyncio.sleep(0)

    await store.commit(answer(lease))

    assert [entry.event["type"] for entry in await waiting] == ["evergrant.grant.refreshed"]


async def test_a_reader_that_waits_in_vain_gets_nothing(fleet: Fleet) -> None:
    assert await fleet.events("0-0", wait_ms=10) == []
