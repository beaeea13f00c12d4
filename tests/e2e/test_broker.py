"""Whatever the broker holds or answers, worker and beat go on."""

import base64
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.callables import Build
from tests.support.live import LiveDeployment
from tests.support.servers import directory_for_sockets, redis_binary, running_valkey, start_valkey
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

QUEUE = "{evergrant}:celery:evergrant"
CANARY = "canary-of-a-message"
SELDOM_SECONDS = 25
BEAT_COMPLAINS = ("beat.broker_away",)
WORKER_COMPLAINS = ("broker.error", "broker.away")


def _message(**changes: Any) -> dict[str, Any]:
    """A message as Celery sends it, with changes to its parts."""
    arguments = changes.pop("arguments", [[], {}, {"callbacks": None, "errbacks": None, "chain": None}])
    headers = {"task": "tasks.sweep", "id": "a" * 36} | changes.pop("headers", {})
    properties = {
        "delivery_tag": "d" * 36,
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "evergrant"},
    } | changes.pop("properties", {})
    message = {
        "body": base64.b64encode(json.dumps(arguments).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
    }
    return message | changes


POISON: list[bytes | dict[str, Any] | list[Any]] = [
    b"",
    CANARY.encode(),
    b"\xff\xfe" + CANARY.encode(),
    b"[" * 100_000,
    b"null",
    [CANARY],
    {"body": CANARY},
    {"__type__": CANARY, "__value__": 1},
    {"__type__": "datetime", "__value__": CANARY},
    _message(body="no base64: " + CANARY),
    _message(body=[CANARY]),
    _message() | {"headers": CANARY},
    _message() | {"headers": [CANARY]},
    _message() | {"properties": [CANARY]},
    _message(properties={"delivery_tag": [CANARY]}),
    _message(properties={"delivery_info": {}}),
    _message(properties={"delivery_info": CANARY}),
    _message(properties={"body_encoding": CANARY}),
    _message(headers={"task": CANARY}),
    _message(headers={"task": [CANARY]}),
    _message(headers={"task": "celery.map"}),
    _message(headers={"id": None}),
    _message(headers={"eta": CANARY}),
    _message(headers={"timelimit": [0.1, CANARY]}),
    _message(headers={"compression": CANARY}),
    _message(arguments=CANARY),
    _message(arguments=[[CANARY], {}, {}]),
    _message(arguments=[[], {CANARY: CANARY}, {}]),
    _message(arguments=[[], {}, {"chain": [CANARY]}]),
    _message() | {"content-type": "application/x-python-serialize"},
    _message() | {"content-encoding": CANARY},
]


def _encoded(poison: bytes | dict[str, Any] | list[Any]) -> bytes:
    return poison if isinstance(poison, bytes) else json.dumps(poison).encode()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[redis.Redis]:
    """A Redis server of its own, so that the store stays out of it."""
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    with (
        running_valkey(binary=redis_binary(), dir=str(dumps)) as path,
        redis.Redis(unix_socket_path=str(path)) as connection,
    ):
        yield connection


def _starts(build: Build, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> LiveDeployment:
    path = broker.connection_pool.connection_kwargs["path"]
    live = build(access_seconds=40)
    monkeypatch.setenv("EVERGRANT_BROKER_URL", f"unix://{path}")
    live.issue(40, spread_seconds=30)
    return live


def _said(live: LiveDeployment, *words: str) -> int:
    text = live.log.read_text(errors="replace")
    return sum(text.count(word) for word in words)


def _waits_for(live: LiveDeployment, words: tuple[str, ...], times: int, after: str) -> None:
    live.wait_until(lambda: _said(live, *words) >= times, f"{words[0]} after {after}")


def _goes_on(live: LiveDeployment) -> None:
    before = live.refreshed()
    live.wait_until(lambda: live.refreshed() > before, "another refresh")


def test_a_message_that_is_not_ours_is_dropped_without_showing_it_and_the_worker_goes_on(
    build: Build, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = _starts(build, broker, monkeypatch)
    worker = live.start_worker()
    live.start_beat()
    _goes_on(live)

    for count, poison in enumerate(POISON, 1):
        broker.rpush(QUEUE, _encoded(poison))
        _waits_for(live, ("broker.message_dropped",), count, repr(poison))
    _goes_on(live)

    assert worker.poll() is None
    assert _said(live, "broker.message_dropped") == len(POISON)
    assert CANARY not in live.log.read_text(errors="replace")
    assert "Connection to broker lost" not in live.log.read_text(errors="replace")


def test_a_message_of_a_dead_worker_that_cannot_be_read_is_dropped(
    build: Build, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = _starts(build, broker, monkeypatch)
    broker.hset("{evergrant}:celery:unacked", "tag", CANARY)
    broker.zadd("{evergrant}:celery:unacked_index", {"tag": 1})

    live.start_worker()
    live.start_beat()
    _goes_on(live)
    live.wait_until(lambda: not broker.exists("{evergrant}:celery:unacked_index"), "its end")

    assert CANARY not in live.log.read_text(errors="replace")


def _fail_to_save(broker: Any) -> None:
    shutil.rmtree(broker.config_get("dir")["dir"])
    broker.config_set("save", "3600 1")
    broker.bgsave()


# How the server comes to refuse commands with a code, and how it is brought back.
REFUSALS: dict[str, tuple[Callable[[Any], object], Callable[[Any], object]]] = {
    "NOREPLICAS": (
        lambda server: server.config_set("min-replicas-to-write", 1),
        lambda server: server.config_set("min-replicas-to-write", 0),
    ),
    "READONLY": (
        lambda server: server.replicaof("127.0.0.1", 1),
        lambda server: server.replicaof("no", "one"),
    ),
    "NOPERM": (
        lambda server: server.execute_command("ACL", "SETUSER", "default", "-brpop", "-llen"),
        lambda server: server.execute_command("ACL", "SETUSER", "default", "+@all"),
    ),
    "MISCONF": (_fail_to_save, lambda server: server.config_set("save", "")),
}


def test_worker_and_beat_wait_out_every_refusal_of_the_broker(
    build: Build, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = _starts(build, broker, monkeypatch)
    worker, beat = live.start_worker(), live.start_beat()
    _goes_on(live)

    for code, (refuse, accept) in REFUSALS.items():
        seen = {words: _said(live, *words) for words in (BEAT_COMPLAINS, WORKER_COMPLAINS)}
        refuse(broker)
        for words, before in seen.items():
            _waits_for(live, words, before + 2, code)
        accept(broker)
        _goes_on(live)

    assert not _said(live, "Unrecoverable error", "Frequent restarts", "Error in timer")
    seen = {words: _said(live, *words) for words in (BEAT_COMPLAINS, WORKER_COMPLAINS)}
    broker.replicaof("127.0.0.1", 1)
    for words, before in seen.items():
        _waits_for(live, words, before + 2, "READONLY at the end")
    worker.terminate()
    beat.terminate()
    assert worker.wait(PATIENCE_SECONDS) == 0
    assert beat.wait(PATIENCE_SECONDS) == 0


def test_a_worker_that_could_acknowledge_nothing_consumes_again_once_its_broker_is_back(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery by itself never does: messages that were not acknowledged keep their places for ever."""
    live = build(access_seconds=60)
    live.issue(60, spread_seconds=50)
    with directory_for_sockets() as home:
        broker = start_valkey(home, binary=redis_binary())
        monkeypatch.setenv("EVERGRANT_BROKER_URL", f"unix://{broker.socket}")
        try:
            worker = live.start_worker()
            live.start_beat()
            _goes_on(live)
            live.wait_until(lambda: len(live.children(worker.pid)) == CHILDREN, "every child")
            children = live.children(worker.pid)
            for child in children:
                os.kill(child, signal.SIGSTOP)
            with redis.Redis(unix_socket_path=str(broker.socket)) as connection:
                live.wait_until(lambda: connection.llen(QUEUE) > 2, "more messages than the worker takes")
            broker.kill()
            for child in children:
                os.kill(child, signal.SIGCONT)
            live.wait_until(lambda: _said(live, *WORKER_COMPLAINS), "the worker's complaint")
            broker = start_valkey(home, binary=redis_binary())
            _goes_on(live)
        finally:
            broker.kill()


CHILDREN = 2  # of the Procfile's worker


def test_a_sweep_that_cannot_publish_says_so_in_one_line_and_keeps_no_place_for_what_it_did_not_send(
    build: Build, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = _starts(build, broker, monkeypatch)
    live.start_worker()
    server: Any = broker
    server.execute_command("ACL", "SETUSER", "default", "-lpush")

    broker.rpush(QUEUE, _encoded(_message()))
    _waits_for(live, ("sweep.broker_away",), 1, "a sweep of grants that are due")

    assert not _said(live, "raised unexpected")
    with redis.Redis.from_url(live.server.url) as store:
        live.wait_until(lambda: not store.zcard("{evergrant}:runners"), "the end of the runners' places")


def test_a_sweep_that_the_broker_refused_is_published_once_it_may_be_and_not_at_the_next_ones_time(
    build: Build, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = _starts(build, broker, monkeypatch)
    monkeypatch.setenv("EVERGRANT_SWEEP_SECONDS", str(SELDOM_SECONDS))
    broker.config_set("min-replicas-to-write", 1)
    live.start_beat()
    _waits_for(live, BEAT_COMPLAINS, 2, "the first sweep")

    broker.config_set("min-replicas-to-write", 0)

    live.wait_until(lambda: broker.llen(QUEUE), "the sweep", seconds=SELDOM_SECONDS - 5)


def test_beat_keeps_one_connection_for_all_sweeps(
    build: Build, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = _starts(build, broker, monkeypatch)
    live.start_beat()
    live.wait_until(lambda: broker.llen(QUEUE) >= 2, "the first sweeps")
    before = broker.info("stats")["total_connections_received"]

    live.wait_until(lambda: broker.llen(QUEUE) >= 6, "more sweeps")

    assert broker.info("stats")["total_connections_received"] == before


STUMBLING = """
from celery import bootsteps
from worker.celery import app

class Stumble(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer.tasks:Tasks",)
    times = 0

    def start(self, consumer):
        Stumble.times += 1
        if Stumble.times <= 2:
            raise RuntimeError("an error that nobody foresaw")

app.steps["consumer"].add(Stumble)
"""


def test_an_error_that_nobody_foresaw_does_not_end_a_worker(build: Build) -> None:
    live = build(access_seconds=40)
    live.issue(20, spread_seconds=30)
    (live.directory / "stumbling.py").write_text(STUMBLING)

    worker = live.start_worker("--concurrency", "1", app="stumbling")
    live.start_beat()
    _goes_on(live)

    assert worker.poll() is None
    assert _said(live, "an error that nobody foresaw") >= 2
