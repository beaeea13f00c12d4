"""Probes of a running worker and beat: an outage around them is no reason to restart them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.callables import Build
from tests.support.command import EVERGRANT
from tests.support.live import LiveDeployment
from tests.support.servers import directory_for_sockets, redis_binary, start_valkey
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow


def _health(role: str) -> int:
    done = subprocess.run([EVERGRANT, "health", role], check=False, timeout=PATIENCE_SECONDS)  # noqa: S603 our own
    return done.returncode


def _heartbeats(live: LiveDeployment) -> list[Path]:
    directory = live.directory / "data" / "heartbeats" / "evergrant"
    return list(directory.iterdir()) if directory.exists() else []


def _all_beat_again(live: LiveDeployment) -> None:
    """Wait until each process has touched its file once more."""
    for file in _heartbeats(live):
        os.utime(file, (0, 0))
    live.wait_until(
        lambda: all(file.stat().st_mtime > time.time() - PATIENCE_SECONDS for file in _heartbeats(live)),
        "the next heartbeat of each process",
    )


def test_worker_and_beat_are_alive_while_their_broker_is_away_and_dead_when_they_were_killed(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=40)
    with directory_for_sockets() as home:
        broker = start_valkey(home, binary=redis_binary())
        try:
            monkeypatch.setenv("EVERGRANT_BROKER_URL", f"unix://{broker.socket}")
            worker, beat = live.start_worker(), live.start_beat()
            live.wait_until(lambda: (_health("worker"), _health("beat")) == (0, 0), "two that are alive")
            live.wait_until(lambda: len(_heartbeats(live)) == 4, "a file each of worker, two children, beat")
            _all_beat_again(live)
        finally:
            broker.kill()
        live.wait_until(lambda: "broker.away" in live.log.read_text(), "the worker's complaint")
        live.wait_until(lambda: "beat.broker_away" in live.log.read_text(), "beat's complaint")
        _all_beat_again(live)
        assert (_health("worker"), _health("beat")) == (0, 0)

        live.kill(worker)
        live.kill(beat)
        assert (_health("worker"), _health("beat")) == (1, 1)


def test_a_worker_that_cannot_write_its_heartbeat_says_so_and_works(build: Build) -> None:
    live = build(access_seconds=40)
    live.issue(40, spread_seconds=30)
    (live.directory / "data" / "heartbeats").write_text("in the way")

    live.start_worker()
    live.start_beat()
    live.wait_until(lambda: live.refreshed() > 0, "a refresh")

    assert "`evergrant health` will find no heartbeat" in live.log.read_text()


def test_every_line_of_worker_and_beat_has_one_format(build: Build) -> None:
    live = build(access_seconds=40)
    worker, beat = live.start_worker(), live.start_beat()
    live.wait_until(lambda: "tasks.sweep" in live.log.read_text(), "a sweep")
    live.wait_until(lambda: len(_heartbeats(live)) == 4, "a file each of worker, two children, beat")
    processes = {int(file.suffix[1:]) for file in _heartbeats(live)}
    child = min(processes - {worker.pid, beat.pid})
    os.kill(child, signal.SIGKILL)
    live.wait_until(lambda: f"pid:{child} exited" in live.log.read_text(), "what the pool says of it")
    worker.terminate()
    beat.terminate()
    assert worker.wait(PATIENCE_SECONDS) == 0
    assert beat.wait(PATIENCE_SECONDS) == 0
    live.stop()

    lines = live.log.read_text().splitlines()
    assert all({"event", "level", "timestamp"} <= json.loads(line).keys() for line in lines)
    assert any("Warm shutdown" in line for line in lines)
