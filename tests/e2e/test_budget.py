"""A client's budget is used while anything waits for it, as a forecast supposes."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.callables import Build

pytestmark = pytest.mark.slow

GRANTS = 60  # fewer than one refresh task takes on, and more than the budget lets it do in its time
RATE_PER_SECOND = 2
APART = 0.25


def test_a_small_backlog_takes_as_long_as_its_budget_says(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=3_600)
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__RATE_PER_SECOND", str(RATE_PER_SECOND))
    monkeypatch.setenv("EVERGRANT_SWEEP_SECONDS", "5")
    live.start_worker()
    live.start_beat()
    issued_at = (datetime.now(UTC) - timedelta(seconds=3_000)).isoformat()
    minted = (json.loads(line) for line in live.sandbox.issue_lines(GRANTS))
    live.take(json.dumps({**line, "issued_at": issued_at}) for line in minted)

    live.wait_until(lambda: live.refreshed() == GRANTS, "every rotation", 120)

    entries = live.run(lambda runtime: runtime.event_stream.read("0-0"))
    first, last = (datetime.fromisoformat(entries[place].event["time"]) for place in (0, -1))
    assert (last - first).total_seconds() == pytest.approx((GRANTS - 1) / RATE_PER_SECOND, rel=APART)
