"""A Redis that refuses writes while everything else runs on: nothing is lost, and the trouble is named.

`make refusals` runs it with 1,000 grants, and each refusal for 1, 10 and 60 seconds.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from config.settings import variable_of
from tests.failovers.endured import endure, table
from tests.failovers.load import LATENCY_MS, REFRESH_AT, Load, judged, summary, use_defaults
from tests.support.callables import Build
from tests.support.live import LiveDeployment
from tests.support.redis_server import UNDER_LOAD, RedisServer, running, trouble
from worker.fleet.report import Report, report_on
from worker.runtime.assembly import Runtime

pytestmark = pytest.mark.trial

SECONDS = [float(each) for each in os.environ.get("REFUSAL_SECONDS", "1,10").split(",")]
GRANTS = int(os.environ.get("REFUSAL_GRANTS", "300"))
TOKEN_SECONDS = 240
NAMED_SECONDS = 10.0
BACK_SECONDS = 10.0
NOTICED_SECONDS = 5.0  # a refusal that is over sooner may meet no write


def test_a_redis_that_refuses_writes_under_load_costs_no_grant_and_is_named(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=TOKEN_SECONDS, latency_ms=LATENCY_MS)
    use_defaults(monkeypatch)
    with running("redis") as server:
        monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{server.socket}")
        lines = live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * REFRESH_AT)
        with Load(live) as load:
            children = load.children()
            rows = [
                endure(
                    live,
                    load,
                    words,
                    _refusing(live, server, words, seconds),
                    seconds,
                    server.socket,
                    [words],
                )
                for seconds in SECONDS
                for words in UNDER_LOAD
            ]
            left = load.settle()
            children_since = load.children()
        verdict, violations = judged(live, lines, load, left)

    sys.stdout.write("\n".join(["", *table(rows), summary(live, verdict), *violations, ""]))
    assert load.ended_by_themselves == []
    assert children_since == children
    assert verdict.failed == {}
    assert violations == []
    assert [row for row in rows if row.seconds >= NOTICED_SECONDS and row.named_after > NAMED_SECONDS] == []
    assert [row for row in rows if row.back_seconds - row.stalled_seconds > BACK_SECONDS] == []


@contextmanager
def _refusing(live: LiveDeployment, server: RedisServer, words: str, seconds: float) -> Iterator[None]:
    """A refusal; one that lasts is named by `evergrant status`."""
    with trouble(words, server):
        if seconds >= NOTICED_SECONDS:
            live.wait_until(lambda: _status_names(live, words), f"a status that names {words}", NAMED_SECONDS)
        yield


def _status_names(live: LiveDeployment, words: str) -> bool:
    async def report(runtime: Runtime) -> Report:
        return await report_on(
            runtime.registry,
            runtime.fleet_state,
            runtime.replies,
            ["buddy"],
            variable_of,
            key_of=runtime.deployment.keys.key_of,
        )

    problems = [incident.problem for incident in live.run(report).incidents]
    return any(problem.startswith(f"Redis refuses writes: {words}") for problem in problems)
