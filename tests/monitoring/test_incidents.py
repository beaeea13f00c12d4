"""The alerts, on what a real fleet tells while something happens to it."""

from pathlib import Path

import pytest

from tests.monitoring.conftest import Fleet
from tests.support.servers import SECRET

pytestmark = pytest.mark.slow

GRANTS = 100
REFRESHED = 'evergrant_refreshes_total{client="buddy",outcome="refreshed"}'
ACCEPTED = 'evergrant_client_accepted{client="buddy"}'
FAILED = 'evergrant_grants{client="buddy",status="failed"}'
DUE = 'evergrant_grants_due{client="buddy"}'


async def test_an_hour_of_a_healthy_fleet_fires_nothing(fleet: Fleet, promtool: str, tmp_path: Path) -> None:
    grants = await fleet.import_grants(GRANTS)

    for number in range(6):
        await fleet.let_come_due(grants[10 * number : 10 * number + 10])
        await fleet.pass_minutes(10)
        fleet.recording.expect()
    await fleet.pass_until(REFRESHED, lambda number: number == 60)
    fleet.recording.expect()

    assert fleet.sandbox.totals()["concurrent"] == 0
    fleet.recording.check(promtool, tmp_path)


async def test_an_outage_of_the_provider_fires_its_alert_until_it_is_over(
    fleet: Fleet, promtool: str, tmp_path: Path
) -> None:
    available = f'evergrant_provider_available{{endpoint="{fleet.sandbox.token_url}"}}'
    grants = await fleet.import_grants(GRANTS)
    await refresh_some(fleet, grants[:10])
    fleet.recording.expect()

    with fleet.sandbox.fault("outage", form="503"):
        await fleet.let_come_due(grants[10:20])
        await fleet.pass_until(available, lambda value: value == 0)
        await fleet.pass_minutes(11)
        fleet.recording.expect("EvergrantProviderUnavailable")
    await fleet.pass_until(available, lambda value: value == 1)
    await fleet.pass_minutes(1)
    fleet.recording.expect()

    fleet.recording.check(promtool, tmp_path)


async def test_a_wrong_secret_fires_its_alert_until_it_is_put_right(
    fleet: Fleet, promtool: str, tmp_path: Path
) -> None:
    grants = await fleet.import_grants(GRANTS)
    await refresh_some(fleet, grants[:10])

    fleet.sandbox.set_secret("another")
    await fleet.let_come_due(grants[10:20])
    await fleet.pass_until(ACCEPTED, lambda value: value == 0)
    await fleet.pass_minutes(6)
    fleet.recording.expect("EvergrantClientRejected")
    fleet.sandbox.set_secret(SECRET)
    await fleet.pass_until(ACCEPTED, lambda value: value == 1)
    await fleet.pass_minutes(1)
    fleet.recording.expect()

    fleet.recording.check(promtool, tmp_path)


async def test_grants_that_fail_together_fire_an_alert_and_one_that_fails_alone_does_not(
    fleet: Fleet, promtool: str, tmp_path: Path
) -> None:
    grants = await fleet.import_grants(GRANTS)
    await refresh_some(fleet, grants[:10])

    await withdraw(fleet, grants[10:11], failed=1)
    fleet.recording.expect()
    await withdraw(fleet, grants[11:13], failed=3)
    fleet.recording.expect("EvergrantGrantsFailed")
    await fleet.pass_minutes(35)
    fleet.recording.expect()

    fleet.recording.check(promtool, tmp_path)


async def test_a_fleet_without_workers_fires_until_nobody_is_left_to_tell_of_it(
    fleet: Fleet, promtool: str, tmp_path: Path
) -> None:
    grants = await fleet.import_grants(GRANTS)
    await refresh_some(fleet, grants[:10])

    await fleet.stop_the_worker()
    await fleet.let_come_due(grants[10:20])
    await fleet.pass_until(DUE, lambda value: value == 10)
    fleet.recording.expect()
    await fleet.pass_minutes(25)
    fleet.recording.expect("EvergrantNoWorkers", "EvergrantNotSweeping", "EvergrantNotRefreshing")
    fleet.stop_the_service(minutes=15)
    fleet.recording.expect("EvergrantAbsent")

    fleet.recording.check(promtool, tmp_path)


async def refresh_some(fleet: Fleet, grants: list[str]) -> None:
    """Let a few grants be refreshed, so that the client and its endpoint are known to be well."""
    await fleet.let_come_due(grants)
    await fleet.pass_minutes(1)
    await fleet.pass_until(REFRESHED, lambda number: number == len(grants))


async def withdraw(fleet: Fleet, grants: list[str], *, failed: int) -> None:
    """Let people withdraw their consent, and let that be found out and confirmed."""
    for grant in grants:
        fleet.sandbox.revoke(grant)
    await fleet.let_come_due(grants)
    failing = FAILED.replace("failed", "failing")
    await fleet.pass_until(failing, lambda number: number == len(grants))
    await fleet.let_come_due(grants)
    await fleet.pass_until(FAILED, lambda number: number == failed)
