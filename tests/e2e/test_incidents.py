"""A provider's outage and a wrong secret over ten thousand grants: two events each, and no grant the worse.

Time is compressed sixty times: 8 hours of a token are 480 seconds, 30 minutes of outage are 30.
"""

import time
from collections import Counter

import pytest

from tests.support.callables import Build
from tests.support.live import LiveDeployment

pytestmark = pytest.mark.slow

GRANTS = 10_000
TOKEN_SECONDS = 480
OUTAGE_SECONDS = 30.0
RATE_PER_SECOND = 100
SPAN_SECONDS = 5.0
DELAY_SECONDS = 2.0  # a budget is kept at the claim; on the way some requests catch up with others
PROBE_SECONDS = 5.0


def test_an_outage_of_half_an_hour_is_two_events_and_afterwards_no_more_than_the_budgeted_rate(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=TOKEN_SECONDS)
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__RATE_PER_SECOND", str(RATE_PER_SECOND))
    live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 2 / 3)
    for _ in range(2):
        live.start_worker()
    live.start_beat()
    live.wait_until(lambda: live.refreshed() > 0, "the first rotation")

    with live.sandbox.fault("outage", form="503"):
        until = time.monotonic() + OUTAGE_SECONDS
        live.wait_until(lambda: live.told("provider.unavailable") != [], "the incident")
        live.wait_until(lambda: time.monotonic() > until, "the outage")
        before = live.refreshed()
        backlog = live.run(lambda runtime: runtime.fleet_state.of_client("buddy")).due
    over_at = time.time()
    live.wait_until(lambda: live.told("provider.recovered") != [], "the recovery")
    live.wait_until(lambda: live.refreshed() > before + backlog, "the backlog worked off")
    live.stop()

    told = Counter(event["type"].removeprefix("evergrant.") for event in live.events())
    assert (told["provider.unavailable"], told["provider.recovered"]) == (1, 1)
    assert (told["grant.failing"], told["grant.failed"]) == (0, 0)
    totals = live.sandbox.totals()
    assert (totals["expired"], totals["superseded"], totals["concurrent"]) == (0, 0, 0)
    assert live.lost() == []
    asked = [visit["at"] for visit in live.sandbox.log() if visit["at"] > over_at]
    assert _most_in(asked, SPAN_SECONDS) <= RATE_PER_SECOND * (SPAN_SECONDS + DELAY_SECONDS)


def test_a_wrong_secret_is_one_event_and_a_probe_now_and_then(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=TOKEN_SECONDS)
    monkeypatch.setenv("EVERGRANT_PROBE_SECONDS", str(PROBE_SECONDS))
    live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 2 / 3)
    live.start_worker()
    live.start_beat()
    live.wait_until(lambda: live.refreshed() > 0, "the first rotation")

    live.sandbox.set_secret("the-new-secret")
    live.wait_until(lambda: live.told("client.rejected") != [], "the incident")
    live.wait_until(lambda: not _in_flight(live), "the answers to what had left before")
    began_at = time.time()
    time_is_up = time.monotonic() + 8 * PROBE_SECONDS
    live.wait_until(lambda: time.monotonic() > time_is_up, "some probes' time")
    asked = [visit["at"] for visit in live.sandbox.log() if visit["at"] > began_at]
    live.put_secret("the-new-secret")
    live.wait_until(lambda: live.told("client.recovered") != [], "the recovery")
    live.stop()

    told = Counter(event["type"].removeprefix("evergrant.") for event in live.events())
    assert (told["client.rejected"], told["client.recovered"]) == (1, 1)
    assert (told["grant.failing"], told["grant.failed"]) == (0, 0)
    assert live.lost() == []
    # A probe is a refresh and, as Buddy gives no reasons, a check of the client.
    assert asked
    assert _most_in(asked, PROBE_SECONDS) <= 2


def _in_flight(live: LiveDeployment) -> bool:
    return any(stored.lease_until is not None for stored in live.grants().values())


def _most_in(instants: list[float], seconds: float) -> int:
    """The most instants within any such span."""
    most = first = 0
    for last, at in enumerate(instants):
        while instants[first] <= at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
