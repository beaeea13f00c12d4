"""`evergrant status`: what a person at 3 a.m. needs."""

import json
import re
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.callables import Issue, Line, MakeDue
from tests.support.command import Cli
from tests.support.waiting import eventually
from worker.sandbox.client import Sandbox

MINUTE_MS = 60_000
BUDDY = tuple(f"CLIENTS__BUDDY__{name}" for name in ("PROVIDER", "CLIENT_ID", "CLIENT_SECRET", "TOKEN_URL"))


def test_an_empty_fleet_is_in_order(cli: Cli) -> None:
    done = cli("status")

    assert (done.code, done.err) == (0, "")
    header, row = done.out.splitlines()[:2]
    assert header.split()[:2] == ["CLIENT", "STATE"]
    assert row.split()[:7] == ["buddy", "accepted", "0", "0", "0", "0", "0"]
    assert done.out.endswith("Nothing needs a person.\n")


def test_without_any_client_the_setting_that_comes_first_is_named(cli: Cli) -> None:
    bare = cli.having(**dict.fromkeys(BUDDY))

    done = bare("status")

    assert (done.code, done.err) == (0, "")
    assert (
        "No client is configured: set EVERGRANT_CLIENTS_FILE, or EVERGRANT_CLIENTS__<NAME>__PROVIDER"
        in done.out
    )


def test_a_failed_grant_is_named_with_the_time_that_is_left_and_what_to_do(
    cli: Cli, enroll: Issue, line: Line, sandbox: Sandbox, make_due: MakeDue
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
    assert re.match(rf"! {grant['id']}: failed, revoked\. Time left: (1h\.|59m )", told)
    assert told.endswith("The person must connect again.")
    client, incident = documents.documents
    assert client["grants"] == {"active": 1, "failing": 0, "failed": 1, "paused": 1}
    assert (incident["incident"], incident["subject"]) == ("grant_failed", grant["id"])
    assert incident["needs_a_person"] is True


def test_a_rejected_client_is_one_incident_that_names_its_setting(cli: Cli, enroll: Issue) -> None:
    grant = enroll(age_seconds=3000)
    cli.take_in(grant)
    quick = {"SWEEP_SECONDS": "0.2", "LOG_LEVEL": "error"}
    with cli.having(CLIENTS__BUDDY__CLIENT_SECRET="wrong", **quick).running("up") as process:
        eventually(lambda: "rejected" in cli("status").out)
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


def test_old_lines_that_were_just_imported_are_due_and_nobody_is_late_with_them(cli: Cli, line: Line) -> None:
    issued_at = (datetime.now(UTC) - timedelta(hours=7)).isoformat()
    cli.take_in(*(line(f"g{number}", issued_at=issued_at) for number in range(3)))

    done = cli("status")

    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1].split()[6] == "3"
    assert done.out.endswith("Nothing needs a person.\n")


def test_grants_that_nobody_refreshes_are_an_incident(cli: Cli, line: Line, make_due: MakeDue) -> None:
    issued_at = (datetime.now(UTC) - timedelta(hours=7)).isoformat()
    cli.take_in(*(line(f"g{number}", issued_at=issued_at) for number in range(3)))
    for number in range(3):
        make_due(cli, f"g{number}")

    done = cli("status")

    assert done.code == 1
    (told,) = [row for row in done.out.splitlines() if row.startswith("!")]
    why = "nobody refreshes its grants (no worker is alive), overdue: 3"
    assert re.match(rf"! buddy: {re.escape(why)}\. Time left: (1h\.|59m )", told)
    assert told.endswith("Are a worker and beat running, and can they reach Redis?")


def test_a_store_that_is_away_is_one_incident_as_json_too(cli: Cli, tmp_path: Path) -> None:
    away = cli.having(REDIS_URL=f"unix://{tmp_path / 'nobody'}")

    done, documents = away("status"), away("status", "--json")

    assert (done.code, done.out, documents.code) == (3, "", 3)
    (incident,) = documents.documents
    assert (incident["kind"], incident["incident"]) == ("incident", "store_unreachable")
    assert (incident["subject"], incident["needs_a_person"]) == ("Redis", True)
    assert f"evergrant: {incident['problem']}" == done.complaint == documents.complaint


def test_an_empty_answer_where_there_is_no_env_file_says_so(cli: Cli) -> None:
    bare = cli.having(**dict.fromkeys(BUDDY))

    assert f"There is no .env in {cli.home}" in bare("status").out
    (cli.home / ".env").write_text("EVERGRANT_LOG_LEVEL=error\n")
    assert "There is no .env" not in bare("status").out
    assert "There is no .env" not in cli("status").out


