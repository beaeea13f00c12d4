"""Failovers under load, as many as a row of bad days has: nothing is lost, and worker and beat are back soon.

`make failovers` runs ten failovers in a row with 1,000 grants.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.metronome import stalled_seconds
from tests.failovers.load import LATENCY_MS, REFRESH_AT, Comeback, Load, judged, summary, use_defaults
from tests.failovers.stores import FailingOver, as_planned, by_hand, with_sentinels
from tests.support.callables import Build

pytestmark = pytest.mark.trial

FAILOVERS = int(os.environ.get("FAILOVERS", "2"))
GRANTS = int(os.environ.get("FAILOVER_GRANTS", "300"))
TOKEN_SECONDS = 180
BACK_SECONDS = 10.0
# How long promoting by hand takes: sometimes longer than anybody's longest pause.
AWAY_SECONDS = (0.0, 20.0, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 25.0, 30.0)

Store = Callable[[Path], AbstractContextManager[FailingOver]]


@dataclass(frozen=True, slots=True)
class Failover:
    """One failover, in Unix seconds.

    Attributes:
        killed_at: the primary was killed, or told to be one no more.
        promoted_at: there was a new one.
        stalled_seconds: for so long the machine itself was held up between the new one and the comeback.
    """

    killed_at: float
    promoted_at: float
    comeback: Comeback
    stalled_seconds: float

    @property
    def back_seconds(self) -> float:
        """From the new primary until worker and beat were back."""
        return self.comeback.complete_at - self.promoted_at


@pytest.mark.parametrize("store", [with_sentinels, by_hand, as_planned])
def test_worker_and_beat_are_back_ten_seconds_after_each_failover_and_nothing_is_lost(
    build: Build, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    live = build(access_seconds=TOKEN_SECONDS, latency_ms=LATENCY_MS)
    use_defaults(monkeypatch)
    with store(live.directory / "data" / "redis") as failing:
        monkeypatch.setenv("EVERGRANT_REDIS_URL", failing.url)
        lines = live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * REFRESH_AT)
        with Load(live) as load:
            seen = [
                _fail_over(load, failing, AWAY_SECONDS[number % len(AWAY_SECONDS)])
                for number in range(FAILOVERS)
            ]
            left = load.settle()
        verdict, violations = judged(live, lines, load, left)

    sys.stdout.write("\n".join(["", *_table(seen), summary(live, verdict), *violations, ""]))
    assert load.ended_by_themselves == []
    assert violations == []
    assert [each for each in seen if each.back_seconds - each.stalled_seconds > BACK_SECONDS] == []


def _fail_over(load: Load, failing: FailingOver, away: float) -> Failover:
    """One failover, until load and servers are as before."""
    load.get_under_way()
    killed_at = time.time()
    failing.fail_over(away)
    promoted_at = time.time()
    primary = failing.pair.primary.socket
    seen = load.wait_for_comeback(promoted_at, primary, "worker and beat at the new primary")
    failing.bring_back()
    stalled = stalled_seconds(load.stalls, promoted_at, seen.complete_at)
    return Failover(killed_at, promoted_at, seen, stalled)


def _table(seen: Sequence[Failover]) -> Iterator[str]:
    yield "seconds without a primary; from the new one until beat published, a sweep had run and a grant was"
    yield "rotated; for which the machine was held up meanwhile"
    for number, each in enumerate(seen, 1):
        back = each.comeback
        after = [at - each.promoted_at for at in (back.published_at, back.swept_at, back.rotated_at)]
        times = (each.promoted_at - each.killed_at, *after, each.stalled_seconds)
        yield f"{number:3}" + "".join(f"{seconds:8.1f}" for seconds in times)
