"""The store's clock, where Redis's is set: it never runs back, and a leap lets nobody claim too soon.

Redis's clock cannot be set here. So what is stored is moved the other way; `tests/e2e/test_clock.py` sets it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest

from tests.support.callables import Seed
from worker.adapters.clock import RedisClock
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.record import FIELDS
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.ports import Epoch
from worker.core.providers import Client
from worker.fleet.report import of_clock

HOUR_MS = 3_600_000
LEASE_MS = 60_000

Process = Callable[[str, RedisClock], RedisStore]
SetClock = Callable[[int], Awaitable[None]]


@pytest.fixture
def process(scripts: Scripts) -> Process:
    """The store of a process with a clock of its own."""

    def build(owner: str, clock: RedisClock) -> RedisStore:
        limits = StoreLimits(LEASE_MS, 10_000, 60_000, 60_000, 10_000, 10_000)
        return RedisStore(scripts, clock, limits, source="evergrant/test", owner=owner)

    return build


@pytest.fixture
def set_clock(redis: Any, prefix: str) -> SetClock:
    """Set Redis's clock: whatever the epoch says was earlier or later than it is, by as much."""

    async def move(by_ms: int) -> None:
        for field in ("heartbeat_at", "held_since", "held_until"):
            await redis.hincrby(f"{prefix}epoch", field, -by_ms)
        for owner, at in await redis.zrange(f"{prefix}processes", 0, -1, withscores=True):
            await redis.zadd(f"{prefix}processes", {owner: at - by_ms})

    return move


async def _recovered(store: RedisStore) -> Epoch:
    return await store.finish_recovery(await store.heartbeat(""))


def _late(by_ms: int, now: int) -> RedisClock:
    """The clock of a process that was told the time before Redis's was set forward."""
    clock = RedisClock()
    clock.set(now - by_ms, asked_at=clock.stopwatch())
    return clock


async def test_claims_go_on_at_once_when_the_clock_is_set_back(
    process: Process, set_clock: SetClock, seed: Seed, client: Client, clock: RedisClock
) -> None:
    await seed("due")
    store = process("this", clock)
    before = await _recovered(store)
    await set_clock(-HOUR_MS)

    claim = await process("another", RedisClock()).heartbeat("")
    leases = await store.claim(client, 10, "runner")

    assert claim.now >= before.now + HOUR_MS - 1_000
    assert [lease.grant.id for lease in leases.leases] == ["due"]
    assert not leases.recovering
    assert leases.now >= claim.now


async def test_the_clock_goes_on_a_hundredth_slower_until_that_of_redis_meets_it(
    process: Process, set_clock: SetClock, redis: Any, prefix: str, registry: RedisRegistry
) -> None:
    store = process("this", RedisClock())
    await store.heartbeat("")
    await set_clock(-HOUR_MS)
    seconds, _ = await redis.time()
    await store.heartbeat("")

    meets_at = int(await redis.hget(f"{prefix}epoch", "meets_at"))

    assert meets_at == pytest.approx(seconds * 1000 + 100 * HOUR_MS, abs=100 * 60_000)
    assert await registry.now() == pytest.approx(seconds * 1000 + HOUR_MS, abs=60_000)
    await redis.hset(f"{prefix}epoch", "meets_at", seconds * 1000 - 1)
    assert await registry.now() == pytest.approx(seconds * 1000, abs=60_000)


async def test_a_server_that_forgot_the_clock_goes_on_from_what_a_process_knows(
    process: Process, set_clock: SetClock, redis: Any, prefix: str
) -> None:
    clock = RedisClock()
    store = process("this", clock)
    known = await _recovered(store)
    await set_clock(-HOUR_MS)
    told = (await store.heartbeat("")).now
    await redis.hset(f"{prefix}epoch", mapping={"run_id": "of another run", "heartbeat_at": told - HOUR_MS})
    await redis.hdel(f"{prefix}epoch", "meets_at")

    following = await store.heartbeat("")

    assert following.now >= told
    assert following.number > known.number
    assert following.recovering


async def test_a_clock_that_was_late_for_others_begins_an_epoch(process: Process) -> None:
    clock = RedisClock()
    store, other = process("this", clock), process("other", RedisClock())
    before = await _recovered(store)
    await _recovered(other)
    clock.set(
        before.now + HOUR_MS, asked_at=clock.stopwatch()
    )  # it was told so before the server stood still

    after = await _recovered(store)

    assert after.number > before.number
    assert after.now >= before.now + HOUR_MS
    assert after.recovering
    assert not (await _recovered(other)).recovering


