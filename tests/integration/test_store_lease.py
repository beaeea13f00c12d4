"""lease.lua: one grant for one caller, due or not."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.callables import DueOf, OnGrant, Seed
from worker.adapters.store import signatures
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.scripts import Scripts
from worker.core.grant import Status
from worker.core.ports import Lease, LeasedElsewhere, Paused
from worker.core.providers import Client


@pytest.fixture
def lease_as(
    scripts: Scripts, epoch_number: Callable[[], Awaitable[int]]
) -> Callable[[str, str], Awaitable[list[Any]]]:
    """The bare script, under a claim id of the test's choice."""

    async def run(grant_id: str, claim_id: str) -> list[Any]:
        epoch = await epoch_number()
        reply: list[Any] = await scripts.run(signatures.Lease(grant_id, claim_id, "this", 60_000, epoch))
        return reply

    return run


async def test_a_grant_is_leased_whether_it_is_due_or_not(
    store: RedisStore, seed: Seed, due_of: DueOf
) -> None:
    await seed("later", due_in_ms=600_000, access_expires_at=None)

    lease = await store.lease("later")

    assert isinstance(lease, Lease)
    assert lease.grant.id == "later"
    assert not lease.grant.in_doubt
    assert await due_of("later") == lease.until


async def test_a_grant_that_another_refreshes_is_held_until_that_lease_ends(
    store: RedisStore, client: Client, seed: Seed
) -> None:
    await seed("one")
    (theirs,) = (await store.claim(client, 1, "")).leases

    assert await store.lease("one") == LeasedElsewhere(theirs.until)


async def test_a_grant_out_of_work_is_paused(store: RedisStore, seed: Seed) -> None:
    await seed("one", status=Status.PAUSED)

    assert await store.lease("one") == Paused()


async def test_a_grant_that_is_not_there_is_none(store: RedisStore) -> None:
    assert await store.lease("nobody") is None


async def test_a_failed_grant_may_be_tried_once_more_and_stays_out_of_the_schedule(
    store: RedisStore, seed: Seed, due_of: DueOf
) -> None:
    await seed("one", status=Status.FAILED, streak=2, reason="revoked")

    lease = await store.lease("one")

    assert isinstance(lease, Lease)
    assert lease.grant.status is Status.FAILED
    assert await due_of("one") == float("inf")


async def test_a_lease_tells_of_an_intent_without_an_outcome(
    store: RedisStore, seed: Seed, end_lease: OnGrant
) -> None:
    await seed("one")
    first = await store.lease("one")
    await end_lease("one")

    second = await store.lease("one")

    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    assert (first.grant.in_doubt, second.grant.in_doubt) == (False, True)
    assert second.fence > first.fence


async def test_one_lease_asked_for_twice_is_the_same_lease(
    lease_as: Callable[[str, str], Awaitable[list[Any]]], seed: Seed
) -> None:
    await seed("one")

    first, again = await lease_as("one", "the-claim"), await lease_as("one", "the-claim")

    assert first[0] == again[0] == b"leased"
    assert first[2:] == again[2:]


async def test_a_lease_asked_for_twice_tells_of_the_doubt_it_found_the_first_time(
    lease_as: Callable[[str, str], Awaitable[list[Any]]], seed: Seed, end_lease: OnGrant
) -> None:
    await seed("one")
    await lease_as("one", "a dead one's")
    await end_lease("one")

    first, again = await lease_as("one", "the-claim"), await lease_as("one", "the-claim")

    assert first[3] == again[3] == 1


async def test_a_lease_asked_for_again_after_another_took_it_is_held(
    lease_as: Callable[[str, str], Awaitable[list[Any]]], seed: Seed, end_lease: OnGrant
) -> None:
    await seed("one")
    await lease_as("one", "the-claim")
    await end_lease("one")
    await lease_as("one", "another-claim")

    assert (await lease_as("one", "the-claim"))[0] == b"held"


async def test_a_lease_asked_for_again_after_it_ran_out_is_a_new_one(
    lease_as: Callable[[str, str], Awaitable[list[Any]]], seed: Seed, end_lease: OnGrant
) -> None:
    await seed("one")
    first = await lease_as("one", "the-claim")
    await end_lease("one")

    again = await lease_as("one", "the-claim")

    assert again[0] == b"leased"
    assert again[2] != first[2]
