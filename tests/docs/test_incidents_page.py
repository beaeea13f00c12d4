"""`docs/incidents.md` says of each incident which alerts fire, and each alert is provoked."""

from pathlib import Path

from tests.incidents.incidents import CASES
from tests.monitoring.test_files import NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "incidents.md").read_text()
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
