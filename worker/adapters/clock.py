"""One clock for every process: Redis TIME, carried forward by a monotonic clock between two calls.

It is set from the `now` of each claim. The reply takes a moment to arrive, so this clock runs a little
behind Redis: a lifetime counted from it ends early, never late. A reply that took long (its reader may have
been frozen) would set it so far behind that leases seemed to last longer than they do: it is not taken over.
"""

import time
from collections.abc import Callable
from typing import Final

SLOW_REPLY_MS: Final = 1_000

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _since_boot_ms() -> int:
    """Counts on while the machine is suspended, where the system has such a clock (Linux)."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class RedisClock:
    """Unix milliseconds as Redis counts them; usable once `set` was called.

    Args:
        stopwatch: milliseconds of a monotonic clock; also what `set` wants to know the time of asking in.
    """

    def __init__(self, stopwatch: Callable[[], int] = _since_boot_ms) -> None:
        self.stopwatch = stopwatch
        self._offset_ms: int | None = None

    def set(self, redis_now: int, *, asked_at: int) -> None:
        """Take over what Redis said in the reply that was just read, to a request that left at `asked_at`."""
        read_at = self.stopwatch()
        if self._offset_ms is None or read_at - asked_at <= SLOW_REPLY_MS:
            self._offset_ms = redis_now - read_at

    def now(self) -> int:
        """Unix milliseconds.

        Raises:
            RuntimeError: nothing was read from Redis yet.
        """
        if self._offset_ms is None:
            raise RuntimeError("the clock was read before Redis was asked for the time")
        return self._offset_ms + self.stopwatch()
