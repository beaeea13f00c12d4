"""What goes wrong around a running deployment costs a delay, never a grant."""

import os
import signal
import time
from contextlib import closing, suppress

import pytest
import redis

from config import load_settings
from tests.support.callables import Build
from tests.support.live import LiveDeployment
from worker.adapters.embedded import EmbeddedServerError
from worker.runtime.derived import lease_ms

pytestmark = pytest.mark.slow

SLOW_MACHINE_SECONDS = 60.0  # for a new worker to start, and a sweep


def test_a_wrong_client_secret_is_one_incident_and_the_right_one_brings_the_client_back(
    build: Build,
) -> None:
    live = build(access_seconds=40)
    live.issue(60, spread_seconds=20)
    live.start_worker()
    live.start_beat()
    live.wait_until(lambda: live.refreshed() > 0, "the first rotation")

    live.sandbox.set_secret("the-new-secret")
    live.wait_until(lambda: live.told("client.rejected") != [], "the incident")
    seen = live.sandbox.totals()["wrong_client"]
    live.wait_until(lambda: live.sandbox.totals()["wrong_client"] > seen, "a probe that is refused")
    live.put_secret("the-new-secret")
    live.wait_until(lambda: live.told("client.recovered") != [], "the recovery")
    before = live.refreshed()
    live.wait_until(lambda: live.refreshed() > before + 5, "rotations after it")
    live.stop()

    assert len(live.told("client.rejected")) == 1
    assert len(live.told("client.recovered")) == 1
    assert live.told("grant.failed") == []
    assert live.told("grant.failing") == []
    assert {stored.grant.status.value for stored in live.grants().values()} == {"active"}
    assert live.lost() == []


def test_a_worker_killed_in_the_middle_loses_at_most_the_answers_it_alone_held(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Due at a third of its life, a token outlives the lease of a worker that died over it, and the start of
    # the next worker on a slow machine.
    live = build(access_seconds=140)
    monkeypatch.setenv("EVERGRANT_REFRESH_AT", "0.33")
    live.issue(80, spread_seconds=45)
    with live.sandbox.fault("latency", ms=400):
        worker = live.start_worker()
        live.start_beat()
        live.wait_until(lambda: live.refreshed() > 10, "rotations")
        live.wait_until(lambda: _in_flight(live), "requests in flight")
        live.kill(worker)
        killed_at = time.time()
        at_risk = _in_flight(live)
    live.start_worker()

    def settled() -> bool:
        grants = live.grants().values()
        return all(stored.grant.version > 0 or stored.grant.status == "failed" for stored in grants)

    live.wait_until(settled, "every grant's next rotation")
    live.wait_until(lambda: not _in_flight(live), "no lease that is still held")
    live.stop()

    # A grant whose answer was on the disk already is not tried again: the journal gives the answer.
    tried_again_after = [
        min(
            (visit["at"] for visit in live.sandbox.log(grant_id) if visit["at"] > killed_at),
            default=killed_at,
        )
        - killed_at
        for grant_id in at_risk
    ]
    assert max(tried_again_after) < lease_ms(load_settings()) / 1000 + SLOW_MACHINE_SECONDS
    failed = {event["subject"]: event["data"]["reason"] for event in live.told("grant.failed")}
    assert set(failed) <= at_risk
    assert set(failed.values()) <= {"reply_lost"}
    assert set(live.lost()) == set(failed)
    assert live.sandbox.totals()["expired"] <= len(failed)


def _in_flight(live: LiveDeployment) -> set[str]:
    """Grants whose lease is held right now: what a worker that dies now may hold the answer of."""
    grants = live.grants().items()
    return {grant_id for grant_id, stored in grants if stored.lease_until is not None}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("whole_group", [False, True], ids=["the-main-process", "every-process"])
def test_a_stopping_worker_finishes_what_is_in_flight(
    build: Build, number: signal.Signals, *, whole_group: bool
) -> None:
    """Some supervisors signal the main process, others (honcho, systemd) every process of the group."""
    live = build(access_seconds=40)
    live.issue(60, spread_seconds=26)
    live.sandbox.add_fault("latency", ms=500)
    worker = live.start_worker()
    live.start_beat()
    live.wait_until(lambda: live.refreshed() > 5, "rotations")
    live.wait_until(lambda: _in_flight(live), "requests in flight")

    if whole_group:
        os.killpg(worker.pid, number)
    else:
        worker.send_signal(number)
    assert worker.wait(60) == 0
    assert _in_flight(live) == set()
    assert live.lost() == []
    assert live.sandbox.totals()["undelivered"] == 0


def test_an_embedded_server_that_was_killed_is_brought_back_and_what_is_due_is_refreshed(
    build: Build,
) -> None:
    live = build(access_seconds=40)
    live.issue(60, spread_seconds=20)
    live.start_worker()
    live.start_beat()
    live.wait_until(lambda: live.refreshed() > 0, "the first rotation")

    _kill_server(live)
    live.wait_until(live.server.is_running, "a server that nobody was asked to start")
    before = live.refreshed()
    live.wait_until(lambda: live.refreshed() > before + 10, "rotations after it")
    live.stop()

    assert live.log.read_text().count("embedded server: was gone and has been started again") == 1
    assert live.lost() == []
    assert live.sandbox.totals()["superseded"] == 0


@pytest.mark.parametrize("kind", ["worker", "beat"])
def test_one_process_alone_brings_the_embedded_server_back_as_often_as_it_dies(
    build: Build, kind: str
) -> None:
    live = build()
    with closing(redis.Redis.from_url(live.server.url)) as store:
        if kind == "worker":
            live.start_worker()
            live.wait_until(lambda: store.zcard("{evergrant}:processes") == 2, "two children at work")
        else:
            live.start_beat()
            live.wait_until(lambda: store.llen("{evergrant}:celery:evergrant"), "its first message")

    for _ in range(2):
        _kill_server(live)
        live.wait_until(live.server.is_running, "a server that nobody was asked to start")


def _kill_server(live: LiveDeployment) -> None:
    """`kill -9`; returns when it is dead."""
    pid = live.server.server_pid
    os.kill(pid, signal.SIGKILL)
    with suppress(EmbeddedServerError):
        while live.server.server_pid == pid:
            time.sleep(0.01)


def test_a_grant_whose_reply_cannot_be_read_fails_when_its_token_ends_and_is_asked_for_no_more(
    build: Build,
) -> None:
    live = build(access_seconds=25)
    live.issue(1, spread_seconds=1)
    with live.sandbox.fault("unreadable"):
        live.start_worker()
        live.start_beat()
        live.wait_until(lambda: live.told("grant.failing") != [], "the reply that cannot be read")
        live.wait_until(lambda: live.told("grant.failed") != [], "the end of its access token")
    live.stop()

    (failed,) = live.told("grant.failed")
    assert failed["data"]["reason"] == "reply_unread"
    assert len(live.told("provider.unavailable")) == 1
    assert live.refreshed() == 0
    assert len(list(live.sandbox.log("grant-1"))) == 1
