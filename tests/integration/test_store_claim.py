"""claim.lua: who is leased, who is not, and when to come again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.support.callables import Answer, DueOf, OnGrant, OpenStore, RecordOf, Seed, Under
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.clock import RedisClock
from worker.adapters.store import signatures
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.events import EventType, client_event
from worker.core.grant import Status
from worker.core.ports import Claim, LeasedElsewhere, Refusal, RefusalWords, StoreRefusedError
from worker.core.providers import Client
from worker.core.registry import Operation

SEEDED_AT_ONCE = 50


@pytest.fixture
def claim_as(
    scripts: Scripts, epoch_number: Callable[[], Awaitable[int]], client: Client
) -> Callable[..., Awaitable[list[Any]]]:
    """The bare script, under a claim id of the test's choice."""

    async def run(
        claim_id: str, *, limit: int = 10, lease_ms: int = 60_000, rate: float | None = None
    ) -> list[Any]:
        epoch = await epoch_number()
        ask = signatures.Ask("acme", limit, rate, client.token_url, client.registration)
        _, _, answers = await scripts.run(signatures.Claim(claim_id, "this", lease_ms, None, epoch, (ask,)))
        answer: list[Any] = answers[0]
        return answer

    return run


@pytest.fixture
def reject(store: RedisStore, clock: RedisClock, under: Under) -> Callable[..., Awaitable[bool]]:
    async def run(client: Client, attempt: int = 1) -> bool:
        event = client_event(EventType.CLIENT_REJECTED, client, attempt=attempt, now=clock.now(), reason="no")
        verdict = await store.record_refusal(
            client, event, under("one"), words=RefusalWords.CLIENT, sent_at=clock.now(), believe_ms=0
        )
        return verdict.whom is Refusal.CHANGED

    return run


async def _let_the_probe_be_due(redis: Redis, prefix: str) -> None:
    await redis.hset(f"{prefix}client:acme", "probe_at", "1")


async def _replace_in(redis: Any, key: str, what: bytes, by: bytes) -> None:
    value = await redis.get(key)
    assert what in value
    await redis.set(key, value.replace(what, by))


async def test_a_due_grant_is_leased_with_a_fence_an_end_and_an_intent(
    store: RedisStore, client: Client, seed: Seed, record_of: RecordOf
) -> None:
    await seed("one")

    claim = await store.claim(client, 10, "")

    (lease,) = claim.leases
    record = await record_of("one")
    assert (lease.grant.id, lease.fence, lease.until) == ("one", record["FENCE"], record["LEASE_UNTIL"])
    assert lease.until == claim.now + 60_000
    assert record["LEASE_OWNER"] == b"this"
    assert record["INTENT"] is True
    assert not lease.client_probe


async def test_a_lease_moves_the_due_time_to_its_end_so_that_a_dead_workers_grants_come_back(
    store: RedisStore, client: Client, seed: Seed, due_of: DueOf
) -> None:
    await seed("one")

    claim = await store.claim(client, 10, "")

    assert await due_of("one") == claim.leases[0].until


@pytest.mark.parametrize(
    ("life_ms", "patience_ms"),
    [
        pytest.param(8 * 3_600_000, 900_000, id="a-quarter-of-an-hour"),
        pytest.param(None, 900_000, id="the-same-where-the-token-never-ends"),
        pytest.param(400_000, 200_000, id="half-of-what-is-left-of-the-tokens-life"),
        pytest.param(-1, 3_000, id="as-long-as-the-clock-may-leap-unnoticed-where-the-token-is-dead"),
    ],
)
async def test_a_holder_whose_lease_ended_may_have_the_answer_and_is_waited_for(
    open_store: OpenStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    due_of: DueOf,
    life_ms: int | None,
    patience_ms: int,
) -> None:
    now = await registry.now()
    await seed("one", access_expires_at=None if life_ms is None else now + life_ms)
    (lease,) = (await (await open_store(lease_ms=1, owner="frozen")).claim(client, 10, "")).leases
    other = await open_store(owner="other")
    while await registry.now() <= lease.until:
        pass

    assert (await other.claim(client, 10, "")).leases == []
    held = await other.lease("one")

    assert isinstance(held, LeasedElsewhere)
    assert held.until - lease.until == pytest.approx(patience_ms, abs=(lease.until - now) / 2 + 1)
    due = await due_of("one")
    assert due is not None
    assert due <= await registry.now() + 5_000


async def test_nothing_is_waited_for_where_the_holder_is_known_to_be_gone(
    open_store: OpenStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    make_due: OnGrant,
) -> None:
    await seed("one", access_expires_at=await registry.now() + 3_600_000)
    holder = await open_store(lease_ms=1, owner="holder")
    (held,) = (await holder.claim(client, 10, "")).leases
    await holder.leave()
    await make_due("one")
    while await registry.now() <= held.until:
        pass

    (lease,) = (await (await open_store(owner="other")).claim(client, 10, "")).leases

    assert lease.grant.in_doubt


async def test_a_grant_that_is_not_due_stays_where_it_is(
    store: RedisStore, client: Client, seed: Seed
) -> None:
    await seed("later", due_in_ms=60_000)
    await seed("never", due_in_ms=None)

    claim = await store.claim(client, 10, "")

    assert claim.leases == []
    assert claim.drained


async def test_grants_out_of_work_are_never_claimed(store: RedisStore, client: Client, seed: Seed) -> None:
    await seed("paused", status=Status.PAUSED)
    await seed("failed", status=Status.FAILED)

    assert (await store.claim(client, 10, "")).leases == []


