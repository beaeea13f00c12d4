"""One clock for every process: Redis TIME, carried forward by a monotonic clock between two calls.

Each claim, lease and heartbeat sets the clock from its reply. The reply takes a moment to arrive, so this
clock runs a little behind Redis: a lifetime counted from it ends early, never late. A reply that was
slow, perhaps because this process was frozen, is ignored: it would set the clock so far behind that leases
would seem longer.
"""

import time
from collections.abc import Callable
from typing import Final

SLOW_REPLY_MS: Final = 1_000

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _since_boot_ms() -> int:
    """Milliseconds that go on while the machine is suspended, where the system has such a clock (Linux)."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class RedisClock:
    """Unix milliseconds as Redis counts them; usable once `set` was called.

    Args:
        stopwatch: a monotonic clock in milliseconds; the caller of `set` reads `asked_at` from it.
    """

    def __init__(self, stopwatch: Callable[[], int] = _since_boot_ms) -> None:
        self.stopwatch = stopwatch
        self._offset_ms: int | None = None

    def set(self, redis_now: int, *, asked_at: int) -> None:
        """Take over the time of a reply that was just read, to a request that left at `asked_at`."""
        read_at = self.stopwatch()
        if self._offset_ms is None or read_at - asked_at <= SLOW_REPLY_MS:
            self._offset_ms = redis_now - read_at

    def now(self) -> int:
        """Unix milliseconds.

        Raises:
            RuntimeError: Redis was not asked for the time yet.
        """
        if self._offset_ms is None:
            raise RuntimeError("the clock was read before Redis was asked for the time")
        return self._offset_ms + self.stopwatch()
