"""Real processes, killed at random moments: no grant is lost needlessly, and every loss is announced.

`make chaos` runs the long form; `SEED=` replays a plan. The short one has a seed of its own.
"""

import os
import secrets
import sys
from dataclasses import dataclass

import pytest

from config import load_settings
from tests.chaos import evidence as traces
from tests.chaos.driver import Driver
from tests.chaos.plan import FULL, SHORT, Turn, make_plan, scaled
from tests.chaos.rest import restless
from tests.chaos.summary import summary
from tests.chaos.verdict import Verdict
from tests.support.callables import Build
from tests.support.live import LiveDeployment
from worker.runtime.derived import lease_ms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="strikes processes through /proc and prlimit"),
]

LATENCY_MS = 200  # of every answer, so that some are always on their way
REFRESH_AT = 0.5  # of a token's life: what is left then outlasts the worst that a plan has
SPREAD = 0.45  # of a token's life: how old the oldest grants are at the start
SETTLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Form:
    """One form of the run.

    Attributes:
        token_seconds: how long tokens live: several lives, so that one delay does not bring all into step.
        to_the_next_rotation: whether every grant has to be rotated once more after the last fault.
    """

    bag: tuple[tuple[Turn, ...], ...]
    seed: int
    seconds: float
    grants: int
    token_seconds: tuple[int, ...]
    to_the_next_rotation: bool


def _form() -> Form:
    seconds = os.environ.get("CHAOS_SECONDS")
    if seconds is None:
        return Form(
            bag=SHORT,
            seed=int(os.environ.get("CHAOS_SEED") or 1),
            seconds=35.0,
            grants=400,
            token_seconds=(90, 100, 110),
            to_the_next_rotation=False,
        )
    return Form(
        bag=scaled(FULL, float(seconds)),
        seed=int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000)),
        seconds=float(seconds),
        grants=int(os.environ["CHAOS_GRANTS"]),
        token_seconds=(200, 220, 240, 260, 280),
        to_the_next_rotation=True,
    )


def test_no_grant_is_lost_needlessly_and_every_loss_is_announced(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = _form()
    live = build(latency_ms=LATENCY_MS)
    monkeypatch.setenv("EVERGRANT_REFRESH_AT", str(REFRESH_AT))
    lines = _issue(live, form)
    settings = load_settings()
    plan = make_plan(form.bag, seed=form.seed, seconds=form.seconds, lease_seconds=lease_ms(settings) / 1000)
    with Driver(live) as driver:
        live.wait_until(lambda: live.refreshed() > 0, "the first rotation")
        driver.carry_out(plan)
        unacknowledged = _settle(live, form)
    live.stop()
    evidence = traces.gather(live, lines, driver)
    verdict = Verdict(evidence, refresh_at=REFRESH_AT)

    violations = verdict.violations()
    if unacknowledged:
        violations.append(f"{len(unacknowledged)} not at rest at the end: {', '.join(unacknowledged[:5])}")
    table = [f"seed {form.seed}, {form.seconds:g} s", *summary(evidence, verdict)]
    violated = [f"VIOLATED: {violation}" for violation in violations]
    where = [f"evidence is in {traces.keep(evidence, live)}"] if violations else []
    sys.stdout.write("\n".join(["", *table, *violated, *where, ""]))
    assert violations == []


def _issue(live: LiveDeployment, form: Form) -> list[str]:
    count = max(form.grants // len(form.token_seconds), 1)
    return [
        line
        for lives in form.token_seconds
        for line in live.issue(count, access_seconds=lives, spread_seconds=lives * SPREAD)
    ]


def _settle(live: LiveDeployment, form: Form) -> list[str]:
    """Wait until every grant has failed, or is at rest and its own; returns those that are not."""
    if not form.to_the_next_rotation:
        return restless(live, SETTLE_SECONDS)
    versions = {grant_id: stored.grant.version for grant_id, stored in live.grants().items()}
    return restless(live, max(form.token_seconds) + SETTLE_SECONDS, since=versions)
