"""Redis's clock is set while a deployment is at work: refreshes go on, and it is told what happened."""

import json
from pathlib import Path

import pytest
import redis

from tests.support.callables import Build
from tests.support.faketime import ServerWithAClock, running_with_a_clock
from tests.support.live import LiveDeployment
from worker.fleet.report import of_clock

pytestmark = pytest.mark.slow

HOUR = 3_600.0


def test_refreshes_go_on_when_the_clock_of_redis_is_set_back_and_forward(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_with_a_clock() as server:
        live = build(access_seconds=40)
        monkeypatch.setenv("EVERGRANT_REDIS_URL", server.url)
        live.issue(40, spread_seconds=20)
        live.start_worker()
        live.start_beat()
        live.wait_until(lambda: live.refreshed() > 0, "the first rotation")

        _set_and_go_on(live, server, -HOUR, "back")
        _set_and_go_on(live, server, HOUR, "forward")
        live.stop()

        assert live.lost() == []
        assert live.sandbox.totals()["superseded"] == 0
        assert live.told("grant.failed") == []


def _set_and_go_on(live: LiveDeployment, server: ServerWithAClock, seconds: float, where: str) -> None:
    began_at = _redis_time(server)
    server.set_clock(seconds)
    live.wait_until(lambda: abs(_redis_time(server) - began_at) > HOUR / 2, "the clock's jump")
    live.wait_until(lambda: f"set {where} by" in _incident(live), "what the status says of it")
    live.wait_until(lambda: f"set {where} by" in _logged(live.log), "what a worker logs of it")
    before = live.refreshed()
    live.wait_until(lambda: live.refreshed() > before + 40, f"rotations after the clock was set {where}")


def _redis_time(server: ServerWithAClock) -> float:
    with redis.Redis.from_url(server.url) as operator:
        return float(operator.time()[0])


def _incident(live: LiveDeployment) -> str:
    jump = live.run(lambda runtime: runtime.fleet_state.workers()).clock_jump
    now = live.run(lambda runtime: runtime.registry.now())
    return " ".join(incident.problem for incident in of_clock(jump, now))


def _logged(log: Path) -> str:
    lines = [
        json.loads(line) for line in log.read_text(errors="replace").splitlines() if line.startswith("{")
    ]
    return " ".join(line["problem"] for line in lines if line.get("event") == "store.clock_set")
