"""What the scripts count: with the change, once, however often a call is repeated."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.support import attempts
from tests.support.callables import Answer, ClaimOne, Failure, OnGrant, Seed
from worker.adapters.clock import RedisClock
from worker.adapters.store.measures import RedisMeasures
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.signatures import Heartbeat, Leave
from worker.core import lifecycle
from worker.core.grant import Status
from worker.core.measures import MOST_IN_A_BATCH, ClientMeasures, Gathered, Spread
from worker.core.outcomes import Counted, Rejected
from worker.core.ports import Verdict
from worker.core.promises import Plan, Request
from worker.core.providers import Client

MINUTE_MS = 60_000


@pytest.fixture
def measures(redis: Any, scripts: Scripts, prefix: str) -> RedisMeasures:
    return RedisMeasures(redis, scripts, prefix)


async def of_acme(measures: RedisMeasures) -> ClientMeasures:
    (client,) = (await measures.read({})).clients
    return client


async def test_an_outcome_is_counted_once_however_often_it_is_recorded(
    store: RedisStore, measures: RedisMeasures, seed: Seed, claim_one: ClaimOne, failure: Failure
) -> None:
    await seed("one")
    lease = await claim_one()
    change = failure(lease, Rejected("invalid_grant"))

    for _ in range(3):
        assert await store.record_outcome(lease, change, counted=Counted.REJECTED) is Verdict.STORED

    assert (await of_acme(measures)).refreshes == {"rejected": 1}


async def test_what_is_put_back_without_an_attempt_is_not_counted(
    store: RedisStore, measures: RedisMeasures, seed: Seed, claim_one: ClaimOne
) -> None:
    await seed("one")
    lease = await claim_one()

    await store.record_outcome(lease, lifecycle.Change(lease.grant, 1, None, None))

    assert (await of_acme(measures)).refreshes == {}


async def test_the_outcome_of_a_lease_that_is_anothers_by_now_is_not_counted(
    store: RedisStore,
    measures: RedisMeasures,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    end_lease: OnGrant,
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    await claim_one()

    verdict = await store.record_outcome(
        late, failure(late, Rejected("invalid_grant")), counted=Counted.REJECTED
    )

    assert verdict is Verdict.STALE
    assert (await of_acme(measures)).refreshes == {}


async def test_a_reply_that_nobody_could_read_is_counted_once(
    store: RedisStore,
    measures: RedisMeasures,
    seed: Seed,
    claim_one: ClaimOne,
    client: Client,
    clock: RedisClock,
) -> None:
    await seed("one")
    kept = attempts.unread(await claim_one(), client, clock.now())

    assert [await store.keep_reply(kept) for _ in range(2)] == [Verdict.STORED, Verdict.KNOWN]

    assert (await of_acme(measures)).refreshes == {"unread": 1}


async def test_rotations_that_the_store_forgot_are_counted_with_the_one_that_comes_back(
    store: RedisStore,
    measures: RedisMeasures,
    redis: Any,
    prefix: str,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
    make_due: OnGrant,
    end_lease: OnGrant,
) -> None:
    await seed("one")
    key, state = f"{prefix}grant:one", f"{prefix}client:acme"
    await claim_one()
    await end_lease("one")
    at_first = await redis.get(key), await redis.hgetall(state)
    for number in range(3):
        await make_due("one")
        last = answer(await claim_one(), f"r{number + 1}", used=f"r{number}")
        await store.commit(last)
        await asyncio.sleep(0.002)  # the next is issued later
    assert (await of_acme(measures)).refreshed == 3
    await redis.set(key, at_first[0])
    await redis.delete(state, f"{prefix}events")
    await redis.hset(state, mapping=at_first[1])

    assert [(await store.commit(last)).verdict for _ in range(2)] == [Verdict.STORED, Verdict.KNOWN]

    assert (await of_acme(measures)).refreshed == 3


async def test_a_token_call_is_counted_once_by_what_it_got(
    store: RedisStore,  # noqa: ARG001 its epoch
    measures: RedisMeasures,
    registry: RedisRegistry,
    scripts: Scripts,
    seed: Seed,
) -> None:
    await seed("one", due_in_ms=MINUTE_MS)
    promises = RedisPromises(scripts, clock=RedisClock(), audit_kept=1_000, recovery_ms=MINUTE_MS)
    request = Request("one", 1_000, "billing", "10.0.0.7")
    plan = Plan(0, await registry.now() + 5 * MINUTE_MS, outlives=False)

    for request_id in ("first", "first", "second"):
        await promises.hand_out(request, request_id, plan=plan)
    await promises.hand_out(request, "third", is_unpromised=True)
    await promises.hand_out(replace(request, min_ttl_ms=3_600_000), "fourth", plan=plan)  # too long

    assert (await of_acme(measures)).served == {"promised": 2, "unpromised": 1}


# What a process gathers


@pytest.fixture
def gathered() -> Gathered:
    return Gathered()


async def test_a_batch_is_added_once_however_often_its_heartbeat_is_sent(
    scripts: Scripts, measures: RedisMeasures, gathered: Gathered, seed: Seed
) -> None:
    await seed("one")
    gathered.measured(Spread.DURATION, 40)
    gathered.refused("acme", "grant_paused")

    for _ in range(2):  # the first one's reply was lost
        batch = gathered.batch()
        await scripts.run(Heartbeat("this", MINUTE_MS, None, batch=batch.number, counts=batch.counts))
    gathered.added(batch)
    gathered.measured(Spread.DURATION, 40)
    batch = gathered.batch()
    await scripts.run(Heartbeat("this", MINUTE_MS, None, batch=batch.number, counts=batch.counts))

    read = await measures.read({})
    assert (read.duration.counts, read.duration.sum_ms) == ({"0.05": 2}, 80)
    assert read.clients[0].served == {"grant_paused": 1}


async def test_what_is_counted_while_a_batch_is_on_its_way_comes_with_the_next(gathered: Gathered) -> None:
    gathered.refused("acme", "grant_failed")
    first = gathered.batch()
    gathered.refused("acme", "grant_failed")

    assert gathered.batch() is first
    gathered.added(first)
    assert gathered.batch().counts == first.counts
    assert gathered.batch().number == first.number + 1
    gathered.added(gathered.batch())
    assert gathered.batch().counts == ()


def test_a_batch_is_bounded_and_the_rest_follows(gathered: Gathered) -> None:
    for number in range(MOST_IN_A_BATCH + 1):
        gathered.refused(f"c{number}", "grant_failed")

    first = gathered.batch()
    gathered.added(first)

    assert [len(first.counts), len(gathered.batch().counts)] == [MOST_IN_A_BATCH, 1]


def test_damaged_seals_that_name_many_keys_make_no_more_than_a_few_counters(gathered: Gathered) -> None:
    for number in range(1_000):
        gathered.not_unsealed(f"key {number}")

    counts = {counter: by for _, counter, by in gathered.batch().counts}
    assert len(counts) == 51
    assert sum(counts.values()) == 1_000


async def test_a_counter_that_holds_no_number_breaks_no_heartbeat_and_no_scrape(
    scripts: Scripts, measures: RedisMeasures, redis: Any, prefix: str, gathered: Gathered
) -> None:
    await redis.hset(f"{prefix}measures", "duration:sum", "nonsense")
    gathered.measured(Spread.DURATION, 40)
    batch = gathered.batch()

    await scripts.run(Heartbeat("this", MINUTE_MS, None, batch=batch.number, counts=batch.counts))

    read = await measures.read({})
    assert (read.duration.counts, read.duration.sum_ms) == ({"0.05": 1}, 0)


# What a scrape reads


async def test_a_scrape_reads_the_schedule_and_not_the_grants(
    measures: RedisMeasures, seed: Seed, registry: RedisRegistry
) -> None:
    now = await registry.now()
    for number in range(60):
        await seed(f"g{number}", due_in_ms=60_000 * number - 90_000, access_expires_at=now + 100_000 - number)
    await seed("failed", status=Status.FAILED, access_expires_at=now + 5)

    client = await of_acme(measures)

    assert client.due == 2
    assert client.first_due_at is not None
    assert client.first_due_at < now - 60_000
    assert client.soonest_expiry_at == now + 100_000 - 49  # of the fifty that are due first
    assert (client.grants[Status.ACTIVE], client.grants[Status.FAILED]) == (60, 1)


async def test_a_client_that_cannot_be_read_hides_no_other(
    measures: RedisMeasures, seed: Seed, redis: Any, prefix: str
) -> None:
    await seed("one")
    await redis.sadd(f"{prefix}clients", "broken")
    await redis.set(f"{prefix}schedule:broken", "no sorted set")

    read = await measures.read({"configured": "https://configured.example/token"})
    await redis.delete(f"{prefix}schedule:broken")

    assert [client.name for client in read.clients] == ["acme", "configured"]
    assert read.clients[1].endpoint == "https://configured.example/token"
    assert read.unread_clients == 1


async def test_only_processes_that_refresh_are_workers_and_only_while_they_live(
    scripts: Scripts, measures: RedisMeasures
) -> None:
    await scripts.run(Heartbeat("web", MINUTE_MS, None))
    await scripts.run(Heartbeat("worker", MINUTE_MS, None, is_worker=True))
    assert (await measures.read({})).workers == 1

    await scripts.run(Leave("worker", is_dead=False, alive_ms=0))

    assert (await measures.read({})).workers == 0
