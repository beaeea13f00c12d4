"""What was planned, beside what then happened: by the product's own schedule, claims and policy."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.deployment import clients_of
from tests.simulation.weeks import APART, BEGINS_MS, HOUR_MS, Fleet
from worker.core.policy import Rules
from worker.core.providers import Client


@pytest.fixture
def client() -> Client:
    (client,) = clients_of(1, ambiguous=False)
    return client


@pytest.mark.parametrize(
    ("grants", "hours"),
    [pytest.param(300, 24, id="a day"), pytest.param(1_200, 7 * 24, id="a week", marks=pytest.mark.slow)],
)
async def test_each_hour_brings_what_was_planned(
    client: Client, valkey_socket: Path, grants: int, hours: int
) -> None:
    async with Fleet.on(valkey_socket, [client], Rules()) as fleet:
        await fleet.enroll(client.name, grants, life_ms=8 * HOUR_MS)
        await fleet.enroll(client.name, grants // 3, life_ms=24 * HOUR_MS)
        planned = await fleet.forecast(hours=hours)
        await fleet.live(until_ms=BEGINS_MS + hours * HOUR_MS)

    done = fleet.done_by_hour(hours)
    assert done == [pytest.approx(hour.refreshes, rel=APART) for hour in planned.total]
    assert sum(done) == pytest.approx(sum(hour.refreshes for hour in planned.total), rel=0.005)


async def test_a_backlog_is_through_and_late_as_was_planned(client: Client, valkey_socket: Path) -> None:
    limited = replace(client, rate_per_second=0.25)
    async with Fleet.on(valkey_socket, [limited], Rules()) as fleet:
        await fleet.enroll(client.name, 600, life_ms=3 * HOUR_MS)
        fleet.outage(2 * HOUR_MS)
        (planned,) = (await fleet.forecast(hours=6)).clients
        began_ms = fleet.calendar.now_ms
        await fleet.live(until_ms=began_ms + 6 * HOUR_MS)

    first = planned.course.hours[0]
    assert planned.due > 500
    assert first.budget == 900
    through_at = planned.course.backlog_through_at
    assert through_at is not None
    assert through_at - began_ms == pytest.approx(fleet.quiet_at[client.name] - began_ms, rel=APART)
    assert sum(hour.late for hour in planned.course.hours) == pytest.approx(
        fleet.late[client.name], rel=APART
    )
    assert fleet.late[client.name] > 50
    assert fleet.done_by_hour(8)[2:] == [
        pytest.approx(hour.refreshes, rel=APART) for hour in planned.course.hours
    ]
