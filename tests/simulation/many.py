"""Many runs, on every core, each with a Valkey of its own."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.simulation.explore import explore
from tests.simulation.logs import product_errors_noticed
from tests.simulation.provider import Mode
from tests.simulation.redis import Valkey
from tests.simulation.scene import Report
from tests.simulation.seeds import Run

CHUNK = 100


@dataclass(slots=True)
class Outcome:
    """The results of some runs."""

    what: str
    runs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)  # the story of each

    def add(self, report: Report) -> None:
        """One more run."""
        self.runs += 1
        self.counts.update(report.counts)
        if report.violation is not None:
            self.failures.append(report.story())


@dataclass(frozen=True, slots=True)
class Small:
    """One small case to be explored: see explore.py."""

    mode: Mode
    kind: str
    depth: int
    ticks: int
    most: int | None = None

    def __str__(self) -> str:
        return f"{self.kind} ({self.mode}, {self.depth} choices, {self.ticks} ticks)"


def run_seeds(seeds: Sequence[int]) -> Outcome:
    """Random runs, one after the other."""
    outcome = Outcome(f"seeds {seeds[0]} to {seeds[-1]}")
    with product_errors_noticed(), Valkey.started() as valkey:
        for seed in seeds:
            outcome.add(Run(valkey, seed).simulate())
    return outcome


def run_small(case: Small) -> Outcome:
    """Every interleaving of a small case."""
    outcome = Outcome(str(case))
    with product_errors_noticed(), Valkey.started() as valkey:
        for report in explore(
            valkey, case.mode, case.kind, depth=case.depth, ticks=case.ticks, most=case.most
        ):
            outcome.add(report)
    return outcome


def run_all(seeds: range, cases: Sequence[Small]) -> Iterator[Outcome]:
    """All of them, on every core, as they end."""
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        pieces = [pool.submit(run_seeds, chunk) for chunk in chunks]
        pieces += [pool.submit(run_small, case) for case in cases]
        for piece in as_completed(pieces):
            yield piece.result()
