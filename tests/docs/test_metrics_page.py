"""`docs/metrics.md` names every metric with its labels, and every outcome, and nothing else."""

import re
from pathlib import Path

from tests.support.scrape import everything
from worker.core.outcomes import REFRESHED, Counted

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
METRIC = re.compile(r"^\| `(evergrant_\w+)` \| (\w+) \| (.*?) ?\| .* \|$", re.MULTILINE)


def test_every_metric_is_on_the_page_with_its_type_and_its_labels() -> None:
    on_the_page = {
        name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in METRIC.findall(PAGE)
    }

    assert on_the_page == {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in everything()
    }


def test_every_outcome_of_a_refresh_is_on_the_page() -> None:
    table = PAGE.partition("### Outcomes of a refresh")[2].partition("###")[0]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [REFRESHED, *Counted]
