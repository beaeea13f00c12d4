"""reserve_runners.lua and release_runner.lua: no more runners than the due grants need."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.callables import LetProbeBeDue, Seed, Under
from tests.support.waiting import PATIENCE_SECONDS, until
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.events import EventType, client_event
from worker.core.ports import RefusalWords
from worker.core.providers import Client
from worker.core.registry import Operation

Sweep = Callable[..., Awaitable[tuple[int, int]]]
FAR = 8_000_000_000_000
LOOK_AGAIN_MS = 2_000  # as the prelude has it


@pytest.fixture
def sweep(store: RedisStore) -> Sweep:
    async def run(
        beat: str = "beat", *, share: int = 2, most: int = 4, place_ms: int = 60_000
    ) -> tuple[int, int]:
        candidates = [f"{beat} {number}" for number in range(most)]
        found = await store.reserve_runners(share=share, place_ms=place_ms, candidates=candidates)
        return found.due, found.starting

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


async def test_no_more_clients_are_counted_once_all_candidates_have_enough_to_do(
    sweep: Sweep, seed: Seed
) -> None:
    for place in range(5):
        await seed(f"g{place}", client=f"c{place}")

    assert await sweep(share=1, most=2) == (2, 2)


async def test_a_sweep_counts_a_thousand_clients_at_most(sweep: Sweep, seed: Seed) -> None:
    for begin in range(0, 1_050, 50):
        await asyncio.gather(*(seed(f"g{place}", client=f"c{place}") for place in range(begin, begin + 50)))

    assert await sweep(share=1_000, most=16) == (1_000, 1)


async def test_the_places_that_are_reserved_are_those_of_the_candidates_that_start(
    sweep: Sweep, registry: RedisRegistry, seed: Seed, redis: Redis, prefix: str
) -> None:
    await _seed_many(seed, 3)
    before = await registry.now()

    await sweep("beat", share=2, most=4, place_ms=60_000)

    assert await redis.zrange(f"{prefix}runners", 0, -1) == [b"beat 0", b"beat 1"]
    assert await redis.zcount(f"{prefix}runners", before + 60_000, before + 120_000) == 2


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

    deadline = time.monotonic() + PATIENCE_SECONDS
    while await sweep("next") != (1, 1):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_refresher_that_claims_keeps_its_place(
    store: RedisStore, client: Client, sweep: Sweep, seed: Seed, redis: Redis, prefix: str
) -> None:
    await _seed_many(seed, 2)
    await sweep("beat", place_ms=30)
    claim = await store.claim(client, 1, "beat 0")

    assert await redis.zscore(f"{prefix}runners", "beat 0") == claim.leases[0].until
    assert await sweep("next") == (1, 0)


async def test_a_place_given_back_is_free_at_once(store: RedisStore, sweep: Sweep, seed: Seed) -> None:
    await _seed_many(seed, 1)
    await sweep("first")
    assert await sweep("second") == (1, 0)

    await store.release_runner("first 0")

    assert await sweep("third") == (1, 1)


async def test_a_new_epoch_ends_every_place_and_a_runner_that_goes_on_takes_its_own_again(
    store: RedisStore, client: Client, sweep: Sweep, seed: Seed, redis: Redis, prefix: str
) -> None:
    await _seed_many(seed, 5)
    assert await sweep("first") == (5, 3)

    await redis.hset(f"{prefix}epoch", "run_id", "of another run")
    epoch = await store.heartbeat("")

    async def has_recovered() -> bool:
        return not (await store.finish_recovery(epoch)).recovering

    await until(has_recovered)
    await store.claim(client, 1, "first 0")

    assert await redis.zrange(f"{prefix}runners", 0, -1) == [b"first 0"]
    assert await sweep("second") == (4, 1)


async def test_giving_a_place_back_twice_or_one_that_ended_is_harmless(
    store: RedisStore, sweep: Sweep, seed: Seed
) -> None:
    await _seed_many(seed, 1)
    await sweep("first")

    await store.release_runner("first 0")
    await store.release_runner("first 0")
    await store.release_runner("nobody")

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
    let_the_client_probe_be_due: LetProbeBeDue,
) -> None:
    now = await registry.now()
    event = client_event(EventType.CLIENT_REJECTED, client, attempt=1, now=now, reason="no")
    await store.record_refusal(
        client, event, under("one"), words=RefusalWords.CLIENT, sent_at=now, believe_ms=0
    )
    await _seed_many(seed, 5)

    before = await sweep("early")
    await let_the_client_probe_be_due()
    at_the_probe = await sweep("probe")
    await redis.delete(f"{prefix}runners")
    for number in range(5):
        await redis.zadd(f"{prefix}schedule:acme", {f"due-{number}": FAR})
    without_due_grants = await sweep("probe again")
    for number in range(5):
        await registry.operate(f"due-{number}", Operation.PAUSE)
    without_grants_at_work = await sweep("probe once more")

    assert (before, at_the_probe) == ((0, 0), (5, 1))
    assert (without_due_grants, without_grants_at_work) == ((0, 1), (0, 0))


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

    assert await sweep() == (5 if starting else 0, starting)


async def test_what_is_stored_of_one_client_stops_the_sweep_of_no_other(
    store: RedisStore, seed: Seed, redis: Any, prefix: str
) -> None:
    await seed("one")
    await redis.sadd(f"{prefix}clients", "broken")
    await redis.set(f"{prefix}schedule:broken", "what no release has written")

    found = await store.reserve_runners(share=1, place_ms=60_000, candidates=["a", "b"])
    names = (await store.due_clients(0, 10)).names

    await redis.delete(f"{prefix}schedule:broken")
    await redis.srem(f"{prefix}clients", "broken")
    assert (found.due, found.starting, list(found.unreadable)) == (1, 1, ["broken"])
    assert names == ["acme"]


# The agenda


async def _due(store: RedisStore) -> list[str]:
    page = await store.due_clients(0, 100)
    assert not page.has_more
    return list(page.names)


async def test_the_clients_that_have_something_due_are_named_first_due_first(
    store: RedisStore, seed: Seed
) -> None:
    await seed("one", client="late", due_in_ms=-1_000)
    await seed("two", client="later", due_in_ms=-9_000)
    await seed("three", client="not yet", due_in_ms=60_000)
    await seed("four", client="never", due_in_ms=None)

    assert await _due(store) == ["later", "late"]


async def test_a_grant_that_is_due_later_puts_its_client_off_for_no_other(
    store: RedisStore, seed: Seed
) -> None:
    await seed("one")
    await seed("later", due_in_ms=60_000)

    assert await _due(store) == ["acme"]


async def test_due_clients_come_in_pages(store: RedisStore, seed: Seed) -> None:
    for place in range(5):
        await seed(f"g{place}", client=f"c{place}", due_in_ms=-1_000 + place)

    pages = [await store.due_clients(offset, 2) for offset in (0, 2, 4)]

    assert [list(page.names) for page in pages] == [["c0", "c1"], ["c2", "c3"], ["c4"]]
    assert [page.has_more for page in pages] == [True, True, False]


async def test_a_client_whose_due_grants_are_claimed_is_due_no_more(
    store: RedisStore, client: Client, seed: Seed
) -> None:
    await seed("one")
    await store.claim(client, 10, "")

    assert await _due(store) == []


async def test_a_grant_that_is_put_back_makes_its_client_due_again(
    store: RedisStore, client: Client, registry: RedisRegistry, seed: Seed
) -> None:
    await seed("one")
    await store.claim(client, 10, "")
    assert await _due(store) == []

    await registry.operate("one", Operation.PAUSE)
    await registry.operate("one", Operation.RESUME)
    await seed("two")

    assert await _due(store) == ["acme"]


async def test_a_client_whose_due_grants_are_not_free_is_looked_at_a_while_later(
    store: RedisStore, client: Client, seed: Seed, redis: Redis, prefix: str
) -> None:
    """Its registration's first reply could not be read: a person looks at it first."""
    await seed("one")
    await redis.hset(
        f"{prefix}client:acme", mapping={"unread_registration": client.registration, "proved": "x"}
    )
    claim = await store.claim(client, 10, "")
    assert (claim.leases, claim.drained) == ([], True)

    assert await _due(store) == []
    assert await redis.zscore(f"{prefix}agenda", "acme") == claim.now + LOOK_AGAIN_MS


