"""import_grant.lua: grants from outside, new or in the place of others."""

from dataclasses import replace
from typing import Any

from tests.support.callables import Answer, DueOf, Failure, OnGrant, RecordOf, Seed, Told
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Grant, Status, lineage_of
from worker.core.lifecycle import Change
from worker.core.outcomes import Rejected
from worker.core.ports import Verdict
from worker.core.providers import Client
from worker.core.registry import ImportResult, ImportVerdict, Operation


def _renewed(grant: Grant, holds: str = "r-new", **changes: Any) -> Grant:
    """The same grant as another application has it."""
    changes = {"lineage": lineage_of(grant.id, holds), "sealed": f"sealed {holds}".encode()} | changes
    return replace(grant, **changes)


async def test_a_new_grant_is_stored_scheduled_counted_and_its_client_known(
    registry: RedisRegistry, fleet_state: RedisFleetState, seed: Seed, due_of: DueOf
) -> None:
    grant = await seed("user-42/buddy", due_in_ms=5_000, labels={"tenant": "acme"}, scope="a b")

    stored = await registry.find("user-42/buddy")
    assert stored is not None
    assert stored.grant == replace(grant, root=grant.lineage)
    assert stored.due_at == await due_of("user-42/buddy")
    assert stored.lease_until is None
    assert await fleet_state.client_names() == ["acme"]
    assert (await fleet_state.of_client("acme")).grants[Status.ACTIVE] == 1


async def test_a_grant_that_needs_a_person_is_listed_for_attention(
    registry: RedisRegistry, seed: Seed
) -> None:
    grant = await seed("one")
    await registry.operate("one", Operation.DELETE)

    await registry.import_grant(Change(replace(grant, status=Status.FAILED), None, 123, None), replaces=None)

    assert [(stored.grant.id, end) for stored, end in await registry.needing_attention(10)] == [("one", 123)]


async def test_a_paused_grant_is_imported_out_of_the_schedule_whatever_its_due_time(
    seed: Seed, due_of: DueOf
) -> None:
    await seed("one", status=Status.PAUSED, due_in_ms=5)

    assert await due_of("one") == float("inf")


async def test_an_id_that_exists_is_refused_and_tells_what_is_stored(
    registry: RedisRegistry, seed: Seed, record_of: RecordOf
) -> None:
    grant = await seed("one", version=7)
    before = await record_of("one")

    result = await registry.import_grant(Change(_renewed(grant), None, None, None), replaces=None)

    assert result == ImportResult(ImportVerdict.EXISTS, 7, grant.lineage)
    assert await record_of("one") == before


async def test_the_same_line_sent_twice_because_a_reply_was_lost_is_stored_once(
    registry: RedisRegistry, fleet_state: RedisFleetState, seed: Seed
) -> None:
    grant = await seed("one")

    again = await registry.import_grant(Change(grant, None, None, None), replaces=None)

    assert again == ImportResult(ImportVerdict.STORED, 0, grant.lineage)
    assert (await fleet_state.of_client("acme")).grants[Status.ACTIVE] == 1


async def test_a_grant_is_replaced_when_the_version_named_is_the_one_stored(
    registry: RedisRegistry, fleet_state: RedisFleetState, seed: Seed, due_of: DueOf, record_of: RecordOf
) -> None:
    grant = await seed("one", version=7, status=Status.FAILED)
    renewed = _renewed(grant, version=8, status=Status.ACTIVE)

    result = await registry.import_grant(Change(renewed, 1_800_000_000_000, None, None), replaces=7)

    assert result == ImportResult(ImportVerdict.STORED, 8, renewed.lineage)
    assert await due_of("one") == 1_800_000_000_000
    assert (await record_of("one"))["SEALED"] == b"sealed r-new"
    grants = (await fleet_state.of_client("acme")).grants
    assert (grants[Status.ACTIVE], grants[Status.FAILED]) == (1, 0)


async def test_a_grant_that_is_replaced_is_no_longer_noted_as_unreadable(
    registry: RedisRegistry, seed: Seed, redis: Any, prefix: str
) -> None:
    grant = await seed("one")
    await redis.sadd(f"{prefix}unreadable", "one")

    await registry.import_grant(Change(_renewed(grant, version=1), None, None, None), replaces=0)

    assert not await redis.exists(f"{prefix}unreadable")


async def test_a_record_that_cannot_be_read_is_replaced_but_not_by_a_grant_that_must_be_new(
    registry: RedisRegistry, fleet_state: RedisFleetState, seed: Seed, redis: Any, prefix: str, due_of: DueOf
) -> None:
    grant = await seed("one")
    await redis.set(f"{prefix}grant:one", b"\x00garbage")
    await redis.sadd(f"{prefix}unreadable", "one")
    renewed = _renewed(grant, client="other", version=1)

    refused = await registry.import_grant(Change(renewed, 5, None, None), replaces=None)
    result = await registry.import_grant(Change(renewed, 5, None, None), replaces=refused.version)

    assert refused == ImportResult(ImportVerdict.EXISTS, 0, b"")
    assert result == ImportResult(ImportVerdict.STORED, 1, renewed.lineage)
    assert (await due_of("one"), await due_of("one", "other")) == (None, 5)
    assert not await redis.exists(f"{prefix}unreadable")
    for name, number in (("acme", 0), ("other", 1)):
        assert (await fleet_state.of_client(name)).grants[Status.ACTIVE] == number


async def test_a_grant_that_moved_on_is_not_replaced(registry: RedisRegistry, seed: Seed) -> None:
    grant = await seed("one", version=7)

    result = await registry.import_grant(Change(_renewed(grant), None, None, None), replaces=6)

    assert result == ImportResult(ImportVerdict.MOVED, 7, grant.lineage)


