"""record_failure.lua and record_recovery.lua: whose failure it is, and what becomes of the endpoint."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.callables import Answer, Seed, Told, Under
from worker.adapters.clock import RedisClock
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.events import EventType, provider_event
from worker.core.lifecycle import Change
from worker.core.ports import FailureOf, FailureVerdict, Lease, Verdict
from worker.core.providers import Client

FindOut = Callable[..., Awaitable[FailureVerdict]]
Fail = Callable[..., Awaitable[FailureOf]]
RecordRecovery = Callable[..., Awaitable[bool]]
Hear = Callable[..., Awaitable[None]]
HashOf = Callable[..., Awaitable[dict[str, str]]]
FIRST_MS, LONGEST_MS = 10_000, 35_000  # as conftest.py sets them
LONG_AGO_MS = 600_000


@pytest.fixture
def find_out(store: RedisStore, client: Client, clock: RedisClock, under: Under) -> FindOut:
    """One attempt that brought no usable answer; each has its own number unless the test says otherwise."""
    attempts = iter(range(1, 1_000))

    async def run(
        grant_id: str = "one",
        *,
        attempt: int | None = None,
        sent_at: int | None = None,
        reason: str = "http_502",
        endpoint_probe: bool = False,
        of: Client = client,
        retry_after_ms: int | None = None,
        throttled: bool = False,
        chance: float = 1.0,
    ) -> FailureVerdict:
        event = provider_event(
            EventType.PROVIDER_UNAVAILABLE,
            of,
            attempt=next(attempts) if attempt is None else attempt,
            now=clock.now(),
            reason=reason,
        )
        return await store.record_failure(
            of,
            event,
            under(grant_id, endpoint_probe=endpoint_probe),
            sent_at=clock.now() if sent_at is None else sent_at,
            retry_after_ms=retry_after_ms,
            throttled=throttled,
            chance=chance,
        )

    return run


@pytest.fixture
def fail(find_out: FindOut) -> Fail:
    """Whose failure that attempt is."""

    async def run(grant_id: str = "one", **of_attempt: Any) -> FailureOf:
        return (await find_out(grant_id, **of_attempt)).whose

    return run


@pytest.fixture
def open_breaker(fail: Fail) -> Callable[..., Awaitable[None]]:
    """Let requests for different grants fail until the endpoint is unavailable."""

    async def run(failures: int = 5) -> None:
        for number in range(failures):
            assert await fail(f"fails-{number}") is FailureOf.PROVIDER

    return run


@pytest.fixture
def record_recovery(store: RedisStore, client: Client, clock: RedisClock, under: Under) -> RecordRecovery:
    async def run(grant_id: str = "another", *, attempt: int = 2_000) -> bool:
        event = provider_event(EventType.PROVIDER_RECOVERED, client, attempt=attempt, now=clock.now())
        return await store.record_recovery(client, event, under(grant_id, endpoint_probe=True))

    return run


@pytest.fixture
def hear(store: RedisStore, client: Client) -> Hear:
    """The endpoint answers a request readably, with a rejection."""

    async def run(sent_at: int, *, of: Client = client) -> None:
        await store.claim(of, 0, "")
        (lease,) = (await store.claim(of, 1, "")).leases
        await store.record_outcome(lease, Change(lease.grant, 1, None, None), answered_at=sent_at)

    return run


@pytest.fixture
def endpoint(redis: Any, prefix: str, client: Client) -> HashOf:
    async def read(token_url: str = client.token_url) -> dict[str, str]:
        fields = await redis.hgetall(f"{prefix}endpoint:{token_url}")
        return {name.decode(): value.decode() for name, value in fields.items() if name != b"failures"}

    return read


@pytest.fixture
def of_client(redis: Any, prefix: str) -> HashOf:
    async def read(name: str = "acme") -> dict[str, str]:
        fields = await redis.hgetall(f"{prefix}client:{name}")
        return {field.decode(): value.decode() for field, value in fields.items()}

    return read


async def test_failures_below_the_limit_are_the_providers_and_change_nothing(
    open_breaker: Callable[..., Awaitable[None]], endpoint: HashOf, told: Told
) -> None:
    await open_breaker(4)

    assert "state" not in await endpoint()
    assert await told() == []


async def test_the_fifth_failure_in_a_row_makes_the_endpoint_unavailable_and_tells_so_once(
    open_breaker: Callable[..., Awaitable[None]],
    registry: RedisRegistry,
    client: Client,
    endpoint: HashOf,
    told: Told,
) -> None:
    before = await registry.now()

    await open_breaker()

    record = await endpoint()
    assert (record["state"], record["reason"]) == ("unavailable", "http_502")
    assert before <= int(record["since"]) <= await registry.now()
    assert int(record["probe_at"]) == int(record["since"]) + FIRST_MS
    (event,) = await told()
    assert (event["type"], event["id"]) == ("evergrant.provider.unavailable", "5-provider-unavailable")
    assert event["subject"] == client.token_url
    assert event["data"] == {
        "client": "acme",
        "provider": "oauth2",
        "endpoint": client.token_url,
        "status": "unavailable",
        "reason": "http_502",
    }


async def test_one_grants_failures_alone_make_the_endpoint_unavailable_too(
    fail: Fail, endpoint: HashOf
) -> None:
    for _ in range(5):
        assert await fail("the only one") is FailureOf.PROVIDER

    assert (await endpoint())["state"] == "unavailable"


async def test_a_failure_recorded_twice_because_its_reply_was_lost_counts_once(
    fail: Fail, endpoint: HashOf, told: Told, clock: RedisClock
) -> None:
    sent_at = clock.now()
    for number in (1, 1, 2, 2, 3, 4, 1, 4):
        assert await fail(attempt=number, sent_at=sent_at) is FailureOf.PROVIDER
    assert "state" not in await endpoint()

    for _ in range(2):
        assert await fail(attempt=5, sent_at=sent_at) is FailureOf.PROVIDER

    assert len(await told()) == 1


async def test_a_failure_recorded_twice_does_not_make_the_endpoint_unavailable_again_after_it_recovered(
    fail: Fail,
    open_breaker: Callable[..., Awaitable[None]],
    record_recovery: RecordRecovery,
    endpoint: HashOf,
    clock: RedisClock,
) -> None:
    sent_at = clock.now() - 5
    await open_breaker(4)
    await fail(attempt=77, sent_at=sent_at)
    await record_recovery()

    for _ in range(5):
        assert await fail(attempt=77, sent_at=sent_at) is FailureOf.PROVIDER

    assert (await endpoint())["state"] == "available"


async def test_a_failure_is_its_grants_if_the_endpoint_answered_another_request_that_left_no_earlier(
    fail: Fail, hear: Hear, seed: Seed, clock: RedisClock, endpoint: HashOf
) -> None:
    await seed("another")
    sent_at = clock.now()
    await hear(sent_at)

    assert await fail(sent_at=sent_at) is FailureOf.GRANT
    assert await fail(sent_at=sent_at + 1) is FailureOf.PROVIDER
    assert "state" not in await endpoint()


async def test_failures_of_a_grant_are_not_counted_against_an_endpoint_that_answers_others(
    fail: Fail, hear: Hear, seed: Seed, clock: RedisClock, endpoint: HashOf
) -> None:
    await seed("another")
    await hear(clock.now())

    for _ in range(5):
        assert await fail(sent_at=clock.now() - 60_000) is FailureOf.GRANT
    for number in range(4):
        assert await fail(f"fails-{number}", sent_at=clock.now() + 1_000) is FailureOf.PROVIDER

    assert "state" not in await endpoint()


async def test_an_answer_forgets_the_failures_of_requests_that_left_before_its_own(
    fail: Fail, hear: Hear, seed: Seed, clock: RedisClock, endpoint: HashOf
) -> None:
    await seed("another")
    start = clock.now()
    for number in range(3):
        await fail(f"before-{number}", sent_at=start + number // 2)
    await fail("after", sent_at=start + 2)
    await hear(start + 1)

    for number in range(3):
        await fail(f"later-{number}", sent_at=start + 3)
    assert "state" not in await endpoint()
    await fail("the fifth", sent_at=start + 3)

    assert (await endpoint())["state"] == "unavailable"


async def test_an_answer_to_an_earlier_request_takes_nothing_back(
    fail: Fail, hear: Hear, seed: Seed, clock: RedisClock
) -> None:
    await seed("another")
    later = clock.now()
    await hear(later)
    await hear(later - 1_000)

    assert await fail(sent_at=later) is FailureOf.GRANT


async def test_tokens_that_are_stored_are_an_answer_of_the_endpoint(
    store: RedisStore, client: Client, fail: Fail, seed: Seed, answer: Answer
) -> None:
    await seed("another")
    (lease,) = (await store.claim(client, 1, "")).leases
    commit = answer(lease)
    await store.commit(commit)

    assert await fail(sent_at=commit.change.grant.issued_at) is FailureOf.GRANT
    assert await fail(sent_at=commit.change.grant.issued_at + 1) is FailureOf.PROVIDER


async def test_an_outcome_that_heard_nothing_is_no_answer_of_the_endpoint(
    store: RedisStore, client: Client, fail: Fail, seed: Seed, clock: RedisClock
) -> None:
    await seed("another")
    (lease,) = (await store.claim(client, 1, "")).leases
    await store.record_outcome(lease, Change(lease.grant, 1, None, None))

    assert await fail(sent_at=clock.now() - LONG_AGO_MS) is FailureOf.PROVIDER


async def test_an_answer_to_a_client_that_never_claimed_names_no_endpoint_and_is_stored_all_the_same(
    store: RedisStore, seed: Seed, answer: Answer, redis: Any, prefix: str
) -> None:
    await seed("another")
    lease = await store.lease("another")
    assert isinstance(lease, Lease)

    assert (await store.commit(answer(lease))).verdict is Verdict.STORED

    assert await redis.exists(f"{prefix}answered") == 0


async def test_a_grant_that_fails_faster_than_others_are_answered_is_found_out_at_its_next_try(
    fail: Fail, hear: Hear, seed: Seed, clock: RedisClock
) -> None:
    await seed("another")
    first = clock.now() - 1_000
    assert await fail("quick", sent_at=first) is FailureOf.PROVIDER
    await hear(first + 100)

    assert await fail("quick", sent_at=first + 200) is FailureOf.GRANT
    assert await fail("innocent", sent_at=first + 200) is FailureOf.PROVIDER


async def test_a_grants_old_failures_do_not_count(
    fail: Fail, hear: Hear, seed: Seed, clock: RedisClock
) -> None:
    await seed("another")
    long_ago = clock.now() - LONG_AGO_MS
    await fail("once", sent_at=long_ago)
    await hear(long_ago + 1)

    assert await fail("once") is FailureOf.PROVIDER


async def test_only_the_last_failures_are_remembered(
    fail: Fail, hear: Hear, seed: Seed, clock: RedisClock, redis: Any, prefix: str, client: Client
) -> None:
    await seed("another")
    now = clock.now()
    for number in range(60):
        await fail(f"fails-{number}", sent_at=now + number)
        await hear(now + number)
    assert await redis.hstrlen(f"{prefix}endpoint:{client.token_url}", "failures") < 1_500

    assert await fail("fails-20", sent_at=now + 100) is FailureOf.PROVIDER
    assert await fail("fails-50", sent_at=now + 100) is FailureOf.GRANT


async def test_an_endpoint_is_shared_by_the_clients_that_have_its_url(
    fail: Fail, client: Client, store: RedisStore, seed: Seed, endpoint: HashOf
) -> None:
    other = replace(client, name="other")
    elsewhere = replace(client, name="elsewhere", token_url="http://127.0.0.1:9/another")
    for name in ("acme", "other", "elsewhere"):
        await seed(f"of {name}", client=name)

    for number in range(5):
        await fail(f"fails-{number}", of=other if number % 2 else client)

    assert (await endpoint())["state"] == "unavailable"
    assert await endpoint(elsewhere.token_url) == {}
    assert (await store.claim(client, 10, "")).leases == []
    assert (await store.claim(other, 10, "")).leases == []
    assert len((await store.claim(elsewhere, 10, "")).leases) == 1


async def test_an_answer_to_one_client_clears_the_endpoint_for_another_of_the_same_url(
    fail: Fail, client: Client, hear: Hear, seed: Seed, clock: RedisClock
) -> None:
    other = replace(client, name="other")
    elsewhere = replace(client, name="elsewhere", token_url="http://127.0.0.1:9/another")
    await seed("theirs", client="other")
    sent_at = clock.now()
    await hear(sent_at, of=other)

    assert await fail(sent_at=sent_at) is FailureOf.GRANT
    assert await fail(sent_at=sent_at, of=elsewhere) is FailureOf.PROVIDER


# Half-open probes


async def test_failures_of_requests_that_were_in_flight_when_it_became_unavailable_change_nothing(
    open_breaker: Callable[..., Awaitable[None]], fail: Fail, endpoint: HashOf, told: Told
) -> None:
    await open_breaker()
    before = await endpoint()

    for _ in range(10):
        assert await fail(reason="timeout") is FailureOf.PROVIDER

    assert await endpoint() == before
    assert len(await told()) == 1


async def test_each_failed_probe_waits_twice_as_long_for_the_next_up_to_the_longest(
    open_breaker: Callable[..., Awaitable[None]], fail: Fail, endpoint: HashOf, registry: RedisRegistry
) -> None:
    await open_breaker()

    for expected_ms in (20_000, LONGEST_MS, LONGEST_MS):
        before = await registry.now()
        assert await fail(endpoint_probe=True, reason="timeout") is FailureOf.PROVIDER
        record = await endpoint()
        assert before + expected_ms <= int(record["probe_at"]) <= await registry.now() + expected_ms
        assert record["reason"] == "timeout"


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
async def test_the_wait_for_the_next_probe_is_between_half_of_it_and_all_as_chance_has_it(
    open_breaker: Callable[..., Awaitable[None]],
    fail: Fail,
    endpoint: HashOf,
    registry: RedisRegistry,
    chance: float,
    share: float,
) -> None:
    await open_breaker()
    before = await registry.now()

    await fail(endpoint_probe=True, chance=chance)
    once = int((await endpoint())["probe_at"])
    await fail(endpoint_probe=True, chance=1.0)

    assert before + 20_000 * share <= once <= await registry.now() + 20_000 * share
    assert int((await endpoint())["probe_delay"]) == LONGEST_MS  # chance is not carried on


async def test_a_failed_probe_recorded_twice_puts_the_next_one_off_once(
    open_breaker: Callable[..., Awaitable[None]], fail: Fail, endpoint: HashOf
) -> None:
    await open_breaker()

    await fail(endpoint_probe=True, attempt=99)
    once = await endpoint()
    await fail(endpoint_probe=True, attempt=99)

    assert await endpoint() == once


async def test_an_endpoint_that_is_unavailable_still_lets_a_failure_be_its_grants_when_it_answers_others(
    open_breaker: Callable[..., Awaitable[None]],
    store: RedisStore,
    client: Client,
    fail: Fail,
    seed: Seed,
    clock: RedisClock,
) -> None:
    await seed("another")
    (lease,) = (await store.claim(client, 1, "")).leases
    await open_breaker()
    sent_at = clock.now()
    await store.record_outcome(lease, Change(lease.grant, 1, None, None), answered_at=sent_at)

    assert await fail(sent_at=sent_at) is FailureOf.GRANT
    assert await fail("fails-0", sent_at=sent_at + 1) is FailureOf.PROVIDER  # the outage explains it


async def test_a_probe_that_was_answered_makes_the_endpoint_available_and_tells_so_once(
    open_breaker: Callable[..., Awaitable[None]],
    fail: Fail,
    record_recovery: RecordRecovery,
    endpoint: HashOf,
    told: Told,
    registry: RedisRegistry,
    client: Client,
) -> None:
    await open_breaker()
    await fail(endpoint_probe=True)
    before = await registry.now()

    assert await record_recovery(attempt=50)
    once = await endpoint()
    assert await record_recovery(attempt=50)  # the reply was lost
    assert not await record_recovery(attempt=51)

    assert await endpoint() == once
    assert set(once) == {"state", "recovered_at", "recovered_by"}
    assert once["state"] == "available"
    assert before <= int(once["recovered_at"]) <= await registry.now()
    event = (await told())[1]
    assert len(await told()) == 2
    assert (event["type"], event["id"]) == ("evergrant.provider.recovered", "50-provider-recovered")
    assert (event["subject"], event["data"]["status"]) == (client.token_url, "available")


async def test_an_endpoint_that_was_never_unavailable_cannot_recover(
    record_recovery: RecordRecovery, endpoint: HashOf, told: Told
) -> None:
    assert not await record_recovery()

    assert await endpoint() == {}
    assert await told() == []


async def test_requests_that_left_before_the_recovery_failed_because_of_the_outage(
    open_breaker: Callable[..., Awaitable[None]],
    record_recovery: RecordRecovery,
    fail: Fail,
    hear: Hear,
    seed: Seed,
    endpoint: HashOf,
    clock: RedisClock,
) -> None:
    await seed("another")
    sent_at = clock.now() - 1_000
    await hear(sent_at + 1)
    await open_breaker()
    await record_recovery()

    for number in range(10):
        assert await fail(f"late-{number}", sent_at=sent_at) is FailureOf.PROVIDER

    assert (await endpoint())["state"] == "available"


async def test_after_a_recovery_it_takes_as_many_failures_as_before(
    open_breaker: Callable[..., Awaitable[None]],
    record_recovery: RecordRecovery,
    fail: Fail,
    endpoint: HashOf,
    told: Told,
    clock: RedisClock,
) -> None:
    await open_breaker()
    await fail(endpoint_probe=True)
    await record_recovery()

    later = clock.now() + 1_000
    for number in range(4):
        await fail(f"again-{number}", sent_at=later)
    assert (await endpoint())["state"] == "available"
    await fail("again-4", sent_at=later)

    record = await endpoint()
    assert record["state"] == "unavailable"
    assert int(record["probe_delay"]) == FIRST_MS
    assert "suspect" not in record
    assert len({event["id"] for event in await told()}) == 3


async def test_a_grant_that_alone_made_the_endpoint_unavailable_is_at_fault_once_another_was_answered(
    record_recovery: RecordRecovery, fail: Fail, endpoint: HashOf, clock: RedisClock
) -> None:
    for _ in range(5):
        await fail("poison")
    await record_recovery("another")

    later = clock.now() + 1_000
    assert await fail("poison", sent_at=later) is FailureOf.GRANT
    assert await fail("innocent", sent_at=later) is FailureOf.PROVIDER
    assert (await endpoint())["state"] == "available"


async def test_a_grant_that_alone_made_the_endpoint_unavailable_is_cleared_by_its_own_answer(
    record_recovery: RecordRecovery, fail: Fail, clock: RedisClock
) -> None:
    for _ in range(5):
        await fail("the only one")
    await record_recovery("the only one")

    assert await fail("the only one", sent_at=clock.now() + 1_000) is FailureOf.PROVIDER


async def test_a_grant_that_alone_made_the_endpoint_unavailable_is_no_suspect_once_it_was_refreshed(
    store: RedisStore,
    client: Client,
    record_recovery: RecordRecovery,
    fail: Fail,
    seed: Seed,
    answer: Answer,
    clock: RedisClock,
) -> None:
    await seed("the only one")
    for _ in range(5):
        await fail("the only one")
    await record_recovery("another")
    (lease,) = (await store.claim(client, 1, "")).leases
    assert (await store.commit(answer(lease))).verdict is Verdict.STORED

    assert await fail("the only one", sent_at=clock.now() + 2_000) is FailureOf.PROVIDER


async def test_a_grants_failures_before_its_last_refresh_do_not_count(
    store: RedisStore,
    client: Client,
    fail: Fail,
    seed: Seed,
    answer: Answer,
    clock: RedisClock,
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    assert await fail("one", sent_at=clock.now() - 1_000) is FailureOf.PROVIDER
    assert (await store.commit(answer(lease))).verdict is Verdict.STORED

    assert await fail("one", sent_at=clock.now() + 1_000) is FailureOf.PROVIDER


async def test_a_suspect_is_forgotten_when_others_make_the_endpoint_unavailable(
    record_recovery: RecordRecovery, fail: Fail, clock: RedisClock, endpoint: HashOf
) -> None:
    for _ in range(5):
        await fail("poison")
    await record_recovery("another")
    assert (await endpoint())["suspect"] == "poison"

    later = clock.now() + 1_000
    for number in range(5):
        await fail(f"again-{number}", sent_at=later)

    assert "suspect" not in await endpoint()


# Throttled clients


async def test_a_throttled_client_waits_as_a_whole_and_no_other_does(
    store: RedisStore, client: Client, fail: Fail, seed: Seed, of_client: HashOf, registry: RedisRegistry
) -> None:
    other = replace(client, name="other")
    await seed("ours")
    await seed("theirs", client="other")
    before = await registry.now()

    verdict = await fail(reason="http_429", throttled=True, retry_after_ms=7_000)

    assert verdict is FailureOf.PROVIDER
    assert before + 7_000 <= int((await of_client())["throttled_until"]) <= await registry.now() + 7_000
    claim = await store.claim(client, 10, "")
    assert (claim.leases, claim.drained) == ([], True)
    assert len((await store.claim(other, 10, "")).leases) == 1


async def test_a_client_goes_on_when_it_has_waited(
    store: RedisStore, client: Client, fail: Fail, seed: Seed, redis: Any, prefix: str
) -> None:
    await seed("one")
    await fail(reason="http_429", throttled=True, retry_after_ms=60_000)
    await redis.hset(f"{prefix}client:acme", "throttled_until", "1")

    assert len((await store.claim(client, 10, "")).leases) == 1


async def test_a_shorter_wait_never_cuts_a_longer_one_short(fail: Fail, of_client: HashOf) -> None:
    await fail(reason="http_429", throttled=True, retry_after_ms=60_000)
    once = (await of_client())["throttled_until"]

    await fail(reason="http_429", throttled=True, retry_after_ms=1_000)
    await fail(reason="http_429", throttled=True)

    assert (await of_client())["throttled_until"] == once


async def test_a_throttling_recorded_twice_is_no_longer_for_it(fail: Fail, of_client: HashOf) -> None:
    await fail(attempt=9, reason="http_429", throttled=True, retry_after_ms=60_000)
    once = await of_client()

    await fail(attempt=9, reason="http_429", throttled=True, retry_after_ms=90_000)

    assert await of_client() == once


async def test_without_a_time_each_further_order_waits_twice_as_long_up_to_a_minute(
    fail: Fail, of_client: HashOf, registry: RedisRegistry, redis: Any, prefix: str
) -> None:
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        before = await registry.now()
        await redis.hset(f"{prefix}client:acme", "throttled_until", before - 55_000)  # it waited, and went on
        await fail(reason="http_429", throttled=True, sent_at=before + 1_000)
        held = await of_client()
        assert int(held["throttle_delay"]) == seconds * 1_000
        assert (
            before + seconds * 1_000 <= int(held["throttled_until"]) <= await registry.now() + seconds * 1_000
        )


async def test_a_minute_without_an_order_to_wait_forgets_how_long_the_last_one_was(
    fail: Fail, of_client: HashOf, clock: RedisClock, redis: Any, prefix: str
) -> None:
    for _ in range(3):
        await fail(reason="http_429", throttled=True, sent_at=clock.now() + 1_000)
    assert (await of_client())["throttle_delay"] == "4000"
    await redis.hset(f"{prefix}client:acme", "throttled_until", clock.now() - 60_001)

    await fail(reason="http_429", throttled=True, sent_at=clock.now() + 1_000)

    assert (await of_client())["throttle_delay"] == "1000"


async def test_orders_to_wait_for_requests_that_left_together_are_one(
    fail: Fail, of_client: HashOf, clock: RedisClock
) -> None:
    sent_at = clock.now() - 1
    for number in range(20):
        await fail(f"of a burst {number}", reason="http_429", throttled=True, sent_at=sent_at)

    assert (await of_client())["throttle_delay"] == "1000"


async def test_a_wait_without_a_time_is_between_half_of_it_and_all_as_chance_has_it(
    fail: Fail, of_client: HashOf, registry: RedisRegistry
) -> None:
    before = await registry.now()

    await fail(reason="http_429", throttled=True, chance=0.0)

    assert before + 500 <= int((await of_client())["throttled_until"]) <= await registry.now() + 500


@pytest.mark.parametrize("reason", ["http_429", "slow_down"])
async def test_an_endpoint_that_wants_to_be_asked_less_is_available(
    fail: Fail, endpoint: HashOf, reason: str
) -> None:
    for number in range(10):
        assert await fail(f"{number}", reason=reason, throttled=True) is FailureOf.PROVIDER

    assert "state" not in await endpoint()


async def test_a_503_that_says_when_to_come_back_is_a_failure_and_an_order_to_wait(
    fail: Fail, endpoint: HashOf, of_client: HashOf
) -> None:
    for number in range(5):
        await fail(f"{number}", reason="http_503", throttled=True, retry_after_ms=3_000)

    assert (await endpoint())["state"] == "unavailable"
    assert "throttled_until" in await of_client()


async def test_a_throttled_grant_is_never_at_fault_even_if_others_were_answered_meanwhile(
    fail: Fail, hear: Hear, seed: Seed, clock: RedisClock
) -> None:
    await seed("another")
    sent_at = clock.now()
    await hear(sent_at)

    for reason in ("http_429", "http_503"):
        reply = {"reason": reason, "throttled": True, "retry_after_ms": 1_000}
        assert await fail("quick", sent_at=sent_at, **reply) is FailureOf.PROVIDER


async def test_a_throttled_probe_neither_recovers_the_endpoint_nor_puts_off_the_next(
    open_breaker: Callable[..., Awaitable[None]], fail: Fail, endpoint: HashOf, of_client: HashOf
) -> None:
    await open_breaker()
    before = await endpoint()

    await fail(endpoint_probe=True, reason="http_429", throttled=True)

    assert await endpoint() == before
    assert "throttled_until" in await of_client()


async def test_a_probe_that_met_a_503_puts_off_the_next_and_throttles_its_client(
    open_breaker: Callable[..., Awaitable[None]],
    fail: Fail,
    endpoint: HashOf,
    of_client: HashOf,
    seed: Seed,
    store: RedisStore,
    client: Client,
    clock: RedisClock,
) -> None:
    await seed("another")
    (lease,) = (await store.claim(client, 1, "")).leases
    await open_breaker()
    await store.record_outcome(lease, Change(lease.grant, 1, None, None), answered_at=clock.now())

    reply = {"reason": "http_503", "throttled": True, "retry_after_ms": 2_000}
    assert await fail(endpoint_probe=True, sent_at=clock.now() - 1_000, **reply) is FailureOf.PROVIDER

    assert int((await endpoint())["probe_delay"]) == 2 * FIRST_MS
    assert "throttled_until" in await of_client()


# Whether claims stop


async def test_claims_stop_with_the_failure_that_makes_the_endpoint_unavailable_and_after_it(
    find_out: FindOut,
) -> None:
    stopped = [(await find_out(f"fails-{number}")).claims_stop for number in range(6)]

    assert stopped == [False] * 4 + [True] * 2


async def test_claims_stop_for_a_throttled_client_but_not_if_its_wait_is_zero(
    find_out: FindOut,
) -> None:
    reply = {"reason": "http_429", "throttled": True}

    assert not (await find_out(**reply, retry_after_ms=0)).claims_stop
    assert (await find_out(**reply, retry_after_ms=60_000)).claims_stop
    assert (await find_out()).claims_stop  # the client is throttled already


async def test_claims_stop_for_a_client_that_was_rejected_meanwhile(
    find_out: FindOut, redis: Any, prefix: str, clock: RedisClock
) -> None:
    await redis.hset(f"{prefix}client:acme", mapping={"state": "rejected", "probe_at": clock.now()})

    assert (await find_out()).claims_stop


async def test_claims_stop_though_the_failure_is_the_grants_own_and_go_on_when_nothing_else_is_wrong(
    find_out: FindOut, hear: Hear, seed: Seed, clock: RedisClock
) -> None:
    await seed("another")
    sent_at = clock.now()
    await hear(sent_at)
    later = sent_at + 1_000

    assert await find_out(sent_at=sent_at) == FailureVerdict(FailureOf.GRANT, claims_stop=False)
    for number in range(5):
        await find_out(f"fails-{number}", sent_at=later)
    assert await find_out(sent_at=sent_at) == FailureVerdict(FailureOf.GRANT, claims_stop=True)