async def test_another_clients_grants_are_not_touched(store: RedisStore, client: Client, seed: Seed) -> None:
    await seed("theirs", client="other")

    assert (await store.claim(client, 10, "")).leases == []


async def test_the_longest_due_come_first_and_a_full_chunk_says_there_may_be_more(
    store: RedisStore, client: Client, seed: Seed
) -> None:
    for number in range(3):
        await seed(f"due-{number}", due_in_ms=-1_000 * (3 - number))

    first = await store.claim(client, 2, "")
    second = await store.claim(client, 2, "")

    assert [lease.grant.id for lease in first.leases] == ["due-0", "due-1"]
    assert not first.drained
    assert [lease.grant.id for lease in second.leases] == ["due-2"]
    assert second.drained


async def test_a_leased_grant_that_is_due_again_is_skipped_and_moved_to_its_leases_end(
    store: RedisStore, client: Client, seed: Seed, make_due: OnGrant, due_of: DueOf
) -> None:
    await seed("one", access_expires_at=None)
    first = await store.claim(client, 10, "")
    await make_due("one")

    second = await store.claim(client, 10, "")

    assert second.leases == []
    assert await due_of("one") == first.leases[0].until


async def test_a_schedule_entry_without_a_record_is_healed_away(
    store: RedisStore, client: Client, seed: Seed, redis: Redis, prefix: str, due_of: DueOf
) -> None:
    await seed("one")
    await redis.zadd(f"{prefix}schedule:acme", {"ghost": 1})

    claim = await store.claim(client, 10, "")

    assert [lease.grant.id for lease in claim.leases] == ["one"]
    assert await due_of("ghost") is None


async def test_a_record_that_this_process_cannot_read_costs_its_own_grant_alone(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    redis: Any,
    prefix: str,
    due_of: DueOf,
) -> None:
    for grant_id in ("one", "two", "three"):
        await seed(grant_id, reason="s3cr3t")
    await _replace_in(redis, f"{prefix}grant:two", b"active", b"aktive")

    with capture_logs() as logs:
        claim = await store.claim(client, 10, "")

    assert {lease.grant.id for lease in claim.leases} == {"one", "three"}
    (told,) = logs
    assert (told["event"], told["log_level"], told["grant"]) == ("grant.unreadable", "error", "two")
    assert not [word for word in ("aktive", "s3cr3t", "sealed at first") if word in str(told)]
    assert await due_of("two") == claim.leases[0].until
    assert [problem.grant_id for problem in await registry.noted_unreadable(10)] == ["two"]

    await _replace_in(redis, f"{prefix}grant:two", b"aktive", b"active")
    assert await registry.noted_unreadable(10) == []


NO_RECORDS = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\x00garbage", id="garbage"),
    pytest.param(b"\xdc\x00\x15\xa5ab", id="cut-short"),
    pytest.param(b"\xdc\x00\x15" + b"\xa1s" * 21, id="fields-of-other-kinds"),
    pytest.param(b"\xdc\x00\x15" + b"\x00" * 21, id="of-no-client"),
]


@pytest.mark.parametrize("packed", NO_RECORDS)
async def test_a_record_that_no_script_can_read_is_set_aside_for_minutes_and_the_others_are_leased(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    make_due: OnGrant,
    redis: Any,
    prefix: str,
    due_of: DueOf,
    packed: bytes,
) -> None:
    for grant_id in ("one", "two", "three"):
        await seed(grant_id)
    kept = await redis.getset(f"{prefix}grant:one", packed)

    claim = await store.claim(client, 10, "")

    assert {lease.grant.id for lease in claim.leases} == {"two", "three"}
    assert await due_of("one") == claim.now + 300_000
    assert [problem.grant_id for problem in await registry.noted_unreadable(10)] == ["one"]
    assert (await store.claim(client, 10, "")).leases == []

    await redis.set(f"{prefix}grant:one", kept)
    await make_due("one")
    (lease,) = (await store.claim(client, 10, "")).leases
    assert not lease.grant.in_doubt


async def test_leases_are_worth_more_than_the_note_that_one_of_them_cannot_be_read(
    store: RedisStore, client: Client, seed: Seed, redis: Any, prefix: str
) -> None:
    for grant_id in ("one", "two"):
        await seed(grant_id)
    await _replace_in(redis, f"{prefix}grant:two", b"active", b"aktive")
    await redis.set(f"{prefix}unreadable", "no set")

    claim = await store.claim(client, 10, "")

    assert [lease.grant.id for lease in claim.leases] == ["one"]
    await _replace_in(redis, f"{prefix}grant:two", b"aktive", b"active")
    await redis.delete(f"{prefix}unreadable")


async def test_a_lease_that_ran_out_is_claimed_again_and_tells_that_its_intent_has_no_outcome(
    open_store: OpenStore, client: Client, seed: Seed
) -> None:
    dying, living = await open_store(lease_ms=30, owner="dying"), await open_store(owner="living")
    await seed("one", access_expires_at=1)  # a dead token: nobody waits beyond the lease's end
    first = await dying.claim(client, 10, "")

    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (second := await living.claim(client, 10, "")).leases:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)

    assert second.now >= first.leases[0].until
    assert not first.leases[0].grant.in_doubt
    assert second.leases[0].grant.in_doubt
    assert second.leases[0].fence > first.leases[0].fence


