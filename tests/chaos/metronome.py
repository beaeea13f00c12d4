"""Notices when the machine itself is held up, processor or disk: what is late here is late everywhere."""

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

PACE_SECONDS = 0.05
LATE_SECONDS = 0.1  # so much later than its pace is a stall


class Metronome:
    """Ticks and syncs a file until it is over.

    Args:
        scratch: the file.
        over: ends it.

    Attributes:
        stalls: when it was held up: begin and end, in Unix seconds.
    """

    def __init__(self, scratch: Path, over: threading.Event) -> None:
        self._scratch = scratch
        self._over = over
        self.stalls: list[tuple[float, float]] = []

    def run(self) -> None:
        """Tick in this thread."""
        with self._scratch.open("wb") as scratch:
            at = time.time()
            while not self._over.wait(PACE_SECONDS):
                os.pwrite(scratch.fileno(), b"tick", 0)
                os.fdatasync(scratch.fileno())
                before, at = at, time.time()
                if at - before > PACE_SECONDS + LATE_SECONDS:
                    self.stalls.append((before, at))


def stalled_seconds(stalls: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """How long the machine was held up between two moments."""
    return sum(max(0.0, min(end, until) - max(begin, at)) for at, until in stalls)
