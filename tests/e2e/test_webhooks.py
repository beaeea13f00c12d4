"""Every receiver ends with every event that it is to have, signed, whatever is killed meanwhile.

Three receivers: one takes everything, one is down for a while, one answers 500 at random. A fourth hangs, and
holds up none of them. Workers and Redis are killed. `make webhooks` runs the long form. It also measures how
late grants are refreshed beside dead receivers, and without.
"""

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import pytest
import redis
from aiohttp import web
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from tests.support.callables import Build
from tests.support.live import LiveDeployment
from tests.support.punctuality import delays
from tests.support.servers import free_port
from worker.adapters.cloud_events import to_json
from worker.adapters.embedded import EmbeddedServerError
from worker.core.audit import By
from worker.core.events import Event, EventType
from worker.core.webhooks import WebhookState
from worker.fleet.webhooks import NewWebhook

pytestmark = pytest.mark.slow

EVENTS = int(os.environ.get("WEBHOOK_EVENTS", "2000"))
KILLS = int(os.environ.get("WEBHOOK_KILLS", "4"))
SETTLE_SECONDS = 240.0 + EVENTS / 50
DOWN_SECONDS = 6.0
FAILING_SHARE = 0.15
LATENESS_SECONDS = 45.0  # of refreshes, with all receivers well and with dead ones
LATENESS_GRANTS = 300
LATENESS_LIVES = 20
REFRESH_AT = 0.5
TENANTS = ("acme", "other")
SWEEP_SECONDS = 0.5  # of live deployments
KINDS = (EventType.GRANT_FAILED, EventType.GRANT_RECOVERED, EventType.GRANT_REFRESHED)

# A worker whose schedule of retries takes two minutes instead of three days.
COMPRESSED = """
from worker.core import delivery

delivery.SCHEDULE_MS = (200, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000)

from worker.celery import app
"""


@dataclass
class Receiver:
    """One receiver, and what it was sent.

    Attributes:
        secret: once the webhook is added.
        taken: events that it answered with a 2xx, by id.
        unsigned: requests whose signature is not this webhook's.
        failing_share: of its answers that are a 500.
        hangs: it never answers.
    """

    port: int
    types: frozenset[EventType] = frozenset()
    labels: dict[str, str] = field(default_factory=dict)
    failing_share: float = 0.0
    hangs: bool = False
    secret: str = ""
    taken: Counter[str] = field(default_factory=Counter)
    unsigned: int = 0
    requests: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    async def answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.read()
        if self.hangs:
            await asyncio.sleep(3600)
        try:
            event = Verifier(self.secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.unsigned += 1
            return web.Response(status=400)
        if random.random() < self.failing_share:  # noqa: S311 no secret comes of it
            return web.Response(status=500)
        self.taken[event["id"]] += 1
        return web.Response(status=204)

    def wants(self, event: dict[str, Any]) -> bool:
        labels = event["data"].get("labels") or {}
        is_of_type = not self.types or event["type"] in self.types
        return is_of_type and self.labels.items() <= labels.items()


@contextmanager
def listening(receiver: Receiver) -> Iterator[None]:
    """A receiver on a thread of its own for as long as the block lasts."""
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/hooks", receiver.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", receiver.port, reuse_address=True).start()
        started.set()
        try:
            await over.wait()
        finally:
            await runner.cleanup()

    over = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


class Writing(threading.Thread):
    """Writes events into the stream as the scripts do; one whose write was not answered is written again."""

    def __init__(self, live: LiveDeployment, count: int) -> None:
        super().__init__(daemon=True)
        self._url = live.server.url
        self._count = count
        self.written = 0

    def run(self) -> None:
        """Write them all."""
        with redis.Redis.from_url(self._url) as client:
            for number in range(self._count):
                self._write(client, number)
                self.written += 1

    def _write(self, client: redis.Redis, number: int) -> None:
        kind, tenant = KINDS[number % len(KINDS)], TENANTS[number % len(TENANTS)]
        event_id = f"{uuid.uuid4().hex}-{kind.rpartition('.')[2]}"
        data = {"client": "buddy", "labels": {"tenant": tenant}}
        event = to_json(Event(kind, event_id, f"grant-{number}", 1, data), "evergrant/evergrant")
        while True:
            with suppress(redis.RedisError):
                client.xadd("{evergrant}:events", {"event": event})
                return
            time.sleep(0.1)


def add(live: LiveDeployment, receiver: Receiver) -> None:
    """Add a webhook."""

    async def make(runtime: Any) -> NewWebhook:
        made: NewWebhook = await runtime.webhooks.add(
            receiver.url, receiver.types, receiver.labels, By("test", "here")
        )
        return made

    receiver.secret = live.run(make).secret


def states(live: LiveDeployment) -> dict[str, WebhookState]:
    """How each webhook is getting on, by its URL."""

    async def read(runtime: Any) -> list[WebhookState]:
        found: list[WebhookState] = await runtime.webhook_store.states()
        return found

    return {state.webhook.url: state for state in live.run(read)}


