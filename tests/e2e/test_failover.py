"""Sentinels promote a replica: workers, beat and commands find it, and no grant is lost."""

from contextlib import suppress

import pytest

from tests.support.callables import Build
from tests.support.sentinels import running_sentinels
from worker.core.ports import StoreUnavailableError

pytestmark = pytest.mark.slow


def test_a_fleet_goes_on_at_the_replica_that_sentinels_promote(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_sentinels() as sentinels:
        live = build(access_seconds=40)
        monkeypatch.setenv("EVERGRANT_REDIS_URL", sentinels.url)
        live.issue(40, spread_seconds=20)
        live.start_worker()
        live.start_beat()
        live.wait_until(lambda: live.refreshed() > 0, "the first rotation")

        def refreshed() -> int:
            with suppress(StoreUnavailableError, OSError):
                return live.refreshed()
            return 0

        sentinels.pair.kill_primary()
        live.wait_until(sentinels.have_promoted, "the replica's promotion")
        live.wait_until(lambda: refreshed() > 0, "a command's answer from it")
        before = live.refreshed()
        live.wait_until(lambda: refreshed() > before + 10, "rotations at it")
        live.stop()

        assert live.lost() == []
        assert live.sandbox.totals()["superseded"] == 0
