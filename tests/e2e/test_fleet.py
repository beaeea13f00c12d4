"""The main promise, with every process real: two workers, two beats, a strict provider.

`make soak` runs the long form: 1,000 grants of one-minute tokens for five minutes. The store is the embedded
server, or the one that `STORE_SERVER` names.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from tests.support.callables import Build
from tests.support.live import LiveDeployment
from tests.support.servers import running_valkey
from worker.runtime.assembly import Runtime

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("SOAK_SECONDS", "40"))
GRANTS = int(os.environ.get("SOAK_GRANTS", "300"))
TOKEN_SECONDS = 60
IS_SHORT = SECONDS < 2 * TOKEN_SECONDS
CHILDREN = 4  # of two workers


@contextmanager
def chosen_store(live: LiveDeployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the server that `STORE_SERVER` names be the store and the broker."""
    if not os.environ.get("STORE_SERVER"):
        yield
        return
    home = live.directory / "data" / "chosen"
    home.mkdir(parents=True)
    with running_valkey(dir=str(home), appendonly="yes", appendfsync="always") as path:
        monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{path}")
        yield
        live.stop()


def test_two_workers_and_two_beats_keep_every_grant_alive_and_leak_nothing(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=TOKEN_SECONDS)
    if IS_SHORT:  # each is replaced as soon as if it lived half as long; a busy machine has the rest for it
        monkeypatch.setenv("EVERGRANT_REFRESH_AT", "0.33")
    with chosen_store(live, monkeypatch):
        _keeps_every_grant_alive(live)


def _keeps_every_grant_alive(live: LiveDeployment) -> None:
    workers = [live.start_worker(), live.start_worker()]
    beats = [live.start_beat(), live.start_beat()]
    live.wait_until(lambda: _at_work(live) == CHILDREN, "every child of the workers")
    lines = live.issue(GRANTS, spread_seconds=TOKEN_SECONDS / (4 if IS_SHORT else 2))
    began = time.monotonic()

    live.wait_until(lambda: live.refreshed() > 0, "the first rotation")
    revoked = min(live.grants().values(), key=lambda stored: stored.due_at or 0).grant.id
    live.sandbox.revoke(revoked)
    live.wait_until(lambda: live.told("grant.failed") != [], "the failure of the revoked grant")
    live.wait_until(
        lambda: time.monotonic() - began > SECONDS and live.refreshed() > GRANTS,
        "every grant's first rotation, and the time",
        seconds=SECONDS + 60,
    )
    assert all(process.poll() is None for process in workers + beats)
    totals = live.sandbox.totals()
    live.stop()

    assert totals["expired"] == 0
    assert totals["superseded"] == 0
    assert totals["concurrent"] == 0
    assert totals["wrong_client"] == 0
    assert live.lost() == []
    statuses = {stored.grant.id: stored.grant.status.value for stored in live.grants().values()}
    assert [grant_id for grant_id, status in statuses.items() if status != "active"] == [revoked]

    events = live.events()
    assert len({event["id"] for event in events}) == len(events)
    (failed,) = live.told("grant.failed")
    assert failed["subject"] == revoked
    assert failed["data"]["reason"] == "revoked"
    assert _instant(failed["time"]) < _instant(failed["data"]["access_token_expires_at"])
    assert len(live.told("grant.failing")) == 1

    _assert_nothing_leaked(live, lines)
    sys.stdout.write(
        f"\n{GRANTS} grants, {time.monotonic() - began:.0f} s: {totals['refreshes']} rotations; {totals}\n"
    )


def _at_work(live: LiveDeployment) -> int:
    async def count(runtime: Runtime) -> int:
        return int(await runtime.redis.zcard(f"{runtime.deployment.prefix}processes"))

    return live.run(count)


def _assert_nothing_leaked(live: LiveDeployment, lines: list[str]) -> None:
    """Logs, and every command Redis was ever sent: Celery's messages, the events, the records."""
    canaries = _tokens(lines) | _tokens([json.dumps(pair) for pair in live.sandbox.pairs()])
    canaries |= {os.environ["EVERGRANT_KEYS"].split(":")[1], "canary-client-secret"}
    data = live.directory / "data"
    # The append-only file has all of it; a rewrite would forget what was deleted since.
    places = [live.log, *(path for path in data.rglob("*") if path.is_file())]
    assert any("appendonly" in str(path) for path in places)
    told = {path: path.read_bytes() for path in places}
    assert b"tasks.refresh" in b"".join(told.values())
    leaks = [
        (path.name, secret[:8])
        for path, text in told.items()
        for secret in canaries
        if secret.encode() in text
    ]
    assert leaks == []


def _tokens(lines: list[str]) -> set[str]:
    fields = [json.loads(line) for line in lines]
    return {line[name] for line in fields for name in ("access_token", "refresh_token")}


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