def strike(live: LiveDeployment, workers: list[Any], number: int) -> None:
    """Kill a worker, and at every other strike Redis too; a worker comes back."""
    live.kill(workers.pop(0))
    if number % 2:
        with suppress(EmbeddedServerError, ProcessLookupError):
            os.kill(live.server.server_pid, signal.SIGKILL)
    workers.append(live.start_worker(*OPTIONS, app="compressed"))


def is_back(live: LiveDeployment) -> bool:
    """Whether Redis answers."""
    with redis.Redis.from_url(live.server.url) as client, suppress(redis.RedisError):
        return bool(client.ping())
    return False


OPTIONS = ("--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat")


def test_every_receiver_ends_with_every_event_that_it_is_to_have(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=120)
    monkeypatch.setenv("EVERGRANT_EVENTS_KEPT", str(10 * EVENTS + 10_000))
    (live.directory / "compressed.py").write_text(COMPRESSED)
    everything = Receiver(free_port())
    down = Receiver(free_port(), types=frozenset({EventType.GRANT_FAILED, EventType.GRANT_RECOVERED}))
    erring = Receiver(free_port(), labels={"tenant": "acme"}, failing_share=FAILING_SHARE)
    hanging = Receiver(free_port(), types=frozenset({EventType.GRANT_RECOVERED}), hangs=True)
    judged = (everything, down, erring)
    live.issue(10, spread_seconds=60)
    for receiver in (*judged, hanging):
        add(live, receiver)
    began = time.monotonic()
    with listening(everything), listening(erring), listening(hanging):
        workers = [live.start_worker(*OPTIONS, app="compressed") for _ in range(2)]
        live.start_beat()
        writing = Writing(live, EVENTS)
        writing.start()
        live.wait_until(lambda: everything.taken, "the first deliveries")
        time.sleep(DOWN_SECONDS)
        with listening(down):
            for number in range(KILLS):
                before = len(everything.taken) + len(down.taken)
                strike(live, workers, number)
                live.wait_until(
                    lambda before=before: (  # type: ignore[misc]
                        len(everything.taken) + len(down.taken) > before or len(everything.taken) >= EVENTS
                    ),
                    "deliveries after a kill",
                )
            writing.join()
            live.wait_until(lambda: is_back(live), "Redis")
            told = live.events()
            expected = {
                receiver.port: {event["id"] for event in told if receiver.wants(event)} for receiver in judged
            }
            live.wait_until(
                lambda: all(expected[each.port] <= each.taken.keys() for each in judged),
                "every event at every receiver",
                SETTLE_SECONDS,
            )
            seconds = time.monotonic() - began
    after = states(live)
    sent_twice = {each.port: each.taken.total() - len(each.taken) for each in judged}

    sys.stdout.write(
        f"\n{len(told)} events in {seconds:.0f} s, {KILLS} kills; requests {[r.requests for r in judged]},"
        f" taken twice {list(sent_twice.values())}, hanging {hanging.requests}\n"
    )
    late = {event["id"] for event in live.events()} - {event["id"] for event in told}  # of grants, since then
    assert [each.unsigned for each in judged] == [0, 0, 0]
    assert [each.taken.keys() - expected[each.port] - late for each in judged] == [set()] * 3
    assert [(after[each.url].given_up, after[each.url].lost) for each in judged] == [(0, 0)] * 3
    assert live.lost() == []


@pytest.mark.trial
def test_dead_receivers_make_no_refresh_later(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    live = build(access_seconds=LATENESS_LIVES)
    monkeypatch.setenv("EVERGRANT_REFRESH_AT", str(REFRESH_AT))
    well, hanging, away = Receiver(free_port()), Receiver(free_port(), hangs=True), Receiver(free_port())
    lines = live.issue(LATENESS_GRANTS, spread_seconds=LATENESS_LIVES * REFRESH_AT)
    issued = {line["id"]: line for line in map(json.loads, lines)}
    add(live, well)
    with listening(well), listening(hanging):
        live.start_worker()
        live.start_beat()
        live.wait_until(lambda: well.taken, "the first deliveries")
        measured = []
        for dead in ((), (hanging, away)):
            for receiver in dead:
                add(live, receiver)
            time.sleep(LATENESS_LIVES)  # until each grant was due once, as things are now
            since = time.time()
            time.sleep(LATENESS_SECONDS)
            visits = [visit for visit in live.sandbox.log() if visit["acted"]]
            rotations = {each: [visit for visit in visits if visit["grant"] == each] for each in issued}
            measured.append([each.late for each in delays(issued, rotations, REFRESH_AT) if each.at > since])

    without, beside = ([quantiles(late, n=100)[at] for at in (49, 98)] for late in measured)
    told = [
        f"{name} {half:.2f} s, {most:.2f} s"
        for name, (half, most) in (("without", without), ("beside", beside))
    ]
    sys.stdout.write(
        f"\nrefreshes late, half of them and 99 of 100 by no more than: {'; '.join(told)} dead receivers;"
        f" {[len(late) for late in measured]} refreshes, {hanging.requests} requests hung\n"
    )
    assert hanging.requests > 0
    assert beside[0] - without[0] < SWEEP_SECONDS
    assert beside[1] - without[1] < 2 * SWEEP_SECONDS
    assert live.lost() == []
