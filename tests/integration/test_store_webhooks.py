"""The queues of webhooks: a repeated call changes nothing, and one task at a time is given what is due."""

from typing import Any

import pytest

from worker.adapters.cloud_events import to_json
from worker.adapters.store.webhooks import PLACE_MS, RedisWebhooks
from worker.core.delivery import Answer, Decision, Next
from worker.core.events import Event, EventType
from worker.core.webhooks import SigningSecret, Turn, Webhook

WEBHOOK = Webhook("wh_1", "https://app.example/", frozenset(), {}, 1, (SigningSecret(b"sealed"),))
REFUSED, RETRY = Answer("http_500", 500), Decision(Next.RETRY, in_ms=0)
TAKEN, DELIVERED = Answer("http_204", 204), Decision(Next.DELIVERED)


@pytest.fixture
async def store(webhook_store: RedisWebhooks, redis: Any, prefix: str) -> RedisWebhooks:
    """With one webhook, and two events that are to be queued for it."""
    assert await webhook_store.add(WEBHOOK)
    for number in range(2):
        event = Event(EventType.GRANT_FAILED, f"{number}-grant-failed", "one", 1, {"client": "acme"})
        await redis.xadd(f"{prefix}events", {"event": to_json(event, "evergrant/test")})
    return webhook_store


async def served(store: RedisWebhooks, task: str = "this") -> Turn:
    """What a task is given, which has the place from then on if nobody had it."""
    await store.reserve(task, is_at_work=True)
    turn = await store.serve(WEBHOOK.id, task, 10)
    assert turn is not None
    return turn


async def test_a_repeated_enqueuing_queues_nothing_twice(
    store: RedisWebhooks, redis: Any, prefix: str
) -> None:
    turn = await served(store)
    await store.enqueue(turn)
    after_one = await redis.hgetall(f"{prefix}webhook:wh_1")
    await store.enqueue(turn)

    again = await served(store)
    assert [event.place for event in again.due] == [place for place, _ in turn.page]
    assert again.page == []
    assert {b"place": again.place.encode()}.items() <= after_one.items()
    assert (await redis.hgetall(f"{prefix}webhook:wh_1"))[b"counted"] == after_one[b"counted"]


async def test_a_repeated_record_of_a_try_counts_once(store: RedisWebhooks) -> None:
    await store.enqueue(await served(store))
    turn = await served(store)
    first, second = turn.due
    for _ in range(2):
        await store.record(turn, first, REFUSED, RETRY, None)
        await store.record(turn, second, TAKEN, DELIVERED, None)

    (left,) = (await served(store)).due
    (state,) = await store.states()
    assert (left.place, left.tries, state.delivered) == (first.place, 1, 1)
    assert len(await store.deliveries_of("one")) == 2


async def test_a_task_that_has_lost_its_place_is_given_nothing_and_moves_nothing_on(
    store: RedisWebhooks, redis: Any, prefix: str
) -> None:
    stood_still = await served(store, "this")
    kept_out = await store.serve(WEBHOOK.id, "another", 10)
    await redis.delete(f"{prefix}deliverer")  # its time is over
    taken_over = await served(store, "another")
    await store.enqueue(taken_over)
    for event in (await served(store, "another")).due:
        await store.record(taken_over, event, TAKEN, DELIVERED, None)
    await store.enqueue(stood_still)

    assert kept_out is None
    assert await store.serve(WEBHOOK.id, "this", 10) is None
    assert (await served(store, "another")).due == []


async def test_the_place_for_delivering_is_one_tasks_and_there_is_none_without_need(
    store: RedisWebhooks,
) -> None:
    first = await store.reserve("first", is_at_work=False)
    again = await store.reserve("first", is_at_work=False)
    second = await store.reserve("second", is_at_work=True)
    await store.release("second")
    still = await store.reserve("third", is_at_work=False)
    await store.enqueue(await served(store, "first"))
    turn = await served(store, "first")
    for event in turn.due:
        await store.record(turn, event, TAKEN, DELIVERED, None)
    await store.release("first")

    assert (first, again, second, still) == (True, True, False, False)
    assert not await store.reserve("fourth", is_at_work=False)


async def test_a_place_ends_by_itself_and_lasts_longer_when_its_task_keeps_it(
    store: RedisWebhooks, redis: Any, prefix: str
) -> None:
    await store.reserve("this", is_at_work=False)
    lasts = await redis.pttl(f"{prefix}deliverer")
    await redis.pexpire(f"{prefix}deliverer", lasts // 2)
    await store.reserve("this", is_at_work=True)

    assert 0 < lasts <= PLACE_MS
    assert await redis.pttl(f"{prefix}deliverer") > lasts // 2


async def test_an_older_event_comes_before_a_younger_one_that_is_due_as_long(store: RedisWebhooks) -> None:
    await store.enqueue(await served(store))

    places = [event.place for event in (await served(store)).due]

    assert places == sorted(places)


async def test_secrets_are_replaced_only_where_they_are_still_what_was_read(store: RedisWebhooks) -> None:
    newer = Webhook("wh_1", WEBHOOK.url, frozenset(), {}, 1, (SigningSecret(b"newer"),))
    newest = Webhook("wh_1", WEBHOOK.url, frozenset(), {}, 1, (SigningSecret(b"newest"),))

    assert [await store.replace(WEBHOOK, newer) for _ in range(2)] == [True, True]
    assert not await store.replace(WEBHOOK, newest)
    assert await store.find("wh_1") == newer
