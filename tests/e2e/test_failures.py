"""What goes wrong around a running deployment costs a delay, never a grant."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
import redis

from config import load_settings
from worker.adapters.embedded import EmbeddedServerError
from worker.wiring import lease_ms

SLOW_MACHINE_SECONDS = 15.0  # for a new worker to start, and a sweep


def test_a_wrong_client_secret_is_one_incident_and_the_right_one_brings_the_client_back(
    build: Callable[..., Any],
) -> None:
    house = build(access_seconds=40)
    house.issue(60, spread_seconds=20)
    house.start_worker()
    house.start_beat()
    house.wait_until(lambda: house.refreshed() > 0, "the first rotation")

    house.sandbox.set_secret("the-new-secret")
    house.wait_until(lambda: house.told("client.rejected") != [], "the incident")
    seen = house.sandbox.totals()["wrong_client"]
    house.wait_until(lambda: house.sandbox.totals()["wrong_client"] > seen, "a probe that is refused")
    house.put_secret("the-new-secret")
    house.wait_until(lambda: house.told("client.recovered") != [], "the recovery")
    before = house.refreshed()
    house.wait_until(lambda: house.refreshed() > before + 5, "rotations after it")
    house.stop()

    assert len(house.told("client.rejected")) == 1
    assert len(house.told("client.recovered")) == 1
    assert house.told("grant.failed") == []
    assert house.told("grant.failing") == []
    assert {stored.grant.status.value for stored in house.grants().values()} == {"active"}
    assert house.lost() == []


def test_a_worker_killed_in_the_middle_loses_at_most_the_answers_it_alone_held(
    build: Callable[..., Any],
) -> None:
    house = build(access_seconds=40)
    house.issue(80, spread_seconds=26)
    with house.sandbox.fault("latency", ms=400):
        worker = house.start_worker()
        house.start_beat()
        house.wait_until(lambda: house.refreshed() > 10, "rotations")
        house.wait_until(lambda: _in_flight(house), "requests in flight")
        house.kill(worker)
        killed_at = time.time()
        at_risk = _in_flight(house)
    house.start_worker()

    def settled() -> bool:
        grants = house.grants().values()
        return all(stored.grant.version > 0 or stored.grant.status == "failed" for stored in grants)

    house.wait_until(settled, "every grant's next rotation")
    house.wait_until(lambda: not _in_flight(house), "no lease that is still held")
    house.stop()

    tried_again_after = [
        min(visit["at"] for visit in house.sandbox.log(grant_id) if visit["at"] > killed_at) - killed_at
        for grant_id in at_risk
    ]
    assert max(tried_again_after) < lease_ms(load_settings()) / 1000 + SLOW_MACHINE_SECONDS
    failed = {event["subject"]: event["data"]["reason"] for event in house.told("grant.failed")}
    assert set(failed) <= at_risk
    assert set(failed.values()) <= {"reply_lost"}
    assert set(house.lost()) == set(failed)
    assert house.sandbox.totals()["expired"] <= len(failed)


def _in_flight(house: Any) -> set[str]:
    """Grants whose lease is held right now: what a worker that dies now may hold the answer of."""
    grants = house.grants().items()
    return {grant_id for grant_id, stored in grants if stored.lease_until is not None}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("whole_group", [False, True], ids=["the-main-process", "every-process"])
def test_a_worker_that_is_told_to_stop_finishes_what_is_in_flight(
    build: Callable[..., Any], number: signal.Signals, *, whole_group: bool
) -> None:
    """Some supervisors signal the main process, others (honcho, systemd) every process of the group."""
    house = build(access_seconds=40)
    house.issue(60, spread_seconds=26)
    house.sandbox.add_fault("latency", ms=500)
    worker = house.start_worker()
    house.start_beat()
    house.wait_until(lambda: house.refreshed() > 5, "rotations")
    house.wait_until(lambda: _in_flight(house), "requests in flight")

    if whole_group:
        os.killpg(worker.pid, number)
    else:
        worker.send_signal(number)
    assert worker.wait(60) == 0
    assert _in_flight(house) == set()
    assert house.lost() == []
    assert house.sandbox.totals()["undelivered"] == 0


def test_an_embedded_server_that_was_killed_is_brought_back_and_what_is_due_is_refreshed(
    build: Callable[..., Any],
) -> None:
    house = build(access_seconds=40)
    house.issue(60, spread_seconds=20)
    house.start_worker()
    house.start_beat()
    house.wait_until(lambda: house.refreshed() > 0, "the first rotation")

    _kill_server(house)
    house.wait_until(house.server.is_running, "a server that nobody was asked to start")
    before = house.refreshed()
    house.wait_until(lambda: house.refreshed() > before + 10, "rotations after it")
    house.stop()

    assert house.log.read_text().count("embedded server: was gone and has been started again") == 1
    assert house.lost() == []
    assert house.sandbox.totals()["superseded"] == 0


@pytest.mark.parametrize("kind", ["worker", "beat"])
def test_one_process_alone_brings_the_embedded_server_back_as_often_as_it_dies(
    build: Callable[..., Any], kind: str
) -> None:
    house = build()
    with closing(redis.Redis.from_url(house.server.url)) as store:
        if kind == "worker":
            house.start_worker()
            house.wait_until(lambda: store.zcard("{evergrant}:present") == 2, "two children at work")
        else:
            house.start_beat()
            house.wait_until(lambda: store.llen("{evergrant}:celery:evergrant"), "its first message")

    for _ in range(2):
        _kill_server(house)
        house.wait_until(house.server.is_running, "a server that nobody was asked to start")


def _kill_server(house: Any) -> None:
    """`kill -9`; returns when it is dead."""
    pid = house.server.server_pid
    os.kill(pid, signal.SIGKILL)
    with suppress(EmbeddedServerError):
        while house.server.server_pid == pid:
            time.sleep(0.01)
