"""`make simulate`: the small cases in every order, and random runs; or one seed, told in full.

Environment: SEED replays one; SEEDS is how many random runs there are, from FIRST_SEED.
"""

import os
import sys
import time
from collections import Counter

from tests.simulation.explore import FAULTS
from tests.simulation.logs import product_errors_noticed
from tests.simulation.many import Small, run_all
from tests.simulation.provider import Mode
from tests.simulation.redis import Valkey
from tests.simulation.seeds import Run

MODES = (Mode.STRICT, Mode.GRACE, Mode.FAMILY)
STORIES = 3
# So many choices that two cores with nothing else to do are through within the hour, seeds included.
DEPTH = 6
DEPTH_WITH_A_TICK = 4


def main() -> int:
    """Returns how many runs broke an invariant, as an exit status."""
    seed = os.environ.get("SEED")
    return replay(int(seed)) if seed else run(int(os.environ.get("SEEDS") or 10_000))


def replay(seed: int) -> int:
    """One seed, effect by effect."""
    with product_errors_noticed(), Valkey.started() as valkey:
        report = Run(valkey, seed).simulate()
    sys.stdout.write(report.story() + "\n")
    return int(report.violation is not None)


def run(seeds: int) -> int:
    """Everything."""
    began = time.monotonic()
    first = int(os.environ.get("FIRST_SEED") or 0)
    cases = [Small(mode, kind, depth=DEPTH, ticks=0) for kind in FAULTS for mode in MODES]
    cases += [Small(mode, kind, depth=DEPTH_WITH_A_TICK, ticks=1) for kind in FAULTS for mode in MODES]
    counts, runs, failures = Counter[str](), 0, list[str]()
    for outcome in run_all(range(first, first + seeds), cases):
        counts.update(outcome.counts)
        runs += outcome.runs
        failures += outcome.failures
        sys.stdout.write(
            f"{time.monotonic() - began:6.0f} s  {outcome.what}: {outcome.runs} runs,"
            f" {len(outcome.failures)} break an invariant\n"
        )
        sys.stdout.flush()
    sys.stdout.write("\n\n".join(failures[:STORIES]) + "\n")
    sys.stdout.write("".join(f"{number:9} {what}\n" for what, number in sorted(counts.items())))
    sys.stdout.write(
        f"{runs} runs, {seeds} of them seeds, in {time.monotonic() - began:.0f} s;"
        f" {len(failures)} break an invariant\n"
    )
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