async def test_a_grant_that_is_to_be_replaced_but_is_not_there_has_moved(
    registry: RedisRegistry, seed: Seed
) -> None:
    grant = await seed("one")
    await registry.operate("one", Operation.DELETE)

    result = await registry.import_grant(Change(grant, None, None, None), replaces=0)

    assert result == ImportResult(ImportVerdict.MOVED, 0, b"")
    assert await registry.find("one") is None


async def test_a_replacement_may_belong_to_another_client(
    registry: RedisRegistry, fleet_state: RedisFleetState, seed: Seed, due_of: DueOf
) -> None:
    grant = await seed("one")

    await registry.import_grant(Change(_renewed(grant, client="other"), None, None, None), replaces=0)

    assert await due_of("one", "acme") is None
    assert await due_of("one", "other") == float("inf")
    assert await fleet_state.client_names() == ["acme", "other"]


async def test_a_replacement_takes_a_well_grant_off_the_list_of_those_that_need_attention(
    registry: RedisRegistry, seed: Seed
) -> None:
    grant = await seed("one")
    await registry.operate("one", Operation.DELETE)
    await registry.import_grant(Change(replace(grant, status=Status.FAILED), None, 123, None), replaces=None)

    await registry.import_grant(Change(_renewed(grant), None, None, None), replaces=0)

    assert await registry.needing_attention(10) == []


async def test_a_grant_replaced_in_flight_keeps_the_lease_until_whoever_refreshes_the_old_pair_is_done(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    record_of: RecordOf,
    make_due: OnGrant,
) -> None:
    grant = await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases

    await registry.import_grant(Change(_renewed(grant, version=1), 1, None, None), replaces=0)

    record = await record_of("one")
    assert (record["FENCE"], record["LEASE_UNTIL"]) == (lease.fence, lease.until)
    assert record["INTENT"] is False  # nothing was sent with the new refresh token
    await make_due("one")
    assert (await store.claim(client, 1, "")).leases == []


async def test_the_answer_for_a_pair_that_was_replaced_in_flight_is_superseded(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    grant = await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await registry.import_grant(Change(_renewed(grant, version=1), 1, None, None), replaces=0)

    assert (await store.commit(answer(lease))).verdict is Verdict.SUPERSEDED
    assert (await record_of("one"))["SEALED"] == b"sealed r-new"


async def test_the_failure_of_a_pair_that_was_replaced_in_flight_says_nothing_of_the_new_one(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    failure: Failure,
    record_of: RecordOf,
    told: Told,
) -> None:
    grant = await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await registry.import_grant(Change(_renewed(grant, version=1), 1, None, None), replaces=0)

    assert await store.record_outcome(lease, failure(lease, Rejected("invalid_grant"))) is Verdict.SUPERSEDED
    assert (await record_of("one"))["STATUS"] == b"active"
    assert await told() == []
    assert len((await store.claim(client, 1, "")).leases) == 1


async def test_a_replacement_with_the_same_refresh_token_keeps_the_intent_and_the_answer_is_rebased_on_it(
    store: RedisStore,
    registry: RedisRegistry,
    client: Client,
    seed: Seed,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    grant = await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await registry.import_grant(Change(_renewed(grant, "r0", version=4), 1, None, None), replaces=0)
    assert (await record_of("one"))["INTENT"] is True

    committed = await store.commit(answer(lease))

    assert committed.verdict is Verdict.REBASE
    rebased = await store.commit(answer(lease, onto=committed))
    assert (rebased.verdict, rebased.version) == (Verdict.STORED, 5)


async def test_a_pair_that_what_is_stored_descends_from_is_never_put_back(
    store: RedisStore,
    registry: RedisRegistry,
    seed: Seed,
    client: Client,
    answer: Answer,
    record_of: RecordOf,
) -> None:
    grant = await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await store.commit(answer(lease))
    living = await record_of("one")

    result = await registry.import_grant(Change(_renewed(grant, "r0", version=2), 1, None, None), replaces=1)

    assert result.verdict == "descends"
    assert await record_of("one") == living


async def test_a_pair_that_was_issued_before_the_one_that_is_stored_is_refused(
    registry: RedisRegistry, seed: Seed, record_of: RecordOf
) -> None:
    grant = await seed("one")
    before = await record_of("one")
    older = _renewed(grant, "from last week's backup", version=1, issued_at=grant.issued_at - 1)

    result = await registry.import_grant(Change(older, 1, None, None), replaces=0)

    assert result.verdict == "newer"
    assert await record_of("one") == before


async def test_a_grant_deleted_in_flight_and_brought_back_is_leased_to_whoever_refreshes_it(
    store: RedisStore, client: Client, registry: RedisRegistry, seed: Seed, answer: Answer
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 10, "")).leases
    await registry.operate("one", Operation.DELETE)
    await seed("one", sealed=b"sealed anew")

    assert (await store.claim(client, 10, "")).leases == []
    committed = await store.commit(answer(lease))

    assert (committed.verdict, committed.version) == (Verdict.STORED, 1)


async def test_a_grant_deleted_at_rest_and_brought_back_is_claimed_at_once(
    store: RedisStore, client: Client, registry: RedisRegistry, seed: Seed
) -> None:
    await seed("one")
    await registry.operate("one", Operation.DELETE)
    await seed("one", sealed=b"sealed anew")

    (lease,) = (await store.claim(client, 10, "")).leases

    assert not lease.grant.in_doubt
