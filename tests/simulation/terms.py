"""How long things last in the simulation: the wiring's proportions, with requests that end sooner."""

from dataclasses import dataclass
from typing import Final

from tests.simulation.provider import Mode
from worker.adapters.store.redis_store import StoreLimits
from worker.core.policy import RESEND_PAUSE_SECONDS, Rules
from worker.core.promises import Spans
from worker.runtime.derived import CLAIM_SECONDS, COMMIT_SECONDS

RULES: Final = Rules(min_margin_ms=1_000)
SPANS: Final = Spans(margin_ms=200, brief_ms=100, usual_ms=3_000)
SWEEP_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a deployment looks like."""

    mode: Mode
    grants: int
    clients: int = 1
    disks: int = 1
    lifetime_s: int = 15
    request_ms: int = 1_000
    lies: bool = False
    ambiguous: bool = False
    drains_twice: float = 0.0

    @property
    def lease_ms(self) -> int:
        """As the wiring counts it."""
        return int((CLAIM_SECONDS + COMMIT_SECONDS + 1.5 * RESEND_PAUSE_SECONDS) * 1000) + 3 * self.request_ms

    @property
    def limits(self) -> StoreLimits:
        """How long things last at the store."""
        return StoreLimits(
            self.lease_ms,
            events_kept=100_000,
            first_probe_ms=2_000,
            longest_probe_ms=8_000,
            first_endpoint_probe_ms=2_000,
            longest_endpoint_probe_ms=8_000,
        )

    def __str__(self) -> str:
        words = [
            f"{self.mode} server",
            f"{self.grants} grants",
            f"{self.clients} clients",
            f"{self.disks} disks",
        ]
        words += [f"tokens of {self.lifetime_s} s", f"requests of {self.request_ms} ms"]
        words += ["lies"] * self.lies + ["ambiguous"] * self.ambiguous
        return ", ".join(words)