async def test_a_stored_outcome_clears_the_doubt_of_the_next_claim(
    store: RedisStore, client: Client, seed: Seed, make_due: OnGrant, answer: Answer
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 10, "")).leases
    await store.commit(answer(lease))
    await make_due("one")

    (again,) = (await store.claim(client, 10, "")).leases

    assert not again.grant.in_doubt


async def test_one_claim_run_twice_gives_the_same_leases_and_takes_none(
    claim_as: Callable[..., Awaitable[list[Any]]], seed: Seed
) -> None:
    for number in range(3):
        await seed(f"due-{number}")

    first = await claim_as("the-claim", limit=2)
    again = await claim_as("the-claim", limit=2)
    other = await claim_as("another-claim")

    assert first[4] == again[4]
    assert len(first[4]) == 2 * 3
    assert first[1] == again[1] == 0  # not drained
    assert len(other[4]) == 1 * 3


async def test_a_claim_repeated_tells_of_the_doubt_it_found_the_first_time(
    claim_as: Callable[..., Awaitable[list[Any]]], seed: Seed, end_lease: OnGrant
) -> None:
    await seed("doubtful")
    await claim_as("a dead one's")
    await end_lease("doubtful")

    first, again = await claim_as("the-claim"), await claim_as("the-claim")

    assert first[4][1] == again[4][1] == 1


async def test_a_claim_repeated_leaves_out_what_ended_was_deleted_or_leased_by_another_since(
    claim_as: Callable[..., Awaitable[list[Any]]],
    registry: RedisRegistry,
    store: RedisStore,
    client: Client,
    seed: Seed,
    end_lease: OnGrant,
) -> None:
    for grant_id in ("kept", "deleted", "lost"):
        await seed(grant_id)
    await claim_as("the-claim")
    await registry.operate("deleted", Operation.DELETE)
    await end_lease("lost")
    (theirs,) = (await store.claim(client, 10, "")).leases
    assert theirs.grant.id == "lost"

    again = await claim_as("the-claim")

    assert again[4][2::3] == [b"kept"]


async def test_a_small_rate_budget_lets_one_through_and_tells_how_long_to_wait(
    store: RedisStore, client: Client, seed: Seed
) -> None:
    slow = replace(client, rate_per_second=0.001)
    for number in range(3):
        await seed(f"due-{number}")

    first = await store.claim(slow, 10, "")
    second = await store.claim(slow, 10, "")

    assert len(first.leases) == 1
    assert not first.drained
    assert second.leases == []
    assert not second.drained
    assert 900_000 < second.wait_ms <= 1_000_000


async def test_the_rate_budget_fills_up_with_time(store: RedisStore, client: Client, seed: Seed) -> None:
    brisk = replace(client, rate_per_second=20)
    for number in range(22):
        await seed(f"due-{number}")

    first = await store.claim(brisk, 50, "")
    leased, deadline = len(first.leases), time.monotonic() + PATIENCE_SECONDS
    while leased < 22:
        assert time.monotonic() < deadline
        claim = await store.claim(brisk, 50, "")
        assert claim.leases or 0 < claim.wait_ms <= 50 or claim.drained
        leased += len(claim.leases)
        await asyncio.sleep(claim.wait_ms / 1000)

    assert len(first.leases) == 2  # a tenth of a second's worth


async def test_the_rate_budget_counts_only_what_was_leased(
    store: RedisStore, client: Client, seed: Seed
) -> None:
    slow = replace(client, rate_per_second=0.001)
    assert (await store.claim(slow, 10, "")).drained  # nothing was due, nothing is spent
    await seed("one")

    assert len((await store.claim(slow, 10, "")).leases) == 1


async def test_a_claim_repeated_spends_the_budget_once(
    claim_as: Callable[..., Awaitable[list[Any]]], seed: Seed, redis: Redis, prefix: str
) -> None:
    for number in range(3):
        await seed(f"due-{number}")
    await claim_as("the-claim", limit=1, rate=20)
    left = await redis.hmget(f"{prefix}client:acme", "budget", "budget_at")

    await claim_as("the-claim", limit=1, rate=20)

    assert left == await redis.hmget(f"{prefix}client:acme", "budget", "budget_at") != [None, None]


async def test_a_rejected_clients_grants_stay_where_they_are_until_the_probe_time(
    store: RedisStore,
    client: Client,
    seed: Seed,
    clock: RedisClock,
    reject: Callable[..., Awaitable[bool]],
) -> None:
    await seed("one")
    clock.set((await store.claim(replace(client, name="other"), 1, "")).now, asked_at=clock.stopwatch())
    await reject(client)

    claim = await store.claim(client, 10, "")

    assert claim.leases == []
    assert claim.drained


async def test_at_the_probe_time_exactly_one_grant_is_let_through_even_if_it_is_not_due(
    store: RedisStore,
    client: Client,
    seed: Seed,
    redis: Redis,
    prefix: str,
    reject: Callable[..., Awaitable[bool]],
) -> None:
    await seed("later", due_in_ms=600_000)
    await seed("sooner", due_in_ms=500_000)
    await seed("never", due_in_ms=None)
    await store.claim(client, 1, "")
    await reject(client)
    await _let_the_probe_be_due(redis, prefix)

    probe = await store.claim(client, 10, "")
    after = await store.claim(client, 10, "")

    assert [(lease.grant.id, lease.client_probe) for lease in probe.leases] == [("sooner", True)]
    assert probe.drained
    assert after.leases == []
    assert after.drained


