"""What becomes of a delivery: when an event is tried again, given up, and when its webhook is disabled.

Rules:
- A 2xx is a success. Everything else is a failure, a redirect too.
- An event is tried at once and after each pause of the schedule, then given up. `Retry-After` makes a pause
  longer, and holds the whole webhook meanwhile.
- 410 disables a webhook: its receiver says that it is gone. So do five days with nothing but failures. What
  waits then stays, and goes on when the webhook is enabled again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS

# Standard Webhooks 1.0, "Operational considerations": the pauses after the first try, the second, and so on.
SCHEDULE_MS: Final[Sequence[int]] = (
    *(5 * SECOND_MS, 5 * MINUTE_MS, 30 * MINUTE_MS),
    *(hours * HOUR_MS for hours in (2, 5, 10, 14, 20, 24)),
)
JITTER: Final = 0.1  # a pause is longer by up to this share of it
LONGEST_HOLD_MS: Final = 24 * HOUR_MS
FAILING_MS: Final = 5 * 24 * HOUR_MS
GONE: Final = 410


class Next(StrEnum):
    """What becomes of an event after a try."""

    DELIVERED = "delivered"
    RETRY = "retry"
    GIVEN_UP = "given_up"


class DisabledFor(StrEnum):
    """Why a webhook is sent no more."""

    GONE = "gone"  # its receiver answered 410
    FAILING = "failing"  # nothing but failures for five days


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        detail: `http_` and the status, or what happened in place of an answer.
        status: `None` where none came.
        wait_ms: for how long the receiver asked to be left alone.
    """

    detail: str
    status: int | None = None
    wait_ms: int | None = None

    @property
    def is_success(self) -> bool:
        """Whether the receiver has the event."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 HTTP's


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from an answer.

    Attributes:
        next: for the event.
        in_ms: when it is tried again.
        hold_ms: for how long nothing is sent to the webhook.
        disables: why the webhook is sent no more from now on; `None` where it goes on.
    """

    next: Next
    in_ms: int = 0
    hold_ms: int = 0
    disables: DisabledFor | None = None


def decide(
    answer: Answer, *, tries: int, failing_ms: int, chance: float, schedule: Sequence[int] = SCHEDULE_MS
) -> Decision:
    """What follows from an answer.

    Args:
        answer: the receiver's.
        tries: how often the event had been tried before.
        failing_ms: for how long the webhook has met nothing but failures.
        chance: 0 to 1, for the jitter.
        schedule: the pauses between tries.
    """
    if answer.is_success:
        return Decision(Next.DELIVERED)
    if answer.status == GONE:
        return Decision(Next.RETRY, disables=DisabledFor.GONE)
    if failing_ms >= FAILING_MS:
        return Decision(Next.RETRY, disables=DisabledFor.FAILING)
    hold_ms = min(answer.wait_ms or 0, LONGEST_HOLD_MS)
    if tries >= len(schedule):
        return Decision(Next.GIVEN_UP, hold_ms=hold_ms)
    pause_ms = int(schedule[tries] * (1 + JITTER * chance))
    return Decision(Next.RETRY, in_ms=max(pause_ms, hold_ms), hold_ms=hold_ms)
