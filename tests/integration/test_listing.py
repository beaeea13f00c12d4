"""Grants page by page: in an order that no refresh changes, and of a store whose release kept no index."""

from typing import Any

import pytest

from tests.support.callables import Seed
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Status
from worker.core.registry import Operation, UnreadableRecordError
from worker.fleet import listing
from worker.fleet.listing import Listing, Place
from worker.fleet.selecting import Selection

ALL = Selection(None, None)


@pytest.fixture
def pages(registry: RedisRegistry, fleet_state: RedisFleetState) -> Listing:
    return Listing(registry, fleet_state)


async def listed(pages: Listing, selection: Selection = ALL, *, limit: int = 2) -> list[str]:
    """Every id, page by page."""
    ids: list[str] = []
    after: Place | None = None
    while True:
        page = await pages.page(selection, lambda _: True, after=after, limit=limit, unreadable=_refuse)
        assert len(page.grants) <= limit
        ids += [stored.grant.id for stored in page.grants]
        after = page.next
        if after is None:
            return ids


def _refuse(problem: UnreadableRecordError) -> None:
    raise problem


async def test_grants_are_listed_by_client_and_id_whenever_they_are_due(pages: Listing, seed: Seed) -> None:
    for number, grant_id in enumerate(["b", "a", "ü", "c/d", "Z"]):
        await seed(grant_id, due_in_ms=number * 1_000)
    await seed("first", client="aaa", due_in_ms=None)

    assert await listed(pages) == ["first", "Z", "a", "b", "c/d", "ü"]
    assert await listed(pages, Selection("acme", None), limit=1) == ["Z", "a", "b", "c/d", "ü"]


async def test_a_place_between_two_pages_outlasts_the_grant_that_it_names(
    pages: Listing, seed: Seed, registry: RedisRegistry
) -> None:
    for grant_id in "abcd":
        await seed(grant_id)
    first = await pages.page(ALL, lambda _: True, after=None, limit=2, unreadable=_refuse)
    assert first.next is not None

    await registry.operate("b", Operation.DELETE)
    await seed("aa")
    rest = await pages.page(ALL, lambda _: True, after=first.next, limit=9, unreadable=_refuse)

    assert [stored.grant.id for stored in rest.grants] == ["c", "d"]


@pytest.mark.parametrize("spoilt", ["missing", "partial", "stale"])
async def test_an_index_that_an_earlier_release_did_not_keep_is_completed(
    pages: Listing, seed: Seed, redis: Any, prefix: str, spoilt: str
) -> None:
    for grant_id in "abc":
        await seed(grant_id)
    if spoilt == "missing":
        await redis.delete(f"{prefix}ids:acme")
    elif spoilt == "partial":
        await redis.zrem(f"{prefix}ids:acme", "b")
    else:
        await redis.zadd(f"{prefix}ids:acme", {"gone": 0})

    assert await listed(pages) == ["a", "b", "c"]
    assert await redis.zrange(f"{prefix}ids:acme", 0, -1) == [b"a", b"b", b"c"]


async def test_a_page_looks_at_a_bounded_number_of_grants_and_goes_on_from_there(
    pages: Listing, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "READ_AT_ONCE", 2)
    monkeypatch.setattr(listing, "MOST_LOOKED_AT", 2)
    for grant_id in "abcdef":
        await seed(grant_id, status=Status.PAUSED if grant_id == "f" else Status.ACTIVE)
    wanted = Selection(None, Status.PAUSED)

    page = await pages.page(wanted, lambda _: True, after=None, limit=5, unreadable=_refuse)

    assert (page.grants, page.next) == ([], Place("acme", "b"))
    assert await listed(pages, wanted) == ["f"]


async def test_a_record_that_cannot_be_read_is_named_and_costs_no_other_its_place(
    pages: Listing, seed: Seed, redis: Any, prefix: str
) -> None:
    for grant_id in "abc":
        await seed(grant_id)
    kept = await redis.getset(f"{prefix}grant:b", b"garbage")
    met: list[UnreadableRecordError] = []

    page = await pages.page(ALL, lambda _: True, after=None, limit=5, unreadable=met.append)

    assert [stored.grant.id for stored in page.grants] == ["a", "c"]
    assert [each.grant_id for each in met] == ["b"]
    await redis.set(f"{prefix}grant:b", kept)


async def test_with_a_prefix_only_ids_that_begin_with_it_are_listed_and_looked_at(
    pages: Listing, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "READ_AT_ONCE", 2)
    monkeypatch.setattr(listing, "MOST_LOOKED_AT", 4)
    ids = ["user-1", "user-1/a", "user-1/b", "user-1/\U0001f511", "user-2", "user", "usher"]
    for grant_id in ids:
        await seed(grant_id)
        await seed(f"{grant_id}+", client="zeta")

    found: list[str] = []
    after: Place | None = Place("acme", "a")  # a place before the prefix shows nothing that lacks it
    while after is not None:
        page = await pages.page(
            ALL, lambda _: True, after=after, limit=3, unreadable=_refuse, prefix="user-1"
        )
        found += [stored.grant.id for stored in page.grants]
        after = page.next

    wanted = sorted(ids[:4])
    assert found == [*wanted, *sorted(f"{each}+" for each in ids[:4])]
