"""The server as a process: how it starts, what its options change, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import PATIENCE_SECONDS, TIMER_SECONDS, eventually
from worker.sandbox.client import Sandbox, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    Refresh = Callable[..., httpx.Response]

COMMAND = [sys.executable, "-m", "worker.sandbox"]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("wanted", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_one_line_and_ends_cleanly_even_with_a_hanging_request(
    wanted: signal.Signals,
) -> None:
    with subprocess.Popen(  # noqa: S603 - our own module
        [*COMMAND, "--profile", "oauth2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        addresses = json.loads(line)
        assert addresses["token_url"] == addresses["url"] + "/token"
        assert addresses["authorize_url"] == addresses["url"] + "/authorize"
        with Sandbox(**addresses) as sandbox:
            sandbox.add_fault("hang")
            port = int(addresses["url"].rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"POST /token HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                while sandbox.totals()["malformed"] == 0:
                    pass
                process.send_signal(wanted)
                rest, errors = process.communicate(timeout=PATIENCE_SECONDS)

    assert (process.returncode, rest, errors) == (0, b"", b"")


def test_a_started_sandbox_ends_with_its_block() -> None:
    with Sandbox.start() as sandbox:
        assert sandbox.pid is not None
        assert is_running(sandbox.pid)

    assert not is_running(sandbox.pid)


def test_a_server_whose_parent_was_killed_ends_by_itself() -> None:
    script = (
        "from worker.sandbox.client import Sandbox\n"
        "with Sandbox.start() as sandbox:\n"
        "    print(sandbox.pid, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    eventually(lambda: not is_running(pid))


def test_a_server_that_cannot_start_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(SandboxError, match="ended with 2 before it was ready"),
        Sandbox.start("buddy", no_rotation=True),
    ):
        pass

    assert "--no-rotation goes with --profile oauth2" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--access-seconds", "-1"], "'-1' is not a whole number"),
        (["--latency-ms", "inf"], "'inf' is not a number from 0 up"),
        (["--port", "99999"], "cannot listen on port 99999"),
        (["--redirect-uri", "/back"], "'/back' is not an http or https URL without a fragment"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], complaint: str) -> None:
    ended = subprocess.run(  # noqa: S603 - our own module
        [*COMMAND, *arguments], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert complaint in ended.stderr


def test_options_change_the_rules(refresh: Refresh) -> None:
    options: dict[str, Any] = {
        "client_id": "me",
        "client_secret": "mine",
        "access_seconds": 0,
        "refresh_seconds": 5000,
        "stated_refresh_seconds": 0,
        "errors": "rfc6749",
        "reuse": "grace",
        "grace_seconds": 250.5,
        "latency_ms": 50,
    }
    with Sandbox.start("buddy", **options) as sandbox:
        [grant] = sandbox.issue(1)
        mine = {"client_id": "me", "client_secret": "mine"}
        first = refresh(sandbox, grant["refresh_token"], **mine)
        again = refresh(sandbox, grant["refresh_token"], **mine)
        refused = refresh(sandbox, "never-issued", **mine)
        rules = sandbox.report()["rules"]
        waited = [visit["ended_at"] - visit["at"] for visit in sandbox.log()]

    assert set(first.json()) == {"access_token", "refresh_token", "token_type"}
    assert again.json() == first.json()
    assert (refused.status_code, refused.json()) == (400, {"error": "invalid_grant"})
    assert min(waited) > 0.05 - TIMER_SECONDS
    assert rules == {
        "profile": "buddy",
        "access_seconds": 0,
        "refresh_seconds": 5000,
        "stated_refresh_seconds": None,
        "absolute_seconds": None,
        "errors": "rfc6749",
        "reuse": "grace",
        "grace_seconds": 250.5,
        "rotation": True,
        "client_id": "me",
        "authentication": None,
        "redirect_uris": [],
        "require_pkce": False,
        "scopes": [],
    }


def test_a_plain_server_can_keep_its_refresh_tokens(refresh: Refresh) -> None:
    with Sandbox.start("oauth2", no_rotation=True) as sandbox:
        [grant] = sandbox.issue(1)
        answers = [refresh(sandbox, grant["refresh_token"]) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [200, 200]
        assert "refresh_token" not in answers[0].json()
        assert sandbox.totals()["refreshes"] == 2


@pytest.mark.slow
def test_a_hundred_thousand_grants_are_issued_while_requests_are_served(refresh: Refresh) -> None:
    with Sandbox.start() as sandbox:
        lines = sandbox.issue_lines(100_000, spread_seconds=50)
        first = json.loads(next(lines))
        assert refresh(sandbox, first["refresh_token"]).status_code == 200
        assert sum(1 for _ in lines) == 99_999
        assert sandbox.report()["grants"] == 100_000
