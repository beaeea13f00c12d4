"""pause_grant.lua, resume_grant.lua and delete_grant.lua: what an operator asks of one grant."""

from typing import Any

import pytest

from tests.support.callables import DueOf, Seed
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core import lifecycle
from worker.core.grant import Status
from worker.core.outcomes import Unavailable
from worker.core.providers import Client
from worker.core.registry import Operation, OperationResult


async def _status(registry: RedisRegistry, grant_id: str) -> Status:
    stored = await registry.find(grant_id)
    assert stored is not None
    return stored.grant.status


async def test_a_paused_grant_leaves_the_schedule(registry: RedisRegistry, seed: Seed, due_of: DueOf) -> None:
    await seed("one")

    assert await registry.operate("one", Operation.PAUSE) is OperationResult.DONE
    assert await _status(registry, "one") is Status.PAUSED
    assert await due_of("one") == float("inf")


async def test_pausing_twice_changes_nothing(registry: RedisRegistry, seed: Seed) -> None:
    await seed("one")
    await registry.operate("one", Operation.PAUSE)

    assert await registry.operate("one", Operation.PAUSE) is OperationResult.UNCHANGED


async def test_a_grant_paused_in_flight_keeps_its_lease(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases

    await registry.operate("one", Operation.PAUSE)

    stored = await registry.find("one")
    assert stored is not None
    assert stored.lease_until == lease.until


@pytest.mark.parametrize(("streak", "status"), [(0, Status.ACTIVE), (2, Status.FAILING)])
async def test_a_resumed_grant_is_due_at_once_and_as_well_as_it_was(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed, streak: int, status: Status
) -> None:
    await seed("one", streak=streak, due_in_ms=600_000)
    await registry.operate("one", Operation.PAUSE)

    assert await registry.operate("one", Operation.RESUME) is OperationResult.DONE
    assert await _status(registry, "one") is status
    assert len((await store.claim(client, 1, "")).leases) == 1


async def test_a_rejection_from_before_a_pause_is_not_confirmed_by_the_first_one_after_it(
    registry: RedisRegistry, seed: Seed
) -> None:
    await seed("one", status=Status.FAILING, streak=1, reason="rejected", rejected_at=1)
    await registry.operate("one", Operation.PAUSE)
    await registry.operate("one", Operation.RESUME)

    stored = await registry.find("one")
    assert stored is not None
    assert lifecycle.phase_of(stored.grant) is lifecycle.Phase.RETRYING


async def test_a_failed_grant_that_is_resumed_is_given_one_more_bout_of_tries(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed
) -> None:
    await seed("one", status=Status.FAILED, streak=2, reason="revoked")

    assert await registry.operate("one", Operation.RESUME) is OperationResult.DONE
    assert await _status(registry, "one") is Status.FAILING
    assert len((await store.claim(client, 1, "")).leases) == 1


async def test_a_grant_resumed_while_it_is_leased_is_due_when_the_lease_ends(
    store: RedisStore, registry: RedisRegistry, client: Client, seed: Seed, due_of: DueOf
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await registry.operate("one", Operation.PAUSE)
    await registry.operate("one", Operation.RESUME)

    assert await due_of("one") == lease.until


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.FAILING])
async def test_resuming_a_grant_that_is_at_work_changes_nothing(
    registry: RedisRegistry, seed: Seed, due_of: DueOf, status: Status
) -> None:
    await seed("one", status=status, due_in_ms=5_000)
    due = await due_of("one")

    assert await registry.operate("one", Operation.RESUME) is OperationResult.UNCHANGED
    assert await due_of("one") == due


async def test_a_deleted_grant_leaves_nothing_behind(
    registry: RedisRegistry, fleet_state: RedisFleetState, seed: Seed, due_of: DueOf
) -> None:
    await seed("one", status=Status.FAILED)

    assert await registry.operate("one", Operation.DELETE) is OperationResult.DONE
    assert await registry.find("one") is None
    assert await due_of("one") is None
    assert await registry.needing_attention(10) == []
    assert (await fleet_state.of_client("acme")).grants[Status.FAILED] == 0


async def test_a_deleted_grant_is_no_longer_noted_as_unreadable(
    registry: RedisRegistry, seed: Seed, redis: Any, prefix: str
) -> None:
    await seed("one")
    await redis.sadd(f"{prefix}unreadable", "one")

    await registry.operate("one", Operation.DELETE)

    assert not await redis.exists(f"{prefix}unreadable")


async def test_a_record_that_cannot_be_read_can_be_deleted(
    registry: RedisRegistry, fleet_state: RedisFleetState, seed: Seed, redis: Any, prefix: str, due_of: DueOf
) -> None:
    await seed("one")
    await seed("elsewhere", client="other")
    await redis.set(f"{prefix}grant:one", b"\x00garbage")
    await redis.zadd(f"{prefix}attention", {"one": 1})
    await redis.sadd(f"{prefix}unreadable", "one")

    assert await registry.operate("one", Operation.DELETE) is OperationResult.DONE

    assert await registry.find("one") is None
    assert await due_of("one") is None
    assert not await redis.exists(f"{prefix}attention", f"{prefix}unreadable")
    assert (await fleet_state.of_client("acme")).grants[Status.ACTIVE] == 0
    assert await registry.operate("one", Operation.DELETE) is OperationResult.GONE


@pytest.mark.parametrize("operation", Operation)
async def test_what_is_asked_of_a_grant_that_is_not_there_is_gone(
    registry: RedisRegistry, operation: Operation
) -> None:
    assert await registry.operate("nobody", operation) is OperationResult.GONE


async def test_the_listing_walks_every_client_and_finds_those_out_of_work_too(
    registry: RedisRegistry, seed: Seed
) -> None:
    for number in range(700):
        await seed(f"one-{number}", client="acme" if number % 2 else "other")
    await seed("paused", status=Status.PAUSED)

    everyone: list[Any] = [stored.grant.id async for stored in registry.walk()]
    others = [stored.grant.id async for stored in registry.walk("other")]

    assert len(everyone) == len(set(everyone)) == 701
    assert "paused" in everyone
    assert len(others) == 350


async def test_a_grant_that_is_paused_asks_for_nobody_s_attention_until_it_is_resumed(
    store: RedisStore, registry: RedisRegistry, seed: Any, client: Client, failure: Any
) -> None:
    await seed("one")
    (lease,) = (await store.claim(client, 1, "")).leases
    await store.record_outcome(lease, failure(lease, Unavailable("http_503")))
    assert len(await registry.needing_attention(10)) == 1

    await registry.operate("one", Operation.PAUSE)
    assert await registry.needing_attention(10) == []

    await registry.operate("one", Operation.RESUME)
    assert [stored.grant.id for stored, _ in await registry.needing_attention(10)] == ["one"]
