"""The store's clock, where Redis's is set: it never runs back, and a leap lets nobody claim too soon.

Redis's clock cannot be set here. So what is stored is moved the other way; `tests/e2e/test_clock.py` sets it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.callables import Seed
from worker.adapters.clock import RedisClock
from worker.adapters.store.fleet_state import RedisFleetState
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
        await redis.hincrby(f"{prefix}epoch", "heartbeat_at", -by_ms)
        for owner, at in await redis.zrange(f"{prefix}processes", 0, -1, withscores=True):
            await redis.zadd(f"{prefix}processes", {owner: at - by_ms})

    return move


class Stopwatch:
    """A monotonic clock in milliseconds that the test winds on."""

    def __init__(self) -> None:
        self.ms = 5_000_000

    def __call__(self) -> int:
        return self.ms


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


async def test_a_clock_that_was_late_for_others_begins_an_epoch_that_waits_for_their_requests(
    process: Process,
) -> None:
    clock = RedisClock()
    store, other = process("this", clock), process("other", RedisClock())
    before = await _recovered(store)
    await _recovered(other)
    clock.set(
        before.now + HOUR_MS, asked_at=clock.stopwatch()
    )  # it was told so before the server stood still

    after = await _recovered(store)

    assert after.number > before.number
    assert (await _recovered(other)).recovering


@pytest.mark.parametrize("leap_ms", [2 * LEASE_MS, HOUR_MS])
async def test_after_a_leap_nobody_claims_until_requests_in_flight_have_ended(
    process: Process, set_clock: SetClock, redis: Any, prefix: str, leap_ms: int
) -> None:
    before = await _recovered(process("this", RedisClock()))
    await set_clock(leap_ms)

    after = await _recovered(process("this", _late(leap_ms, before.now)))

    assert after.number > before.number
    assert after.recovering
    least_until, ends_at = await redis.hmget(f"{prefix}epoch", "least_until", "ends_at")
    assert least_until == ends_at
    jumped_by = int(await redis.hget(f"{prefix}epoch", "jumped_by"))
    assert jumped_by == pytest.approx(leap_ms, abs=60_000)


async def test_a_silence_that_the_process_saw_pass_by_its_own_clock_is_no_leap(
    process: Process, set_clock: SetClock
) -> None:
    clock = RedisClock()
    store = process("this", clock)
    before = await _recovered(store)
    await set_clock(4_000)  # as if four seconds had passed, which this process's clock agrees with

    after = await _recovered(store)

    assert after.number > before.number
    assert not after.recovering


async def test_a_leap_that_is_too_short_for_a_silence_begins_an_epoch_once_it_is_seen(
    process: Process,
) -> None:
    stopwatch = Stopwatch()
    clock = RedisClock(stopwatch)
    store = process("this", clock)
    before = await _recovered(store)
    clock.set(before.now + 2_500, asked_at=stopwatch.ms)
    clock = RedisClock(stopwatch)
    store = process("this", clock)
    epoch = await _recovered(store)
    clock._offset_ms = (epoch.now - 2_500) - stopwatch.ms  # noqa: SLF001 so it was before the leap

    assert not (await store.heartbeat("")).recovering  # it sees the leap in this reply
    after = await store.heartbeat("")

    assert after.recovering
    assert after.number > epoch.number


async def test_a_process_whose_replies_are_slow_cannot_rule_out_a_leap(
    process: Process, set_clock: SetClock
) -> None:
    stopwatch = Stopwatch()
    clock = RedisClock(stopwatch)
    store = process("this", clock)
    epoch = await _recovered(store)
    await set_clock(4_000)
    epoch = await store.heartbeat("")
    stopwatch.ms += 1_000
    clock.set(epoch.now + 1_500, asked_at=stopwatch.ms - 2_000)

    assert (await store.finish_recovery(epoch)).recovering


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
