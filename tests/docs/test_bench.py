"""What `bench/` measures can be measured again; the figures themselves are no test's business."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_the_memory_bench_runs_and_prints_its_two_figures(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 our own bench
        [sys.executable, BENCH / "memory.py", "300"],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.endswith("bytes a grant at 300 grants")
    assert "grants a second imported" in second
