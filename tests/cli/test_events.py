"""`evergrant events`: the stream, readable or as CloudEvents."""

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from worker.cli import fleet
from worker.sandbox.client import Sandbox

Cli = Any  # conftest.py has it; test modules cannot import one another
Line = Callable[..., dict[str, Any]]


def test_events_are_readable_or_cloud_events_with_their_stream_id_and_can_be_read_from_one_on(
    cli: Cli, enroll: Line, sandbox: Sandbox
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


@pytest.mark.parametrize("since", ["yesterday", "", "-1", "1-2-3", "$"])
def test_a_since_that_is_no_stream_id_is_a_usage_error(cli: Cli, since: str) -> None:
    done = cli("events", f"--since={since}")

    assert (done.code, done.out) == (2, "")
    assert done.complaint == "evergrant: --since takes a stream id such as 1795322840527-0"


def test_following_shows_what_happens_next_and_ends_on_ctrl_c(cli: Cli, enroll: Line) -> None:
    old, new = enroll(), enroll()
    cli.take_in(old, new)
    cli("grants", "refresh", old["id"])
    (told,) = cli("events", "--json").documents

    with cli.running("events", "--follow", "--json", "--since", told["streamid"]) as process:
        cli("grants", "refresh", new["id"])
        assert json.loads(process.stdout.readline())["subject"] == new["id"]
        process.send_signal(signal.SIGINT)

        assert process.wait(60) == 130
        assert process.stdout.read() + process.stderr.read() == b""


class _CtrlC(io.StringIO):
    """A terminal at which Ctrl-C is pressed, once, while the first line is being shown."""

    was_pressed = False

    def flush(self) -> None:
        if not self.was_pressed:
            self.was_pressed = True
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_the_following_at_whatever_moment_it_comes(
    cli: Cli, enroll: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = enroll()
    cli.take_in(grant)
    cli("grants", "refresh", grant["id"])
    monkeypatch.chdir(cli.home)
    for name, value in cli.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", _CtrlC())
    second = threading.Timer(30, os.kill, (os.getpid(), signal.SIGINT))
    second.start()

    with pytest.raises(KeyboardInterrupt):
        fleet.events(follow=True, since="0-0")

    assert second.is_alive(), "it took a second Ctrl-C"
    second.cancel()
