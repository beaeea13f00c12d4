"""`evergrant forecast`: what is ahead, on a terminal and as JSON."""

import json

from tests.support.callables import Line
from tests.support.command import Cli


def test_the_hours_ahead_are_shown_against_the_budget(cli: Cli, line: Line) -> None:
    limited = cli.having(CLIENTS__BUDDY__RATE_PER_SECOND="0.5")
    limited.take_in(*(line(f"grant-{n}") for n in range(20)))

    done, as_json = limited("forecast", "--hours", "24"), limited("forecast", "--json")

    assert (done.code, done.err, as_json.code) == (0, "", 0)
    header, rule, *rows = done.out.splitlines()
    assert header.split()[:4] == ["HOUR", "FROM", "DUE", "REFRESHES"]
    assert set(rule) == {"─"}
    assert len([row for row in rows if row.split() and row.split()[0].endswith("Z")]) == 24
    assert "No grant ends within 30 days" in done.out
    documents = [json.loads(text) for text in as_json.out.splitlines()]
    hours = [each for each in documents if each["kind"] == "hour" and each["client"] == "buddy"]
    assert len(hours) == 24
    assert {hour["budget"] for hour in hours} == {1_800}
    assert sum(hour["refreshes"] for hour in hours) in range(80, 101)  # tokens of eight hours
    assert [each["kind"] for each in documents].count("day") == 30


def test_what_comes_too_late_ends_the_command_with_1(cli: Cli, line: Line) -> None:
    slow = cli.having(CLIENTS__BUDDY__RATE_PER_SECOND="0.001")
    slow.take_in(*(line(f"grant-{n}") for n in range(40)))

    done = slow("forecast")

    assert (done.code, done.err) == (1, "")
    (row,) = [row for row in done.out.splitlines() if row.startswith("buddy")]
    assert row.split()[2] == "0.001/s"
    assert int(row.split()[-1]) > 0


def test_a_grant_that_ends_within_the_hours_is_named(cli: Cli, line: Line) -> None:
    cli.take_in(line("user-42/buddy", refresh_token=None))

    done = cli("forecast")

    assert done.code == 1
    assert "Grants that end within 30 days unless a person acts: 1" in done.out
    assert ": user-42/buddy (buddy, active)" in done.out


def test_an_empty_fleet_has_nothing_ahead(cli: Cli) -> None:
    assert cli("forecast", "--hours", "1").code == 0


def test_a_length_that_it_does_not_take_is_refused_in_one_line(cli: Cli) -> None:
    done = cli("forecast", "--hours", "0")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--hours" in done.err
