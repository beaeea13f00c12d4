"""record_refusal.lua and accept_client.lua: a client that is refused is paused, probed, and let back."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from tests.support.callables import Answer, LetProbeBeDue, OnGrant, Seed, Told, Under
from worker.adapters.clock import RedisClock
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.events import EventType, client_event
from worker.core.ports import Refusal, RefusalWords, Verdict
from worker.core.providers import Client

Reject = Callable[..., Awaitable[bool]]
Accept = Callable[..., Awaitable[bool]]

FIRST_PROBE_MS = 60_000
LONGEST_PROBE_MS = 200_000


@pytest.fixture
async def reject(
    store: RedisStore, registry: RedisRegistry, client: Client, clock: RedisClock, under: Under
) -> Reject:
    clock.set(await registry.now(), asked_at=clock.stopwatch())

    async def run(
        attempt: int = 1, *, sent_at: int | None = None, client_probe: bool = False, grant: str | None = None
    ) -> bool:
        event = client_event(
            EventType.CLIENT_REJECTED, client, attempt=attempt, now=clock.now(), reason="invalid_client"
        )
        sent_at = await registry.now() if sent_at is None else sent_at
        lease = under(grant or f"grant of attempt {attempt}", client_probe=client_probe)
        verdict = await store.record_refusal(
            client, event, lease, words=RefusalWords.CLIENT, sent_at=sent_at, believe_ms=3_600_000
        )
        return verdict.whom is Refusal.CHANGED

    return run


@pytest.fixture
async def accept(
    store: RedisStore, registry: RedisRegistry, client: Client, clock: RedisClock, under: Under
) -> Accept:
    clock.set(await registry.now(), asked_at=clock.stopwatch())

    async def run(attempt: int = 2) -> bool:
        event = client_event(EventType.CLIENT_RECOVERED, client, attempt=attempt, now=clock.now())
        return await store.accept_client(
            client, event, under("the probe", client_probe=True), is_refreshed=True
        )

    return run


async def _generation(store: RedisStore, client: Client) -> int:
    return (await store.claim(client, 0, "")).generation


async def _delay_ms(redis: Redis, prefix: str) -> int:
    return int(await redis.hget(f"{prefix}client:acme", "probe_delay") or 0)


async def test_the_first_rejection_pauses_the_client_and_tells(
    registry: RedisRegistry, fleet_state: RedisFleetState, reject: Reject, told: Told
) -> None:
    before = await registry.now()

    assert await reject()

    state = await fleet_state.of_client("acme")
    assert (state.state, state.reason) == ("rejected", "invalid_client")
    assert state.rejected_at is not None
    assert before <= state.rejected_at <= await registry.now()
    assert state.probe_at == state.rejected_at + FIRST_PROBE_MS
    assert [(event["type"], event["id"]) for event in await told()] == [
        ("evergrant.client.rejected", "1-client-rejected")
    ]


async def test_many_rejections_are_one_incident(
    fleet_state: RedisFleetState, reject: Reject, told: Told
) -> None:
    await reject(1)
    before = await fleet_state.of_client("acme")

    assert not await reject(2)
    assert not await reject(3)
    assert await fleet_state.of_client("acme") == before
    assert len(await told()) == 1


async def test_each_rejected_probe_waits_twice_as_long_up_to_a_cap(
    registry: RedisRegistry, fleet_state: RedisFleetState, reject: Reject, redis: Redis, prefix: str
) -> None:
    await reject()
    delays = []
    for attempt in range(2, 5):
        before = await registry.now()
        assert not await reject(attempt, client_probe=True)
        state = await fleet_state.of_client("acme")
        delays.append(await _delay_ms(redis, prefix))
        assert state.probe_at is not None
        assert before + delays[-1] <= state.probe_at <= await registry.now() + delays[-1]

    assert delays == [2 * FIRST_PROBE_MS, LONGEST_PROBE_MS, LONGEST_PROBE_MS]


async def test_one_rejected_probe_reported_twice_because_a_reply_was_lost_doubles_the_delay_once(
    reject: Reject, redis: Redis, prefix: str
) -> None:
    await reject()
    sent_at = 0
    await reject(2, client_probe=True, sent_at=sent_at)
    await reject(2, client_probe=True, sent_at=sent_at)

    assert await _delay_ms(redis, prefix) == 2 * FIRST_PROBE_MS


async def test_an_accepted_client_works_again_forgets_the_incident_and_tells(
    store: RedisStore,
    fleet_state: RedisFleetState,
    client: Client,
    reject: Reject,
    accept: Accept,
    told: Told,
) -> None:
    await reject()
    before = await _generation(store, client)

    assert await accept()

    state = await fleet_state.of_client("acme")
    assert (state.state, state.reason, state.rejected_at, state.probe_at) == ("accepted", None, None, None)
    assert await _generation(store, client) == before + 1
    assert [event["type"] for event in await told()] == [
        "evergrant.client.rejected",
        "evergrant.client.recovered",
    ]


async def test_accepting_a_client_that_was_not_rejected_changes_nothing(
    store: RedisStore, client: Client, accept: Accept, told: Told
) -> None:
    assert not await accept()
    assert await _generation(store, client) == 0
    assert await told() == []


async def test_a_recovery_reported_twice_has_one_event(
    store: RedisStore, client: Client, reject: Reject, accept: Accept, told: Told
) -> None:
    await reject()

    assert await accept()
    assert await accept()  # the same answer, as if the first one had been lost
    assert await _generation(store, client) == 1
    assert len(await told()) == 2


async def test_a_rejection_of_a_request_that_left_before_the_client_was_accepted_again_is_old_news(
    registry: RedisRegistry, fleet_state: RedisFleetState, reject: Reject, accept: Accept, told: Told
) -> None:
    sent_at = await registry.now()
    await reject()
    await accept()

    assert not await reject(3, sent_at=sent_at)
    assert (await fleet_state.of_client("acme")).state == "accepted"
    assert len(await told()) == 2


async def test_a_rejection_of_a_request_that_left_after_the_client_was_accepted_is_a_new_incident(
    registry: RedisRegistry, reject: Reject, accept: Accept, redis: Redis, prefix: str, told: Told
) -> None:
    await reject()
    await reject(2, client_probe=True)
    await accept()

    assert await reject(3, sent_at=await registry.now() + 1)
    assert await _delay_ms(redis, prefix) == FIRST_PROBE_MS
    assert len(await told()) == 3


async def test_a_late_probe_of_a_client_that_was_accepted_meanwhile_is_old_news(
    registry: RedisRegistry, fleet_state: RedisFleetState, reject: Reject, accept: Accept
) -> None:
    sent_at = await registry.now()
    await reject()
    await accept()

    assert not await reject(3, sent_at=sent_at, client_probe=True)
    assert (await fleet_state.of_client("acme")).state == "accepted"


async def test_a_clients_incident_does_not_touch_another_client(
    fleet_state: RedisFleetState, reject: Reject, seed: Seed
) -> None:
    await seed("theirs", client="other")

    await reject()

    assert (await fleet_state.of_client("other")).state == "accepted"


async def test_a_grant_that_is_refused_again_after_others_were_accepted_is_at_fault_itself(
    store: RedisStore,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    client: Client,
    reject: Reject,
    accept: Accept,
    under: Under,
    told: Told,
) -> None:
    await reject(1, grant="suspect")
    await accept(2)  # the probe was another grant

    event = client_event(EventType.CLIENT_REJECTED, client, attempt=3, now=1, reason="invalid_client")
    sent_at = await registry.now() + 1
    verdict = await store.record_refusal(
        client, event, under("suspect"), words=RefusalWords.CLIENT, sent_at=sent_at, believe_ms=3_600_000
    )

    assert verdict.whom is Refusal.GRANT
    assert (await fleet_state.of_client("acme")).state == "accepted"
    assert len(await told()) == 2
    assert await reject(4, sent_at=sent_at, grant="another")


async def test_a_grant_that_proved_its_client_accepted_is_no_suspect_any_more(
    store: RedisStore, registry: RedisRegistry, client: Client, reject: Reject, under: Under
) -> None:
    await reject(1, grant="one")
    event = client_event(EventType.CLIENT_RECOVERED, client, attempt=2, now=1)
    assert await store.accept_client(client, event, under("one", client_probe=True), is_refreshed=True)

    assert await reject(3, sent_at=await registry.now() + 1, grant="one")


async def test_a_grant_that_was_refreshed_is_no_suspect_when_its_client_is_refused_the_next_time(
    store: RedisStore,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    client: Client,
    clock: RedisClock,
    seed: Seed,
    answer: Answer,
    reject: Reject,
    accept: Accept,
) -> None:
    await seed("one")
    await reject(1, grant="one")
    await accept(2)  # the probe was another grant
    (lease,) = (await store.claim(client, 1, "")).leases
    clock.set(await registry.now() + 1, asked_at=clock.stopwatch())  # its request left after that
    assert (await store.commit(answer(lease))).verdict is Verdict.STORED

    assert await reject(3, sent_at=await registry.now() + 1, grant="one")

    assert (await fleet_state.of_client("acme")).state == "rejected"


async def test_each_probe_of_a_rejected_client_takes_another_grant(
    store: RedisStore,
    client: Client,
    seed: Seed,
    reject: Reject,
    let_the_client_probe_be_due: LetProbeBeDue,
    end_lease: OnGrant,
) -> None:
    for name in ("a", "b", "c"):
        await seed(name)
    await reject()

    probed = set()
    for _ in range(3):
        await let_the_client_probe_be_due()
        (lease,) = (await store.claim(client, 10, "")).leases
        probed.add(lease.grant.id)
        await end_lease(lease.grant.id)

    assert len(probed) > 1
