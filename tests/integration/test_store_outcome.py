"""record_outcome.lua: outcomes that brought no tokens."""

from dataclasses import replace

from redis.asyncio import Redis

from tests.support.callables import Answer, ClaimOne, DueOf, Failure, OnGrant, RecordOf, Seed, Told
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Status
from worker.core.lifecycle import NO_END, Change
from worker.core.outcomes import Rejected, Unavailable, Unknown
from worker.core.ports import Verdict
from worker.core.providers import Client
from worker.core.registry import Operation


async def test_status_reason_streak_due_time_release_and_event_are_stored_in_one_step(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    record_of: RecordOf,
    due_of: DueOf,
    told: Told,
) -> None:
    await seed("one")
    lease = await claim_one()
    change = failure(lease, Unavailable("http_503", 90_000))

    assert await store.record_outcome(lease, change) is Verdict.STORED

    record = await record_of("one")
    assert (record["STATUS"], record["STREAK"], record["REASON"]) == (b"failing", 1, b"unavailable")
    assert (record["LEASE_OWNER"], record["LEASE_UNTIL"]) == (False, 0)
    assert (record["INTENT"], record["LAST"]) == (False, lease.fence)
    assert record["VERSION"] == 0
    assert await due_of("one") == change.due_at
    assert await registry.needing_attention(10) == [
        (await registry.find("one"), lease.grant.access_expires_at)
    ]
    (event,) = await told()
    assert (event["type"], event["id"]) == ("evergrant.grant.failing", f"{lease.fence}-grant-failing")


async def test_a_failed_grant_leaves_the_schedule_and_is_counted(
    store: RedisStore,
    fleet_state: RedisFleetState,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    due_of: DueOf,
    told: Told,
) -> None:
    await seed("one", status=Status.FAILING, streak=1, reason="rejected", rejected_at=1)
    lease = await claim_one()

    await store.record_outcome(lease, failure(lease, Rejected("invalid_grant")))

    assert await due_of("one") == float("inf")
    grants = (await fleet_state.of_client("acme")).grants
    assert (grants[Status.FAILED], grants[Status.FAILING]) == (1, 0)
    assert [event["type"] for event in await told()] == ["evergrant.grant.failed"]


async def test_an_unknown_reply_leaves_its_intent_for_the_next_lease_to_find(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, failure: Failure, make_due: OnGrant
) -> None:
    await seed("one")
    lease = await claim_one()
    await store.record_outcome(lease, failure(lease, Unknown("timeout")))
    await make_due("one")

    assert (await claim_one()).grant.in_doubt


async def test_a_change_without_an_event_tells_nothing_and_one_without_a_due_time_is_never_due(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, due_of: DueOf, told: Told
) -> None:
    await seed("one")
    lease = await claim_one()

    await store.record_outcome(lease, Change(lease.grant, None, None, None))

    assert await due_of("one") == float("inf")
    assert await told() == []


async def test_a_notice_is_remembered(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, record_of: RecordOf
) -> None:
    await seed("one")
    lease = await claim_one()
    noticed = replace(lease.grant, noticed_at=1_700_000_000_000)

    await store.record_outcome(lease, Change(noticed, lease.until, NO_END, None))

    record = await record_of("one")
    assert record["NOTICED_AT"] == 1_700_000_000_000
    assert record["STATUS"] == b"active"


async def test_a_grant_whose_end_is_unknown_needs_attention_at_no_known_time(
    store: RedisStore, registry: RedisRegistry, seed: Seed, claim_one: ClaimOne, failure: Failure
) -> None:
    await seed("one", access_expires_at=None)
    lease = await claim_one()

    await store.record_outcome(lease, failure(lease, Unavailable("http_503")))

    assert [end for _, end in await registry.needing_attention(10)] == [None]


