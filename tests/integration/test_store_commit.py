"""commit.lua: the lineage decides, and one step stores everything."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.callables import Answer, ClaimOne, DueOf, OnGrant, RecordOf, Seed, Told
from worker.adapters.clock import RedisClock
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core import lifecycle
from worker.core.grant import Status, lineage_of
from worker.core.ports import Commit, Committed, Lease, Verdict
from worker.core.providers import Client
from worker.core.registry import ImportVerdict, Operation


async def test_tokens_due_time_status_release_and_event_are_stored_in_one_step(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
    record_of: RecordOf,
    due_of: DueOf,
    told: Told,
) -> None:
    await seed("one", labels={"tenant": "acme"}, authorized_at=1_700_000_000_000, scope="WORKSPACE")
    lease = await claim_one()
    commit = answer(lease)

    committed = await store.commit(commit)

    successor = commit.change
    record = await record_of("one")
    assert committed == Committed(Verdict.STORED, 1, Status.ACTIVE)
    assert record["VERSION"] == 1
    assert record["LINEAGE"] == lineage_of("one", "r1")
    assert record["SEALED"] == commit.change.grant.sealed
    assert record["STATUS"] == b"active"
    assert record["ISSUED_AT"] == successor.grant.issued_at
    assert record["ACCESS_EXPIRES_AT"] == successor.grant.access_expires_at
    assert record["REFRESH_ISSUED_AT"] == successor.grant.refresh_issued_at
    assert record["REFRESH_EXPIRES_AT"] is False
    assert (record["LEASE_OWNER"], record["LEASE_UNTIL"]) == (False, 0)
    assert (record["INTENT"], record["STREAK"], record["REASON"]) == (False, 0, False)
    assert record["LAST"] == lease.fence
    assert (record["SCOPE"], record["AUTHORIZED_AT"]) == (b"WORKSPACE", 1_700_000_000_000)
    assert record["LABELS"] == b'{"tenant":"acme"}'
    assert await due_of("one") == successor.due_at
    (event,) = await told()
    assert event["type"] == "evergrant.grant.refreshed"
    assert event["id"] == f"{lease.fence}-grant-refreshed"
    assert (event["subject"], event["data"]["version"]) == ("one", 1)


async def test_an_answer_is_stored_after_its_lease_ran_out_if_the_lineage_is_still_its_own(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    end_lease: OnGrant,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    await seed("one")
    lease = await claim_one()
    await end_lease("one")

    assert (await store.commit(answer(lease))).verdict is Verdict.STORED
    assert (await record_of("one"))["LEASE_UNTIL"] == 0


async def test_what_an_answer_says_of_its_tokens_is_stored_and_a_later_answer_takes_it_back(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
    make_due: OnGrant,
) -> None:
    await seed("one")
    commit = answer(await claim_one())
    grant = replace(commit.change.grant, narrowed="write", token_type="DPoP")
    await store.commit(replace(commit, change=replace(commit.change, grant=grant)))
    said = await registry.find("one")
    await make_due("one")
    await store.commit(answer(await claim_one(), "r2", used="r1"))
    taken_back = await registry.find("one")

    assert said is not None
    assert taken_back is not None
    assert (said.grant.narrowed, said.grant.token_type) == ("write", "DPoP")
    assert (taken_back.grant.narrowed, taken_back.grant.token_type) == ("write", None)


async def test_a_late_answer_does_not_release_the_lease_that_another_has_by_now(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    end_lease: OnGrant,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    theirs = await claim_one()

    committed = await store.commit(answer(late))

    record = await record_of("one")
    assert committed.verdict is Verdict.STORED
    assert record["FENCE"] == theirs.fence
    assert record["LEASE_UNTIL"] == theirs.until
    assert record["LEASE_OWNER"] == b"this"


async def test_an_answer_to_a_refresh_token_that_was_replaced_since_is_superseded(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    end_lease: OnGrant,
    answer: Answer,
    record_of: RecordOf,
    told: Told,
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    theirs = await claim_one()
    await store.commit(answer(theirs, "r1"))
    before = await record_of("one")

    committed = await store.commit(answer(late, "r-late"))

    assert committed == Committed(Verdict.SUPERSEDED, 1, Status.ACTIVE)
    assert await record_of("one") == before
    assert len(await told()) == 1


async def test_a_rotating_answer_to_a_record_that_moved_on_with_the_same_refresh_token_is_to_be_rebased(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    end_lease: OnGrant,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    theirs = await claim_one()
    await store.commit(answer(theirs, "r0"))  # this time the server did not rotate

    refused = await store.commit(answer(late, "r1"))
    rebased = await store.commit(answer(late, "r1", onto=refused))

    assert refused == Committed(Verdict.REBASE, 1, Status.ACTIVE)
    assert rebased == Committed(Verdict.STORED, 2, Status.ACTIVE)
    assert (await record_of("one"))["LINEAGE"] == lineage_of("one", "r1")


async def test_an_answer_that_did_not_rotate_gives_way_to_a_newer_one_of_the_same_refresh_token(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    end_lease: OnGrant,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    theirs = await claim_one()
    newer = answer(theirs, "r0")
    await store.commit(newer)

    committed = await store.commit(answer(late, "r0"))

    assert committed == Committed(Verdict.SUPERSEDED, 1, Status.ACTIVE)
    assert (await record_of("one"))["SEALED"] == newer.change.grant.sealed


async def test_an_answer_brings_its_grant_back_to_the_client_that_it_is_sealed_for(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
    record_of: RecordOf,
    due_of: DueOf,
) -> None:
    """An import that names another client while the token is presented must not cost the tokens that come."""
    grant = await seed("one")
    commit = answer(await claim_one())
    moved = replace(grant, client="other", sealed=b"for another")
    imported = await registry.import_grant(lifecycle.Change(moved, None, None, None), replaces=0)
    assert imported.verdict is ImportVerdict.STORED

    assert (await store.commit(commit)).verdict is Verdict.STORED

    record = await record_of("one")
    assert (record["CLIENT"], record["SEALED"]) == (b"acme", commit.change.grant.sealed)
    assert (await due_of("one"), await due_of("one", "other")) == (commit.change.due_at, None)


async def test_an_answer_to_a_grant_that_was_deleted_is_gone(
    store: RedisStore, registry: RedisRegistry, seed: Seed, claim_one: ClaimOne, answer: Answer, told: Told
) -> None:
    await seed("one")
    lease = await claim_one()
    await registry.operate("one", Operation.DELETE)

    assert await store.commit(answer(lease)) == Committed(Verdict.GONE, 0, None)
    assert await registry.find("one") is None
    assert await told() == []


async def test_a_commit_run_twice_gives_the_same_verdict_and_tells_once(
    store: RedisStore,
    fleet_state: RedisFleetState,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
    record_of: RecordOf,
    told: Told,
) -> None:
    await seed("one")
    commit = answer(await claim_one())

    first = await store.commit(commit)
    once = await record_of("one")
    again = await store.commit(commit)

    assert first == Committed(Verdict.STORED, 1, Status.ACTIVE)
    assert again == Committed(Verdict.KNOWN, 1, Status.ACTIVE)
    assert await record_of("one") == once
    assert len(await told()) == 1
    assert (await fleet_state.of_client("acme")).refreshed == 1


async def test_a_commit_of_a_server_that_does_not_rotate_is_also_stored_once(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, answer: Answer, told: Told
) -> None:
    await seed("one")
    commit = answer(await claim_one(), "r0")

    assert await store.commit(commit) == Committed(Verdict.STORED, 1, Status.ACTIVE)
    assert await store.commit(commit) == Committed(Verdict.KNOWN, 1, Status.ACTIVE)
    assert len(await told()) == 1


async def test_a_commit_repeated_after_the_next_refresh_changes_nothing(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    make_due: OnGrant,
    answer: Answer,
    record_of: RecordOf,
    told: Told,
) -> None:
    await seed("one")
    first = answer(await claim_one(), "r1")
    await store.commit(first)
    await make_due("one")
    await store.commit(answer(await claim_one(), "r2", used="r1"))
    before = await record_of("one")

    assert (await store.commit(first)).verdict is Verdict.SUPERSEDED
    assert await record_of("one") == before
    assert len(await told()) == 2


@pytest.mark.parametrize("status", [Status.FAILING, Status.FAILED])
async def test_an_answer_for_a_grant_that_was_not_well_is_told_as_recovered(
    store: RedisStore,
    seed: Seed,
    answer: Answer,
    record_of: RecordOf,
    told: Told,
    status: Status,
) -> None:
    await seed("one", status=status, streak=2, reason="rejected")
    lease = await store.lease("one")
    assert isinstance(lease, Lease)

    await store.commit(answer(lease))

    record = await record_of("one")
    assert (record["STATUS"], record["STREAK"], record["REASON"]) == (b"active", 0, False)
    assert [event["type"] for event in await told()] == ["evergrant.grant.recovered"]


async def test_a_grant_paused_while_it_was_refreshed_gets_its_tokens_and_stays_paused(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
    record_of: RecordOf,
    due_of: DueOf,
) -> None:
    await seed("one")
    lease = await claim_one()
    await registry.operate("one", Operation.PAUSE)

    moved = await store.commit(answer(lease))
    assert moved == Committed(Verdict.REBASE, 0, Status.PAUSED)
    assert (await store.commit(answer(lease, onto=moved))).verdict is Verdict.STORED

    record = await record_of("one")
    assert (record["STATUS"], record["VERSION"]) == (b"paused", 1)
    assert await due_of("one") == float("inf")


async def test_the_event_of_a_paused_grants_refresh_says_that_it_is_paused(
    store: RedisStore, registry: RedisRegistry, seed: Seed, claim_one: ClaimOne, answer: Answer, told: Told
) -> None:
    await seed("one")
    lease = await claim_one()
    await registry.operate("one", Operation.PAUSE)

    moved = await store.commit(answer(lease))
    assert await told() == []
    await store.commit(answer(lease, onto=moved))

    (event,) = await told()
    assert event["data"]["status"] == "paused"


async def test_an_answer_that_came_after_the_old_access_tokens_end_is_counted_as_late(
    store: RedisStore,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    seed: Seed,
    client: Client,
    answer: Answer,
) -> None:
    now = await registry.now()
    await seed("late", access_expires_at=now - 1)
    await seed("in time", access_expires_at=now + 600_000)
    await seed("never ends", access_expires_at=None)

    for lease in (await store.claim(client, 10, "")).leases:
        await store.commit(answer(lease))

    state = await fleet_state.of_client("acme")
    assert (state.refreshed, state.late) == (3, 1)


async def test_the_first_access_token_of_a_grant_that_had_none_is_not_late(
    store: RedisStore,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
) -> None:
    issued_at = await registry.now() - 1
    await seed("new", issued_at=issued_at, access_expires_at=issued_at)

    await store.commit(answer(await claim_one()))

    assert (await fleet_state.of_client("acme")).late == 0


async def test_an_answer_takes_the_grant_off_the_list_of_those_that_need_attention(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, answer: Answer, redis: Redis, prefix: str
) -> None:
    await seed("one", status=Status.FAILING, streak=1, reason="unavailable")
    await redis.zadd(f"{prefix}attention", {"one": 1})

    await store.commit(answer(await claim_one()))

    assert await redis.zcard(f"{prefix}attention") == 0


async def test_the_event_stream_is_kept_to_about_its_length(
    store: RedisStore, seed: Seed, claim_one: ClaimOne, answer: Answer, redis: Redis, prefix: str
) -> None:
    await seed("one")
    lease = await claim_one()
    pipeline = redis.pipeline(transaction=False)
    for number in range(10_400):
        pipeline.xadd(f"{prefix}events", {"event": f'{{"id": "old {number}"}}'})
    await pipeline.execute()

    await store.commit(answer(lease))

    assert 10_000 <= await redis.xlen(f"{prefix}events") < 10_200


async def test_an_answer_that_was_superseded_gives_back_its_own_lease(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    claim_one: ClaimOne,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    grant = await seed("one")
    lease = await claim_one()
    replaced = replace(grant, version=1, sealed=b"another pair", lineage=b"its lineage")
    await registry.import_grant(lifecycle.Change(replaced, 1, None, None), replaces=0)

    assert (await store.commit(answer(lease))).verdict is Verdict.SUPERSEDED

    record = await record_of("one")
    assert (record["LEASE_OWNER"], record["LEASE_UNTIL"]) == (False, 0)


# A store that forgot

Line = Callable[[int], Awaitable[list[Commit]]]
GoBack = Callable[[int], Awaitable[None]]


@pytest.fixture
def records() -> list[Any]:
    """The record before each commit of the line."""
    return []


@pytest.fixture
def line(
    store: RedisStore,
    records: list[Any],
    claim_one: ClaimOne,
    make_due: OnGrant,
    answer: Answer,
    redis: Redis,
    prefix: str,
) -> Line:
    """Refresh a grant again and again, from r0 to rN."""

    async def run(length: int) -> list[Commit]:
        commits = []
        for number in range(length):
            await make_due("one")
            records.append(await redis.get(f"{prefix}grant:one"))
            commits.append(answer(await claim_one(), f"r{number + 1}", used=f"r{number}"))
            await store.commit(commits[-1])
            await asyncio.sleep(0.002)  # the next is issued later
        return commits

    return run


@pytest.fixture
def go_back(records: list[Any], redis: Redis, prefix: str) -> GoBack:
    """Let the store have forgotten all but the first commits, and their events."""

    async def run(commits: int) -> None:
        await redis.set(f"{prefix}grant:one", records[commits])
        await redis.delete(f"{prefix}events")

    return run


async def test_an_answer_whose_predecessors_the_store_forgot_is_stored_over_the_older_pair_of_its_line(
    store: RedisStore, seed: Seed, line: Line, go_back: GoBack, record_of: RecordOf
) -> None:
    await seed("one")
    commits = await line(3)
    await go_back(0)

    committed = await store.commit(commits[2])

    assert committed == Committed(Verdict.STORED, 3, Status.ACTIVE)
    record = await record_of("one")
    assert record["SEALED"] == commits[2].change.grant.sealed
    assert record["LINEAGE"] == lineage_of("one", "r3")
    assert (await store.commit(commits[1])).verdict is Verdict.SUPERSEDED
    assert (await record_of("one"))["VERSION"] == 3


async def test_an_answer_does_not_jump_over_a_pair_that_came_from_outside_since(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    line: Line,
    go_back: GoBack,
    record_of: RecordOf,
    clock: RedisClock,
) -> None:
    grant = await seed("one")
    commits = await line(3)
    await go_back(0)
    connected_again = replace(
        grant, sealed=b"connected again", lineage=b"another root", issued_at=clock.now() - 60_000
    )
    await registry.import_grant(lifecycle.Change(connected_again, 1, None, None), replaces=0)

    assert (await store.commit(commits[2])).verdict is Verdict.SUPERSEDED
    assert (await record_of("one"))["SEALED"] == b"connected again"


async def test_an_answer_does_not_jump_over_a_pair_that_was_issued_later(
    store: RedisStore,
    seed: Seed,
    line: Line,
    claim_one: ClaimOne,
    make_due: OnGrant,
    answer: Answer,
    go_back: GoBack,
    record_of: RecordOf,
) -> None:
    await seed("one")
    commits = await line(3)
    await go_back(0)
    await make_due("one")
    later = answer(await claim_one(), "r-other")
    await store.commit(later)

    assert (await store.commit(commits[2])).verdict is Verdict.SUPERSEDED
    assert (await record_of("one"))["SEALED"] == later.change.grant.sealed


async def test_an_answer_as_old_as_what_is_stored_jumps_over_nothing(
    store: RedisStore, seed: Seed, line: Line, go_back: GoBack
) -> None:
    await seed("one")
    commits = await line(2)
    await go_back(1)
    stored_at = commits[0].change.grant.issued_at
    grant = replace(commits[1].change.grant, issued_at=stored_at)
    stale = replace(commits[1], base_lineage=b"of a pair between", base_version=2)
    stale = replace(stale, change=replace(stale.change, grant=grant))

    assert (await store.commit(stale)).verdict is Verdict.SUPERSEDED


async def test_an_answer_that_jumps_is_to_be_rebased_where_the_status_moved_and_keeps_its_version(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    line: Line,
    go_back: GoBack,
    record_of: RecordOf,
) -> None:
    await seed("one")
    commits = await line(3)
    await go_back(0)
    await registry.operate("one", Operation.PAUSE)

    refused = await store.commit(commits[2])
    assert refused == Committed(Verdict.REBASE, 2, Status.PAUSED)
    assert refused.status is not None
    commit = commits[2]
    change = lifecycle.rebase(commit.change, refused.version, refused.status, attempt=commit.fence)
    again = replace(commit, base_version=refused.version, base_status=refused.status, change=change)

    assert await store.commit(again) == Committed(Verdict.STORED, 3, Status.PAUSED)
    assert (await record_of("one"))["STATUS"] == b"paused"


async def test_an_answer_whose_own_commit_the_store_forgot_is_stored_again(
    store: RedisStore, seed: Seed, line: Line, go_back: GoBack, record_of: RecordOf
) -> None:
    await seed("one")
    commits = await line(2)
    await go_back(1)

    assert (await store.commit(commits[1])).verdict is Verdict.STORED
    assert (await record_of("one"))["LINEAGE"] == lineage_of("one", "r2")


async def test_a_late_answer_leaves_the_intent_of_a_later_lease_alone(
    store: RedisStore,
    seed: Seed,
    claim_one: ClaimOne,
    end_lease: OnGrant,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    await seed("one")
    late = await claim_one()
    await end_lease("one")
    theirs = await claim_one()

    committed = await store.commit(answer(late))

    record = await record_of("one")
    assert committed.verdict is Verdict.STORED
    assert (record["FENCE"], record["INTENT"]) == (theirs.fence, True)