def test_workers_and_beats_are_listed_with_their_last_heartbeat(cli: Cli, connection: redis.Redis) -> None:
    prefix, now = f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:", time.time() * 1000
    connection.zadd(f"{prefix}workers", {"host-1:17:ab12cd": now, "host-2:5:ff00aa": now - 90_000})
    connection.zadd(f"{prefix}beats", {"host-1:18": now - 600_000})

    done, documents = cli("status"), cli("status", "--json").documents

    listed = [row for row in done.out.splitlines() if row.startswith(("worker", "beat"))]
    assert re.fullmatch(r"worker  host-1:17:ab12cd  heard of \ds ago", listed[0])
    assert re.fullmatch(r"worker  host-2:5:ff00aa  heard of 1m 3\ds ago: dead, frozen, or cut off", listed[1])
    assert re.fullmatch(r"beat    host-1:18  heard of 10m( \ds)? ago: dead, frozen, or cut off", listed[2])
    processes = [each for each in documents if each["kind"] in {"worker", "beat"}]
    assert [(each["host"], each["alive"]) for each in processes] == [
        ("host-1", True),
        ("host-2", False),
        ("host-1", False),
    ]
    assert done.code == 0  # nothing is to be refreshed


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


@pytest.fixture
def unreadable(cli: Cli, line: Line, connection: redis.Redis) -> Callable[[], str]:
    """Take in two grants and spoil the record of the second; returns its id."""

    def spoil() -> str:
        cli.take_in(line("one"), line("two"))
        connection.set(f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:grant:two", b"\x00s3cr3t")
        return "two"

    return spoil


def test_a_record_that_cannot_be_read_is_an_incident_that_says_the_way_out(
    cli: Cli, unreadable: Callable[[], str]
) -> None:
    unreadable()

    done, documents = cli("status"), cli("status", "--json").documents

    assert done.code == 1
    (told,) = [row for row in done.out.splitlines() if row.startswith(("!", "-"))]
    assert told.startswith("! two: its record cannot be read. ")
    assert "`evergrant grants import --replace`" in told
    _, incident = documents
    assert (incident["incident"], incident["subject"]) == ("grant_unreadable", "two")
    assert incident["needs_a_person"] is True


def test_one_that_a_claim_met_is_named_however_far_behind_in_the_schedule_it_is(
    cli: Cli, line: Line, unreadable: Callable[[], str], connection: redis.Redis
) -> None:
    grant_id, prefix = unreadable(), f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:"
    cli.take_in(*(line(f"g{number}") for number in range(50)))
    connection.zadd(f"{prefix}schedule:buddy", {grant_id: "+inf"})
    assert cli("status").code == 0

    connection.sadd(f"{prefix}unreadable", grant_id)

    assert "! two: its record cannot be read. " in cli("status").out


@pytest.mark.parametrize("command", ["list", "export"])
def test_a_record_that_cannot_be_read_is_named_beside_the_others_and_the_command_exits_1(
    cli: Cli, unreadable: Callable[[], str], command: str
) -> None:
    unreadable()

    done = cli("grants", *([command, "--json"] if command == "list" else [command]))

    assert done.code == 1
    assert [document["id"] for document in done.documents] == ["one"]
    assert done.complaint.startswith("two: its record cannot be read. ")


@pytest.mark.parametrize("way", ["replace", "delete"])
def test_either_way_out_of_a_record_that_cannot_be_read_works(
    cli: Cli, line: Line, unreadable: Callable[[], str], way: str
) -> None:
    grant_id = unreadable()
    ways = {"replace": ["import", "-", "--replace"], "delete": ["delete", grant_id]}

    done = cli("grants", *ways[way], given=json.dumps(line(grant_id)) if way == "replace" else b"")

    assert done.code == 0, done.err
    assert cli.grants().keys() == ({"one", "two"} if way == "replace" else {"one"})
    assert cli("status").code == 0


@pytest.mark.parametrize("command", [["grants", "show"], ["grants", "refresh"], ["token"]], ids=" ".join)
def test_what_is_asked_of_a_record_that_cannot_be_read_says_so_and_nothing_of_what_is_there(
    cli: Cli, unreadable: Callable[[], str], command: list[str]
) -> None:
    done = cli(*command, unreadable())

    assert (done.code, done.out) == (1, "")
    assert "two: its record cannot be read. " in done.complaint
    assert "s3cr3t" not in done.complaint


@pytest.fixture
def now() -> int:
    """Of the one clock that this machine and its Redis share, Unix milliseconds."""
    return int(time.time() * 1000)


@pytest.fixture
def let_it_say(cli: Cli, connection: redis.Redis) -> Callable[..., None]:
    """Let the store's record of a client's token endpoint, or of the client, say this."""

    def write(kind: str, name: str, **fields: str | int) -> None:
        connection.hset(
            f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:{kind}:{name}", mapping=dict[Any, Any](fields)
        )

    return write


@pytest.fixture
def outage(cli: Cli, let_it_say: Callable[..., None], now: int) -> Callable[..., None]:
    """Let the client's token endpoint be unavailable."""

    def begin(*, next_try_in_ms: int = 40_500) -> None:
        url = cli.environment["EVERGRANT_CLIENTS__BUDDY__TOKEN_URL"]
        let_it_say("client", "buddy", endpoint=url)
        told = {"state": "unavailable", "reason": "http_502", "since": now - 5 * MINUTE_MS}
        let_it_say("endpoint", url, **told, probe_at=now + next_try_in_ms)

    return begin


def test_an_outage_is_an_incident_that_nobody_needs_to_get_up_for_while_there_is_time(
    cli: Cli, line: Line, outage: Callable[..., None]
) -> None:
    cli.take_in(line("one"))
    outage()

    done, documents = cli("status"), cli("status", "--json").documents

    assert done.code == 0
    header, row = done.out.splitlines()[:2]
    assert header.split()[7] == "PROVIDER"
    assert row.split()[:8] == ["buddy", "accepted", "1", "0", "0", "0", "0", "unavailable"]
    (told,) = [row for row in done.out.splitlines() if row.startswith(("!", "-"))]
    assert told.startswith("- buddy: its token endpoint gives no usable answer (http_502) since 20")
    assert ", next try in " in told
    assert re.search(r"Time left: (8h|7h 59m)\. Nothing to do yet", told)
    client, incident = documents
    assert (client["state"], client["provider_state"]) == ("accepted", "unavailable")
    assert client["provider_reason"] == "http_502"
    assert client["provider_unavailable_since"].endswith("Z")
    assert (incident["incident"], incident["subject"]) == ("provider_unavailable", "buddy")
    assert incident["needs_a_person"] is False


@pytest.mark.parametrize(("minutes_left", "code"), [(29, 1), (31, 0), (-60, 1)])
def test_an_outage_needs_a_person_when_an_access_token_is_about_to_end(
    cli: Cli, line: Line, outage: Callable[..., None], minutes_left: int, code: int
) -> None:
    issued, ends = (datetime.now(UTC) + timedelta(minutes=each) for each in (-600, minutes_left))
    cli.take_in(line("one", issued_at=issued.isoformat(), expires_at=ends.isoformat()))
    outage()

    done = cli("status")

    assert done.code == code
    assert ("! buddy: its token endpoint" in done.out) == bool(code)
    assert ("`evergrant doctor` says whether it can be reached" in done.out) == bool(code)


def test_an_outage_in_which_nobody_tries_needs_a_person(
    cli: Cli, line: Line, outage: Callable[..., None]
) -> None:
    cli.take_in(line("one"))
    outage(next_try_in_ms=-2 * MINUTE_MS)

    done = cli("status")

    assert done.code == 1
    assert "next try is due, and nobody tries (no worker is alive)." in done.out
    assert "Are a worker and beat running" in done.out


def test_an_outage_of_an_endpoint_nobody_has_grants_at_needs_nobody(
    cli: Cli, outage: Callable[..., None]
) -> None:
    outage(next_try_in_ms=-2 * MINUTE_MS)

    assert cli("status").code == 0


def test_a_throttled_client_says_until_when(
    cli: Cli, line: Line, let_it_say: Callable[..., None], now: int
) -> None:
    cli.take_in(line("one"))
    let_it_say("client", "buddy", throttled_until=now + 30 * MINUTE_MS)

    done, documents = cli("status"), cli("status", "--json").documents

    assert done.code == 0
    told = re.search(r"- buddy: its token endpoint told it to wait, and it goes on in (\d+) s\.", done.out)
    assert told is not None
    assert 29 * 60 <= int(told[1]) <= 30 * 60
    assert "EVERGRANT_CLIENTS__BUDDY__RATE_PER_SECOND" in done.out
    client, incident = documents
    assert client["provider_state"] == "available"
    assert client["throttled_until"].endswith("Z")
    assert (incident["incident"], incident["needs_a_person"]) == ("throttled", False)


def test_a_wait_that_is_over_is_not_spoken_of(
    cli: Cli, line: Line, let_it_say: Callable[..., None], now: int
) -> None:
    cli.take_in(line("one"))
    let_it_say("client", "buddy", throttled_until=now - 1)

    done, documents = cli("status"), cli("status", "--json").documents

    assert done.out.endswith("Nothing needs a person.\n")
    assert documents[0]["throttled_until"] is None


def test_of_many_clients_those_are_shown_of_which_there_is_something_to_say(
    cli: Cli, line: Line, connection: redis.Redis, tmp_path: Path
) -> None:
    fields = {"provider": "buddy", "client_id": "id", "client_secret": "s"}
    file = tmp_path / "clients.json"
    file.write_text(json.dumps({"clients": {f"c{number:03}": fields for number in range(100)}}))
    many = cli.having(CLIENTS_FILE=str(file))
    many.take_in(line("a", client="c007"), line("b", client="c009"))
    prefix = f"{{{many.environment['EVERGRANT_NAMESPACE']}}}:"
    connection.hset(f"{prefix}client:c007", mapping={"state": "rejected", "reason": "invalid_client"})
    connection.hset(f"{prefix}client:c009", "grants:failing", 1)

    done, documents = many("status"), many("status", "--json")

    rows = done.out.partition("\n\n")[0].splitlines()[1:]
    assert [row.split()[:2] for row in rows[:-1]] == [["c007", "rejected"], ["c009", "accepted"]]
    assert rows[-1] == "... and 99 with nothing wrong: `evergrant status --json`"
    assert f"clients.c007.client_secret in {file}" in done.out
    assert sum(each["kind"] == "client" for each in documents.documents) == 101
