"""A server that is away, silent, full or impatient: worker and beat wait it out, say so, and go on.

Each trouble meets the broker alone, and then the store, which is the broker too. `make connections` runs
it with 1,000 grants, a minute of each.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.failovers.endured import Endured, endure, table
from tests.failovers.load import LATENCY_MS, REFRESH_AT, Load, judged, logged, summary, use_defaults
from tests.support.callables import Build
from tests.support.live import LiveDeployment
from tests.support.pairs import KEPT
from tests.support.proxy import OneAddress
from tests.support.servers import Valkey, directory_for_sockets, redis_binary, start_valkey

pytestmark = pytest.mark.trial

SECONDS = float(os.environ.get("CONNECTION_SECONDS", "20"))
GRANTS = int(os.environ.get("CONNECTION_GRANTS", "300"))
TOKEN_SECONDS = 240
LONGEST_PAUSE_SECONDS = 4.0
CONNECTIONS = 2  # that worker and beat may be about to make
UNNOTICED = "timeout"  # a connection that was closed while it was idle is made anew, and that is all
NAMES = ("broker.away", "broker.error", "beat.broker_away", "store.away", "store.refuses_writes")


class Server:
    """A Redis behind an address that can fall silent.

    Attributes:
        url: as the settings take it.
        socket: where it is reached past the address.
    """

    def __init__(self, home: Path, data: Path) -> None:
        self._home = home
        self._data = data
        self._process = self._start()
        self.socket = self._process.socket
        self.address = OneAddress(self.socket)
        self._operator: Any = redis.Redis(unix_socket_path=str(self.socket))  # partly untyped

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.address.port}"

    def _start(self) -> Valkey:
        return start_valkey(self._home, binary=redis_binary(), dir=str(self._data), **KEPT)

    def kill(self) -> None:
        """`kill -9`."""
        self._process.kill()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Killed, and started again with what it has on disk."""
        self.kill()
        yield
        self._process = self._start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Half-open connections: nothing is passed on, and nothing is closed."""
        self.address.is_silent = True
        yield
        self.address.is_silent = False

    @contextmanager
    def full(self) -> Iterator[None]:
        """`maxclients` is reached: everybody is sent away, new connections too."""
        usual = self._operator.config_get("maxclients")["maxclients"]
        self._operator.config_set("maxclients", 1)
        self._operator.client_kill_filter(_type="normal", skipme=True)
        yield
        self._operator.config_set("maxclients", usual)

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Connections that are idle for a second are closed."""
        self._operator.config_set("timeout", 1)
        yield
        self._operator.config_set("timeout", 0)


TROUBLES: dict[str, Callable[[Server], AbstractContextManager[None]]] = {
    "away": Server.away,
    "silent": Server.silent,
    "maxclients": Server.full,
    UNNOTICED: Server.impatient,
}


@contextmanager
def _running(data: Path) -> Iterator[Server]:
    data.mkdir(parents=True)
    with directory_for_sockets() as home:
        server = Server(home, data)
        try:
            with server.address.running_aside():
                yield server
        finally:
            server.kill()


@pytest.mark.parametrize("setting", ["BROKER_URL", "REDIS_URL"])
def test_worker_and_beat_wait_out_a_server_that_cannot_be_reached_and_lose_nothing(
    build: Build, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    live = build(access_seconds=TOKEN_SECONDS, latency_ms=LATENCY_MS)
    use_defaults(monkeypatch)
    with _running(live.directory / "data" / "redis") as server:
        monkeypatch.setenv(f"EVERGRANT_{setting}", server.url)
        lines = live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * REFRESH_AT)
        with Load(live) as load:
            children = load.children()
            rows = [
                endure(live, load, what, trouble(server), SECONDS, server.socket, NAMES)
                for what, trouble in TROUBLES.items()
            ]
            left = load.settle()
            children_since = load.children()
        verdict, violations = judged(live, lines, load, left)

    pauses = _pauses(live, rows[0])
    paused = f"pauses while away: {pauses}"
    sys.stdout.write("\n".join(["", *table(rows), summary(live, verdict), paused, *violations, ""]))
    assert load.ended_by_themselves == []
    assert children_since == children
    assert verdict.failed == {}
    assert violations == []
    # An hour is as a minute: the pauses have reached their bound, and nothing piles up.
    assert max(pauses) == LONGEST_PAUSE_SECONDS
    assert rows[0].open_files[1] <= rows[0].open_files[0] + CONNECTIONS
    assert [row.what for row in rows if row.what != UNNOTICED and row.named_after > row.seconds] == []


def _pauses(live: LiveDeployment, row: Endured) -> list[float]:
    """The pauses of worker and beat while the server was away, in order."""
    return [
        line["pause_seconds"]
        for line in logged(live)
        if row.began_at < line["at"] < row.ended_at and line.get("pause_seconds") is not None
    ]
