"""`evergrant events`: the stream, readable or as CloudEvents."""

import json
import signal
import subprocess
import sys

import pytest

from tests.support.callables import Issue
from tests.support.command import Cli
from worker.sandbox.client import Sandbox

# Somebody presses Ctrl-C, once, while the first line is being shown.
AT_THE_TERMINAL = """
import os, signal, sys

class Terminal:
    was_pressed = False

    def __init__(self, screen):
        self.screen = screen

    def flush(self):
        self.screen.flush()
        if not self.was_pressed:
            self.was_pressed = True
            os.kill(os.getpid(), signal.SIGINT)

    def __getattr__(self, name):
        return getattr(self.screen, name)

sys.stdout = Terminal(sys.stdout)

from worker.cli import main

main()
"""


def test_events_are_readable_or_cloud_events_with_their_stream_id_and_can_be_read_from_one_on(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    cli.take_in(grant)
    cli("grants", "refresh", grant["id"])
    sandbox.revoke(grant["id"])
    cli("grants", "refresh", grant["id"])

    readable, whole = cli("events").out.splitlines(), cli("events", "--json").documents
    since = cli("events", "--json", "--since", whole[0]["streamid"]).documents

    kinds = ["evergrant.grant.refreshed", "evergrant.grant.failing"]
    assert [event["type"] for event in whole] == kinds
    assert {event["specversion"] for event in whole} == {"1.0"}
    assert {event["subject"] for event in whole} == {grant["id"]}
    assert whole[1]["data"]["access_token_expires_at"]
    assert since == whole[1:]
    for row, event in zip(readable, whole, strict=True):
        assert row.startswith(event["streamid"])
        assert event["type"].removeprefix("evergrant.") in row
        assert grant["id"] in row
    assert "its access token works until" in readable[1]


def test_a_grant_and_types_narrow_it(cli: Cli, enroll: Issue, sandbox: Sandbox) -> None:
    first, second = enroll(), enroll()
    cli.take_in(first, second)
    for grant in (first, second):
        cli("grants", "refresh", grant["id"])
    sandbox.revoke(second["id"])
    cli("grants", "refresh", second["id"])

    def told(*arguments: str) -> list[tuple[str, str]]:
        return [
            (event["subject"], event["type"].rpartition(".")[2])
            for event in cli("events", "--json", *arguments).documents
        ]

    whole = cli("events", "--json").documents
    of_second = [(second["id"], "refreshed"), (second["id"], "failing")]
    assert told("--grant", second["id"]) == of_second
    assert told("--type", "grant.failing") == told("--type", "evergrant.grant.failing") == of_second[1:]
    assert len(told("--type", "grant.failing", "--type", "grant.refreshed")) == 3
    assert told("--type", "client.rejected") == told("--grant", "nobody") == []
    since = whole[0]["streamid"]
    assert told("--since", since, "--type", "grant.refreshed", "--grant", second["id"]) == of_second[:1]
    assert second["id"] not in cli("events", "--grant", first["id"]).out


def test_a_type_that_there_is_not_is_a_usage_error_that_names_those_there_are(cli: Cli) -> None:
    done = cli("events", "--type", "grant.lost")

    assert (done.code, done.out) == (2, "")
    assert done.complaint.startswith("evergrant: --type takes one of grant.refreshed, grant.failing, ")


@pytest.mark.parametrize("since", ["yesterday", "", "-1", "1-2-3", "$"])
def test_a_since_that_is_no_stream_id_is_a_usage_error(cli: Cli, since: str) -> None:
    done = cli("events", f"--since={since}")

    assert (done.code, done.out) == (2, "")
    assert done.complaint == "evergrant: --since takes a stream id such as 1795322840527-0"


def test_following_shows_what_happens_next_and_ends_on_ctrl_c(cli: Cli, enroll: Issue) -> None:
    old, new = enroll(), enroll()
    cli.take_in(old, new)
    cli("grants", "refresh", old["id"])
    (told,) = cli("events", "--json").documents

    with cli.running("events", "--follow", "--json", "--since", told["streamid"]) as process:
        assert process.stdout
        assert process.stderr
        cli("grants", "refresh", new["id"])
        assert json.loads(process.stdout.readline())["subject"] == new["id"]
        process.send_signal(signal.SIGINT)

        assert process.wait(60) == 130
        assert process.stdout.read() + process.stderr.read() == b""


def test_following_one_grant_passes_over_the_others(cli: Cli, enroll: Issue) -> None:
    other, own = enroll(), enroll()
    cli.take_in(other, own)

    with cli.running("events", "--follow", "--json", "--since", "0-0", "--grant", own["id"]) as process:
        assert process.stdout
        for grant in (other, own):
            cli("grants", "refresh", grant["id"])
        assert json.loads(process.stdout.readline())["subject"] == own["id"]


def test_ctrl_c_ends_the_following_at_whatever_moment_it_comes(cli: Cli, enroll: Issue) -> None:
    grant = enroll()
    cli.take_in(grant)
    cli("grants", "refresh", grant["id"])

    done = subprocess.run(  # noqa: S603 our own command, at a terminal of our own
        [sys.executable, "-c", AT_THE_TERMINAL, "events", "--follow", "--since", "0-0"],
        cwd=cli.home,
        env=cli.environment,
        check=False,
        capture_output=True,
        timeout=60,
    )

    assert done.returncode == 130, done.stderr
    assert grant["id"].encode() in done.stdout
