"""Webhooks end to end but for Celery: events of a real stream, a real store, real requests to a receiver."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from config.settings import variable_of
from evergrant_client import verify_webhook
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import until
from worker.adapters.cloud_events import to_json
from worker.adapters.sealing import KeyRing
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.adapters.store.webhooks import RedisWebhooks
from worker.adapters.webhook_sender import HttpWebhookSender
from worker.core import webhooks as core
from worker.core.audit import By
from worker.core.events import Event, EventType
from worker.fleet.delivering import AT_ONCE, Delivering
from worker.fleet.report import report_on
from worker.fleet.webhooks import NewWebhook, WebhookError, WebhookProblem, Webhooks

BY = By("ann", "here")
SOON = (1,) * 9  # the schedule, in milliseconds
LATER = (3_600_000,) * 9

Emit = Callable[..., Awaitable[str]]
Turn = Callable[..., Coroutine[Any, Any, None]]
MakeDue = Callable[[NewWebhook], Awaitable[None]]


@pytest.fixture
def store(webhook_store: RedisWebhooks) -> RedisWebhooks:
    return webhook_store


@pytest.fixture
async def sender() -> AsyncIterator[HttpWebhookSender]:
    opened = HttpWebhookSender(timeout_seconds=60)
    yield opened
    await opened.close()


@pytest.fixture
def webhooks(store: RedisWebhooks, sender: HttpWebhookSender, keys: KeyRing) -> Webhooks:
    return Webhooks(
        store=store,
        sender=sender,
        sealer=keys,
        allowed=(),
        to_json=lambda event: to_json(event, "evergrant/test"),
    )


@pytest.fixture
def turn(store: RedisWebhooks, sender: HttpWebhookSender, keys: KeyRing) -> Turn:
    """Let a task take one turn."""

    async def take(
        *, schedule: Sequence[int] = LATER, sent_by: Any = None, turn_seconds: float = 10.0
    ) -> None:
        delivering = Delivering(
            queue=store,
            sender=sent_by or sender,
            sealer=keys,
            chance=lambda: 0.0,
            schedule=schedule,
            turn_seconds=turn_seconds,
        )
        task = await delivering.reserve()
        if task is not None:
            await delivering.run_turn(task, lambda: False)

    return take


@pytest.fixture
def emit(redis: Any, prefix: str) -> Emit:
    """Write an event into the stream, as a script does; gives its stream id."""

    async def write(kind: EventType = EventType.GRANT_FAILED, subject: str = "one", **labels: str) -> str:
        number = uuid.uuid4().int % 10**15
        event = Event(kind, f"{number}-{subject}", subject, 1, {"client": "acme", "labels": labels})
        written = await redis.xadd(f"{prefix}events", {"event": to_json(event, "evergrant/test")})
        return str(written.decode())

    return write


@pytest.fixture
def make_due(redis: Any, prefix: str) -> MakeDue:
    """Let all that waits for a webhook be due, as time would."""

    async def bring(webhook: NewWebhook) -> None:
        key = f"{prefix}retries:{webhook.id}"
        await redis.zadd(key, dict.fromkeys(await redis.zrange(key, 0, -1), 1))

    return bring


@pytest.fixture
async def receivers() -> AsyncIterator[Callable[[], Awaitable[Receiver]]]:
    """Start a receiver."""
    async with AsyncExitStack() as opened:
        yield lambda: opened.enter_async_context(receiving())


@pytest.fixture
async def receiver(receivers: Callable[[], Awaitable[Receiver]]) -> Receiver:
    return await receivers()


@pytest.fixture
async def added(webhooks: Webhooks, receiver: Receiver) -> NewWebhook:
    return await webhooks.add(receiver.url, [], {}, BY)


async def test_an_event_is_sent_as_the_stream_has_it_signed_and_once(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, redis: Any, prefix: str
) -> None:
    await emit()

    await turn()
    await turn()

    (got,) = receiver.got
    ((_, fields),) = await redis.xrange(f"{prefix}events")
    assert got.body == fields[b"event"]
    assert got.headers["content-type"] == "application/cloudevents+json"
    assert got.id == json.loads(got.body)["id"]
    assert got.verified(added.secret) == verify_webhook(got.headers, got.body, added.secret)
    with pytest.raises(Exception, match="No matching signature"):
        got.verified("whsec_" + "A" * 43 + "=")


async def test_a_webhook_begins_with_the_event_after_it_was_added(
    webhooks: Webhooks, receiver: Receiver, emit: Emit, turn: Turn
) -> None:
    await emit()
    await webhooks.add(receiver.url, [], {})
    await turn()

    assert receiver.got == []


async def test_a_webhook_is_told_of_its_types_and_of_grants_with_its_labels_alone(
    webhooks: Webhooks, receiver: Receiver, emit: Emit, turn: Turn
) -> None:
    await webhooks.add(receiver.url, [EventType.GRANT_FAILED, EventType.CLIENT_REJECTED], {"tenant": "acme"})
    await emit(EventType.GRANT_FAILED, "right", tenant="acme", tier="gold")
    await emit(EventType.GRANT_FAILED, "of-another", tenant="other")
    await emit(EventType.GRANT_REFRESHED, "of-another-type", tenant="acme")
    await emit(EventType.CLIENT_REJECTED, "without-labels")

    await turn()

    assert [json.loads(got.body)["subject"] for got in receiver.got] == ["right"]


async def test_an_event_that_is_refused_is_tried_again_until_it_is_taken(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, store: RedisWebhooks
) -> None:
    receiver.answers = [500, 302, 404]
    await emit()

    while len(receiver.got) < 4:
        await turn(schedule=SOON)

    (state,) = await store.states()
    assert len(set(receiver.ids)) == 1
    assert [got.verified(added.secret)["type"] for got in receiver.got] == ["evergrant.grant.failed"] * 4
    assert (state.waiting, state.delivered, state.failing_since) == (0, 1, None)


async def test_an_event_that_is_refused_waits_as_the_schedule_says(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, store: RedisWebhooks
) -> None:
    receiver.usually = 500
    written = await emit()

    await turn()
    await turn()

    (state,) = await store.states()
    assert len(receiver.got) == 1
    assert (state.waiting, state.failed_with) == (1, "http_500")
    assert state.oldest_at == int(written.partition("-")[0])
    assert await store.oldest_undelivered() == {added.id: state.oldest_at}


@pytest.mark.usefixtures("added")
async def test_an_event_is_given_up_after_the_last_try_and_that_is_counted(
    receiver: Receiver, emit: Emit, turn: Turn, store: RedisWebhooks
) -> None:
    receiver.usually = 500
    await emit()

    while not (await store.states())[0].given_up:
        await turn(schedule=SOON)

    (state,) = await store.states()
    assert len(receiver.got) == 10
    assert (state.waiting, state.given_up, state.oldest_at) == (0, 1, None)


async def test_a_receiver_that_asks_for_patience_is_sent_nothing_meanwhile(
    added: NewWebhook,
    receiver: Receiver,
    emit: Emit,
    turn: Turn,
    store: RedisWebhooks,
    redis: Any,
    prefix: str,
) -> None:
    receiver.answers = [web.Response(status=429, headers={"Retry-After": "60"})]
    await emit()
    await turn(schedule=SOON)
    await emit()
    await turn(schedule=SOON)
    held = len(receiver.got)
    await redis.hset(f"{prefix}webhook:{added.id}", "hold_until", "1")
    await turn(schedule=SOON)

    assert (held, len(receiver.got)) == (1, 2)
    assert (await store.states())[0].waiting == 1


async def test_410_disables_a_webhook_with_an_event_and_enabling_it_goes_on_where_it_stopped(
    added: NewWebhook,
    receiver: Receiver,
    emit: Emit,
    turn: Turn,
    store: RedisWebhooks,
    webhooks: Webhooks,
    told: Callable[[], Awaitable[list[dict[str, Any]]]],
) -> None:
    receiver.answers = [410]
    await emit(subject="first")
    await turn()
    await emit(subject="second")
    await turn()
    (state,) = await store.states()
    disabled = (await told())[1]
    sent = len(receiver.got)
    measured = await store.oldest_undelivered()

    await webhooks.enable(added.id, BY)
    await turn()

    assert (sent, state.disabled_for, state.waiting) == (1, "gone", 1)
    assert (state.oldest_at is None, measured) == (False, {})  # no alert: it asked for nothing more
    assert (disabled["type"], disabled["subject"]) == ("evergrant.webhook.disabled", added.id)
    assert disabled["data"]["endpoint"] + "/hooks" == receiver.url
    subjects = [json.loads(got.body)["subject"] for got in receiver.got]
    assert (subjects[0], sorted(subjects[1:])) == ("first", sorted(["first", "second", added.id]))
    assert (await store.states())[0].disabled_at is None


async def test_five_days_of_failures_disable_a_webhook(
    added: NewWebhook,
    receiver: Receiver,
    emit: Emit,
    turn: Turn,
    make_due: MakeDue,
    store: RedisWebhooks,
    redis: Any,
    prefix: str,
) -> None:
    receiver.usually = 500
    await emit()
    await turn()
    await redis.hincrby(f"{prefix}webhook:{added.id}", "failing_since", -5 * 86_400_000)
    await make_due(added)
    await turn()

    (state,) = await store.states()
    assert (state.disabled_for, state.waiting, len(receiver.got)) == ("failing", 1, 2)
    assert await store.oldest_undelivered() == {
        added.id: state.oldest_at
    }  # the alert stays: nobody has mended it


async def test_when_a_webhook_takes_events_again_all_that_waits_is_tried_at_once(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, redis: Any, prefix: str
) -> None:
    receiver.usually = 503
    await emit(subject="before")
    await turn(schedule=LATER)
    receiver.usually = 204
    await redis.hincrby(f"{prefix}webhook:{added.id}", "failing_since", -61_000)
    await emit(subject="after")
    await turn(schedule=LATER)

    assert [json.loads(got.body)["subject"] for got in receiver.got] == ["before", "after", "before"]


@pytest.mark.parametrize("turn_seconds", [30.0, 0.5])
async def test_a_webhook_that_hangs_holds_up_no_other_not_even_beyond_the_end_of_a_turn(
    webhooks: Webhooks,
    receivers: Callable[[], Awaitable[Receiver]],
    emit: Emit,
    turn: Turn,
    turn_seconds: float,
) -> None:
    hanging, quick = await receivers(), await receivers()
    await webhooks.add(hanging.url, [EventType.GRANT_FAILED], {})
    await webhooks.add(quick.url, [EventType.GRANT_RECOVERED], {})
    hanging.hold.clear()
    for _ in range(3 * AT_ONCE):
        await emit()
    taking = asyncio.create_task(turn(turn_seconds=turn_seconds))
    await until(lambda: _is(len(hanging.got) == AT_ONCE))

    for number in range(3):
        await emit(EventType.GRANT_RECOVERED)
        await until(lambda number=number: _is(len(quick.got) > number))  # type: ignore[misc]
    in_flight = len(hanging.got)
    hanging.hold.set()
    await taking
    await turn()

    assert in_flight == hanging.most_at_once == AT_ONCE
    assert len(hanging.got) == 3 * AT_ONCE


async def _is(fact: bool) -> bool:  # noqa: FBT001 a fact, as `until` asks for it
    return fact


@pytest.mark.usefixtures("added")
async def test_two_tasks_at_once_send_nothing_twice(
    receiver: Receiver,
    emit: Emit,
    store: RedisWebhooks,
    sender: HttpWebhookSender,
    keys: KeyRing,
) -> None:
    for _ in range(30):
        await emit()
    delivering = Delivering(queue=store, sender=sender, sealer=keys, chance=lambda: 0.0)

    reserved = await delivering.reserve()
    another = await delivering.reserve()
    assert reserved is not None
    await asyncio.gather(
        delivering.run_turn(reserved, lambda: False), delivering.run_turn("another", lambda: False)
    )

    assert another is None
    assert len(receiver.got) == len(set(receiver.ids)) == 30


@pytest.mark.usefixtures("added")
async def test_what_a_dead_process_had_in_flight_is_sent_by_the_next_when_its_place_has_ended(
    receiver: Receiver, emit: Emit, turn: Turn, redis: Any, prefix: str
) -> None:
    receiver.hold.clear()
    await emit()
    killed = asyncio.create_task(turn())
    await until(lambda: _is(len(receiver.got) == 1))
    place = await redis.get(f"{prefix}deliverer")
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    await redis.set(f"{prefix}deliverer", place)  # a process that is killed gives nothing back
    receiver.hold.set()
    await turn()
    meanwhile = len(receiver.got)
    await redis.delete(f"{prefix}deliverer")
    await turn()

    assert (meanwhile, len(receiver.got)) == (1, 2)
    assert receiver.ids[0] == receiver.ids[1]


@pytest.mark.usefixtures("added")
async def test_a_turn_keeps_its_place_for_as_long_as_a_request_hangs(
    receiver: Receiver, emit: Emit, turn: Turn, redis: Any, prefix: str
) -> None:
    receiver.hold.clear()
    await emit()
    taking = asyncio.create_task(turn(turn_seconds=0.1))
    await until(lambda: _is(len(receiver.got) == 1))
    place = await redis.getdel(f"{prefix}deliverer")

    async def is_kept() -> bool:
        return bool(await redis.get(f"{prefix}deliverer") == place)

    await until(is_kept)
    await turn()
    receiver.hold.set()
    await taking

    assert len(receiver.got) == 1
    assert await redis.get(f"{prefix}deliverer") is None


async def test_a_retry_keeps_its_event_when_the_stream_is_trimmed(
    added: NewWebhook,
    receiver: Receiver,
    emit: Emit,
    turn: Turn,
    make_due: MakeDue,
    store: RedisWebhooks,
    redis: Any,
    prefix: str,
) -> None:
    receiver.answers = [500]
    await emit()
    await turn()
    await redis.xtrim(f"{prefix}events", maxlen=0, approximate=False)
    await make_due(added)
    await turn()

    assert receiver.got[0].body == receiver.got[1].body
    (state,) = await store.states()
    assert (state.delivered, state.lost) == (1, 0)


@pytest.mark.usefixtures("added")
async def test_events_that_the_stream_lost_before_they_were_queued_are_counted(
    receiver: Receiver,
    emit: Emit,
    turn: Turn,
    redis: Any,
    prefix: str,
    store: RedisWebhooks,
) -> None:
    await emit()
    await turn()
    for _ in range(5):
        await emit()
    await redis.xtrim(f"{prefix}events", maxlen=2, approximate=False)
    await turn()
    await turn()

    (state,) = await store.states()
    counts = (await redis.info("server"))["redis_version"] >= "7"  # else it is known that some are lost
    assert (state.lost, state.delivered, len(receiver.got)) == (3 if counts else 1, 3, 3)


async def test_a_full_queue_stops_the_place_and_nothing_is_lost(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, store: RedisWebhooks, monkeypatch: Any
) -> None:
    monkeypatch.setattr("worker.adapters.store.webhooks.MOST_WAITING", 3)
    receiver.usually = 500
    for _ in range(7):
        await emit()
    await turn()
    (full,) = await store.states()
    receiver.usually = 204
    await store.enable(added.id)
    await turn()

    assert (full.waiting, len(set(receiver.ids))) == (3, 7)
    assert (await store.states())[0].delivered == 7


@pytest.mark.parametrize("entry", [b"no JSON", b"[]", b"{}", b'{"data":1,"id":"x"}', b"\xff"])
@pytest.mark.usefixtures("added")
async def test_an_entry_that_somebody_else_wrote_into_the_stream_is_passed_over(
    receiver: Receiver, emit: Emit, turn: Turn, redis: Any, prefix: str, entry: bytes
) -> None:
    foreign = await redis.xadd(f"{prefix}events", {"event": entry})
    await emit()
    await turn()

    assert len(receiver.got) == 1
    await redis.xdel(f"{prefix}events", foreign)  # what is ours is checked when the test is over


async def test_a_replay_sends_what_follows_a_place_once_more(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, webhooks: Webhooks, store: RedisWebhooks
) -> None:
    places = [await emit(subject=str(number)) for number in range(4)]
    await turn()

    number = await webhooks.replay(added.id, places[1], BY)
    await turn()
    nothing = await webhooks.replay(added.id, places[3])

    assert (number, nothing) == (2, 0)
    assert receiver.ids[4:] == receiver.ids[2:4]
    assert (await store.states())[0].lost == 0


async def test_while_a_secret_is_replaced_both_sign(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, webhooks: Webhooks, redis: Any, prefix: str
) -> None:
    secret = await webhooks.rotate_secret(added.id, BY)
    await emit()
    await turn()

    (got,) = receiver.got
    assert got.verified(added.secret) == got.verified(secret)
    assert len(got.headers["webhook-signature"].split()) == 2
    stored = await redis.hget(f"{prefix}webhooks", added.id)
    for each in (secret, added.secret):
        assert each.encode() not in stored
        assert each.removeprefix("whsec_").encode() not in stored


async def test_a_test_is_sent_at_once_and_says_what_came_back(
    added: NewWebhook, receiver: Receiver, webhooks: Webhooks
) -> None:
    receiver.answers = [204, 500]

    answers = [await webhooks.test(added.id) for _ in range(2)]

    assert [answer.detail for answer in answers] == ["http_204", "http_500"]
    assert receiver.got[0].verified(added.secret)["type"] == "evergrant.webhook.test"


async def test_the_last_deliveries_of_a_grants_events_are_kept_for_its_page(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, store: RedisWebhooks
) -> None:
    receiver.answers = [500]
    await emit(EventType.GRANT_FAILED, "user-42/buddy")
    await emit(EventType.GRANT_REFRESHED, "user-42/buddy")
    while len(receiver.got) < 3:
        await turn(schedule=SOON)

    shown = await store.deliveries_of("user-42/buddy")

    assert [(each.webhook, each.event, each.outcome, each.tries) for each in shown] == [
        (added.id, receiver.got[0].id, "delivered", 2),
        (added.id, receiver.got[0].id, "http_500", 1),
    ]
    assert await store.deliveries_of("another") == []


async def test_the_status_names_a_webhook_that_is_disabled_failing_or_was_not_told(
    added: NewWebhook,
    receiver: Receiver,
    emit: Emit,
    turn: Turn,
    make_due: MakeDue,
    store: RedisWebhooks,
    webhooks: Webhooks,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    replies: RedisReplies,
    keys: KeyRing,
    redis: Any,
    prefix: str,
) -> None:
    async def said() -> list[tuple[str, str, bool]]:
        report = await report_on(
            registry, fleet_state, replies, [], variable_of, None, store, key_of=keys.key_of
        )
        return [(each.kind, each.subject, each.needs_a_person) for each in report.incidents]

    healthy = await said()
    receiver.answers = [500, 410]
    await emit()
    await turn()
    failing = await said()
    await make_due(added)
    await turn()
    disabled = await said()
    await webhooks.enable(added.id)
    await redis.hset(f"{prefix}webhook:{added.id}", "lost", "3")
    await turn()
    missed = await said()
    await webhooks.enable(added.id)

    assert (healthy, await said()) == ([], [])
    assert failing == [("webhook_failing", added.id, False)]
    assert disabled == [("webhook_disabled", added.id, True)]
    assert missed == [("webhook_missed", added.id, False)]


async def test_no_log_line_and_no_event_holds_a_secret_or_the_path_of_a_url(
    webhooks: Webhooks,
    receiver: Receiver,
    emit: Emit,
    turn: Turn,
    store: RedisWebhooks,
    redis: Any,
    prefix: str,
    capfd: Any,
) -> None:
    made = await webhooks.add(receiver.url + "?key=canary-path", [], {})
    receiver.answers = [500, 410]
    for _ in range(2):
        await emit()
        await turn()
    answers = [await webhooks.test(made.id) for _ in range(1)]

    written = "".join(capfd.readouterr()) + repr(answers) + repr(await store.all())
    written += repr(await redis.xrange(f"{prefix}events")) + repr(await redis.xrange(f"{prefix}audit"))
    assert made.id in written
    assert [word for word in ("canary", made.secret, made.secret[6:]) if word in written] == []


async def test_a_removed_webhook_leaves_nothing(
    added: NewWebhook, receiver: Receiver, emit: Emit, turn: Turn, webhooks: Webhooks, redis: Any, prefix: str
) -> None:
    receiver.usually = 500
    await emit()
    await turn()
    await webhooks.remove(added.id, BY)
    await turn()

    assert [key async for key in redis.scan_iter(match=f"{prefix}*{added.id}*")] == []
    with pytest.raises(WebhookError) as problem:
        await webhooks.remove(added.id)
    assert problem.value.code is WebhookProblem.NO_SUCH_WEBHOOK
    entries = [json.loads(fields[b"entry"]) for _, fields in await redis.xrange(f"{prefix}audit")]
    assert [(entry["what"], entry["webhook"]) for entry in entries] == [
        ("webhook_added", added.id),
        ("webhook_removed", added.id),
    ]


async def test_there_is_room_for_so_many_webhooks_and_no_more(webhooks: Webhooks) -> None:
    for _ in range(core.MOST_WEBHOOKS):
        await webhooks.add("https://app.example/hooks", [], {})

    with pytest.raises(WebhookError) as problem:
        await webhooks.add("https://app.example/hooks", [], {})

    assert problem.value.code is WebhookProblem.TOO_MANY
