"""Random runs; `make simulate` does more of them, and replays one by its seed."""

import subprocess
import sys

import pytest

from tests.simulation.explore import FAULTS
from tests.simulation.many import Small, run_all
from tests.simulation.provider import Mode
from tests.simulation.redis import Valkey
from tests.simulation.seeds import Run

SEEDS = 500
MODES = (Mode.STRICT, Mode.GRACE, Mode.FAMILY)
# Whose effects mix in so many ways that all of them are for `make simulate`.
MANY_WAYS = {"store requests late", "store replies lost", "store replies lost twice", "store requests lost"}


@pytest.mark.slow
def test_no_run_breaks_an_invariant_and_every_kind_of_trouble_was_met() -> None:
    cases = [
        Small(mode, kind, depth=3 if kind in MANY_WAYS else 4, ticks=0) for kind in FAULTS for mode in MODES
    ]
    outcomes = list(run_all(range(SEEDS), cases))

    failures = [story for outcome in outcomes for story in outcome.failures]
    assert not failures, f"{len(failures)} runs break an invariant; the first:\n{failures[0]}"
    met = {what for outcome in outcomes for what, number in outcome.counts.items() if number}
    assert met >= {
        *("crashes", "retries of superseded tokens", "leases forgotten under a request"),
        *("ends failed: reply_lost", "ends failed: revoked"),
        *("grant.recovered", "client.rejected", "client.recovered"),
        *("provider.unavailable", "provider.recovered"),
    }
    sys.stdout.write(f"\n{sum(outcome.runs for outcome in outcomes) - SEEDS} interleavings, {SEEDS} seeds\n")


def test_a_seed_gives_the_same_run_again(valkey: Valkey) -> None:
    for seed in range(5):
        first = Run(valkey, seed).simulate()
        Run(valkey, seed + 100).simulate()
        assert Run(valkey, seed).simulate().trace == first.trace


def test_a_seed_does_not_depend_on_how_python_hashes() -> None:
    program = (
        "from tests.simulation.logs import product_errors_noticed\n"
        "from tests.simulation.redis import Valkey\n"
        "from tests.simulation.seeds import Run\n"
        "with product_errors_noticed(), Valkey.started() as valkey:\n"
        "    print([Run(valkey, seed).simulate().trace for seed in range(5)])\n"
    )
    told = [
        subprocess.run(  # noqa: S603 this very Python
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] != b""
