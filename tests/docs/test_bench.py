"""What `bench/` measures can be measured again; the figures themselves are no test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "measurement", ["backlog", "claims", "clients", "command", "page", "parts", "scrape", "tokens"]
)  # the others take a minute each
def test_a_sketch_of_a_measurement_ends_with_its_figures_and_plots(tmp_path: Path, measurement: str) -> None:
    done = subprocess.run(  # noqa: S603 our own bench
        [sys.executable, "-m", "bench", "--quick", "--into", tmp_path, measurement],
        check=False,
        capture_output=True,
        cwd=ROOT,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures[measurement]
    assert set(figures["repeats"]) == {"backlog", "clients", "tokens"} & {measurement}
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"claims", "parts"} & {measurement}


def test_the_kept_figures_name_as_repeated_only_what_was() -> None:
    figures = json.loads((ROOT / "docs" / "performance" / "figures.json").read_text())

    start_up = {"help_seconds", "worker_ready_seconds"}
    assert set(figures["repeats"]) == {"throughput", "backlog", "clients", "scaling", "tokens"} | start_up
    assert start_up <= figures["footprint"].keys()