async def test_a_probe_lets_no_grant_through_that_is_out_of_work(
    store: RedisStore,
    client: Client,
    seed: Seed,
    redis: Redis,
    prefix: str,
    reject: Callable[..., Awaitable[bool]],
) -> None:
    await seed("paused", status=Status.PAUSED)
    await seed("failed", status=Status.FAILED)
    await seed("never", due_in_ms=None)
    await store.claim(client, 0, "")
    await reject(client)
    await _let_the_probe_be_due(redis, prefix)

    claim = await store.claim(client, 10, "")

    assert claim.leases == []
    assert claim.drained


async def test_a_lost_probe_is_followed_by_another_when_its_lease_has_ended(
    store: RedisStore,
    client: Client,
    seed: Seed,
    redis: Redis,
    prefix: str,
    reject: Callable[..., Awaitable[bool]],
) -> None:
    await seed("one")
    await store.claim(client, 0, "")
    await reject(client)
    await _let_the_probe_be_due(redis, prefix)

    probe = await store.claim(client, 10, "")

    probe_at = int(await redis.hget(f"{prefix}client:acme", "probe_at") or 0)
    assert probe_at == probe.leases[0].until


async def test_a_probe_claimed_twice_under_one_claim_id_is_still_a_probe(
    claim_as: Callable[..., Awaitable[list[Any]]],
    seed: Seed,
    store: RedisStore,
    client: Client,
    redis: Redis,
    prefix: str,
    reject: Callable[..., Awaitable[bool]],
) -> None:
    await seed("one")
    await store.claim(client, 0, "")
    await reject(client)
    await _let_the_probe_be_due(redis, prefix)

    first, again = await claim_as("the-claim"), await claim_as("the-claim")

    assert first[3] == again[3] == 1
    assert first[4] == again[4] != []


async def test_a_probe_keeps_to_the_rate_budget(
    store: RedisStore,
    client: Client,
    seed: Seed,
    redis: Redis,
    prefix: str,
    reject: Callable[..., Awaitable[bool]],
) -> None:
    slow = replace(client, rate_per_second=0.001)
    await seed("spends")
    await seed("waits")
    assert len((await store.claim(slow, 1, "")).leases) == 1
    await reject(client)
    await _let_the_probe_be_due(redis, prefix)

    claim = await store.claim(slow, 10, "")

    assert claim.leases == []
    assert claim.wait_ms > 0


async def test_each_claim_extends_the_runners_place_to_the_end_of_the_leases(
    store: RedisStore, client: Client, redis: Redis, prefix: str
) -> None:
    claim = await store.claim(client, 10, "runner")

    assert await redis.zscore(f"{prefix}runners", "runner") == claim.now + 60_000


async def test_a_claim_without_a_runner_takes_no_place(
    store: RedisStore, client: Client, redis: Redis, prefix: str
) -> None:
    await store.claim(client, 10, "")

    assert await redis.zcard(f"{prefix}runners") == 0


async def test_a_claim_tells_the_clients_generation(
    store: RedisStore, client: Client, redis: Redis, prefix: str
) -> None:
    before = await store.claim(client, 10, "")
    await redis.hset(f"{prefix}client:acme", "generation", "3")

    after = await store.claim(client, 10, "")

    assert (before.generation, after.generation) == (0, 3)


async def test_fences_only_grow_even_if_the_fence_key_is_lost(
    store: RedisStore, client: Client, seed: Seed, redis: Redis, prefix: str
) -> None:
    fences = []
    for number in range(6):
        await seed(f"due-{number}")
        (lease,) = (await store.claim(client, 10, "")).leases
        fences.append(lease.fence)
        if number % 2:
            await redis.delete(f"{prefix}fence")

    assert fences == sorted(set(fences))


async def test_fences_grow_past_a_counter_that_is_ahead_of_the_clock(
    store: RedisStore, client: Client, seed: Seed, redis: Redis, prefix: str
) -> None:
    ahead = 8_000_000_000_000_000  # a clock that was set back
    await redis.set(f"{prefix}fence", ahead)
    await seed("one")
    await seed("two")

    claim = await store.claim(client, 10, "")

    assert [lease.fence for lease in claim.leases] == [ahead + 1, ahead + 2]


async def test_many_claims_at_once_never_lease_one_grant_twice(
    open_store: OpenStore, client: Client, seed: Seed
) -> None:
    for number in range(40):
        await seed(f"due-{number}")
    stores = [await open_store(owner=f"worker {number}") for number in range(8)]

    claims = await asyncio.gather(*(each.claim(client, 7, "") for each in stores))

    leased = [lease.grant.id for claim in claims for lease in claim.leases]
    fences = [lease.fence for claim in claims for lease in claim.leases]
    assert len(leased) == len(set(leased)) == 40
    assert len(set(fences)) == 40


# An endpoint that is unavailable


@pytest.fixture
def set_endpoint(redis: Redis, prefix: str, client: Client) -> Callable[..., Awaitable[None]]:
    """Let the token endpoint's record say this."""

    async def write(**fields: str | int) -> None:
        await redis.hset(f"{prefix}endpoint:{client.token_url}", mapping=dict[Any, Any](fields))

    return write


@pytest.fixture
def endpoint_probe_at(redis: Redis, prefix: str, client: Client) -> Callable[[], Awaitable[int]]:
    async def read() -> int:
        return int(await redis.hget(f"{prefix}endpoint:{client.token_url}", "probe_at") or 0)

    return read


