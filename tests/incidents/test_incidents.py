"""Each incident, provoked: every face says what it must, none says anything else.

`make incidents` writes what was said, and after how long, into docs/incidents.md.
"""

import json
import operator
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests.incidents.alerts import alerts_on
from tests.incidents.faces import Incident, Looking, Said, events_of
from tests.incidents.fleet import SmallFleet
from tests.incidents.incidents import CASES, Case
from tests.support.scrape import Series

pytestmark = pytest.mark.trial

ROWS = os.environ.get("INCIDENT_ROWS", "")  # a directory
BEFORE_SECONDS = 8.0
MOST_SECONDS = 150.0
HOW = {"<": operator.lt, ">": operator.gt, "==": operator.eq}

Told = tuple[float, str] | None  # after how many seconds, and what


@dataclass
class Row:
    """What each face said of an incident; `None` where it said nothing."""

    name: str
    status: Told = None
    exit_code: int = 0
    also: list[Told] = field(default_factory=list)
    doctor: Told = None
    console: Told = None
    metrics: list[Told] = field(default_factory=list)
    alerts: dict[str, float] = field(default_factory=dict)
    events: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_face_says_what_it_must_of_an_incident_and_nothing_else(
    fleet: SmallFleet, case: Case, promtool: str, tmp_path: Path
) -> None:
    fleet.start(case.store(), settings=case.settings)

    with Looking(fleet) as said:
        fleet.live.wait_until(lambda: said.scrapes and said.doctor, "the first looks")
        time.sleep(BEFORE_SECONDS)
        before = list(said.incidents)
        began, began_at = time.monotonic(), time.time()
        with case.provoke(fleet):
            while time.monotonic() - began < MOST_SECONDS and not (
                time.monotonic() - began > case.lasts_seconds
                and _is_complete(_row(fleet, case, said, began, began_at))
            ):
                time.sleep(1)
            row = _row(fleet, case, said, began, began_at)
            row.seconds = time.monotonic() - began
            scrapes = list(said.scrapes)  # those to come are of a fleet out of trouble
    row.alerts = alerts_on(scrapes, began_at, promtool, tmp_path)
    row.wrong = [*(f"said before: {found.kind}" for found in before), *_wrong(case, row, said, began)]
    if ROWS:
        (Path(ROWS) / f"{case.name}.json").write_text(json.dumps(asdict(row)))

    assert row.wrong == []


def _row(fleet: SmallFleet, case: Case, said: Said, began: float, began_at: float) -> Row:
    row = Row(case.name)
    if found := _incident(said, case.kind, case.says):
        row.exit_code = found.exit_code
        row.status = _first(said.status, case.says, began)
    for kind, words in case.also:
        row.also.append(_first(said.status, words, began) if _incident(said, kind, words) else None)
    row.doctor = _first(said.doctor, case.doctor, began) if case.doctor else None
    shown = case.says[1:] if case.console is None else case.console  # a sentence begins with a capital
    row.console = _first(said.console, shown, began) if shown else None
    row.metrics = [_became(each, said, began_at) for each in case.metrics]
    for at, event in events_of(fleet):
        kind = event["type"].removeprefix("evergrant.")
        if at > began:
            row.events.setdefault(kind, at - began)
    return row


def _is_complete(row: Row) -> bool:
    """Whether every face that is to say something has said it."""
    case = next(case for case in CASES if case.name == row.name)
    return not list(_missing(case, row))


def _missing(case: Case, row: Row) -> Iterator[str]:
    if case.kind and row.status is None:
        yield f"status does not say {case.kind}: {case.says}"
    if case.kind and row.console is None and case.console != "":
        yield f"the console does not say {case.says}"
    for (kind, words), told in zip(case.also, row.also, strict=True):
        if told is None:
            yield f"status does not say {kind}: {words}"
    if case.doctor and row.doctor is None:
        yield f"doctor does not say {case.doctor}"
    for metric, told in zip(case.metrics, row.metrics, strict=True):
        if told is None:
            yield f"no metric {metric}"
    for event in sorted(set(case.events) - row.events.keys()):
        yield f"no event {event}"


def _wrong(case: Case, row: Row, said: Said, began: float) -> Iterator[str]:
    yield from _missing(case, row)
    expected = {case.kind, *(kind for kind, _ in case.also), *case.passing}
    for found in said.incidents:
        if found.kind not in expected:
            yield f"status says {found.kind}: {found.problem}"
    if (main := _incident(said, case.kind, case.says)) and main.needs_a_person != case.needs_a_person:
        yield f"whether a person is needed is said wrong: {main.needs_a_person}"
    for event in sorted(row.events.keys() - set(case.events)):
        yield f"an event {event}"
    for alert in sorted(row.alerts.keys() ^ set(case.alerts)):
        yield f"alert {alert}: {'fires' if alert in row.alerts else 'does not fire'}"
    if not case.doctor:
        yield from (f"doctor says {line}" for at, line in said.doctor if at > began)


def _incident(said: Said, kind: str, words: str) -> Incident | None:
    """The first incident of a kind whose problem has these words."""
    return next((each for each in list(said.incidents) if each.kind == kind and words in each.problem), None)


def _first(said: list[tuple[float, str]], words: str, began: float) -> Told:
    return next(((at - began, line) for at, line in list(said) if at > began and words in line), None)


def _became(metric: str, said: Said, began_at: float) -> Told:
    """When a metric came to be what the list says."""
    for at, series in list(said.scrapes):
        if at > began_at and (value := _met(metric, at, series)):
            return at - began_at, value
    return None


def _met(metric: str, at: float, series: Series) -> str:
    if metric == "absent":
        return "" if series else "no answer, or 503"
    name, sign, number = metric.split()
    for each, told in series.items():
        value = told - at if "_timestamp_" in each else told
        if each.startswith(name) and HOW[sign](value, float(number)):
            return f"{each} {value:g}"
    return ""
