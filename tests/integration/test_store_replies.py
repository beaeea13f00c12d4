"""Kept replies in the store: what each script does with them, in each case."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support import attempts
from tests.support.callables import (
    Answer,
    ClaimOne,
    DueOf,
    Failure,
    LetProbeBeDue,
    OnGrant,
    OpenStore,
    RecordOf,
    Remember,
    Seed,
    Told,
)
from worker.adapters.clock import RedisClock
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.core import lifecycle
from worker.core.events import EventType, provider_event
from worker.core.grant import Grant, Status, lineage_of
from worker.core.outcomes import Rejected
from worker.core.policy import Rules
from worker.core.ports import KeptReply, Lease, Verdict
from worker.core.providers import Client
from worker.core.registry import ImportVerdict, Operation, OperationResult

NEVER = float("inf")
Kept = Callable[..., KeptReply]
Find = Callable[..., Awaitable[Grant]]


@pytest.fixture
def unread(client: Client, clock: RedisClock) -> Kept:
    """A reply to a leased grant that nobody could read, ready to be kept."""

    def make(lease: Lease, **options: Any) -> KeptReply:
        return attempts.unread(lease, client, clock.now(), **options)

    return make


@pytest.fixture
async def kept(store: RedisStore, seed: Seed, claim_one: ClaimOne, unread: Kept) -> KeptReply:
    """The kept reply of the grant `one`."""
    await seed()
    reply = unread(await claim_one())
    assert await store.keep_reply(reply) is Verdict.STORED
    return reply


@pytest.fixture
def find(registry: RedisRegistry) -> Find:
    async def read(grant_id: str = "one") -> Grant:
        stored = await registry.find(grant_id)
        assert stored is not None
        return stored.grant

    return read


def _types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("evergrant.") for event in events]


# Keeping


async def test_what_is_known_of_a_kept_reply_is_found_under_its_number(
    kept: KeptReply, replies: RedisReplies, find: Find, client: Client
) -> None:
    (found,) = await replies.all()

    assert found == await replies.find(1)
    assert (found.number, found.grant, found.client, found.fence) == (1, "one", "acme", kept.fence)
    assert (found.token_url, found.detail, found.size) == (client.token_url, "http_200_not_json", 1)
    assert (found.sent_at, found.received_at, found.version) == (kept.sent_at, kept.received_at, 0)
    assert found.access_expires_at == (await find()).access_expires_at
    assert await replies.sealed(1) == kept.sealed
    assert (await replies.find(2), await replies.sealed(2)) == (None, None)


async def test_a_reply_brings_its_grant_back_to_the_client_that_it_is_sealed_for(
    store: RedisStore, registry: RedisRegistry, seed: Seed, claim_one: ClaimOne, unread: Kept, find: Find
) -> None:
    grant = await seed()
    reply = unread(await claim_one())
    moved = replace(grant, client="other", sealed=b"for another")
    await registry.import_grant(lifecycle.Change(moved, None, None, None), replaces=0)

    assert await store.keep_reply(reply) is Verdict.STORED

    found = await find()
    assert (found.client, found.kept_reply, found.sealed) == ("acme", 1, grant.sealed)


@pytest.mark.usefixtures("kept")
async def test_numbers_grow_and_are_not_used_again(
    store: RedisStore,
    replies: RedisReplies,
    seed: Seed,
    unread: Kept,
    let_the_endpoint_probe_be_due: LetProbeBeDue,
) -> None:
    assert await replies.drop(1)
    await seed("two", due_in_ms=-2_000)
    await let_the_endpoint_probe_be_due()
    lease = await store.lease("two")
    assert isinstance(lease, Lease)
    await store.keep_reply(unread(lease))

    assert [reply.number for reply in await replies.all()] == [2]


@pytest.mark.usefixtures("kept")
async def test_the_client_remembers_the_registration_to_which_the_reply_came(
    redis: Any, prefix: str, client: Client
) -> None:
    assert await redis.hget(f"{prefix}client:acme", "unread_registration") == client.registration.encode()


async def test_a_paused_grant_stays_paused_and_its_reply_is_kept(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    registry: RedisRegistry,
    find: Find,
    told: Told,
) -> None:
    await seed()
    lease = await claim_one()
    await registry.operate("one", Operation.PAUSE)

    assert await store.keep_reply(unread(lease)) is Verdict.STORED

    stored = await find()
    assert (stored.status, stored.kept_reply, stored.in_doubt) == (Status.PAUSED, 1, True)
    assert _types(await told()) == ["provider.unavailable"]


async def test_a_reply_to_a_grant_that_is_gone_is_not_kept(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    registry: RedisRegistry,
    replies: RedisReplies,
) -> None:
    await seed()
    lease = await claim_one()
    await registry.operate("one", Operation.DELETE)

    assert await store.keep_reply(unread(lease)) is Verdict.GONE
    assert await replies.all() == []


async def test_a_reply_that_comes_after_its_lease_ended_is_kept_and_leaves_the_next_lease_alone(
    open_store: OpenStore,
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    end_lease: OnGrant,
    record_of: RecordOf,
    answer: Answer,
    replies: RedisReplies,
) -> None:
    await seed()
    reply = unread(await claim_one())
    await end_lease("one")
    await store.leave()  # nobody waits for it any more
    later = await (await open_store(owner="that")).lease("one")
    assert isinstance(later, Lease)

    assert await store.keep_reply(reply) is Verdict.STORED

    assert (await record_of("one"))["LEASE_OWNER"] == b"that"
    moved = await store.commit(answer(later))
    assert (await store.commit(answer(later, onto=moved))).verdict is Verdict.STORED
    assert await replies.all() == []


async def test_a_rejection_of_a_later_request_does_not_move_a_grant_whose_reply_came_meanwhile(
    open_store: OpenStore,
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    failure: Failure,
    end_lease: OnGrant,
    find: Find,
    due_of: DueOf,
) -> None:
    """The token was rejected because it had been used up, and what it was used up for is kept."""
    await seed()
    reply = unread(await claim_one())
    await end_lease("one")
    await store.leave()
    that = await open_store(owner="that")
    later = await that.lease("one")
    assert isinstance(later, Lease)
    await store.keep_reply(reply)

    assert await that.record_outcome(later, failure(later, Rejected("invalid_grant"))) is Verdict.STORED

    stored = await find()
    assert (stored.status, stored.reason, stored.kept_reply) == (Status.FAILING, "reply_unread", 1)
    assert await due_of("one") == NEVER


async def test_two_unread_replies_to_one_token_are_both_kept_and_either_is_adopted(
    open_store: OpenStore,
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    end_lease: OnGrant,
    replies: RedisReplies,
    answer: Answer,
    find: Find,
) -> None:
    await seed()
    first = unread(await claim_one())
    await end_lease("one")
    await store.leave()
    that = await open_store(owner="that")
    lease = await that.lease("one")
    assert isinstance(lease, Lease)
    await that.keep_reply(unread(lease))
    await store.keep_reply(first)

    assert [reply.number for reply in await replies.all()] == [1, 2]
    assert [await store.keep_reply(each) for each in (first, unread(lease))] == [Verdict.KNOWN] * 2
    earlier = await store.lease("one", reply=1)
    assert isinstance(earlier, Lease)
    await store.commit(answer(earlier))
    assert (await replies.all(), (await find()).kept_reply) == ([], None)


@pytest.mark.parametrize(("dropped", "left"), [(1, 2), (2, 1)])
async def test_of_two_replies_one_is_given_up_and_the_other_still_blocks_the_token(
    open_store: OpenStore,
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    end_lease: OnGrant,
    replies: RedisReplies,
    find: Find,
    due_of: DueOf,
    dropped: int,
    left: int,
) -> None:
    await seed()
    first = unread(await claim_one())
    await end_lease("one")
    await store.leave()
    that = await open_store(owner="that")
    lease = await that.lease("one")
    assert isinstance(lease, Lease)
    await that.keep_reply(unread(lease))
    await store.keep_reply(first)

    assert await replies.drop(dropped)

    assert ((await find()).kept_reply, await due_of("one")) == (left, NEVER)
    assert await replies.drop(left)
    assert (await find()).kept_reply is None


async def test_a_store_that_forgot_the_pair_to_which_the_reply_came_gets_it_back_with_the_reply(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
    unread: Kept,
    make_due: OnGrant,
    remember: Remember,
    find: Find,
    replies: RedisReplies,
) -> None:
    await seed()
    go_back = await remember()
    await store.commit(answer(await claim_one(), "r1"))
    await make_due("one")
    reply = unread(await claim_one())
    await store.keep_reply(reply)
    before = await find()
    await go_back()

    assert await store.keep_reply(reply) is Verdict.STORED

    assert await find() == before
    assert (before.version, before.lineage) == (1, lineage_of("one", "r1"))
    assert len(await replies.all()) == 1


# The endpoint


async def test_a_reply_to_a_request_that_left_before_the_endpoint_recovered_stops_it_no_more(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, unread: Kept, redis: Any, prefix: str, client: Client
) -> None:
    await seed()
    reply = unread(await claim_one(), sent_at=1)
    await redis.hset(
        f"{prefix}endpoint:{client.token_url}", mapping={"state": "available", "recovered_at": "2"}
    )

    assert await store.keep_reply(reply) is Verdict.STORED
    assert await redis.hget(f"{prefix}endpoint:{client.token_url}", "state") == b"available"


@pytest.mark.usefixtures("kept")
async def test_each_probe_whose_reply_cannot_be_read_doubles_the_wait_for_the_next(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    let_the_endpoint_probe_be_due: LetProbeBeDue,
    redis: Any,
    prefix: str,
    client: Client,
) -> None:
    delays = []
    for name in ("two", "three", "four"):
        await seed(name)
        await let_the_endpoint_probe_be_due()
        reply = unread(await claim_one())
        await store.keep_reply(reply)
        await store.keep_reply(reply)
        delays.append(int(await redis.hget(f"{prefix}endpoint:{client.token_url}", "probe_delay")))

    assert delays == [20_000, 35_000, 35_000]


@pytest.mark.usefixtures("kept")
async def test_an_endpoint_works_again_once_no_reply_of_it_is_kept(
    store: RedisStore,
    replies: RedisReplies,
    client: Client,
    clock: RedisClock,
    answer: Answer,
    told: Told,
    redis: Any,
    prefix: str,
) -> None:
    def recovered(attempt: int) -> Any:
        return provider_event(EventType.PROVIDER_RECOVERED, client, attempt=attempt, now=clock.now())

    assert not await replies.reopen(client, recovered(1), "one")
    lease = await store.lease("one", reply=1)
    assert isinstance(lease, Lease)
    await store.commit(answer(lease))

    assert await replies.reopen(client, recovered(2), "one")
    assert await replies.reopen(client, recovered(2), "one")  # repeated, it says the same

    assert not await replies.reopen(client, recovered(3), "one")
    assert await redis.hget(f"{prefix}endpoint:{client.token_url}", "state") == b"available"
    assert _types(await told())[-2:] == ["grant.recovered", "provider.recovered"]


@pytest.mark.usefixtures("kept")
async def test_an_endpoint_that_is_away_for_another_reason_is_not_opened(
    replies: RedisReplies, client: Client, redis: Any, prefix: str
) -> None:
    await replies.drop(1)
    await redis.hset(f"{prefix}endpoint:{client.token_url}", "reason", "http_502")
    event = provider_event(EventType.PROVIDER_RECOVERED, client, attempt=2, now=1)

    assert not await replies.reopen(client, event, "one")


# What ends the keeping


async def test_adopted_tokens_clear_the_registration_and_the_reply_in_the_same_step(
    kept: KeptReply, store: RedisStore, answer: Answer, redis: Any, prefix: str
) -> None:
    lease = await store.lease("one", reply=1)
    assert isinstance(lease, Lease)

    await store.commit(answer(lease))

    assert await redis.hget(f"{prefix}client:acme", "unread_registration") is None
    assert await redis.exists(f"{prefix}reply:1") == 0
    assert await redis.zcard(f"{prefix}unread") == 0
    assert await store.keep_reply(kept) is Verdict.SUPERSEDED


@pytest.mark.usefixtures("kept")
async def test_a_lease_to_adopt_leaves_the_grant_out_of_the_schedule_even_if_nothing_comes_of_it(
    store: RedisStore, due_of: DueOf
) -> None:
    assert isinstance(await store.lease("one", reply=1), Lease)
    assert await due_of("one") == NEVER


@pytest.mark.usefixtures("kept")
async def test_a_paused_grant_is_leased_to_adopt_its_reply_and_stays_paused(
    store: RedisStore, registry: RedisRegistry, answer: Answer, find: Find
) -> None:
    await registry.operate("one", Operation.PAUSE)
    lease = await store.lease("one", reply=1)
    assert isinstance(lease, Lease)

    await store.commit(answer(lease))

    assert ((await find()).status, (await find()).version) == (Status.PAUSED, 1)


async def test_a_dropped_reply_lets_the_old_token_be_tried_at_once_and_a_journal_brings_it_back_no_more(
    kept: KeptReply,
    store: RedisStore,
    replies: RedisReplies,
    find: Find,
    due_of: DueOf,
    clock: RedisClock,
    redis: Any,
    prefix: str,
) -> None:
    assert await replies.drop(1)

    stored = await find()
    assert (stored.status, stored.reason, stored.kept_reply) == (Status.FAILING, "reply_unknown", None)
    assert stored.in_doubt
    due = await due_of("one")
    assert due is not None
    assert due <= clock.now() + 1_000
    assert await redis.hget(f"{prefix}client:acme", "unread_registration") is None
    assert await store.keep_reply(kept) is Verdict.SUPERSEDED
    assert (await replies.all(), await replies.drop(1)) == ([], False)


@pytest.mark.usefixtures("kept")
async def test_the_registration_stays_in_question_while_another_of_its_replies_is_kept(
    store: RedisStore,
    replies: RedisReplies,
    seed: Seed,
    unread: Kept,
    redis: Any,
    prefix: str,
) -> None:
    await seed("two")
    lease = await store.lease("two")
    assert isinstance(lease, Lease)
    await store.keep_reply(unread(lease))

    await replies.drop(1)
    assert await redis.hget(f"{prefix}client:acme", "unread_registration") is not None
    await replies.drop(2)
    assert await redis.hget(f"{prefix}client:acme", "unread_registration") is None


@pytest.mark.usefixtures("kept")
async def test_a_deleted_grants_reply_is_forgotten(
    registry: RedisRegistry, replies: RedisReplies, redis: Any, prefix: str
) -> None:
    await registry.operate("one", Operation.DELETE)

    assert await replies.all() == []
    assert await redis.hget(f"{prefix}client:acme", "unread_registration") is None


@pytest.mark.usefixtures("kept")
async def test_an_unreadable_record_does_not_keep_its_reply_from_being_given_up(
    replies: RedisReplies, redis: Any, prefix: str, registry: RedisRegistry
) -> None:
    await redis.set(f"{prefix}grant:one", b"no record")

    assert await replies.drop(1)

    assert await replies.all() == []
    await registry.operate("one", Operation.DELETE)
    await redis.hincrby(f"{prefix}client:acme", "grants:active", 1)  # it was counted as failing
    await redis.hincrby(f"{prefix}client:acme", "grants:failing", -1)


@pytest.mark.usefixtures("kept")
async def test_an_import_of_another_pair_ends_the_keeping(
    registry: RedisRegistry, replies: RedisReplies, find: Find, due_of: DueOf
) -> None:
    base = await find()
    fresh = replace(
        base,
        version=1,
        status=Status.ACTIVE,
        lineage=lineage_of("one", "fresh"),
        sealed=b"fresh",
        issued_at=base.issued_at + 1,
        reason=None,
        kept_reply=None,
    )

    result = await registry.import_grant(lifecycle.Change(fresh, 5, None, None), replaces=0)

    assert result.verdict is ImportVerdict.STORED
    assert (await replies.all(), (await find()).kept_reply, await due_of("one")) == ([], None, 5)


@pytest.mark.usefixtures("kept")
async def test_an_import_of_the_same_pair_sealed_anew_keeps_the_reply(
    registry: RedisRegistry, replies: RedisReplies, find: Find, due_of: DueOf
) -> None:
    same = replace(await find(), sealed=b"sealed with another key", reason=None, streak=0, kept_reply=None)

    await registry.import_grant(lifecycle.Change(same, 5, None, None), replaces=0)

    stored = await find()
    assert (stored.status, stored.reason, stored.kept_reply) == (Status.FAILING, "reply_unread", 1)
    assert (len(await replies.all()), await due_of("one")) == (1, NEVER)


@pytest.mark.usefixtures("kept")
async def test_a_grant_with_a_kept_reply_is_not_resumed(registry: RedisRegistry, due_of: DueOf) -> None:
    assert await registry.operate("one", Operation.RESUME) is OperationResult.KEPT
    await registry.operate("one", Operation.PAUSE)
    assert await registry.operate("one", Operation.RESUME) is OperationResult.KEPT
    assert await due_of("one") == NEVER


# The end of the access token


@pytest.fixture
def expire(replies: RedisReplies, registry: RedisRegistry, client: Client) -> Callable[[], Awaitable[bool]]:
    """Let the first overdue reply's grant fail."""

    async def run() -> bool:
        now = await registry.now()
        (reply,) = await replies.overdue(now)
        stored = await registry.find(reply.grant)
        change = None
        if stored is not None and stored.grant.status is Status.FAILING:
            change = lifecycle.expire(stored.grant, client, Rules(), attempt=reply.fence, now=now)
        return await replies.expire(reply, change)

    return run


