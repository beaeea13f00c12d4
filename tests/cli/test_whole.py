"""`evergrant up` and `evergrant demo`: everything in one command, and nothing left of it."""

import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.callables import Issue
from tests.support.command import Cli
from tests.support.waiting import eventually
from worker.sandbox.client import Sandbox

pytestmark = pytest.mark.slow

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc here")


def processes_with(mark: str) -> list[int]:
    """The processes in whose environment or command line something stands."""
    found = []
    for home in Path("/proc").glob("[0-9]*"):
        try:
            text = (home / "environ").read_bytes() + (home / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in text and int(home.name) != os.getpid():
            found.append(int(home.name))
    return found


@needs_proc
def test_up_refreshes_what_is_due_and_leaves_no_process_behind_after_ctrl_c(
    embedded: Cli, enroll: Issue, sandbox: Sandbox, tmp_path: Path
) -> None:
    due = enroll(age_seconds=3_000)
    deployment = embedded.having(SWEEP_SECONDS="0.5")
    deployment.take_in(due)

    log = tmp_path / "up.log"
    with log.open("wb") as output, deployment.running("up", output=output) as process:
        eventually(lambda: sandbox.grant(due["id"])["rotations"])
        eventually(lambda: deployment.grants()[due["id"]]["version"] == 1)
        assert len(processes_with(str(tmp_path))) >= 4
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

    eventually(lambda: not processes_with(str(tmp_path)))
    assert log.read_text().rstrip().endswith("evergrant: stopped")
    assert due["refresh_token"] not in log.read_text()


@needs_proc
def test_up_says_that_its_worker_was_killed_and_starts_another(
    embedded: Cli, enroll: Issue, sandbox: Sandbox, tmp_path: Path
) -> None:
    deployment = embedded.having(SWEEP_SECONDS="0.5")
    log = tmp_path / "up.log"

    with log.open("wb") as output, deployment.running("up", output=output) as process:
        eventually(lambda: _workers(tmp_path))
        os.kill(min(_workers(tmp_path)), signal.SIGKILL)
        eventually(lambda: "evergrant: worker was ended by SIGKILL" in log.read_text())
        due = enroll(age_seconds=3_000)
        deployment.take_in(due)
        eventually(lambda: sandbox.grant(due["id"])["rotations"])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

    eventually(lambda: not processes_with(str(tmp_path)))


@needs_proc
def test_up_serves_http_and_has_an_admin_key_in_a_file_of_its_users_alone(
    embedded: Cli, enroll: Issue, tmp_path: Path
) -> None:
    deployment, log, grant = embedded.having(LOG_LEVEL="info"), tmp_path / "up.log", enroll()
    key_file = tmp_path / "data" / "admin-key"

    with log.open("wb") as output, deployment.running("up", output=output) as process:
        eventually(lambda: "http.listening" in log.read_text())
        (port,) = re.findall(r'"port": (\d+)', log.read_text())
        key = key_file.read_text().strip()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            client.headers["Authorization"] = f"Bearer {key}"
            assert client.post("/v1/grants", json=grant).status_code == 201
            token = client.post(f"/v1/token/{grant['id']}").json()
        assert deployment("health", "web").code == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

    assert token["access_token"] == grant["access_token"]
    assert token["expires_in"] >= 60
    assert f"made an admin API key, admin, in {key_file} (mode 600)" in log.read_text()
    assert key not in log.read_text()
    assert key_file.stat().st_mode & 0o777 == 0o600
    eventually(lambda: not processes_with(str(tmp_path)))


def _workers(tmp_path: Path) -> list[int]:
    """The main process of a worker, and its children once there are some."""
    words = b"\0-A\0worker\0worker\0"
    return [pid for pid in processes_with(str(tmp_path)) if words in _command_line(pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_up_without_a_key_for_a_server_of_ones_own_starts_nothing(cli: Cli) -> None:
    done = cli.having(KEYS=None)("up")

    assert done.code == 2
    assert done.complaint.startswith("evergrant: EVERGRANT_KEYS is missing")


@needs_proc
def test_the_demo_keeps_its_fleet_alive_and_prints_the_summary(cli: Cli, tmp_path: Path) -> None:
    cli.environment["TMPDIR"] = str(tmp_path)

    done = cli("demo", "--seconds", "8", "--grants", "20")

    assert done.code == 0, done.out + done.err
    summary = done.out.splitlines()[-9:]
    assert summary[0].startswith("20 grants, ")
    assert int(summary[1].removeprefix("rotations")) > 0
    assert summary[2].split() == ["failures", "announced", "1", "(one", "grant", "was", "revoked)"]
    assert [row.split()[-1] for row in summary[3:7]] == ["0", "0", "0", "0"]
    assert int(summary[7].removeprefix("API calls with promised tokens")) > 0
    assert summary[8] == "401s seen: 0"
    eventually(lambda: not processes_with(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
