"""reserve_runners.lua and release_runner.lua: no more runners than the due grants need."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.callables import Seed, Under
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.events import EventType, client_event
from worker.core.providers import Client
from worker.core.registry import Operation
from worker.fleet.sweeping import Sweeping

Sweep = Callable[..., Awaitable[tuple[int, int]]]
FAR = 8_000_000_000_000


@pytest.fixture
def sweep(store: RedisStore) -> Sweep:
    async def run(
        beat: str = "beat", *, share: int = 2, most: int = 4, place_ms: int = 60_000
    ) -> tuple[int, int]:
        candidates = [f"{beat} {number}" for number in range(most)]
        return await store.reserve_runners("acme", share=share, place_ms=place_ms, candidates=candidates)

    return run


async def _seed_many(seed: Seed, count: int) -> None:
    for number in range(count):
        await seed(f"due-{number}")


async def test_nothing_due_starts_nobody(sweep: Sweep, seed: Seed) -> None:
    await seed("later", due_in_ms=60_000)
    await seed("never", due_in_ms=None)

    assert await sweep() == (0, 0)


async def test_as_many_refreshers_are_started_as_the_due_grants_take(sweep: Sweep, seed: Seed) -> None:
    await _seed_many(seed, 5)

    assert await sweep(share=2) == (5, 3)


async def test_never_more_than_the_limit_are_started(sweep: Sweep, seed: Seed) -> None:
    await _seed_many(seed, 5)

    assert await sweep(share=1, most=2) == (5, 2)


async def test_the_places_that_are_reserved_are_those_of_the_candidates_that_start(
    sweep: Sweep, registry: RedisRegistry, seed: Seed, redis: Redis, prefix: str
) -> None:
    await _seed_many(seed, 3)
    before = await registry.now()

    await sweep("beat", share=2, most=4, place_ms=60_000)

    assert await redis.zrange(f"{prefix}runners:acme", 0, -1) == [b"beat 0", b"beat 1"]
    assert await redis.zcount(f"{prefix}runners:acme", before + 60_000, before + 120_000) == 2


async def test_two_sweeps_at_once_start_no_more_than_one_would(sweep: Sweep, seed: Seed) -> None:
    await _seed_many(seed, 5)

    answers = await asyncio.gather(*(sweep(f"beat {number}") for number in range(5)))

    assert sum(starting for _, starting in answers) == 3


async def test_a_sweep_adds_only_the_refreshers_that_are_missing(sweep: Sweep, seed: Seed) -> None:
    await _seed_many(seed, 2)
    assert await sweep("first") == (2, 1)
    await seed("due-2")

    assert await sweep("second") == (3, 1)


async def test_a_dead_refreshers_place_ends_by_itself(sweep: Sweep, seed: Seed) -> None:
    await _seed_many(seed, 1)
    assert await sweep("dies", place_ms=30) == (1, 1)

    deadline = time.monotonic() + 20
    while await sweep("next") != (1, 1):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_refresher_that_claims_keeps_its_place(
    store: RedisStore, client: Client, sweep: Sweep, seed: Seed, redis: Redis, prefix: str
) -> None:
    await _seed_many(seed, 2)
    await sweep("beat", place_ms=30)
    claim = await store.claim(client, 1, "beat 0")

    assert await redis.zscore(f"{prefix}runners:acme", "beat 0") == claim.leases[0].until
    assert await sweep("next") == (1, 0)


async def test_a_place_given_back_is_free_at_once(store: RedisStore, sweep: Sweep, seed: Seed) -> None:
    await _seed_many(seed, 1)
    await sweep("first")
    assert await sweep("second") == (1, 0)

    await store.release_runner("acme", "first 0")

    assert await sweep("third") == (1, 1)


async def test_giving_a_place_back_twice_or_one_that_ended_is_harmless(
    store: RedisStore, sweep: Sweep, seed: Seed
) -> None:
    await _seed_many(seed, 1)
    await sweep("first")

    await store.release_runner("acme", "first 0")
    await store.release_runner("acme", "first 0")
    await store.release_runner("acme", "nobody")

    assert await sweep("second") == (1, 1)


async def test_a_rejected_client_gets_no_refresher_before_its_probe_and_one_for_it_due_grants_or_not(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    sweep: Sweep,
    seed: Seed,
    redis: Redis,
    prefix: str,
    under: Under,
) -> None:
    now = await registry.now()
    event = client_event(EventType.CLIENT_REJECTED, client, attempt=1, now=now, reason="no")
    await store.reject_client(client, event, under("one"), sent_at=now)
    await _seed_many(seed, 5)

    before = await sweep("early")
    await redis.hset(f"{prefix}client:acme", "probe_at", "1")
    at_the_probe = await sweep("probe")
    await redis.delete(f"{prefix}runners:acme")
    for number in range(5):
        await registry.operate(f"due-{number}", Operation.PAUSE)
    without_due_grants = await sweep("probe again")

    assert (before, at_the_probe, without_due_grants) == ((5, 0), (5, 1), (0, 1))


async def test_one_sweep_repeated_because_its_reply_was_lost_gives_the_same_answer(
    sweep: Sweep, seed: Seed
) -> None:
    await _seed_many(seed, 3)

    assert await sweep("beat") == await sweep("beat") == (3, 2)


@pytest.mark.parametrize(
    ("of_client", "of_endpoint", "starting"),
    [
        pytest.param({"throttled_until": FAR}, {}, 0, id="throttled"),
        pytest.param({"throttled_until": 1}, {}, 3, id="throttling-over"),
        pytest.param({}, {"state": "unavailable", "probe_at": FAR}, 0, id="unavailable"),
        pytest.param({}, {"state": "unavailable", "probe_at": 1}, 1, id="half-open-probe-due"),
        pytest.param(
            {"throttled_until": FAR},
            {"state": "unavailable", "probe_at": 1},
            0,
            id="half-open-probe-due-but-throttled",
        ),
        pytest.param({}, {"state": "available", "recovered_at": 1}, 3, id="available-again"),
        pytest.param(
            {"state": "rejected", "probe_at": 1}, {"state": "unavailable", "probe_at": 1}, 1, id="both-due"
        ),
        pytest.param(
            {"state": "rejected", "probe_at": FAR},
            {"state": "unavailable", "probe_at": 1},
            0,
            id="half-open-probe-due-client-probe-not",
        ),
        pytest.param(
            {"state": "rejected", "probe_at": 1},
            {"state": "unavailable", "probe_at": FAR},
            0,
            id="client-probe-due-half-open-probe-not",
        ),
    ],
)
async def test_only_as_many_runners_are_started_as_the_client_and_its_endpoint_let_work(
    store: RedisStore,
    client: Client,
    sweep: Sweep,
    seed: Seed,
    redis: Redis,
    prefix: str,
    of_client: dict[Any, Any],
    of_endpoint: dict[Any, Any],
    starting: int,
) -> None:
    await store.claim(client, 0, "")  # the client's endpoint is known from its first claim on
    await _seed_many(seed, 5)
    if of_client:
        await redis.hset(f"{prefix}client:acme", mapping=of_client)
    if of_endpoint:
        await redis.hset(f"{prefix}endpoint:{client.token_url}", mapping=of_endpoint)

    assert await sweep() == (5, starting)


async def test_what_is_stored_of_one_client_stops_the_sweep_of_no_other(
    store: RedisStore, client: Client, seed: Seed, redis: Any, prefix: str
) -> None:
    await seed("one")
    broken = replace(client, name="broken")
    await redis.set(f"{prefix}schedule:broken", "what no release has written")
    no_refresher: Any = None  # a sweep starts refreshers, and is none
    sweeping = Sweeping(
        places=store, refresher=no_refresher, clients=[broken, client], in_flight=10, place_ms=60_000
    )

    started = await sweeping.reserve_runners()

    await redis.delete(f"{prefix}schedule:broken")
    assert [name for name, _ in started] == ["acme"]