SetEndpoint = Callable[..., Awaitable[None]]
FAR = 8_000_000_000_000


async def test_an_unavailable_endpoints_grants_stay_where_they_are_until_the_probe(
    store: RedisStore, client: Client, seed: Seed, set_endpoint: SetEndpoint, due_of: DueOf
) -> None:
    await seed("one")
    due = await due_of("one")
    await set_endpoint(state="unavailable", probe_at=FAR)

    claim = await store.claim(client, 10, "")

    assert (claim.leases, claim.drained, claim.wait_ms) == ([], True, 0)
    assert await due_of("one") == due


@pytest.mark.parametrize("kind", ["client", "endpoint"])
async def test_where_it_is_not_known_when_a_probe_is_due_it_is_due_now(
    store: RedisStore,
    client: Client,
    seed: Seed,
    set_endpoint: SetEndpoint,
    redis: Any,
    prefix: str,
    kind: str,
) -> None:
    await seed("one")
    if kind == "client":
        await redis.hset(f"{prefix}client:acme", "state", "rejected")
    else:
        await set_endpoint(state="unavailable")

    (lease,) = (await store.claim(client, 10, "")).leases

    assert (lease.client_probe, lease.endpoint_probe) == (kind == "client", kind == "endpoint")


async def test_when_the_probe_is_due_one_grant_is_let_through_even_if_it_is_not_due(
    store: RedisStore,
    client: Client,
    seed: Seed,
    set_endpoint: SetEndpoint,
    endpoint_probe_at: Callable[[], Awaitable[int]],
) -> None:
    await seed("later", due_in_ms=600_000)
    await seed("sooner", due_in_ms=500_000)
    await seed("never", due_in_ms=None)
    await set_endpoint(state="unavailable", probe_at=1)

    claim = await store.claim(client, 10, "")
    after = await store.claim(client, 10, "")

    assert [(lease.grant.id, lease.endpoint_probe, lease.client_probe) for lease in claim.leases] == [
        ("sooner", True, False)
    ]
    assert claim.drained
    assert (after.leases, after.drained) == ([], True)
    assert await endpoint_probe_at() == claim.leases[0].until


async def test_one_probe_is_enough_for_all_clients_of_the_endpoint(
    store: RedisStore, client: Client, seed: Seed, set_endpoint: SetEndpoint
) -> None:
    other = replace(client, name="other")
    for number in range(3):
        await seed(f"ours-{number}")
        await seed(f"theirs-{number}", client="other")
    await set_endpoint(state="unavailable", probe_at=1)

    claims = [await store.claim(each, 10, "") for each in (client, other, client)]

    assert [len(claim.leases) for claim in claims] == [1, 0, 0]


async def test_a_client_without_grants_leaves_the_probe_to_another(
    store: RedisStore, client: Client, seed: Seed, set_endpoint: SetEndpoint
) -> None:
    other = replace(client, name="other")
    await seed("theirs", client="other")
    await set_endpoint(state="unavailable", probe_at=1)

    assert (await store.claim(client, 10, "")).leases == []
    assert len((await store.claim(other, 10, "")).leases) == 1


async def test_each_probe_takes_another_of_the_first_five(
    open_store: OpenStore,
    client: Client,
    seed: Seed,
    set_endpoint: SetEndpoint,
    end_lease: OnGrant,
    redis: Redis,
    prefix: str,
) -> None:
    store = await open_store()
    scores = {f"{number}": number for number in range(7)}
    for name in scores:
        await seed(name)
    tried = []
    for _ in range(6):
        await redis.zadd(f"{prefix}schedule:acme", scores)
        await set_endpoint(state="unavailable", probe_at=1)
        (lease,) = (await store.claim(client, 10, "")).leases
        tried.append(lease.grant.id)
        await end_lease(lease.grant.id)

    assert tried == ["0", "1", "2", "3", "4", "0"]


async def test_an_endpoints_probe_claimed_twice_under_one_claim_id_is_still_a_probe(
    claim_as: Callable[..., Awaitable[list[Any]]], seed: Seed, set_endpoint: SetEndpoint
) -> None:
    await seed("one")
    await set_endpoint(state="unavailable", probe_at=1)

    first, again = await claim_as("the-claim"), await claim_as("the-claim")

    assert first[3] == again[3] == 2
    assert first[4] == again[4] != []
    assert first[1] == again[1] == 1


async def test_an_endpoints_probe_keeps_to_the_rate_budget(
    store: RedisStore, client: Client, seed: Seed, set_endpoint: SetEndpoint
) -> None:
    slow = replace(client, rate_per_second=0.001)
    await seed("spends")
    await seed("waits")
    await store.claim(slow, 1, "")
    await set_endpoint(state="unavailable", probe_at=1)

    claim = await store.claim(slow, 10, "")

    assert claim.leases == []
    assert claim.wait_ms > 0


