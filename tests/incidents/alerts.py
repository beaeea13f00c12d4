"""Which alerts fire, and when: promtool's answer on what was scraped, continued as if the trouble lasted.

What was scraped stands there in real time. After its end gauges stay as they were, and counters and instants
go on as fast as they did in the last part of the recording: what was on its way when the trouble began, is
counted before that.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.monitoring.conftest import RULES
from tests.support.scrape import Series

STEP_SECONDS = 5
LASTS_SECONDS = 3 * 3600
LASTING = (
    3  # scrapes: what was told in fewer of the last ones, as an event on its way, is not there for hours
)
SETTLED = 3  # scrapes after its begin, a trouble has shown how fast counters go on
NEARLY = 0.9
INSTANT = "_timestamp_seconds"
NEXT_DUE = "evergrant_oldest_due_timestamp_seconds"
COUNTED = ("_total", "_bucket", "_count", "_sum")
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
FIRED = re.compile(r'\{alertname="(\w+)"[^}]*\} ([\d.E+]+)')
Scrapes = Sequence[tuple[float, Series]]  # when, in Unix seconds, and what was told; nothing by a failed one


def alerts_on(
    scrapes: Scrapes, began_at: float, promtool: str, directory: Path, lasts_seconds: int = LASTS_SECONDS
) -> dict[str, float]:
    """When each alert fires first, in seconds after the trouble began.

    Args:
        scrapes: at least one before the trouble.
        began_at: in Unix seconds.
        lasts_seconds: for so long the state of the last scrape goes on.
    """
    scrapes = _without_a_slow_end(scrapes)
    first, offset = scrapes[0][0], scrapes[0][0] - began_at
    steps = _in_steps(scrapes)
    since = next((number for number, (at, _) in enumerate(steps) if at >= began_at), 0)
    names = sorted({name for _, series in steps for name in series})
    path = directory / "recorded.yml"
    path.write_text(json.dumps(_as_test(steps, names, first, since + SETTLED, lasts_seconds)))  # JSON is YAML
    done = subprocess.run(  # noqa: S603 found on the path
        [promtool, "test", "rules", str(path)], check=False, capture_output=True, text=True
    )
    fired: dict[str, float] = {}
    for alert, at in FIRED.findall(done.stdout + done.stderr):
        fired[alert] = min(fired.get(alert, float("inf")), float(at) + offset)
    assert fired or done.returncode == 0, done.stdout + done.stderr
    return fired


def _without_a_slow_end(scrapes: Scrapes) -> Scrapes:
    """One failed scrape at the end is no service that is down."""
    end = len(scrapes)
    while end and not scrapes[end - 1][1]:
        end -= 1
    return scrapes if len(scrapes) - end >= LASTING else scrapes[:end]


def _in_steps(scrapes: Scrapes) -> list[tuple[float, Series]]:
    """The last scrape of each step."""
    first, steps = scrapes[0][0], []
    for number in range(int((scrapes[-1][0] - first) / STEP_SECONDS) + 1):
        end = first + number * STEP_SECONDS
        steps.append((end, [series for at, series in scrapes if at <= end][-1]))
    return steps


def _as_test(
    steps: Scrapes, names: Sequence[str], first: float, settled: int, lasts_seconds: int
) -> dict[str, object]:
    more = lasts_seconds // STEP_SECONDS
    seconds = (len(steps) + more) * STEP_SECONDS
    return {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{STEP_SECONDS}s",
        "tests": [
            {
                "interval": f"{STEP_SECONDS}s",
                "input_series": [
                    {"series": name, "values": " ".join(_values(name, steps, first, settled, more))}
                    for name in names
                ],
                "promql_expr_test": [
                    {
                        # Nothing is expected, so that promtool says what it found. A query for each alert, as
                        # promtool lets none load more than 10,000 samples.
                        "expr": "min_over_time(timestamp("
                        f'ALERTS{{alertname="{alert}",alertstate="firing"}})[{seconds}s:{STEP_SECONDS}s])',
                        "eval_time": f"{seconds}s",
                        "exp_samples": [],
                    }
                    for alert in ALERTS
                ],
            }
        ],
    }


def _values(name: str, steps: Scrapes, first: float, settled: int, more: int) -> Iterator[str]:
    family = name.partition("{")[0]
    told = [series.get(name) for _, series in steps]
    if family.endswith(INSTANT):
        told = [None if value is None else value - first for value in told]
    for value in told:
        yield "stale" if value is None else f"{value:.3f}"  # as Prometheus marks what a scrape lacks
    # One scrape that failed near the end says nothing of what lasts, but for a service that stays down.
    answered = [number for number, (_, series) in enumerate(steps) if series]
    at_the_end = [told[number] for number in answered[-LASTING:]] if steps[-1][1] else [None]
    last, since = told[-1], min(settled, len(told) - 1)
    if not more or None in at_the_end or last is None:
        yield "stale"
        return
    of_late = max(since, 2 * len(told) // 3)
    if family == NEXT_DUE and last + first >= steps[-1][0]:
        per_step = float(STEP_SECONDS)  # it is still ahead: what is tried again in time is tried so on and on
    elif family.endswith(INSTANT):
        per_step = _passes(told, since, of_late)
    else:
        per_step = _moves(told, of_late) if family.endswith(COUNTED) else 0.0
    yield f"{last + per_step:.3f}+{per_step:.4f}x{more}"


def _passes(told: Sequence[float | None], since: int, of_late: int) -> float:
    """How fast an instant goes on, for each step: as fast as time where it nearly kept up.

    A sweep every five seconds, looked at every five, would else be minutes behind after three hours.
    """
    lately = _moves(told, of_late)
    keeps_up = max(lately, _moves(told, since)) > NEARLY * STEP_SECONDS
    return STEP_SECONDS if keeps_up else lately


def _moves(told: Sequence[float | None], since: int) -> float:
    """How fast a series goes on, for each step."""
    known = [value for value in told[since:] if value is not None]
    return max(known[-1] - known[0], 0.0) / max(len(known) - 1, 1)
