"""Token endpoints that never answer cost their own clients a delay, and no other client anything.

`make hanging` runs the long form: five minutes.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.callables import Build
from tests.support.live import LiveDeployment
from worker.core.registry import ClientState

pytestmark = pytest.mark.slow

HEALTHY_GRANTS = 100
HANGING_GRANTS = 20  # of each client
TOKEN_SECONDS = 60
CHILDREN = 2  # of the worker; they are at work before a token counts down
WATCHED_SECONDS = float(
    os.environ.get("HANGING_SECONDS", "75")
)  # more than a token's life, to replace each once


@pytest.fixture
def silence() -> Iterator[str]:
    """The address of a server that takes connections and requests, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _configure(monkeypatch: pytest.MonkeyPatch, name: str, token_url: str) -> None:
    for setting, value in {
        "PROVIDER": "oauth2",
        "CLIENT_ID": "id",
        "CLIENT_SECRET": "secret",
        "TOKEN_URL": token_url,
    }.items():
        monkeypatch.setenv(f"EVERGRANT_CLIENTS__{name.upper()}__{setting}", value)


def _due(client: str, number: int) -> str:
    issued_at = datetime.now(UTC) - timedelta(seconds=TOKEN_SECONDS * 0.9)
    return json.dumps(
        {
            "id": f"{client}-{number}",
            "client": client,
            "access_token": f"a-{number}",
            "refresh_token": f"r-{client}-{number}",
            "expires_in": TOKEN_SECONDS,
            "issued_at": issued_at.isoformat(),
        }
    )


def _healthy(live: LiveDeployment) -> ClientState:
    return live.run(lambda runtime: runtime.fleet_state.of_client("buddy"))


@pytest.mark.parametrize("hanging", [12, 100])
def test_clients_whose_endpoints_hang_cost_a_healthy_one_no_token(
    build: Build, silence: str, monkeypatch: pytest.MonkeyPatch, hanging: int
) -> None:
    live = build(access_seconds=TOKEN_SECONDS)
    monkeypatch.setenv("EVERGRANT_HTTP_TIMEOUT_SECONDS", "10")
    monkeypatch.setenv("EVERGRANT_PROBE_SECONDS", "60")
    monkeypatch.setenv("EVERGRANT_SWEEP_SECONDS", "5")
    names = [f"h{number}" for number in range(hanging)]
    for name in names:
        _configure(monkeypatch, name, f"{silence}/{name}/token")
    worker = live.start_worker()
    live.start_beat()
    live.wait_until(lambda: len(live.children(worker.pid)) == CHILDREN, "every child")
    live.take(_due(name, number) for name in names for number in range(HANGING_GRANTS))
    live.issue(HEALTHY_GRANTS, spread_seconds=TOKEN_SECONDS / 3)
    live.wait_until(lambda: live.refreshed() > 0, "the first rotation")

    ends_at = time.monotonic() + WATCHED_SECONDS
    live.wait_until(lambda: time.monotonic() > ends_at, "the end of the watch", WATCHED_SECONDS + 30)
    seen = _healthy(live)
    stored = [each.grant for each in live.grants().values() if each.grant.client == "buddy"]
    now = live.run(lambda runtime: runtime.registry.now())

    assert seen.late == 0
    assert {grant.version > 0 for grant in stored} == {True}
    assert [
        grant.id for grant in stored if grant.access_expires_at is None or grant.access_expires_at < now
    ] == []
