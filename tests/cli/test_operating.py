"""`evergrant grants pause`, `resume` and `delete` of many grants at once."""

import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from tests.support.callables import Line
from tests.support.command import Cli

DUTY = {"PROVIDER": "pagerduty", "CLIENT_ID": "c", "CLIENT_SECRET": "s"}


@pytest.fixture
def fleet(cli: Cli, line: Line) -> Cli:
    """Three failed grants and one that is well of one client, one failed grant of another."""
    both = cli.having(**{f"CLIENTS__DUTY__{name}": value for name, value in DUTY.items()})
    failed = [line(f"f{number}", status="failed") for number in range(3)]
    both.take_in(*failed, line("well"), line("other", client="duty", status="failed"))
    return both


@contextmanager
def _terminal(typed: str) -> Iterator[BinaryIO]:
    """A terminal at which this was typed."""
    master, slave = pty.openpty()
    os.write(master, typed.encode())
    with os.fdopen(slave, "rb") as terminal:
        yield terminal
    os.close(master)


def _statuses(cli: Cli) -> dict[str, str]:
    return {grant_id: grant["status"] for grant_id, grant in cli.grants().items()}


def test_a_dry_run_counts_and_does_nothing(fleet: Cli) -> None:
    before = _statuses(fleet)

    done = fleet("grants", "resume", "--client", "buddy", "--dry-run")

    assert (done.code, done.err) == (0, "")
    assert done.out == "would be resumed 3 (failed 3), skipped 1 (active 1)\n"
    assert _statuses(fleet) == before


def test_more_than_one_wants_a_yes_and_then_only_what_was_selected_is_changed(fleet: Cli) -> None:
    selection = ("--client", "buddy", "--status", "failed")
    before = _statuses(fleet)

    unsure = fleet("grants", "resume", *selection)
    assert (unsure.code, unsure.out) == (2, "")
    assert unsure.complaint == (
        "evergrant: this would resume 3 grants (failed 3): add --yes to do it, or --dry-run to count alone"
    )
    assert _statuses(fleet) == before
    done = fleet("grants", "resume", *selection, "--yes")
    again = fleet("grants", "resume", *selection, "--yes")

    assert (done.code, done.out) == (0, "resumed 3 (failed 3), skipped 0\n")
    assert (again.code, again.out) == (0, "resumed 0, skipped 0\n")
    changed = dict.fromkeys(["f0", "f1", "f2"], "failing")
    assert _statuses(fleet) == before | changed


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_at_a_terminal_it_asks(fleet: Cli, typed: str, code: int) -> None:
    with _terminal(typed) as terminal:
        done = fleet("grants", "delete", "--status", "failed", given=terminal)

    assert done.code == code
    assert "Delete 4 grants (failed 4)? [y/N]" in done.err
    assert len(fleet.grants()) == (1 if code == 0 else 5)
    assert ("evergrant: nothing was done" in done.err) == bool(code)


def test_one_grant_is_not_asked_about(fleet: Cli) -> None:
    done = fleet("grants", "pause", "--client", "duty")

    assert (done.code, done.out) == (0, "paused 1 (failed 1), skipped 0\n")
    assert _statuses(fleet)["other"] == "paused"


@pytest.mark.parametrize(
    "arguments",
    [[], ["one", "--client", "buddy"], ["one", "--dry-run"], ["one", "--status", "failed"], ["--yes"]],
    ids=" ".join,
)
def test_it_takes_one_id_or_a_selection(cli: Cli, arguments: list[str]) -> None:
    done = cli("grants", "resume", *arguments)

    assert done.code == 2
    assert done.complaint == "evergrant: grants resume takes one ID, or --status, --client and --label"


@pytest.mark.parametrize("operation", ["pause", "resume", "delete"])
def test_labels_select_the_grants_that_have_all_of_them(cli: Cli, line: Line, operation: str) -> None:
    labels = [{"tenant": "acme", "plan": "a=b"}, {"tenant": "acme"}, {"plan": "a=b"}, {}]
    status = {"pause": "active", "resume": "paused", "delete": "failed"}[operation]
    cli.take_in(*(line(f"g{n}", labels=each, status=status) for n, each in enumerate(labels)))
    chosen = ("--client", "buddy", "--label", "tenant=acme", "--label", "plan=a=b")

    counted = cli("grants", operation, *chosen, "--dry-run")
    done = cli("grants", operation, *chosen)

    assert counted.out == f"would be {done.out.partition(' ')[0]} 1 ({status} 1), skipped 0\n"
    assert (done.code, done.err) == (0, "")
    after = _statuses(cli)
    assert {n for n in range(4) if after.get(f"g{n}") != status} == {0}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["tenant"], "--label takes KEY=VALUE"),
        (["=acme"], "--label takes KEY=VALUE"),
        (["a=1", "a=2"], "--label takes each KEY once: a grant has one value for it"),
    ],
    ids=str,
)
def test_a_label_that_can_select_nothing_is_refused_in_one_line(
    cli: Cli, labels: list[str], said: str
) -> None:
    done = cli("grants", "pause", *(word for label in labels for word in ("--label", label)))

    assert (done.code, done.complaint) == (2, f"evergrant: {said}")


def test_a_misspelt_selection_is_one_line_that_says_what_there_is(fleet: Cli) -> None:
    client = fleet("grants", "delete", "--client", "budy", "--yes")
    status = fleet("grants", "delete", "--status", "fialed", "--yes")

    assert (client.code, client.complaint) == (
        1,
        "evergrant: no client is called 'budy'; there are buddy, duty",
    )
    assert (status.code, status.complaint) == (
        2,
        "evergrant: --status takes active, failing, failed, paused",
    )
    assert len(fleet.grants()) == 5
