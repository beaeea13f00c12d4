"""`docs/json.md` names every field and every incident of what the commands print as JSON."""

import re
from pathlib import Path

from worker.cli import status
from worker.core.forecast import Course, Hour
from worker.core.grant import Grant, Status
from worker.core.registry import ClientState
from worker.fleet import report as fleet_report
from worker.fleet.forecasting import ClientForecast, Ending, Ends, Forecast
from worker.fleet.report import Incident, Process, Report

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
NAMES = set(re.findall(r"`([a-z_]+)`", PAGE))


def test_every_field_of_the_status_is_on_the_page() -> None:
    client = ClientState(
        name="buddy",
        state="accepted",
        reason=None,
        rejected_at=None,
        probe_at=None,
        provider_state="available",
        provider_reason=None,
        unavailable_since=None,
        endpoint_probe_at=None,
        throttled_until=None,
        claimed_at=None,
        grants=dict.fromkeys(Status, 0),
        due=0,
        next_due_at=None,
        soonest_expiry_at=None,
        refreshed=0,
        late=0,
    )
    processes = [Process(role, "host:1", 0, is_alive=True, trouble=None) for role in ("worker", "beat")]
    incident = Incident("grant_failed", "one", "failed", None, "", needs_a_person=True)

    documents = list(Report(0, [client], [incident], 0, processes).documents())

    assert {name for document in documents for name in document} - {"kind"} <= NAMES
    assert [f'"kind": "{document["kind"]}"' in PAGE for document in documents] == [True] * 4


def test_every_field_of_a_forecast_is_on_the_page() -> None:
    hour = Hour(0, 0, 0, None, 0, 0, 0, 0)
    client = ClientForecast("buddy", None, None, 0, 0, 0, Course([hour], None))
    grant = Grant("one", "buddy", Status.ACTIVE, 0, b"", b"", 0, None, 0, None, None)
    foreseen = Forecast(0, [client], [hour], Ends(0, [0], [Ending(grant, 0)]))

    documents = list(foreseen.documents())

    assert {name for document in documents for name in document} - {"kind"} <= NAMES
    assert {f'"kind": "{document["kind"]}"' in PAGE for document in documents} == {True}
    whole = foreseen.document()
    assert {*whole, *whole["ends"], *whole["clients"][0]} <= NAMES


def test_every_incident_is_on_the_page() -> None:
    source = Path(fleet_report.__file__).read_text() + Path(status.__file__).read_text()
    kinds = re.findall(r'Incident\(\s*"([a-z_]+)"(?: if \w+ else "([a-z_]+)")?', source)

    told = {kind for pair in kinds for kind in pair if kind}

    assert len(told) == 24
    assert told | {"worker_dead", "beat_dead"} <= NAMES
