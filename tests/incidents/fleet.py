"""A small real fleet: Redis, a worker, beat, the HTTP service, a receiver of webhooks, a sandbox as provider.

Its settings are the defaults, and its tokens live for eight hours, as Buddy's do: what is said of it and how
soon is what an operator would read. Two of its grants come due each second.
"""

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import pytest
from aiohttp import web

from tests.failovers.load import DEFAULTS
from tests.support.callables import Build
from tests.support.faketime import ServerWithAClock
from tests.support.live import LiveDeployment
from tests.support.redis_server import RedisServer
from tests.support.servers import free_port
from worker.core.api_keys import Scope
from worker.core.audit import By
from worker.core.policy import JITTER, Rules, jitter
from worker.runtime.assembly import Runtime

TOKEN_SECONDS = 28_800
GRANTS = 600
DUE_EVERY_SECONDS = 0.5
ME = By("incidents", "here")
OK = 204


@dataclass
class Receiver:
    """A receiver of webhooks.

    Attributes:
        answers: with this status.
        got: when each event was taken, on the monotonic clock, and the event.
    """

    port: int = field(default_factory=free_port)
    answers: int = OK
    got: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hooks"

    async def answer(self, request: web.Request) -> web.Response:
        """Take an event, or refuse it."""
        event = json.loads(await request.read())
        if self.answers == OK:
            self.got.append((time.monotonic(), event))
        return web.Response(status=self.answers)


@contextmanager
def listening(receiver: Receiver) -> Iterator[None]:
    """A receiver on a thread of its own for as long as the block lasts."""
    started, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/hooks", receiver.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", receiver.port).start()
        started.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


class SmallFleet:
    """The fleet, and what can be done to it.

    Attributes:
        live: its processes.
        server: its Redis.
        grants: their ids, in the order in which they come due.
        receiver: takes the events of every kind.
        webhook: the id of its webhook.
        url: of its HTTP service.
        key: an API key that may see the fleet.
    """

    live: LiveDeployment
    server: RedisServer | ServerWithAClock
    worker: subprocess.Popen[bytes]
    beat: subprocess.Popen[bytes]
    web: subprocess.Popen[bytes]

    def __init__(self, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
        self._build = build
        self.monkeypatch = monkeypatch
        self._stack = ExitStack()
        self.grants: list[str] = []
        self.receiver = Receiver()
        self.webhook = ""
        self.url = ""
        self.key = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "live"):
            self.live.stop()
        self._stack.close()

    def start(
        self,
        store: AbstractContextManager[RedisServer | ServerWithAClock],
        *,
        grants: int = GRANTS,
        settings: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Put it to work, with these settings besides; returns once it refreshes."""
        self.live = self._build(access_seconds=TOKEN_SECONDS)
        self.server = self._stack.enter_context(store)
        url = f"unix://{self.server.socket}" if isinstance(self.server, RedisServer) else self.server.url
        for name in DEFAULTS:
            self.monkeypatch.delenv(f"EVERGRANT_{name}")
        for name, value in [("EVERGRANT_REDIS_URL", url), *settings]:
            self.monkeypatch.setenv(name, value)
        self._stack.enter_context(listening(self.receiver))
        self.key = self.live.run(lambda runtime: runtime.api_keys.make("incidents", [Scope.ADMIN], {}, ME))
        self.webhook = self.add_webhook(self.receiver.url)
        self.import_grants(grants)
        self.worker = self.live.start_worker()
        self.beat = self.live.start_beat()
        self.start_web()
        self.live.wait_until(lambda: self.live.refreshed() > 20, "the first rotations")

    def start_web(self) -> None:
        """The HTTP service; returns once it listens."""
        self.url = self.live.start_web()
        self.web = self.live._processes[-1]  # noqa: SLF001 the last one that was started

    def restart_all(self) -> None:
        """The worker and the HTTP service, with the settings as they are now. Some worker always lives."""
        before, self.worker = self.worker, self.start_another_worker()
        self.live.end(before)
        self.live.end(self.web)
        self.start_web()

    def start_another_worker(self) -> subprocess.Popen[bytes]:
        """One more; returns once it is alive."""
        at_work = self._children()
        worker = self.live.start_worker()
        self.live.wait_until(lambda: self._children() > at_work, "the other worker")
        return worker

    def _children(self) -> int:
        return self.live.run(lambda runtime: runtime.fleet_state.workers()).alive

    @property
    def redis(self) -> RedisServer:
        """Its server, where that is not one with a clock of its own."""
        assert isinstance(self.server, RedisServer)
        return self.server

    def add_webhook(self, url: str) -> str:
        """A webhook for events of every kind but refreshes that go well; returns its id."""

        async def make(runtime: Runtime) -> str:
            return (await runtime.webhooks.add(url, frozenset(), {}, ME)).id

        return self.live.run(make)

    def import_grants(self, count: int, *, every: float = DUE_EVERY_SECONDS) -> None:
        """Grants that come due one after the other from now on."""
        lines = self.lines_due(count, prefix=f"g{len(self.grants)}", every=every)
        self.live.take(json.dumps(line) for line in lines)
        self.grants += [line["id"] for line in lines]

    def lines_due(
        self, count: int, *, prefix: str, client: str = "buddy", every: float = DUE_EVERY_SECONDS
    ) -> list[dict[str, Any]]:
        """Import lines of grants that come due one after the other from now on."""
        order = {"prefix": prefix, "client": client}
        lines = self.live.sandbox.issue(count, access_seconds=TOKEN_SECONDS, **order)
        now = time.time()
        for number, line in enumerate(lines):
            share = Rules().refresh_at + JITTER * jitter(line["id"])
            at = now + every * number - share * TOKEN_SECONDS
            line["issued_at"] = datetime.fromtimestamp(at, UTC).isoformat()
        return lines

    def upcoming(self, count: int) -> list[str]:
        """Some grants that come due in a few seconds."""
        rotated = sum(stored.grant.version > 0 for stored in self.live.grants().values())
        return self.grants[rotated + 20 : rotated + 20 + count]
