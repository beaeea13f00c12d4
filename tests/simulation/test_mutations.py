"""The simulation notices when a rule is broken."""

import pytest

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.redis import Valkey
from tests.simulation.seeds import Run

pytestmark = pytest.mark.slow

SEEDS = 600


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_the_simulation_notices_when(mutant: Mutant, valkey: Valkey) -> None:
    for seed in range(SEEDS):
        violation = Run(valkey, seed, mutant.broken, mutant.faults, clock_share=0).simulate().violation
        if violation is not None:
            assert violation.invariant in mutant.breaks, str(violation)
            return
    pytest.fail(f"in {SEEDS} runs nothing was noticed")
