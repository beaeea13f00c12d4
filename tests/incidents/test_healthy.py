"""A healthy fleet whose processes are restarted one after the other, while many old lines are imported.

Nothing of it concerns a person: no line of `status`, no alert, no event but refreshes.
`make incidents` runs it.
"""

import json
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.incidents.alerts import alerts_on
from tests.incidents.faces import Looking, events_of
from tests.incidents.fleet import TOKEN_SECONDS, SmallFleet
from tests.support.redis_server import running

pytestmark = pytest.mark.trial

SECONDS = float(os.environ.get("HEALTHY_SECONDS", "300"))
OLD_LINES = int(os.environ.get("HEALTHY_LINES", "10000"))
OLD = timedelta(days=3)
PAUSE_SECONDS = 10.0


def test_restarts_and_an_import_of_old_lines_concern_nobody(
    fleet: SmallFleet, promtool: str, tmp_path: Path
) -> None:
    fleet.start(running("redis"), grants=600 + int(2 * SECONDS))
    other = fleet.live.start_worker()
    began, began_at = time.monotonic(), time.time()

    with Looking(fleet, doctor=False) as said:
        importing = threading.Thread(target=import_old_lines, args=(fleet, OLD_LINES))
        importing.start()
        restarts = 0
        while time.monotonic() - began < SECONDS:
            fleet.live.end(fleet.worker)
            fleet.worker, other = other, fleet.live.start_worker()
            time.sleep(PAUSE_SECONDS)
            fleet.live.end(fleet.beat)
            fleet.beat = fleet.live.start_beat()
            fleet.live.end(fleet.web)
            fleet.start_web()
            time.sleep(PAUSE_SECONDS)
            restarts += 1
        importing.join()
    fired = alerts_on(said.scrapes, began_at, promtool, tmp_path, lasts_seconds=0)
    refreshed = fleet.live.refreshed()

    kinds = {found.kind: round(found.at - began) for found in reversed(said.incidents)}
    sys.stdout.write(
        f"\n{time.monotonic() - began:.0f} s, {restarts} rolling restarts, {OLD_LINES} old lines, {refreshed}"
        f" refreshes; informed of {kinds}\n"
    )
    assert fleet.live.told("grant.failing") == []
    assert fleet.live.told("grant.failed") == []
    assert [event for _, event in events_of(fleet)] == []
    assert said.urgent == []
    assert fired == {}
    assert refreshed > OLD_LINES / 2


def import_old_lines(fleet: SmallFleet, count: int) -> None:
    """What an application stored days ago: every access token has ended, every refresh token works."""
    lines = fleet.live.sandbox.issue(count, prefix="old", access_seconds=TOKEN_SECONDS)
    issued_at = (datetime.now(UTC) - OLD).isoformat()
    fleet.live.take(json.dumps(line | {"issued_at": issued_at}) for line in lines)