@pytest.fixture
def request_in_flight(
    process: Process, seed: Seed, client: Client, set_clock: SetClock, redis: Any, prefix: str
) -> Callable[..., Awaitable[RedisStore]]:
    """A token is being presented while Redis's clock is set; gives another process, which may claim."""

    async def begin(by_ms: int, *, is_gone: bool) -> RedisStore:
        await seed("one")
        holder, other = process("holder", RedisClock()), process("other", RedisClock())
        await _recovered(holder)
        await _recovered(other)
        assert (await holder.claim(client, 10, "runner")).leases
        await set_clock(by_ms)
        packed = await redis.get(f"{prefix}grant:one")
        fields = msgpack.unpackb(packed, raw=True)
        fields[FIELDS.index("LEASE_UNTIL")] -= by_ms
        fields[FIELDS.index("ACCESS_EXPIRES_AT")] -= by_ms
        await redis.set(f"{prefix}grant:one", msgpack.packb(fields, use_bin_type=False))
        await redis.zadd(f"{prefix}schedule:{client.name}", {"one": 1})
        if is_gone:
            await holder.leave()
        else:
            await _recovered(holder)
        await _recovered(other)
        return other

    return begin


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_leap_does_not_end_the_lease_of_a_request_in_flight(
    request_in_flight: Callable[..., Awaitable[RedisStore]],
    client: Client,
    redis: Any,
    prefix: str,
    *,
    is_gone: bool,
) -> None:
    other = await request_in_flight(HOUR_MS, is_gone=is_gone)

    claim = await other.claim(client, 10, "runner")

    assert not claim.recovering
    assert claim.leases == []
    await redis.hset(f"{prefix}epoch", "held_until", claim.now - 1)  # as a lease's length later
    await redis.zadd(f"{prefix}schedule:{client.name}", {"one": 1})
    assert [lease.grant.id for lease in (await other.claim(client, 10, "runner")).leases] == ["one"]


async def test_a_second_epoch_soon_after_a_leap_keeps_that_lease(
    request_in_flight: Callable[..., Awaitable[RedisStore]], client: Client, set_clock: SetClock
) -> None:
    other = await request_in_flight(HOUR_MS, is_gone=True)
    await set_clock(4_000)
    await _recovered(other)

    claim = await other.claim(client, 10, "runner")

    assert not claim.recovering
    assert claim.leases == []


async def test_a_leap_is_told_once_by_whoever_sees_it(process: Process) -> None:
    before = await process("this", RedisClock()).heartbeat("")
    store = process("late", _late(HOUR_MS, before.now))

    await store.heartbeat("")  # it sees the leap in this reply
    told = (await store.heartbeat("")).jump
    other = process("late too", _late(HOUR_MS, before.now))
    await other.heartbeat("")
    again = (await other.heartbeat("")).jump

    assert told is not None
    assert told.by_ms == pytest.approx(HOUR_MS, abs=60_000)
    assert again == told


async def test_the_status_names_how_the_clock_was_set_back(
    process: Process, set_clock: SetClock, redis: Any, prefix: str, registry: RedisRegistry
) -> None:
    store = process("this", RedisClock())
    await store.heartbeat("")
    await set_clock(-HOUR_MS)
    told = (await store.heartbeat("")).jump

    jump = (await RedisFleetState(redis, prefix).workers()).clock_jump
    (incident,) = of_clock(jump, await registry.now())

    assert told is not None
    assert (incident.kind, incident.needs_a_person) == ("clock_set", False)
    assert "Redis's clock was set back by about 3600 s" in incident.problem
    assert "which is 3600 s ahead of Redis's now" in incident.problem
    assert "NTP" in incident.advice
    later = await registry.now() + 90_000_000
    assert list(of_clock(jump, later)) == [incident], "it is told as long as the clocks differ"


async def test_who_compares_with_the_world_is_given_the_clock_of_redis(
    process: Process, set_clock: SetClock, redis: Any
) -> None:
    clock = RedisClock()
    store = process("this", clock)
    await store.heartbeat("")
    await set_clock(-HOUR_MS)
    await store.heartbeat("")

    seconds, _ = await redis.time()

    assert clock.by_redis(clock.now()) == pytest.approx(seconds * 1000, abs=60_000)
