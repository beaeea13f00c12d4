"""The ways in which people start a worker: each works as the others do, or is refused in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.callables import Build
from tests.support.live import DEADLINE_SECONDS, KEY, LiveDeployment
from tests.support.waiting import PATIENCE_SECONDS

LATENCY_MS = 500


def _python(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Our own interpreter in a deployment with nothing but a key."""
    return subprocess.run(  # noqa: S603
        [sys.executable, *arguments],
        cwd=home,
        env={"PATH": os.defpath, "HOME": str(home), "EVERGRANT_KEYS": KEY},
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--pool", "solo"], "--pool solo is refused"),
        (["--pool", "threads"], "--pool thread is refused"),
        (["--autoscale", "8,2"], "--autoscale is refused"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_would_drop_answers_is_refused_at_start_with_what_to_use(
    options: list[str], named: str, tmp_path: Path
) -> None:
    done = _python(tmp_path, "-m", "celery", "-A", "worker", "worker", *options)

    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert named in line
    assert "--concurrency" in line


@pytest.mark.parametrize(("processors", "children"), [(1, 2), (None, 2), (8, 8)])
def test_a_worker_has_a_child_for_each_processor_and_two_at_least(
    processors: int | None, children: int, tmp_path: Path
) -> None:
    """So that no refresh waits for a webhook's receiver that hangs."""
    script = f"""
import os
os.cpu_count = lambda: {processors}
from worker.celery import app
print(app.conf.worker_concurrency)
"""
    done = _python(tmp_path, "-c", script)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == children


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["--concurrency", "1"], ["--concurrency", "8"], ["--concurrency", "2", "--max-tasks-per-child", "10"]],
    ids=["one-child", "eight-children", "children-that-are-replaced"],
)
def test_a_worker_refreshes_and_finishes_what_is_in_flight_when_it_is_told_to_stop(
    build: Build, options: list[str]
) -> None:
    live = build(access_seconds=40)
    live.issue(60, spread_seconds=26)
    live.sandbox.add_fault("latency", ms=LATENCY_MS)
    worker = live.start_worker(*options)
    live.start_beat()
    live.wait_until(lambda: live.refreshed() > 20, "rotations")
    live.wait_until(lambda: _has_requests_in_flight(live), "requests in flight")

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(PATIENCE_SECONDS) == 0
    assert not _has_requests_in_flight(live)
    live.stop()
    assert live.lost() == []


@pytest.mark.slow
def test_celery_multi_starts_a_worker_that_refreshes_and_stops_it_in_order(
    build: Build, tmp_path: Path
) -> None:
    live = build(access_seconds=40)
    live.issue(60, spread_seconds=26)
    live.sandbox.add_fault("latency", ms=LATENCY_MS)
    files = [f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n.log"]

    _multi("start", *files)
    live.start_beat()
    try:
        live.wait_until(lambda: live.refreshed() > 20, "rotations")
        pid = int((tmp_path / "w1.pid").read_text())
    finally:
        _multi("stopwait", *files)

    live.wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker's end")
    live.stop()
    assert live.lost() == []
    log = (tmp_path / "w1.log").read_text()
    assert '"event": "refresh.done"' in log
    assert "Warm shutdown" in log


SLOW_TO_START = """
import time
from celery import signals
from worker.celery import app

@signals.worker_process_init.connect(weak=False)
def wait(**_):
    time.sleep(6)
"""


@pytest.mark.slow
def test_a_child_that_is_slow_to_start_is_waited_for(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery by itself kills a replacement that takes more than four seconds, and every one after it."""
    live = build(access_seconds=40)
    # A child does two tasks: if more were sent while it starts, a refresh would wait behind ever more sweeps.
    monkeypatch.setenv("EVERGRANT_SWEEP_SECONDS", "10")
    live.issue(60, spread_seconds=26)
    (live.directory / "slow_to_start.py").write_text(SLOW_TO_START)

    live.start_worker("--concurrency", "1", "--max-tasks-per-child", "2", app="slow_to_start")
    live.start_beat()
    live.wait_until(lambda: live.refreshed() > 40, "rotations by several children", 2 * DEADLINE_SECONDS)

    assert "waiting for UP" not in live.log.read_text()


def _multi(verb: str, *files: str) -> None:
    subprocess.run(  # noqa: S603 our own worker
        [sys.executable, "-m", "celery", "multi", verb, "w1", "-A", "worker", *files, "--concurrency=2"],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=PATIENCE_SECONDS,
    )


def _has_requests_in_flight(live: LiveDeployment) -> bool:
    return any(stored.lease_until is not None for stored in live.grants().values())