@pytest.mark.parametrize(
    ("of_client", "of_endpoint"),
    [
        pytest.param({"throttled_until": FAR}, {}, id="throttled"),
        pytest.param({"state": "rejected", "probe_at": FAR}, {}, id="rejected"),
        pytest.param({}, {"state": "unavailable", "probe_at": FAR}, id="unavailable"),
    ],
)
async def test_a_client_that_nothing_may_be_claimed_of_is_not_due_and_looked_at_now_and_then(
    store: RedisStore,
    client: Client,
    seed: Seed,
    registry: RedisRegistry,
    redis: Redis,
    prefix: str,
    of_client: dict[Any, Any],
    of_endpoint: dict[Any, Any],
) -> None:
    await store.claim(client, 0, "")
    await seed("one")
    for key, fields in (("client:acme", of_client), (f"endpoint:{client.token_url}", of_endpoint)):
        if fields:
            await redis.hset(f"{prefix}{key}", mapping=fields)
    now = await registry.now()

    assert await _due(store) == []
    looked_at = await redis.zscore(f"{prefix}agenda", "acme")
    assert looked_at is not None
    assert now < looked_at <= await registry.now() + LOOK_AGAIN_MS


async def test_a_client_that_is_being_probed_is_looked_at_now_and_then(
    store: RedisStore, client: Client, seed: Seed, redis: Redis, prefix: str
) -> None:
    await store.claim(client, 0, "")
    await seed("one", due_in_ms=60_000)
    await redis.hset(f"{prefix}client:acme", mapping={"state": "rejected", "probe_at": 1})

    probe = await store.claim(client, 10, "")

    assert len(probe.leases) == 1
    assert await redis.zscore(f"{prefix}agenda", "acme") == probe.now + LOOK_AGAIN_MS


