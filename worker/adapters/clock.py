"""One clock for every process: the store's, carried forward by a monotonic clock between two calls.

Each claim, lease and heartbeat sets the clock from its reply. The reply takes a moment to arrive, so this
clock runs a little behind the store's: a lifetime counted from it ends early, never late. A reply that was
slow, perhaps because this process was frozen, is ignored: it would set the clock so far behind that leases
would seem longer.

The store's clock never runs back (lua/prelude.lua). That it leapt forward only a process can tell, by a clock
of its own that nobody sets: the store's has gone on by more than that one has.
"""

import time
from collections.abc import Callable
from typing import Final

SLOW_REPLY_MS: Final = 1_000
LEAST_LEAP_MS: Final = 1_000  # less is not told from a reply that took its time
DRIFT: Final = 1_000  # two machines' monotonic clocks differ by less than this part
SLOWER: Final = 50  # the store's clock may run slower than Redis's by a hundredth, and clocks drift

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _since_boot_ms() -> int:
    """Milliseconds that go on while the machine is suspended, where the system has such a clock (Linux)."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class RedisClock:
    """Unix milliseconds as the store counts them; usable once `set` was called.

    Args:
        stopwatch: a monotonic clock in milliseconds; the caller of `set` reads `asked_at` from it.

    Attributes:
        ahead_ms: how far the store's clock was ahead of Redis's at the last heartbeat.
    """

    def __init__(self, stopwatch: Callable[[], int] = _since_boot_ms) -> None:
        self.stopwatch = stopwatch
        self.ahead_ms = 0
        self._offset_ms: int | None = None
        self._late_ms = 0  # so much behind the store's this clock may be
        self._set_at = 0  # by the stopwatch
        self._told = 0  # the latest instant that the store named
        self._told_at = 0  # by the stopwatch
        self._leapt_ms: int | None = None

    def set(self, told: int, *, asked_at: int) -> None:
        """Take over the time of a reply that was just read, to a request that left at `asked_at`."""
        read_at = self.stopwatch()
        if told < self._told:  # a later reply overtook this one
            return
        self._told, self._told_at = told, read_at
        took_ms = read_at - asked_at
        if self._offset_ms is not None:
            unseen_ms = LEAST_LEAP_MS + self._late_ms + (read_at - self._set_at) // DRIFT
            leapt_ms = told - (self._offset_ms + read_at)
            if leapt_ms > unseen_ms:
                self._leapt_ms = leapt_ms
            elif took_ms > SLOW_REPLY_MS:
                return
        self._offset_ms, self._late_ms, self._set_at = told - read_at, took_ms, read_at

    def now(self) -> int:
        """Unix milliseconds.

        Raises:
            RuntimeError: the store was not asked for the time yet.
        """
        return self.at(self.stopwatch())

    def at(self, by_stopwatch: int) -> int:
        """What this clock shows when the stopwatch shows `by_stopwatch`; errors as `now` has them."""
        if self._offset_ms is None:
            raise RuntimeError("the clock was read before Redis was asked for the time")
        return self._offset_ms + by_stopwatch

    def by_redis(self, at: int) -> int:
        """An instant by Redis's own clock, which the world's clocks agree with if any does."""
        return at - self.ahead_ms

    def at_least(self) -> int | None:
        """What the store's clock has reached: the latest that was told, and most of the time since then."""
        if self._offset_ms is None:
            return None
        since_ms = self.stopwatch() - self._told_at
        return self._told + max(since_ms - LEAST_LEAP_MS - since_ms // SLOWER, 0)

    def take_leap(self) -> int | None:
        """By how much the store's clock leapt forward since this was asked last; `None` if it did not."""
        leapt_ms, self._leapt_ms = self._leapt_ms, None
        return leapt_ms
