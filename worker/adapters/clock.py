"""One clock for every process: Redis TIME, carried forward by a monotonic clock between two calls.

It is set from the `now` of each claim. The reply takes a moment to arrive, so this clock runs a little
behind Redis: a lifetime counted from it ends early, never late.
"""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class RedisClock:
    """Unix milliseconds as Redis counts them; usable once `set` was called."""

    def __init__(self) -> None:
        self._offset_ms: int | None = None

    def set(self, redis_now: int) -> None:
        """Take over what Redis said in the reply that was just read."""
        self._offset_ms = redis_now - _monotonic_ms()

    def now(self) -> int:
        """Unix milliseconds.

        Raises:
            RuntimeError: nothing was read from Redis yet.
        """
        if self._offset_ms is None:
            raise RuntimeError("the clock was read before Redis was asked for the time")
        return self._offset_ms + _monotonic_ms()


def _monotonic_ms() -> int:
    """Counts on while the machine is suspended, where the system has such a clock (Linux)."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000