async def test_a_grant_fails_with_one_event_when_its_access_token_ends_and_its_reply_stays(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    registry: RedisRegistry,
    replies: RedisReplies,
    expire: Callable[[], Awaitable[bool]],
    find: Find,
    told: Told,
    answer: Answer,
) -> None:
    await seed(access_expires_at=1_700_000_000_000, issued_at=1_699_999_000_000)
    await store.keep_reply(unread(await claim_one()))
    (overdue,) = await replies.overdue(await registry.now())

    assert await expire()
    assert not await replies.expire(overdue, None)

    stored = await find()
    assert (stored.status, stored.reason, stored.kept_reply) == (Status.FAILED, "reply_unread", 1)
    assert _types(await told()) == ["grant.failing", "provider.unavailable", "grant.failed"]
    assert await replies.overdue(await registry.now()) == []
    lease = await store.lease("one", reply=1)
    assert isinstance(lease, Lease)
    await store.commit(answer(lease))
    assert (await find()).status is Status.ACTIVE


@pytest.mark.usefixtures("kept")
async def test_a_grant_whose_access_token_lives_is_not_overdue(
    replies: RedisReplies, registry: RedisRegistry
) -> None:
    assert await replies.overdue(await registry.now()) == []


async def test_a_paused_grant_does_not_fail_when_its_access_token_ends(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    unread: Kept,
    registry: RedisRegistry,
    replies: RedisReplies,
    expire: Callable[[], Awaitable[bool]],
    find: Find,
) -> None:
    await seed(access_expires_at=1_700_000_000_000, issued_at=1_699_999_000_000)
    await store.keep_reply(unread(await claim_one()))
    await registry.operate("one", Operation.PAUSE)

    assert not await expire()
    assert (await find()).status is Status.PAUSED
    assert await replies.overdue(await registry.now()) == []
