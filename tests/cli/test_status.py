"""`evergrant status`: what a person at 3 a.m. needs."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.sandbox.client import Sandbox

Cli = Any  # conftest.py has it; test modules cannot import one another
Line = Callable[..., dict[str, Any]]


def test_an_empty_fleet_is_in_order(cli: Cli) -> None:
    done = cli("status")

    assert (done.code, done.err) == (0, "")
    header, row = done.out.splitlines()[:2]
    assert header.split()[:2] == ["CLIENT", "STATE"]
    assert row.split()[:7] == ["buddy", "accepted", "0", "0", "0", "0", "0"]
    assert done.out.endswith("Nothing needs a person.\n")


def test_a_failed_grant_is_named_with_the_time_that_is_left_and_what_to_do(
    cli: Cli, enroll: Line, line: Line, sandbox: Sandbox, make_due: Callable[[Any, str], None]
) -> None:
    grant = enroll()
    cli.take_in(grant, line("well"), line("paused", status="paused"))
    sandbox.revoke(grant["id"])
    cli("grants", "refresh", grant["id"])
    make_due(cli, grant["id"])
    cli("grants", "refresh", grant["id"])

    done, documents = cli("status"), cli("status", "--json")

    assert (done.code, documents.code) == (1, 1)
    assert done.out.splitlines()[1].split()[:6] == ["buddy", "accepted", "1", "0", "1", "1"]
    (told,) = [row for row in done.out.splitlines() if row.startswith("!")]
    assert told.startswith(f"! {grant['id']}: failed, revoked. Time left: 59m ")
    assert told.endswith("The person must connect again.")
    client, incident = documents.documents
    assert client["grants"] == {"active": 1, "failing": 0, "failed": 1, "paused": 1}
    assert (incident["incident"], incident["subject"]) == ("grant_failed", grant["id"])
    assert incident["needs_a_person"] is True


def test_a_rejected_client_is_one_incident_that_names_its_setting(
    cli: Cli, enroll: Line, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    grant = enroll(age_seconds=3000)
    cli.take_in(grant)
    quick = {"SWEEP_SECONDS": "0.2", "LOG_LEVEL": "error"}
    with cli.having(CLIENTS__BUDDY__CLIENT_SECRET="wrong", **quick).running("up") as process:
        wait_until(lambda: "rejected" in cli("status").out)
        process.send_signal(signal.SIGINT)
        process.communicate()

    done = cli("status")

    assert done.code == 1
    assert done.out.splitlines()[1].split()[:3] == ["buddy", "rejected", "1"]
    (told,) = [row for row in done.out.splitlines() if row.startswith("!")]
    assert told.startswith("! buddy: the provider rejects this client's credentials")
    assert "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET" in told

    assert cli("grants", "refresh", grant["id"]).code == 0
    assert cli("status").out.splitlines()[1].split()[:2] == ["buddy", "accepted"]


def test_grants_that_nobody_refreshes_are_an_incident(cli: Cli, line: Line) -> None:
    issued_at = (datetime.now(UTC) - timedelta(hours=7)).isoformat()
    cli.take_in(*(line(f"g{number}", issued_at=issued_at) for number in range(3)))

    done = cli("status")

    assert done.code == 1
    (told,) = [row for row in done.out.splitlines() if row.startswith("!")]
    assert told.startswith("! buddy: nobody refreshes its grants, overdue: 3. Time left: 59m ")
    assert told.endswith("Are a worker and beat running, and can they reach Redis?")


def test_what_has_ended_already_is_said_to_have_ended(cli: Cli, line: Line) -> None:
    ended = (datetime.now(UTC) - timedelta(hours=2, minutes=1)).isoformat()
    issued = (datetime.now(UTC) - timedelta(hours=9)).isoformat()
    cli.take_in(line("late", status="failed", issued_at=issued, expires_at=ended))

    assert "! late: failed. It ended 2h 1m ago. The person must connect again.\n" in cli("status").out


def test_grants_of_a_client_without_settings_are_an_incident(cli: Cli, line: Line) -> None:
    other = cli.having(
        CLIENTS__DUTY__PROVIDER="pagerduty", CLIENTS__DUTY__CLIENT_ID="c", CLIENTS__DUTY__CLIENT_SECRET="s"
    )
    other.take_in(line("one", client="duty"))

    done = cli("status")

    assert done.code == 1
    assert "! duty: it has grants but no settings." in done.out
    assert "EVERGRANT_CLIENTS__DUTY__PROVIDER" in done.out