async def test_an_outcome_of_a_lease_that_another_has_by_now_is_stale(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    end_lease: OnGrant,
    record_of: RecordOf,
    told: Told,
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    await claim_one()
    before = await record_of("one")

    assert await store.record_outcome(late, failure(late, Rejected("invalid_grant"))) is Verdict.STALE
    assert await record_of("one") == before
    assert await told() == []


async def test_an_outcome_of_a_lease_that_ran_out_counts_while_nobody_else_has_it(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, failure: Failure, end_lease: OnGrant
) -> None:
    await seed("one")
    lease = await claim_one()
    await end_lease("one")

    assert await store.record_outcome(lease, failure(lease, Unavailable("http_503"))) is Verdict.STORED


async def test_an_outcome_of_a_lease_that_the_store_forgot_counts_and_ends_that_lease(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    record_of: RecordOf,
    redis: Redis,
    prefix: str,
) -> None:
    await seed("one")
    before = await redis.get(f"{prefix}grant:one")
    assert before is not None
    lease = await claim_one()
    await redis.set(f"{prefix}grant:one", before)  # a restart without the last writes

    verdict = await store.record_outcome(lease, failure(lease, Unknown("timeout")))
    await store.reassert(lease)

    record = await record_of("one")
    assert verdict is Verdict.STORED
    assert (record["FENCE"], record["LAST"], record["LEASE_OWNER"]) == (lease.fence, lease.fence, False)
    assert record["INTENT"] is True


async def test_an_outcome_is_stale_when_its_lease_was_released_by_a_later_ones_outcome(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, failure: Failure, end_lease: OnGrant, told: Told
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    theirs = await claim_one()
    await store.record_outcome(theirs, failure(theirs, Unavailable("http_503")))

    assert await store.record_outcome(late, failure(late, Rejected("invalid_grant"))) is Verdict.STALE
    assert len(await told()) == 1


async def test_a_status_changes_with_its_event_or_not_at_all(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, record_of: RecordOf, due_of: DueOf, told: Told
) -> None:
    """A store that forgot how a grant came to be failing hears of one more failure, which has no event."""
    await seed("one")
    lease = await claim_one()
    failing = replace(lease.grant, status=Status.FAILING, streak=3, reason="unavailable", in_doubt=True)

    assert await store.record_outcome(lease, Change(failing, lease.until, NO_END, None)) is Verdict.STORED

    record = await record_of("one")
    assert (record["STATUS"], record["STREAK"], record["REASON"]) == (b"active", 0, False)
    assert (record["LEASE_UNTIL"], record["INTENT"]) == (0, True)
    assert await due_of("one") == lease.until
    assert await told() == []


async def test_an_outcome_of_a_refresh_token_that_was_replaced_since_is_superseded_and_releases_the_lease(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    answer: Answer,
    end_lease: OnGrant,
    record_of: RecordOf,
    told: Told,
) -> None:
    await seed("one")
    first = await claim_one()
    await end_lease("one")
    second = await claim_one()
    await store.commit(answer(first))

    assert (
        await store.record_outcome(second, failure(second, Rejected("invalid_grant"))) is Verdict.SUPERSEDED
    )

    record = await record_of("one")
    assert (record["STATUS"], record["VERSION"]) == (b"active", 1)
    assert (record["LEASE_OWNER"], record["LEASE_UNTIL"]) == (False, 0)
    assert [event["type"] for event in await told()] == ["evergrant.grant.refreshed"]


async def test_a_grant_paused_while_it_was_tried_stays_paused_and_keeps_its_doubt(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    record_of: RecordOf,
    due_of: DueOf,
    told: Told,
) -> None:
    await seed("one")
    lease = await claim_one()
    await registry.operate("one", Operation.PAUSE)

    assert await store.record_outcome(lease, failure(lease, Unknown("timeout"))) is Verdict.STORED

    record = await record_of("one")
    assert (record["STATUS"], record["STREAK"], record["INTENT"]) == (b"paused", 0, True)
    assert record["LEASE_OWNER"] is False
    assert await due_of("one") == float("inf")
    assert await told() == []


async def test_an_outcome_of_a_grant_that_was_deleted_is_gone(
    store: RedisStore, registry: RedisRegistry, seed: Seed, claim_one: ClaimOne, failure: Failure, told: Told
) -> None:
    await seed("one")
    lease = await claim_one()
    await registry.operate("one", Operation.DELETE)

    assert await store.record_outcome(lease, failure(lease, Rejected("invalid_grant"))) is Verdict.GONE
    assert await told() == []


async def test_an_outcome_stored_twice_gives_the_same_verdict_and_tells_once(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    record_of: RecordOf,
    told: Told,
) -> None:
    await seed("one")
    lease = await claim_one()
    change = failure(lease, Unavailable("http_503"))

    first = await store.record_outcome(lease, change)
    once = await record_of("one")
    again = await store.record_outcome(lease, change)

    assert first is again is Verdict.STORED
    assert await record_of("one") == once
    assert len(await told()) == 1


async def test_an_outcome_repeated_while_the_next_lease_is_held_does_not_touch_it(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    make_due: OnGrant,
    record_of: RecordOf,
    told: Told,
) -> None:
    await seed("one")
    lease = await claim_one()
    change = failure(lease, Unavailable("http_503"))
    await store.record_outcome(lease, change)
    await make_due("one")
    theirs = await claim_one()

    await store.record_outcome(lease, change)

    record = await record_of("one")
    assert (record["FENCE"], record["LEASE_UNTIL"]) == (theirs.fence, theirs.until)
    assert record["STREAK"] == 1
    assert len(await told()) == 1


async def test_a_readable_answer_is_noted_for_the_endpoint_whatever_becomes_of_the_outcome(
    store: RedisStore,
    client: Client,
    seed: Seed,
    claim_one: ClaimOne,
    failure: Failure,
    end_lease: OnGrant,
    redis: Redis,
    prefix: str,
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    await claim_one()

    outcome = failure(late, Rejected("invalid_grant"))
    assert await store.record_outcome(late, outcome, answered_at=1_700_000_000_000) is Verdict.STALE

    assert await redis.zscore(f"{prefix}answered", client.token_url) == 1_700_000_000_000
