"""heartbeat.lua, finish_recovery.lua, leave.lua, reassert.lua, and the gate in front of every claim.

A store that may have forgotten something gives out nothing until it was given back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from tests.support.callables import Answer, DueOf, OnGrant, RecordOf, Seed
from worker.adapters.clock import RedisClock
from worker.adapters.store import record
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.grant import Status
from worker.core.ports import Lease, Recovering, Verdict
from worker.core.providers import Client
from worker.core.registry import Operation

Process = Callable[..., RedisStore]
Age = Callable[..., Awaitable[None]]
RECOVERY_MS = 60_000
LEAST_MS = 2_000
SILENCE_MS = 3_000
DAY_MS = 86_400_000


@pytest.fixture
def process(scripts: Scripts, clock: RedisClock) -> Process:
    """The store of a process that has not sent a heartbeat yet."""

    def build(owner: str = "this", *, recovery_ms: int = RECOVERY_MS) -> RedisStore:
        limits = StoreLimits(recovery_ms, 10_000, 60_000, 60_000, 10_000, 10_000)
        return RedisStore(scripts, clock, limits, source="evergrant/test", owner=owner)

    return build


@pytest.fixture
def age(redis: Any, prefix: str) -> Age:
    """Let an instant of the epoch lie further back, as waiting would."""

    async def back(field: str, by_ms: int) -> None:
        await redis.hincrby(f"{prefix}epoch", field, -by_ms)

    return back


@pytest.fixture
def restart(redis: Any, prefix: str) -> Callable[[], Awaitable[None]]:
    """Let the data say that another run of Redis wrote it."""

    async def say() -> None:
        await redis.hset(f"{prefix}epoch", "run_id", "of another run")

    return say


@pytest.fixture
def silence(age: Age) -> Callable[[], Awaitable[None]]:
    """Let no process have sent a heartbeat for longer than an epoch allows."""

    async def pass_by() -> None:
        await age("heartbeat_at", SILENCE_MS + 1)

    return pass_by


# How epochs begin


async def test_the_first_process_of_all_finds_a_store_that_has_nothing_to_recover(process: Process) -> None:
    assert not (await process().heartbeat("")).recovering


async def test_an_epoch_goes_on_while_somebody_is_heard_of(process: Process, age: Age) -> None:
    one = process()
    first = await one.heartbeat("")

    for _ in range(6):
        await age("heartbeat_at", SILENCE_MS // 4)
        assert await one.heartbeat("") == first


async def test_a_silence_begins_an_epoch(process: Process, silence: Callable[[], Awaitable[None]]) -> None:
    one = process()
    first = await one.heartbeat("")
    await silence()

    second = await one.heartbeat("")
    assert second.number > first.number
    assert second.recovering
    assert await one.heartbeat("") == second


async def test_claims_keep_an_epoch_going_as_heartbeats_do(
    store: RedisStore, client: Client, age: Age
) -> None:
    for _ in range(6):
        await age("heartbeat_at", SILENCE_MS // 4)
        assert not (await store.claim(client, 1, "")).recovering


async def test_another_run_of_redis_begins_an_epoch(
    process: Process, restart: Callable[[], Awaitable[None]]
) -> None:
    one = process()
    first = await one.heartbeat("")
    await restart()

    second = await one.heartbeat("")
    assert second.number > first.number
    assert second.recovering
    assert await one.heartbeat("") == second


async def test_no_number_is_given_twice_by_a_store_that_forgot(
    process: Process, redis: Any, prefix: str, silence: Callable[[], Awaitable[None]]
) -> None:
    one = process()
    await one.heartbeat("")
    forgotten = await redis.hgetall(f"{prefix}epoch")
    await silence()
    second = await one.heartbeat("")
    await redis.hset(f"{prefix}epoch", mapping=forgotten | {b"run_id": b"of another run"})
    await asyncio.sleep(0.002)

    assert (await one.heartbeat("")).number > second.number


async def test_numbers_grow_even_if_the_clock_was_set_back(
    process: Process, redis: Any, prefix: str, silence: Callable[[], Awaitable[None]]
) -> None:
    one = process()
    await one.heartbeat("")
    await redis.hset(f"{prefix}epoch", "number", "8000000000000")
    await silence()

    assert (await one.heartbeat("")).number == 8_000_000_000_001


async def test_the_first_script_of_any_kind_begins_the_new_epoch(
    store: RedisStore, client: Client, seed: Seed, silence: Callable[[], Awaitable[None]]
) -> None:
    await seed("one")
    before = await store.heartbeat("")
    await silence()

    assert (await store.claim(client, 1, "")).recovering
    assert (await store.heartbeat("")).number > before.number


# How recovery ends


async def test_recovery_after_a_silence_ends_when_all_who_were_present_have_finished_it(
    process: Process, silence: Callable[[], Awaitable[None]]
) -> None:
    one, other = process("one"), process("other")
    for each in (one, other):
        await each.heartbeat("")
    await silence()
    epoch = await one.heartbeat("")

    assert await one.finish_recovery(epoch) == replace(epoch, recovering=True)
    assert await other.finish_recovery(epoch) == replace(epoch, recovering=False)
    assert not (await one.heartbeat("")).recovering


async def test_finishing_twice_does_not_stand_for_another_process(
    process: Process, silence: Callable[[], Awaitable[None]]
) -> None:
    one, other = process("one"), process("other")
    for each in (one, other):
        await each.heartbeat("")
    await silence()
    epoch = await one.heartbeat("")
    await one.finish_recovery(epoch)

    assert await one.finish_recovery(epoch) == replace(epoch, recovering=True)


async def test_nobody_waits_for_a_process_that_left(
    process: Process, silence: Callable[[], Awaitable[None]]
) -> None:
    one, other = process("one"), process("other")
    for each in (one, other):
        await each.heartbeat("")
    await silence()
    epoch = await one.heartbeat("")
    await one.finish_recovery(epoch)

    await other.leave()

    assert not (await one.heartbeat("")).recovering


async def test_a_process_can_say_of_another_that_it_is_gone(
    process: Process, silence: Callable[[], Awaitable[None]]
) -> None:
    one, other = process("one"), process("other")
    for each in (one, other):
        await each.heartbeat("")
    await silence()
    epoch = await one.heartbeat("")
    await one.finish_recovery(epoch)

    await one.leave("other")

    assert not (await one.heartbeat("")).recovering


async def test_nobody_waits_for_a_process_that_was_silent_longer_than_recovery_lasts(
    process: Process, silence: Callable[[], Awaitable[None]], redis: Any, prefix: str
) -> None:
    one = process("one")
    await one.heartbeat("")
    now = int(await redis.zscore(f"{prefix}processes", "one"))
    await redis.zadd(
        f"{prefix}processes", {"long gone": now - RECOVERY_MS - 10_000, "just gone": now - 50_000}
    )
    await silence()
    epoch = await one.heartbeat("")

    assert (await one.finish_recovery(epoch)).recovering
    await redis.zrem(f"{prefix}processes", "just gone")

    assert not (await one.heartbeat("")).recovering


async def test_a_store_that_was_away_for_long_waits_for_those_who_were_there_when_it_went(
    process: Process, age: Age, redis: Any, prefix: str
) -> None:
    one, other = process("one"), process("other")
    for each in (one, other):
        await each.heartbeat("")
        await redis.zincrby(f"{prefix}processes", -10 * RECOVERY_MS, "one" if each is one else "other")
    await age("heartbeat_at", 10 * RECOVERY_MS)
    epoch = await one.heartbeat("")

    assert (await one.finish_recovery(epoch)).recovering
    assert not (await other.finish_recovery(epoch)).recovering


async def test_a_process_that_comes_during_recovery_is_waited_for_too(
    process: Process, silence: Callable[[], Awaitable[None]]
) -> None:
    one, late = process("one"), process("late")
    await one.heartbeat("")
    await silence()
    epoch = await one.heartbeat("")
    await late.heartbeat("")

    assert (await one.finish_recovery(epoch)).recovering
    assert not (await late.finish_recovery(epoch)).recovering


async def test_a_recovery_finished_in_one_epoch_does_not_count_in_the_next(
    process: Process, silence: Callable[[], Awaitable[None]]
) -> None:
    one, other = process("one"), process("other")
    for each in (one, other):
        await each.finish_recovery(await each.heartbeat(""))
    await silence()
    epoch = await one.heartbeat("")

    assert await one.finish_recovery(epoch) == replace(epoch, recovering=True)


async def test_a_recovery_finished_in_an_epoch_that_is_over_does_not_count(
    process: Process, silence: Callable[[], Awaitable[None]]
) -> None:
    one = process("one")
    over = await one.heartbeat("")
    await silence()

    present = await one.finish_recovery(over)

    assert present.number > over.number
    assert present.recovering


async def test_recovery_ends_after_its_time_even_if_a_process_is_missing(
    process: Process, silence: Callable[[], Awaitable[None]], age: Age
) -> None:
    one = process("one")
    await one.heartbeat("")
    await silence()
    await one.heartbeat("")

    await age("ends_at", RECOVERY_MS // 2)
    assert (await one.heartbeat("")).recovering
    await age("ends_at", RECOVERY_MS // 2)

    assert not (await one.heartbeat("")).recovering


async def test_after_a_restart_recovery_leaves_time_for_a_process_whose_heartbeat_was_forgotten(
    process: Process,
    restart: Callable[[], Awaitable[None]],
    age: Age,
    registry: RedisRegistry,
    redis: Any,
    prefix: str,
) -> None:
    one = process("one")
    await one.heartbeat("")
    await restart()
    before = await registry.now()
    epoch = await one.heartbeat("")
    least_until = int(await redis.hget(f"{prefix}epoch", "least_until"))
    assert before + LEAST_MS <= least_until <= await registry.now() + LEAST_MS

    await age("least_until", -RECOVERY_MS // 2)  # a machine that takes its time meets it none the less
    assert (await one.finish_recovery(epoch)).recovering
    assert (await one.heartbeat("")).recovering
    await age("least_until", RECOVERY_MS // 2 + LEAST_MS)

    assert not (await one.heartbeat("")).recovering


async def test_that_time_is_no_longer_than_recovery_at_the_longest(
    process: Process, restart: Callable[[], Awaitable[None]]
) -> None:
    one = process("one", recovery_ms=1)
    await one.heartbeat("")
    await restart()
    await one.heartbeat("")
    await asyncio.sleep(0.005)

    assert not (await one.heartbeat("")).recovering


async def test_a_restart_while_nobody_was_present_has_nobody_to_leave_time_for(
    process: Process, restart: Callable[[], Awaitable[None]]
) -> None:
    one = process("one")
    await one.heartbeat("")
    await one.leave()
    await restart()

    assert not (await one.heartbeat("")).recovering


async def test_a_recovery_that_ended_stays_ended(
    process: Process, silence: Callable[[], Awaitable[None]]
) -> None:
    one = process("one")
    await one.heartbeat("")
    await silence()
    await one.finish_recovery(await one.heartbeat(""))

    await process("one who comes later").heartbeat("")

    assert not (await one.heartbeat("")).recovering


async def test_an_epoch_forgets_who_was_last_heard_of_more_than_a_day_before(
    process: Process, silence: Callable[[], Awaitable[None]], redis: Any, prefix: str
) -> None:
    one = process("one")
    await one.heartbeat("")
    now = int(await redis.zscore(f"{prefix}processes", "one"))
    await redis.zadd(
        f"{prefix}processes", {"a day ago": now - DAY_MS - 10_000, "nearly": now - DAY_MS + 10_000}
    )
    await silence()

    await one.heartbeat("")

    assert await redis.zrange(f"{prefix}processes", 0, -1) == [b"nearly", b"one"]


# What processes say of themselves


async def test_a_process_says_what_keeps_it_from_claiming_for_as_long_as_it_does(
    process: Process, redis: Any, prefix: str
) -> None:
    one, other = process("one"), process("other")
    await one.heartbeat("the disk is full")
    await other.heartbeat("")
    assert await redis.hgetall(f"{prefix}troubles") == {b"one": b"the disk is full"}

    await one.heartbeat("")

    assert await redis.hgetall(f"{prefix}troubles") == {}


async def test_a_process_that_leaves_takes_everything_it_said_with_it(
    process: Process, redis: Any, prefix: str
) -> None:
    one = process("one")
    await one.finish_recovery(await one.heartbeat("the disk is full"))

    await one.leave()
    await one.leave()  # the reply was lost

    assert await redis.exists(f"{prefix}processes", f"{prefix}recovered", f"{prefix}troubles") == 0


async def test_a_heartbeat_tells_the_time(
    process: Process, registry: RedisRegistry, clock: RedisClock
) -> None:
    await process().heartbeat("")

    assert abs(clock.now() - await registry.now()) < 1_000


# The gate


async def test_a_process_that_has_not_finished_its_recovery_is_given_nothing(
    process: Process, client: Client, seed: Seed, due_of: DueOf
) -> None:
    await seed("one")
    one = process()
    due = await due_of("one")
    await one.heartbeat("")

    claim = await one.claim(client, 10, "runner")

    assert (claim.leases, claim.recovering, claim.drained) == ([], True, True)
    assert await one.lease("one") == Recovering()
    assert await due_of("one") == due


async def test_a_process_that_finished_its_recovery_is_given_what_is_due(
    process: Process, client: Client, seed: Seed
) -> None:
    await seed("one")
    await seed("two")
    one = process()
    await one.finish_recovery(await one.heartbeat(""))

    claim = await one.claim(client, 1, "")

    assert len(claim.leases) == 1
    assert not claim.recovering
    assert isinstance(await one.lease("two"), Lease)


async def test_nothing_is_given_while_another_process_recovers(
    process: Process, client: Client, seed: Seed, silence: Callable[[], Awaitable[None]]
) -> None:
    await seed("one")
    await seed("two")
    one, other = process("one"), process("other")
    for each in (one, other):
        await each.finish_recovery(await each.heartbeat(""))
    await silence()
    epoch = await one.heartbeat("")
    await one.finish_recovery(epoch)

    assert (await one.claim(client, 1, "")).recovering
    assert await one.lease("two") == Recovering()
    await other.finish_recovery(epoch)

    assert len((await one.claim(client, 1, "")).leases) == 1
    assert isinstance(await one.lease("two"), Lease)


async def test_a_process_that_slept_through_the_recovery_has_to_finish_it_first(
    process: Process, client: Client, seed: Seed, silence: Callable[[], Awaitable[None]], age: Age
) -> None:
    await seed("one")
    await seed("two")
    sleeper, other = process("sleeper"), process("other")
    for each in (sleeper, other):
        await each.finish_recovery(await each.heartbeat(""))
    await silence()
    await other.finish_recovery(await other.heartbeat(""))
    await age("ends_at", RECOVERY_MS)
    assert len((await other.claim(client, 1, "")).leases) == 1

    assert (await sleeper.claim(client, 1, "")).recovering
    assert await sleeper.lease("two") == Recovering()
    await sleeper.finish_recovery(await sleeper.heartbeat(""))

    assert len((await sleeper.claim(client, 1, "")).leases) == 1


async def test_answers_are_taken_while_the_store_recovers(
    store: RedisStore, client: Client, seed: Seed, answer: Answer, silence: Callable[[], Awaitable[None]]
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await silence()
    assert (await store.heartbeat("")).recovering

    assert (await store.commit(answer(lease))).verdict is Verdict.STORED


# Leases that are taken back


@pytest.fixture
def forget(
    redis: Any, prefix: str, due_of: DueOf
) -> Callable[[str], Awaitable[Callable[[], Awaitable[None]]]]:
    """Remember a grant as it is; what is returned brings the store back to that, as a restart may."""

    async def remember(grant_id: str) -> Callable[[], Awaitable[None]]:
        packed, due = await redis.get(f"{prefix}grant:{grant_id}"), await due_of(grant_id)

        async def go_back() -> None:
            await redis.set(f"{prefix}grant:{grant_id}", packed)
            await redis.zadd(f"{prefix}schedule:acme", {grant_id: due})
            await redis.delete(f"{prefix}fence")

        return go_back

    return remember


async def test_a_lease_that_the_store_forgot_is_taken_back_as_it_was(
    store: RedisStore,
    client: Client,
    seed: Seed,
    record_of: RecordOf,
    due_of: DueOf,
    forget: Callable[[str], Awaitable[Callable[[], Awaitable[None]]]],
) -> None:
    await seed("one", access_expires_at=None)
    go_back = await forget("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    before, due = await record_of("one"), await due_of("one")
    await go_back()

    await store.reassert(lease)
    await store.reassert(lease)  # the reply was lost

    assert await record_of("one") == before
    assert before["INTENT"] is True
    assert await due_of("one") == due == lease.until
    assert (await store.claim(client, 1, "")).leases == []


async def test_a_lease_taken_back_is_numbered_before_every_one_to_come(
    store: RedisStore,
    client: Client,
    seed: Seed,
    redis: Any,
    prefix: str,
    forget: Callable[[str], Awaitable[Callable[[], Awaitable[None]]]],
) -> None:
    await seed("one")
    go_back = await forget("one")
    await redis.set(f"{prefix}fence", 8_000_000_000_000_000)  # a clock that was set back
    (lease,) = (await store.claim(client, 1, "")).leases
    await go_back()
    await seed("two")

    await store.reassert(lease)
    (later,) = (await store.claim(client, 1, "")).leases

    assert later.fence > lease.fence


async def test_taking_back_a_lease_never_sets_the_counter_back(
    store: RedisStore,
    client: Client,
    seed: Seed,
    redis: Any,
    prefix: str,
    forget: Callable[[str], Awaitable[Callable[[], Awaitable[None]]]],
) -> None:
    await seed("one")
    go_back = await forget("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await go_back()
    await redis.set(f"{prefix}fence", 8_000_000_000_000_000)

    await store.reassert(lease)

    assert int(await redis.get(f"{prefix}fence")) == 8_000_000_000_000_000


async def test_a_lease_that_the_store_knows_of_is_left_alone(
    store: RedisStore,
    client: Client,
    seed: Seed,
    record_of: RecordOf,
    make_due: OnGrant,
    due_of: DueOf,
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await make_due("one")
    before = await record_of("one")

    await store.reassert(lease)

    assert await record_of("one") == before
    assert await due_of("one") == 1


async def test_a_lease_that_was_followed_by_another_is_not_taken_back(
    store: RedisStore,
    client: Client,
    seed: Seed,
    record_of: RecordOf,
    end_lease: OnGrant,
) -> None:
    await seed("one")
    (first,) = (await store.claim(client, 1, "")).leases
    await end_lease("one")
    await store.claim(client, 1, "")
    before = await record_of("one")

    await store.reassert(first)

    assert await record_of("one") == before


async def test_a_lease_whose_answer_was_given_back_already_is_not_taken_back(
    store: RedisStore,
    client: Client,
    seed: Seed,
    answer: Answer,
    record_of: RecordOf,
    forget: Callable[[str], Awaitable[Callable[[], Awaitable[None]]]],
) -> None:
    await seed("one")
    go_back = await forget("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await go_back()
    assert (await store.commit(answer(lease))).verdict is Verdict.STORED

    await store.reassert(lease)

    kept = await record_of("one")
    assert (kept["LEASE_OWNER"], kept["LEASE_UNTIL"], kept["INTENT"]) == (False, 0, False)


async def test_an_answer_ends_a_lease_from_before_its_own_that_a_forgetful_store_still_shows(
    store: RedisStore,
    client: Client,
    seed: Seed,
    answer: Answer,
    record_of: RecordOf,
    end_lease: OnGrant,
    forget: Callable[[str], Awaitable[Callable[[], Awaitable[None]]]],
) -> None:
    await seed("one")
    (first,) = (await store.claim(client, 1, "")).leases
    go_back = await forget("one")
    await end_lease("one")
    (second,) = (await store.claim(client, 1, "")).leases
    await go_back()
    assert (await record_of("one"))["FENCE"] == first.fence

    assert (await store.commit(answer(second))).verdict is Verdict.STORED

    kept = await record_of("one")
    assert (kept["LEASE_OWNER"], kept["FENCE"]) == (False, second.fence)


async def test_a_lease_of_a_grant_that_is_gone_is_not_taken_back(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await registry.operate("one", Operation.DELETE)

    await store.reassert(lease)

    assert await registry.find("one") is None


async def test_a_lease_of_a_grant_that_is_out_of_work_is_taken_back_and_leaves_it_there(
    store: RedisStore, seed: Seed, redis: Any, prefix: str, record_of: RecordOf, due_of: DueOf
) -> None:
    await seed("one", status=Status.FAILED, streak=2, reason="revoked")
    lease = await store.lease("one")
    assert isinstance(lease, Lease)
    values = msgpack.unpackb(await redis.get(f"{prefix}grant:one"), raw=True)
    for field, value in {"FENCE": 0, "LEASE_OWNER": False, "LEASE_UNTIL": 0, "INTENT": False}.items():
        values[record.FIELDS.index(field)] = value
    await redis.set(f"{prefix}grant:one", msgpack.packb(values, use_bin_type=False))

    await store.reassert(lease)

    assert (await record_of("one"))["FENCE"] == lease.fence
    assert await due_of("one") == float("inf")
