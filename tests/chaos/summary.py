"""A chaos run as a table."""

import os
import platform
from collections import Counter
from collections.abc import Iterator

from tests.chaos.counters import REFUSALS, counted
from tests.chaos.evidence import Evidence
from tests.chaos.plan import WORKER_KILLS, Kind
from tests.chaos.verdict import DROPPED, IN_FROZEN, JOURNALED, KILLED, OUTSIDE, Verdict

WIDTH = 64


def summary(evidence: Evidence, verdict: Verdict) -> Iterator[str]:
    """The lines of the table."""
    struck = Counter(each.kind for each in evidence.struck)
    yield "faults"
    for kind in Kind:
        yield _row(f"  {kind.value}", struck[kind])
    yield _row("  (worker kills in all)", sum(struck[kind] for kind in WORKER_KILLS))
    codes = "".join(f", {code}" for code in evidence.ended_by_themselves)
    yield _row(f"  processes that ended by themselves{codes}", len(evidence.ended_by_themselves))
    yield _row("grants", len(evidence.lines))
    yield _row("rotations", evidence.totals["refreshes"])
    lost = Counter(verdict.lost.values())
    there, back = verdict.on_the_way
    yield f"lost (on its way {there * 1000:.0f} ms before and {back * 1000:.0f} ms after the provider's log)"
    unread = f"{verdict.longest_unread_seconds * 1000:.0f} ms"
    for why in (KILLED, DROPPED, IN_FROZEN, OUTSIDE, JOURNALED):
        yield _row(f"  {why}", lost[why])
    yield _row("  longest that a reply was unread before its worker was killed", unread)
    yield _row("  of these failed with reply_lost", _reported(evidence, verdict))
    yield _row("failed, and honoured by the provider", len(set(verdict.failed) - set(verdict.lost)))
    yield _row("announced as failed, and recovered", verdict.false_alarms)
    yield _row("access tokens expired", evidence.totals["expired"])
    yield _row("superseded tokens presented", evidence.totals["superseded"])
    for why, times in verdict.superseded.most_common():
        yield _row(f"  {why}", times)
    yield _row("refreshes that a scrape counts", counted(evidence, "refreshed"))
    refused = (
        f"{counted(evidence, *REFUSALS)}, of {len(evidence.refusals)}, {len(verdict.heard)} of them sure"
    )
    yield _row("refusals that it counts", refused)
    yield _row("presented by two at once", evidence.totals["concurrent"])
    yield _row("  while no worker was stopped", len(verdict.overlapping))
    yield _row("longest time overdue", f"{verdict.overdue_seconds:.1f} s")
    yield _row("least left of a token at its rotation", f"{verdict.margin_seconds:.1f} s")
    stalls = [end - at for at, end in evidence.stalls]
    yield _row("machine held up", f"{len(stalls)} times, {max(stalls, default=0.0):.1f} s at the longest")
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    yield _row("machine", f"{os.cpu_count()} cores, load {load}, Python {platform.python_version()}")


def _reported(evidence: Evidence, verdict: Verdict) -> int:
    reported = {
        event["subject"] for event in evidence.told("grant.failed") if event["data"]["reason"] == "reply_lost"
    }
    return len(reported & set(verdict.lost))


def _row(name: str, value: float | str) -> str:
    return f"{name:<{WIDTH}} {value}"