@pytest.mark.parametrize(
    ("probe_at", "endpoint_probe_at", "let_through"),
    [(FAR, FAR, 0), (FAR, 1, 0), (1, FAR, 0), (1, 1, 1)],
)
async def test_a_rejected_client_of_an_unavailable_endpoint_waits_for_both_probes(
    store: RedisStore,
    client: Client,
    seed: Seed,
    set_endpoint: SetEndpoint,
    redis: Redis,
    prefix: str,
    probe_at: int,
    endpoint_probe_at: int,
    let_through: int,
) -> None:
    await seed("one")
    await seed("two")
    await redis.hset(f"{prefix}client:acme", mapping={"state": "rejected", "probe_at": probe_at})
    await set_endpoint(state="unavailable", probe_at=endpoint_probe_at)

    claim = await store.claim(client, 10, "")

    assert [(lease.client_probe, lease.endpoint_probe) for lease in claim.leases] == [
        (True, True)
    ] * let_through
    until = claim.leases[0].until if claim.leases else None
    assert int(await redis.hget(f"{prefix}client:acme", "probe_at") or 0) == (until or probe_at)
    record = await redis.hget(f"{prefix}endpoint:{client.token_url}", "probe_at")
    assert int(record or 0) == (until or endpoint_probe_at)


async def test_a_rejected_client_of_an_available_endpoint_is_probed_and_the_endpoint_not_tried(
    store: RedisStore, client: Client, seed: Seed, redis: Redis, prefix: str
) -> None:
    await seed("one")
    await redis.hset(f"{prefix}client:acme", mapping={"state": "rejected", "probe_at": 1})

    (lease,) = (await store.claim(client, 10, "")).leases

    assert (lease.client_probe, lease.endpoint_probe) == (True, False)
    assert await redis.exists(f"{prefix}endpoint:{client.token_url}") == 0


async def test_a_throttled_client_is_given_no_probe(
    store: RedisStore, client: Client, seed: Seed, set_endpoint: SetEndpoint, redis: Redis, prefix: str
) -> None:
    await seed("one")
    held: dict[Any, Any] = {"state": "rejected", "probe_at": 1, "throttled_until": FAR}
    await redis.hset(f"{prefix}client:acme", mapping=held)
    await set_endpoint(state="unavailable", probe_at=1)

    assert (await store.claim(client, 10, "")).leases == []


# An endpoint that recovered


@pytest.fixture
def recovered(set_endpoint: SetEndpoint, registry: RedisRegistry, store: RedisStore) -> "Recovered":
    """Let the endpoint have recovered so long ago; returns when that was."""

    async def say(ms_ago: int) -> int:
        # On a busy machine the test may have been silent for so long that the store began another epoch.
        await store.finish_recovery(await store.heartbeat(""))
        recovered_at = await registry.now() - ms_ago
        await set_endpoint(state="available", recovered_at=recovered_at)
        return recovered_at

    return say


Recovered = Callable[[int], Awaitable[int]]


def _rate(claim: Claim, recovered_at: int) -> float:
    """How many a second the slow start allows by then."""
    return float(10 * 2 ** ((claim.now - recovered_at) / 5_000))


async def _seed_many(seed: Seed, number: int, **changes: Any) -> None:
    for start in range(0, number, SEEDED_AT_ONCE):
        ids = [f"due-{each:04}" for each in range(start, min(start + SEEDED_AT_ONCE, number))]
        await asyncio.gather(*(seed(grant_id, **changes) for grant_id in ids))


async def test_after_a_recovery_the_first_claim_gets_one(
    store: RedisStore, client: Client, seed: Seed, recovered: Recovered
) -> None:
    await _seed_many(seed, 30)
    await recovered(0)

    first = await store.claim(client, 50, "")
    second = await store.claim(client, 50, "")

    assert len(first.leases) == 1
    assert not first.drained
    assert len(second.leases) <= 1
    if not second.leases:
        assert 0 < second.wait_ms <= 100
        assert not second.drained


@pytest.mark.parametrize("seconds", [5, 10, 15])
async def test_the_rate_doubles_every_five_seconds(
    store: RedisStore,
    client: Client,
    seed: Seed,
    recovered: Recovered,
    seconds: int,
) -> None:
    await _seed_many(seed, 150)
    recovered_at = await recovered(seconds * 1_000)

    claim = await store.claim(client, 150, "")

    assert len(claim.leases) == int(_rate(claim, recovered_at) / 10)  # a tenth of a second's worth


async def test_a_minute_after_the_recovery_the_rate_has_no_limit(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    recovered: Recovered,
    redis: Redis,
    prefix: str,
) -> None:
    await _seed_many(seed, 30)
    await recovered(60_000)
    await redis.hset(f"{prefix}client:acme", mapping={"budget": 0, "budget_at": await registry.now()})

    assert len((await store.claim(client, 30, "")).leases) == 30


async def test_a_recovery_that_lies_ahead_because_the_clock_was_set_back_slows_nothing_down(
    store: RedisStore, client: Client, seed: Seed, recovered: Recovered
) -> None:
    await _seed_many(seed, 30)
    await recovered(-60_000)

    assert len((await store.claim(client, 30, "")).leases) == 30


@pytest.mark.parametrize(("rate", "first"), [(20.0, 2), (1_000.0, 4)])
async def test_the_smaller_of_the_slow_starts_rate_and_the_clients_own_counts(
    store: RedisStore,
    client: Client,
    seed: Seed,
    recovered: Recovered,
    rate: float,
    first: int,
) -> None:
    await _seed_many(seed, 30)
    await recovered(10_000)

    claim = await store.claim(replace(client, rate_per_second=rate), 50, "")

    assert first <= len(claim.leases) <= first + 1


