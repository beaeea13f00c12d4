"""A listening socket and uvicorn for as long as the process lives, and an orderly stop.

Rules:
- The service is a process of the deployment as a worker's is: one runtime, with a heartbeat, a journal and
  leases of its own. Several may run.
- Told to stop, it takes no more connections, finishes what is in flight, and then leaves the store. A call
  that waits for events is answered at once.
- uvicorn writes no access log: paths and headers may hold what is nobody's business.
- A connection has a while for its request's head, and is closed where it takes longer: uvicorn itself would
  wait for ever.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.http.app import app_of, metrics_app_of, service_of
from worker.http.calls import Service
from worker.runtime.deployment import Deployment
from worker.runtime.process import as_member, spare_the_collector
from worker.runtime.timing import longest_call_seconds

HEAD_SECONDS: Final = 15.0
IDLE_SECONDS: Final = 75  # longer than most proxies keep an idle connection, so that they close it
MOST_CONNECTIONS: Final = 4_096
BACKLOG: Final = 1_024

log = structlog.get_logger(__name__)


class ListenError(Exception):
    """The address cannot be listened at; the message is one line that names the settings."""


def listen(host: str, port: int, setting: str = "EVERGRANT_HTTP_HOST and _PORT") -> socket.socket:
    """A listening socket.

    Args:
        host: its address.
        port: its port; 0 for any.
        setting: what the address comes from.

    Raises:
        ListenError: somebody else has that address, or this machine has not.
    """
    where = f"{setting}: {host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as problem:
        raise ListenError(f"{where} cannot be listened at: {problem.strerror}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as problem:
        listening.close()
        raise ListenError(f"{where} cannot be listened at: {problem.strerror}") from None
    listening.setblocking(False)  # noqa: FBT003 its own signature
    return listening


def warnings_of(listening: socket.socket) -> list[str]:
    """What is to be said of where calls come in."""
    host = listening.getsockname()[0]
    if listening.family == socket.AF_UNIX or ip_address(host.partition("%")[0]).is_loopback:
        return []
    what = f"keys and tokens leave {host} in the clear: put TLS in front of it, or listen at 127.0.0.1"
    return [f"EVERGRANT_HTTP_HOST: {what}"]


async def serve(
    deployment: Deployment,
    warned: Collection[str],
    listening: socket.socket,
    for_metrics: socket.socket | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Args:
        deployment: where things are.
        warned: the warnings about the store that were logged at start.
        listening: where calls come in; closed at the end.
        for_metrics: where scrapes come in, at a port of their own; `None` for none.
    """
    _quiet_uvicorn()
    spare_the_collector()
    async with (
        as_member(deployment, warned, "web") as runtime,
        running(service_of(runtime), listening, for_metrics) as stop,
    ):
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopped.set)
        host, port = listening.getsockname()[:2]
        log.info("http.listening", host=host, port=port)
        if for_metrics is not None:
            host, port = for_metrics.getsockname()[:2]
            log.info("http.listening_for_scrapes", host=host, port=port)
        await stopped.wait()
        log.info("http.stopping")
        stop()
    log.info("http.stopped")


@asynccontextmanager
async def running(
    service: Service, listening: socket.socket, for_metrics: socket.socket | None = None
) -> AsyncIterator[Callable[[], None]]:
    """Serve calls for as long as the block lasts, and until those in flight are finished.

    Gives a function that ends it.
    """
    settings = service.runtime.deployment.settings
    longest_seconds = longest_call_seconds(settings)
    servers = [(_server_of(app_of(service), longest_seconds), listening)]
    if for_metrics is not None:
        servers.append((_server_of(metrics_app_of(service), longest_seconds), for_metrics))

    def stop() -> None:
        service.stopping.set()
        for server, _ in servers:
            server.should_exit = True

    serving = [asyncio.create_task(server.serve(sockets=[each])) for server, each in servers]
    try:
        yield stop
    finally:
        stop()
        await asyncio.gather(*serving)


def _server_of(app: ASGIApp, longest_seconds: float) -> "_Server":
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(longest_seconds),
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn that leaves signals to this module: its own handlers would end the process half-way."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """HTTP/1.1 with a deadline for the head of each request."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_request():
            self._end_head()
        else:
            self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def _is_in_request(self) -> bool:
        cycle: Any = self.cycle  # there is none before the first request
        return cycle is not None and not cycle.response_complete

    def _begin_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _end_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self._is_in_request():
            self.transport.abort()


def _quiet_uvicorn() -> None:
    """Leave uvicorn's warnings in the log, and nothing that tells of single requests."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.WARNING)


def run(make: Callable[[], Any]) -> None:
    """Run a coroutine in uvloop, where the platform has it."""
    try:
        import uvloop  # noqa: PLC0415 not every platform has it
    except ImportError:
        asyncio.run(make())
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(make())
