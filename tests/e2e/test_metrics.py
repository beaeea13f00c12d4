"""What a scrape counts is what the provider and the callers count, whoever is killed meanwhile."""

import json
import os
import subprocess
from functools import partial

import httpx
import pytest

from tests.chaos.rest import restless
from tests.support.callables import Build
from tests.support.command import EVERGRANT
from tests.support.live import LiveDeployment
from tests.support.scrape import Samples, told

pytestmark = pytest.mark.slow

GRANTS = 60
KILLS = 3
TOKEN_SECONDS = 15
LATENCY_MS = 150  # of every answer, so that some are always on their way
REST_SECONDS = 90.0


def test_its_counters_are_the_providers_own_after_workers_were_killed(build: Build) -> None:
    live = build(access_seconds=TOKEN_SECONDS, latency_ms=LATENCY_MS, reuse="grace")
    people = [json.loads(line)["id"] for line in live.issue(GRANTS, spread_seconds=TOKEN_SECONDS / 2)]
    worker = live.start_worker()
    live.start_beat()
    url = live.start_web()
    headers = {"Authorization": f"Bearer {_key(live)}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as caller:
        answers = [caller.post("/v1/token/nobody").status_code]
        for kill in range(1, KILLS + 1):
            live.wait_until(partial(_has_refreshed, live, kill * GRANTS // 3), "some rotations")
            live.kill(worker)
            worker = live.start_worker()
            answers += [caller.post(f"/v1/token/{person}").status_code for person in people[:10]]
        assert restless(live, REST_SECONDS) == []
        live.end(worker)
        live.wait_until(lambda: _scraped(caller)["evergrant_workers",] == 0, "the killed to be missed", 120)
        told_by = _scraped(caller)
    # An answer died with its worker, and the provider's grace was over: of that grant one rotation is lost.
    stored, lost = _refreshes(live) - len(live.lost()), len(live.lost())

    assert set(answers) <= {200, 404, 409, 503}
    assert told_by["evergrant_refreshes_total", "buddy", "refreshed"] == stored
    assert told_by["evergrant_grants", "buddy", "active"] == GRANTS - lost
    assert _served(told_by, "promised", "unpromised") == answers.count(200)
    assert told_by["evergrant_tokens_served_total", "", "no_such_grant"] == 1


def _scraped(caller: httpx.Client) -> Samples:
    return told(caller.get("/metrics").text)


def _refreshes(live: LiveDeployment) -> int:
    """As the provider counts them."""
    return live.sandbox.totals()["refreshes"]


def _has_refreshed(live: LiveDeployment, number: int) -> bool:
    return _refreshes(live) >= number


def _served(samples: Samples, *outcomes: str) -> float:
    return sum(samples.get(("evergrant_tokens_served_total", "buddy", outcome), 0) for outcome in outcomes)


def _key(live: LiveDeployment) -> str:
    made = subprocess.run(  # noqa: S603 our own
        [EVERGRANT, "api-keys", "new", "application", "--scopes", "tokens"],
        check=True,
        capture_output=True,
        text=True,
        cwd=live.directory,
        env=os.environ,
    )
    return made.stdout.strip()