async def test_an_accepted_client_is_due_at_once(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed, under: Under
) -> None:
    now = await registry.now()
    refused = client_event(EventType.CLIENT_REJECTED, client, attempt=1, now=now, reason="no")
    await seed("one")
    await store.record_refusal(
        client, refused, under("one"), words=RefusalWords.CLIENT, sent_at=now, believe_ms=0
    )
    assert await _due(store) == []

    accepted = client_event(EventType.CLIENT_RECOVERED, client, attempt=2, now=now)
    assert await store.accept_client(client, accepted, under("one"), is_refreshed=True)

    assert await _due(store) == ["acme"]


async def test_a_store_of_a_former_release_gets_its_agenda_at_the_first_sweep(
    store: RedisStore, sweep: Sweep, seed: Seed, redis: Redis, prefix: str
) -> None:
    for place in range(50):  # more than a sweep looks at anyway
        await seed(f"g{place}", client=f"c{place}")
    await redis.delete(f"{prefix}agenda")

    assert await sweep(share=10, most=10) == (50, 5)
    assert len(await _due(store)) == 50


async def test_a_new_epoch_rebuilds_the_agenda(
    store: RedisStore, seed: Seed, redis: Redis, prefix: str
) -> None:
    await seed("one")
    await redis.zadd(f"{prefix}agenda", {"acme": FAR})

    await redis.hset(f"{prefix}epoch", "heartbeat_at", "1")  # nobody reached the store for years
    await store.heartbeat("")

    assert await _due(store) == ["acme"]


async def test_sweeps_put_right_whatever_is_wrong_in_the_agenda(
    sweep: Sweep, seed: Seed, redis: Redis, prefix: str
) -> None:
    await seed("one")
    await redis.zadd(f"{prefix}agenda", {"acme": FAR})

    assert await sweep() == (1, 1)
