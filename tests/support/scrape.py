"""What a scrape tells, read by the parser that Prometheus's own library has."""

import json
from collections.abc import Sequence

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from worker.adapters.exposition import expose
from worker.core.grant import Status
from worker.core.measures import ClientMeasures, FleetMeasures, Histogram, Spread

Samples = dict[tuple[str, ...], float]
Series = dict[str, float]


def told(text: str) -> Samples:
    """Every sample, by its name and the values of its labels."""
    return {
        (each.name, *each.labels.values()): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def everything() -> Sequence[Metric]:
    """Every metric that there is, each with samples."""
    client = ClientMeasures(
        name="buddy",
        is_accepted=True,
        endpoint="https://api.example/token",
        is_available=True,
        grants=dict.fromkeys(Status, 1),
        due=1,
        first_due_at=1,
        soonest_expiry_at=1,
        refreshed=1,
        late=1,
        refreshes={"rejected": 1},
        served={"promised": 1},
    )
    measures = FleetMeasures(
        clients=[client],
        unread_clients=0,
        served={"no_such_grant": 1},
        lateness=Histogram(Spread.LATENESS, {}, 0),
        duration=Histogram(Spread.DURATION, {}, 0),
        workers=1,
        swept_at=1,
        unreadable=0,
        untaken=0,
        unsealed={"k1": 1},
        memory_used=1,
        memory_limit=1,
        undelivered={"w1": 1},
    )
    text, _ = expose(measures)
    return list(text_string_to_metric_families(text.decode()))


def series_in(text: str) -> Series:
    """Every sample, by its name and labels as PromQL has them."""
    found = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            labels = ",".join(f"{name}={json.dumps(value)}" for name, value in each.labels.items())
            found[each.name + (f"{{{labels}}}" if labels else "")] = each.value
    return found