async def test_a_rate_below_one_a_second_still_lets_one_through_while_the_slow_start_lasts(
    store: RedisStore, client: Client, seed: Seed, recovered: Recovered
) -> None:
    await _seed_many(seed, 3)
    await recovered(0)
    slow = replace(client, rate_per_second=0.001)

    first, second = await store.claim(slow, 50, ""), await store.claim(slow, 50, "")

    assert len(first.leases) == 1
    assert second.leases == []
    assert 900_000 < second.wait_ms <= 1_000_000


async def test_a_claim_waits_for_half_of_what_the_budget_may_save_up(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    recovered: Recovered,
    redis: Redis,
    prefix: str,
) -> None:
    await _seed_many(seed, 30)
    recovered_at = await recovered(20_000)  # 160 a second
    spent, spent_at = 1_000, await registry.now()  # so much that it takes seconds
    await redis.hset(f"{prefix}client:acme", mapping={"budget": -spent, "budget_at": spent_at})

    claim = await store.claim(client, 50, "")

    rate = _rate(claim, recovered_at)
    half_of_a_tenth = int(rate / 10 / 2)
    assert claim.leases == []
    assert claim.wait_ms == pytest.approx(
        (half_of_a_tenth + spent) * 1_000 / rate - (claim.now - spent_at), abs=2
    )


async def test_a_claim_for_few_waits_for_no_more_than_it_asks(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    recovered: Recovered,
    redis: Redis,
    prefix: str,
) -> None:
    await _seed_many(seed, 30)
    await recovered(20_000)
    await redis.hset(f"{prefix}client:acme", mapping={"budget": 3, "budget_at": await registry.now()})

    assert len((await store.claim(client, 2, "")).leases) == 2


async def test_after_a_recovery_the_soonest_to_end_come_first_and_dead_ones_before_those_that_can_wait(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed, recovered: Recovered
) -> None:
    now = await registry.now()
    ends_in_ms = {
        "never ends": None,
        "ends tomorrow": 86_400_000,
        "dead for hours": -7_200_000,
        "dead": -1,
        "ends in an hour": 3_600_000,
        "ends soon": 30_000,
        "ends very soon": 20_000,
    }
    for place, (name, ms) in enumerate(ends_in_ms.items()):
        expires_at = None if ms is None else now + ms
        await seed(name, due_in_ms=place - 100, access_expires_at=expires_at, issued_at=1)
    await recovered(20_000)

    taken = [(await store.claim(client, 1, "")).leases[0].grant.id for _ in ends_in_ms]

    assert taken == [
        *("ends very soon", "ends soon", "dead for hours", "dead"),
        *("ends in an hour", "ends tomorrow", "never ends"),
    ]


async def test_a_backlog_smaller_than_the_budget_is_taken_whole(
    store: RedisStore, client: Client, seed: Seed, recovered: Recovered
) -> None:
    await _seed_many(seed, 3)
    await recovered(20_000)

    claim = await store.claim(client, 10, "")

    assert len(claim.leases) == 3
    assert claim.drained


async def test_of_the_urgent_ones_only_the_first_thousand_due_are_looked_at(
    open_store: OpenStore, registry: RedisRegistry, client: Client, seed: Seed, recovered: Recovered
) -> None:
    now = await registry.now()
    await _seed_many(seed, 999, due_in_ms=-10_000)
    await seed("the thousandth", due_in_ms=-9_000, access_expires_at=now + 50_000)
    await seed("past it", due_in_ms=-8_000, access_expires_at=now + 40_000)
    store = await open_store()  # no earlier: seeding so many may take longer than a silence lasts
    await recovered(0)

    (lease,) = (await store.claim(client, 1, "")).leases

    assert lease.grant.id == "the thousandth"


async def test_a_grant_that_is_not_due_is_not_urgent(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed, recovered: Recovered
) -> None:
    now = await registry.now()
    await seed("not due", due_in_ms=60_000, access_expires_at=now + 1_000)
    await _seed_many(seed, 2)
    await recovered(0)

    claim = await store.claim(client, 1, "")

    assert [lease.grant.id for lease in claim.leases] == ["due-0000"]
    assert not claim.drained


async def test_an_entry_without_a_record_is_healed_away_while_grants_are_sorted(
    store: RedisStore,
    client: Client,
    seed: Seed,
    recovered: Recovered,
    redis: Redis,
    prefix: str,
    due_of: DueOf,
) -> None:
    await _seed_many(seed, 3)
    await redis.zadd(f"{prefix}schedule:acme", {"ghost": 1})
    await recovered(20_000)

    claim = await store.claim(client, 2, "")

    assert [lease.grant.id for lease in claim.leases] == ["due-0000"]
    assert await due_of("ghost") is None


@pytest.mark.parametrize("packed", NO_RECORDS)
async def test_a_record_that_no_script_can_read_is_set_aside_while_grants_are_sorted(
    store: RedisStore,
    client: Client,
    seed: Seed,
    recovered: Recovered,
    redis: Any,
    prefix: str,
    due_of: DueOf,
    packed: bytes,
) -> None:
    await _seed_many(seed, 4)
    kept = await redis.getset(f"{prefix}grant:due-0002", packed)
    await recovered(20_000)

    claim = await store.claim(client, 2, "")

    assert [lease.grant.id for lease in claim.leases] == ["due-0000"]
    assert await due_of("due-0002") == claim.now + 300_000
    await redis.set(f"{prefix}grant:due-0002", kept)


