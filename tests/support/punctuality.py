"""How late grants are rotated, as the provider's log has it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from worker.core.policy import JITTER, jitter


@dataclass(frozen=True, slots=True)
class Delay:
    """One rotation.

    Attributes:
        at: when, in Unix seconds.
        late: seconds after the grant was due.
        left: seconds that its access token had left.
    """

    at: float
    late: float
    left: float


def delays(
    lines: Mapping[str, Mapping[str, Any]],
    rotations: Mapping[str, Sequence[Mapping[str, Any]]],
    refresh_at: float,
) -> Iterator[Delay]:
    """Every rotation of every grant.

    Args:
        lines: the grants as they were imported, by id.
        rotations: the requests at which the provider rotated each, oldest first.
        refresh_at: the share of an access token's life after which its grant is due.
    """
    for grant_id, line in lines.items():
        lives = line["expires_in"]
        due_after = lives * (refresh_at + JITTER * jitter(grant_id))
        issued = datetime.fromisoformat(line["issued_at"]).timestamp()
        for issued_at, at in pairwise([issued, *(visit["at"] for visit in rotations[grant_id])]):
            yield Delay(at, at - issued_at - due_after, issued_at + lives - at)
