"""`docs/incidents.md` has every incident that `docs/operations.md` explains, and each alert is provoked."""

import re
from pathlib import Path

from tests.incidents.incidents import CASES
from tests.monitoring.test_files import NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "incidents.md").read_text()
OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
JSON = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]


def test_every_incident_has_its_row_with_the_alerts_that_fire() -> None:
    cases = {f"| {case.what}": case for case in CASES}
    assert ROWS
    for row in ROWS:
        cells = row.split(" | ")
        case = cases[cells[0]]
        alerts = {f"Evergrant{each.partition(':')[0]}" for each in cells[5].split("<br>")} - {"Evergrant-"}
        assert alerts == set(case.alerts), case.what


def test_every_alert_is_provoked() -> None:
    assert {alert for case in CASES for alert in case.alerts} == set(NAMES)


def test_every_kind_of_incident_is_provoked() -> None:
    listed = JSON.partition("| `incident` | `subject` | it means |\n")[2].partition("\n\n")[0]
    kinds = set(re.findall(r"^\| `(\w+)` \|", listed, re.MULTILINE))

    provoked = {kind for case in CASES for kind in (case.kind, *(each for each, _ in case.also)) if kind}

    assert kinds - provoked == {"store_behind"}  # doctor alone compares a store that is at rest
    assert provoked <= kinds


def test_every_incident_that_operations_explains_is_provoked() -> None:
    section = OPERATIONS.partition("## At 3 a.m.")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    quoted = [each for row in rows for each in re.findall("`([^`]+)`", row.split(" | ")[0])]
    # Of each the longest part without a gap.
    explained = {max(each.split("…"), key=len).strip(" ;") for each in quoted}
    said = [
        words
        for case in CASES
        for words in (case.what, case.says, case.doctor, *(each for _, each in case.also))
    ]

    assert len(explained) > len(rows) > 30
    assert {each for each in explained if not any(each in words for words in said)} == set()
