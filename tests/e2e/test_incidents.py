"""A provider's outage and a wrong secret over ten thousand grants: two events each, and no grant the worse.

Time is compressed sixty times: 8 hours of a token are 480 seconds, 30 minutes of outage are 30.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

GRANTS = 10_000
TOKEN_SECONDS = 480
OUTAGE_SECONDS = 30.0
RATE_PER_SECOND = 100
SPAN_SECONDS = 5.0  # a budget is kept at the claim; on the way some requests catch up with others
PROBE_SECONDS = 5.0


def test_an_outage_of_half_an_hour_is_two_events_and_afterwards_no_more_than_the_budgeted_rate(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build(access_seconds=TOKEN_SECONDS)
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__RATE_PER_SECOND", str(RATE_PER_SECOND))
    house.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 2 / 3)
    for _ in range(2):
        house.start_worker()
    house.start_beat()
    house.wait_until(lambda: house.refreshed() > 0, "the first rotation")

    with house.sandbox.fault("outage", form="503"):
        until = time.monotonic() + OUTAGE_SECONDS
        house.wait_until(lambda: house.told("provider.unavailable") != [], "the incident")
        house.wait_until(lambda: time.monotonic() > until, "the outage")
        before = house.refreshed()
        backlog = house.run(lambda runtime: runtime.fleet.client_state("buddy")).due
    over_at = time.time()
    house.wait_until(lambda: house.told("provider.recovered") != [], "the recovery")
    house.wait_until(lambda: house.refreshed() > before + backlog, "the backlog worked off")
    house.stop()

    told = Counter(event["type"].removeprefix("evergrant.") for event in house.events())
    assert (told["provider.unavailable"], told["provider.recovered"]) == (1, 1)
    assert (told["grant.failing"], told["grant.failed"]) == (0, 0)
    totals = house.sandbox.totals()
    assert (totals["expired"], totals["superseded"], totals["concurrent"]) == (0, 0, 0)
    assert house.lost() == []
    asked = [visit["at"] for visit in house.sandbox.log() if visit["at"] > over_at]
    assert _most_in(asked, SPAN_SECONDS) <= RATE_PER_SECOND * SPAN_SECONDS * 1.05


def test_a_wrong_secret_is_one_event_and_a_probe_now_and_then(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build(access_seconds=TOKEN_SECONDS)
    monkeypatch.setenv("EVERGRANT_PROBE_SECONDS", str(PROBE_SECONDS))
    house.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 2 / 3)
    house.start_worker()
    house.start_beat()
    house.wait_until(lambda: house.refreshed() > 0, "the first rotation")

    house.sandbox.set_secret("the-new-secret")
    house.wait_until(lambda: house.told("client.rejected") != [], "the incident")
    began_at = time.time()
    time_is_up = time.monotonic() + 8 * PROBE_SECONDS
    house.wait_until(lambda: time.monotonic() > time_is_up, "some probes' time")
    asked = [visit["at"] for visit in house.sandbox.log() if visit["at"] > began_at + PROBE_SECONDS / 2]
    house.put_secret("the-new-secret")
    house.wait_until(lambda: house.told("client.recovered") != [], "the recovery")
    house.stop()

    told = Counter(event["type"].removeprefix("evergrant.") for event in house.events())
    assert (told["client.rejected"], told["client.recovered"]) == (1, 1)
    assert (told["grant.failing"], told["grant.failed"]) == (0, 0)
    assert house.lost() == []
    # A probe is a refresh and, as Buddy gives no reasons, a check of the client.
    assert asked
    assert _most_in(asked, PROBE_SECONDS) <= 2


def _most_in(instants: list[float], seconds: float) -> int:
    """The most instants within any such span."""
    most = first = 0
    for last, at in enumerate(instants):
        while instants[first] <= at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
