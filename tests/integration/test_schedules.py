"""When grants are due, read without reading every grant, and what a forecast makes of it."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.callables import Seed
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.schedules import RedisSchedules
from worker.core.grant import Status
from worker.core.lifecycle import Change
from worker.core.policy import Rules
from worker.core.providers import DAY_MS, Client
from worker.fleet.forecasting import Forecasting

if TYPE_CHECKING:
    from worker.core.registry import UnreadableRecordError

HOUR_MS = 3_600_000


@pytest.fixture
def schedules(redis: Any, prefix: str) -> RedisSchedules:
    return RedisSchedules(redis, prefix)


class OneClient:
    """The clients of a deployment that has only this one."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __iter__(self) -> Any:
        return iter([self._client])

    def names(self) -> list[str]:
        return [self._client.name]

    def get(self, name: str, generation: int) -> Client:  # noqa: ARG002 the port's
        if name != self._client.name:
            raise KeyError(name)
        return self._client

    def reread(self, name: str) -> Client:
        return self.get(name, 0)


@pytest.fixture
def forecasting(schedules: RedisSchedules, fleet_state: RedisFleetState, client: Client) -> Forecasting:
    limited = replace(client, rate_per_second=1.0)
    return Forecasting(
        schedules=schedules, fleet_state=fleet_state, clients=OneClient(limited), rules=Rules(), lag_ms=0
    )


async def test_all_that_is_due_is_read_where_it_is_little(schedules: RedisSchedules, seed: Seed) -> None:
    for n in range(5):
        await seed(f"grant-{n}", due_in_ms=n * HOUR_MS)
    await seed("never", due_in_ms=None)

    soon = await schedules.now() + 5 * HOUR_MS // 2
    sample = await schedules.sample("acme", soon, 100)

    assert [stored.grant.id for stored in sample] == ["grant-0", "grant-1", "grant-2"]
    assert all(stored.due_at is not None for stored in sample)
    assert await schedules.due_before(["acme", "nobody"], soon) == [3, 0]
    assert await schedules.sample("nobody", soon, 100) == []


async def test_a_sample_is_spread_evenly_over_the_schedule(schedules: RedisSchedules, seed: Seed) -> None:
    for n in range(40):
        await seed(f"grant-{n:02}", due_in_ms=n * 1_000)

    sample = await schedules.sample("acme", await schedules.now() + HOUR_MS, 4)

    assert [stored.grant.id for stored in sample] == ["grant-05", "grant-15", "grant-25", "grant-35"]


async def test_a_record_that_cannot_be_read_is_named_and_left_out(
    schedules: RedisSchedules, seed: Seed, redis: Any, prefix: str
) -> None:
    await seed("good")
    await seed("bad")
    whole = await redis.get(f"{prefix}grant:bad")
    await redis.set(f"{prefix}grant:bad", "no record")
    met: list[UnreadableRecordError] = []

    sample = await schedules.sample("acme", await schedules.now(), 9, unreadable=met.append)

    assert [stored.grant.id for stored in sample] == ["good"]
    assert [problem.grant_id for problem in met] == ["bad"]
    await redis.set(f"{prefix}grant:bad", whole)


async def test_the_backlog_after_an_outage_is_through_when_the_budget_allows(
    forecasting: Forecasting,
    schedules: RedisSchedules,
    seed: Seed,
    redis: Any,
    prefix: str,
    client: Client,
) -> None:
    for n in range(120):
        await seed(f"grant-{n:03}", due_in_ms=-HOUR_MS, stated_life_ms=8 * HOUR_MS)
    now = await schedules.now()
    await redis.hset(f"{prefix}client:acme", "endpoint", client.token_url)
    outage = {"state": "unavailable", "since": now - HOUR_MS, "probe_at": now + 60_000, "reason": "http_502"}
    await redis.hset(f"{prefix}endpoint:{client.token_url}", mapping={**outage, "probe_delay": 1_000})

    (acme,) = (await forecasting.forecast(hours=24)).clients

    assert (acme.held_back, acme.due, acme.scheduled, acme.sampled) == ("unavailable", 120, 120, 120)
    assert acme.course.backlog_through_at == pytest.approx(now + 180_000, abs=2_000)
    assert acme.course.hours[0].refreshes == 120
    assert sum(hour.refreshes for hour in acme.course.hours) in range(4 * 120, 6 * 120)
    assert sum(hour.late for hour in acme.course.hours) == 0  # the seeded tokens live for ten minutes more


async def test_a_client_without_settings_refreshes_nothing_and_says_so(
    forecasting: Forecasting, seed: Seed
) -> None:
    await seed("one", client="stray")

    foreseen = await forecasting.forecast(hours=2, only="stray")

    (stray,) = foreseen.clients
    assert (stray.held_back, stray.due) == ("not_configured", 1)
    assert sum(hour.refreshes for hour in foreseen.total) == 0


async def test_what_ends_is_what_the_store_lists_and_what_is_announced_later(
    forecasting: Forecasting, seed: Seed, registry: RedisRegistry
) -> None:
    now = await registry.now()
    bare = await seed("bare", holds=None, access_expires_at=now + 10 * DAY_MS + HOUR_MS, due_in_ms=HOUR_MS)
    well = await seed("well")
    ends_at = now + DAY_MS + HOUR_MS
    failing = replace(well, id="failing", status=Status.FAILING, access_expires_at=ends_at)
    await registry.import_grant(Change(failing, now, attention_at=ends_at, event=None), replaces=None)

    foreseen = await forecasting.forecast(hours=24)

    ends = foreseen.ends
    assert [(each.grant.id, each.ends_at) for each in ends.soonest] == [
        ("failing", ends_at),
        ("bare", bare.access_expires_at),
    ]
    assert {place: number for place, number in enumerate(ends.days) if number} == {1: 1, 10: 1}
    assert foreseen.is_good  # neither ends within the day


async def test_a_sample_of_a_large_fleet_says_about_what_all_of_it_says(
    schedules: RedisSchedules, fleet_state: RedisFleetState, seed: Seed, client: Client
) -> None:
    for n in range(600):
        await seed(f"grant-{n:03}", due_in_ms=n * 30_000, stated_life_ms=8 * HOUR_MS)

    def reading(most: int) -> Forecasting:
        return Forecasting(
            schedules=schedules,
            fleet_state=fleet_state,
            clients=OneClient(client),
            rules=Rules(),
            lag_ms=0,
            most_sampled=most,
        )

    exact = await reading(600).forecast(hours=5)
    sampled = await reading(60).forecast(hours=5)

    (known,) = sampled.clients
    assert (known.scheduled, known.sampled) == (600, 60)
    for one, other in zip(exact.total, sampled.total, strict=True):
        assert one.refreshes == pytest.approx(120, abs=1)
        assert other.refreshes == pytest.approx(one.refreshes, rel=0.1)


async def test_those_who_ask_for_the_same_at_once_get_the_same_forecast(
    forecasting: Forecasting, seed: Seed
) -> None:
    await seed("one")

    first, second, other = await asyncio.gather(
        forecasting.forecast(hours=2), forecasting.forecast(hours=2), forecasting.forecast(hours=3)
    )

    assert first is second
    assert (len(first.total), len(other.total)) == (2, 3)
    assert await forecasting.forecast(hours=2) is not first