async def test_when_the_rate_is_high_the_longest_due_come_first_again(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed, recovered: Recovered
) -> None:
    now = await registry.now()
    await seed("longest due", due_in_ms=-10_000)
    await seed("most urgent", access_expires_at=now + 1_000)
    await recovered(40_000)

    (lease,) = (await store.claim(client, 1, "")).leases

    assert lease.grant.id == "longest due"


async def test_a_claim_tells_the_clients_token_url_to_those_that_only_know_its_name(
    store: RedisStore, client: Client, redis: Redis, prefix: str
) -> None:
    await store.claim(client, 1, "")
    assert await redis.hget(f"{prefix}client:acme", "endpoint") == client.token_url.encode()

    await store.claim(replace(client, token_url="http://127.0.0.1:9/moved"), 1, "")

    assert await redis.hget(f"{prefix}client:acme", "endpoint") == b"http://127.0.0.1:9/moved"


# Several clients in one call


@pytest.fixture
def claim_of_both(
    scripts: Scripts, epoch_number: Callable[[], Awaitable[int]]
) -> Callable[..., Awaitable[list[Any]]]:
    """The bare script for two clients, under a claim id of the test's choice."""

    async def run(claim_id: str = "the-claim", *, limit: int = 10) -> list[Any]:
        asks = tuple(
            signatures.Ask(name, limit, None, f"https://{name}", "registered") for name in ("one", "two")
        )
        epoch = await epoch_number()
        _, _, answers = await scripts.run(signatures.Claim(claim_id, "this", 60_000, None, epoch, asks))
        return list(answers)

    return run


async def _seed_both(seed: Seed, redis: Redis, prefix: str) -> None:
    for client in ("one", "two"):
        for number in range(2):
            await seed(f"{client}-{number}", client=client, due_in_ms=-1_000 + number)
        await redis.hset(f"{prefix}client:{client}", "proved", "registered")


async def test_each_client_of_a_call_gets_its_own_grants(
    claim_of_both: Callable[..., Awaitable[list[Any]]], seed: Seed, redis: Redis, prefix: str
) -> None:
    await _seed_both(seed, redis, prefix)

    some = await claim_of_both("some", limit=1)
    rest = await claim_of_both("rest")

    assert [answer[4][2::3] for answer in some] == [[b"one-0"], [b"two-0"]]
    assert [answer[1] for answer in some] == [0, 0]  # not drained
    assert [answer[4][2::3] for answer in rest] == [[b"one-1"], [b"two-1"]]
    assert [answer[1] for answer in rest] == [1, 1]


async def test_a_call_run_twice_gives_each_client_the_same_leases_and_takes_none(
    claim_of_both: Callable[..., Awaitable[list[Any]]], seed: Seed, redis: Redis, prefix: str
) -> None:
    await _seed_both(seed, redis, prefix)
    await redis.hset(f"{prefix}client:one", "throttled_until", str(2**53))

    first = await claim_of_both(limit=1)
    await redis.hdel(f"{prefix}client:one", "throttled_until")
    again = await claim_of_both(limit=1)

    assert first[1] == again[1]
    assert first[1][4][2::3] == [b"two-0"]
    # What got nothing gets nothing again: a third run could not give it back. It may ask anew.
    assert (first[0][1], first[0][4]) == (1, [])
    assert (again[0][1], again[0][4]) == (0, [])


async def test_what_cannot_be_read_of_one_client_fails_its_claim_alone(
    store: RedisStore, seed: Seed, redis: Redis, prefix: str, client: Client
) -> None:
    good, bad = (replace(client, name=name) for name in ("good", "bad"))
    await store.claim(good, 0, "")
    await redis.hset(f"{prefix}client:good", "proved", good.registration)
    await seed("one", client="good")
    await redis.set(f"{prefix}client:bad", "what no release has written")

    of_bad, of_good = await asyncio.gather(
        *(store.claim(each, 10, "") for each in (bad, good)), return_exceptions=True
    )

    await redis.delete(f"{prefix}client:bad")
    assert isinstance(of_bad, StoreRefusedError)
    assert "WRONGTYPE" in str(of_bad)
    assert isinstance(of_good, Claim)
    assert [lease.grant.id for lease in of_good.leases] == ["one"]


async def test_claims_asked_for_together_are_one_call_of_at_most_150_grants(
    store: RedisStore, client: Client, redis: Redis
) -> None:
    clients = [replace(client, name=f"c{number}") for number in range(31)]
    await store.claim(client, 0, "")
    calls = await _calls(redis)

    await asyncio.gather(*(store.claim(each, 10, "") for each in clients))

    assert await _calls(redis) - calls == 3  # of 15, 15 and 1


async def _calls(redis: Any) -> int:
    return int((await redis.info("commandstats"))["cmdstat_evalsha"]["calls"])


async def test_a_call_keeps_the_place_of_one_runner(
    store: RedisStore, client: Client, redis: Redis, prefix: str
) -> None:
    await asyncio.gather(*(store.claim(client, 1, runner) for runner in ("first", "second", "")))

    assert set(await redis.zrange(f"{prefix}runners", 0, -1)) == {b"first", b"second"}


async def test_who_gives_up_waiting_for_a_claim_costs_the_others_nothing(
    store: RedisStore, client: Client, seed: Seed
) -> None:
    await store.claim(client, 0, "")
    await seed("one")
    gives_up = asyncio.create_task(store.claim(replace(client, name="other"), 10, ""))
    waits = asyncio.create_task(store.claim(client, 10, ""))
    await asyncio.sleep(0)

    gives_up.cancel()

    assert len((await waits).leases) == 1
