"""`docs/incidents.md` has a row for each incident that is provoked, and each alert stands in one of them."""

from pathlib import Path

from tests.incidents.incidents import CASES
from tests.monitoring.test_files import NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "incidents.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]


def test_every_incident_has_its_row_with_the_alerts_that_fire() -> None:
    assert len(ROWS) == len(CASES)
    for case, row in zip(CASES, ROWS, strict=True):
        cells = row.split(" | ")
        assert cells[0] == f"| {case.what}"
        alerts = {f"Evergrant{each.partition(':')[0]}" for each in cells[5].split("<br>")} - {"Evergrant-"}
        assert alerts == set(case.alerts), case.what


def test_every_alert_is_provoked() -> None:
    assert {alert for case in CASES for alert in case.alerts} == set(NAMES)
