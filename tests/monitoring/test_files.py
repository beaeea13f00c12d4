"""`deploy/prometheus` and `deploy/grafana`: what they ask for is told, and what they lead to is there."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.conftest import RULES
from tests.support.scrape import everything

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "evergrant.json"
ALERTS = re.split(r"^ +- alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
NAMES = [text.partition("\n")[0] for text in ALERTS]
METRIC = re.compile(r"\bevergrant_\w+")


def exposed() -> set[str]:
    """The name of every sample that there can be."""
    return {sample.name for family in everything() for sample in family.samples}


def expressions() -> Iterator[str]:
    """Every query of the dashboard."""

    def within(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            for name, value in part.items():
                if name in {"expr", "definition"}:
                    yield value
                else:
                    yield from within(value)
        elif isinstance(part, list):
            for each in part:
                yield from within(each)

    yield from within(json.loads(DASHBOARD.read_text()))


@pytest.mark.parametrize("text", ALERTS, ids=NAMES)
def test_an_alert_has_a_severity_and_says_what_is_wrong_and_where_to_read_on(text: str) -> None:
    severity = re.search(r"^ +severity: (\w+)$", text, re.MULTILINE)
    assert severity is not None
    assert severity[1] in {"critical", "warning"}
    for annotation in ("summary", "description"):
        assert re.search(rf"^ +{annotation}: .{{20,}}$", text, re.MULTILINE)


@pytest.mark.parametrize("text", ALERTS, ids=NAMES)
def test_the_runbook_of_an_alert_is_there(text: str) -> None:
    runbook = re.search(r"^ +runbook: (\S+)#(\S+)$", text, re.MULTILINE)

    assert runbook is not None
    page = (ROOT / runbook[1]).read_text()
    assert runbook[2] in {heading.lower() for heading in re.findall(r"^#+ (\w+)$", page, re.MULTILINE)}
    assert runbook[2] == text.partition("\n")[0].lower()


def test_every_metric_that_a_rule_or_the_dashboard_asks_for_is_told() -> None:
    asked = set(METRIC.findall(RULES.read_text())) | {
        name for query in expressions() for name in METRIC.findall(query)
    }

    assert asked
    assert asked - exposed() == set()


def test_every_query_of_the_dashboard_is_promql(promtool: str, tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "5m") for query in expressions()]
    queries = [query for query in queries if not query.startswith("label_values(")]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = subprocess.run([promtool, "check", "rules", path], check=False, capture_output=True, text=True)  # noqa: S603

    assert queries
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((RULES.parent / "tests").glob("*.yml")), ids=lambda path: path.stem)
def test_the_rules_do_on_written_series_what_is_expected(promtool: str, path: Path) -> None:
    done = subprocess.run(  # noqa: S603 found on the path
        [promtool, "test", "rules", path.name], check=False, capture_output=True, text=True, cwd=path.parent
    )

    assert done.returncode == 0, done.stdout + done.stderr
