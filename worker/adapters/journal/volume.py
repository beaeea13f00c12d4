"""The journals of the dead: found by their free locks, read, and removed when they are of no more use.

Rules:
- Whoever gets a journal's lock takes it over, once in a process. If that process dies, another takes it over:
  the answers are then offered once more, which harms nothing.
- It stays for a retention after the store took the last of its answers, for a store that loses its last
  writes. When they were written says nothing of that: its machine may have been away, or the store. An offer
  at which the store had all of them begins no new retention, not even by another owner: a store that keeps
  beginning epochs, or new owners that do not live long, would keep it for ever.
- What was not understood is kept for a release that does.
- A young directory in which there is nothing yet is left to its owner, who may be about to lock it.
- For one thread at a time.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from worker.adapters.journal import disk, segment
from worker.adapters.journal.home import Home, segments_in
from worker.core.ports import Commit

CHILDHOOD_SECONDS: Final = 60.0

log = structlog.get_logger(__name__)


class AbandonedJournal:
    """A dead process's journal.

    Attributes:
        owner: the process that wrote it.
    """

    def __init__(self, home: Home, keep_seconds: float, now: Callable[[], float]) -> None:
        self.owner = home.path.name
        self._home = home
        self._keep_seconds = keep_seconds
        self._now = now
        self._complete = False
        self._removable_at: float | None = None

    def read(self) -> list[Commit]:
        """What it holds, the last answer of each grant, oldest first."""
        self._complete = True
        return segment.last_of_each_grant(self._commits())

    @property
    def is_complete(self) -> bool:
        """Whether all that is in it could be read the last time."""
        return self._complete

    def acknowledge(self, *, repaired: bool) -> None:
        """The store was offered all that `read` returned: it may be forgotten after the retention.

        Args:
            repaired: the store took some of it just now.
        """
        if self._complete and (repaired or self._removable_at is None):
            kept = self._seconds_kept(anew=repaired)
            self._removable_at = self._now() + self._keep_seconds - kept

    @property
    def is_expired(self) -> bool:
        """Whether it is of no more use."""
        return self._removable_at is not None and self._now() >= self._removable_at

    def remove(self) -> None:
        """Remove it, the oldest answers first: what a crash leaves of it is the newest.

        Raises:
            OSError: the disk refused; the rest is still there.
        """
        for path in self._home.segments():
            path.unlink(missing_ok=True)
        self._home.remove()

    def release(self) -> None:
        """Let somebody else take over it."""
        self._home.release()

    def _commits(self) -> Iterator[Commit]:
        try:
            paths = self._home.segments()
        except OSError as error:
            log.warning("journal.unreadable", file=str(self._home.path), reason=error.strerror)
            self._complete = False
            return
        for path in paths:
            reading = segment.read(path)
            self._complete = self._complete and reading.complete
            yield from reading.commits

    def _seconds_kept(self, *, anew: bool) -> float:
        """How much of a retention is over that began before; where none did, it is noted that one begins."""
        with contextlib.suppress(OSError):  # costs only room, for the next new_owner keeps it longer
            seconds = None if anew else self._home.seconds_since_acknowledged()
            if seconds is not None:
                return seconds
            self._home.note_acknowledged()
        return 0.0


class JournalDirectory:
    """All journals in a directory, as one process sees those of the dead.

    Args:
        root: where the journals are.
        keep_seconds: the retention after the store took a journal's last answer.
        now: seconds of a monotonic clock.
    """

    def __init__(self, root: Path, keep_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._keep_seconds = keep_seconds
        self._now = now
        self._taken_over: dict[str, AbandonedJournal] = {}

    def take_over(self, own: str) -> list[AbandonedJournal]:
        """Take over the journals whose owners are dead; those that are empty are removed.

        Args:
            own: the owner of this process's journal, which is left alone.

        Returns those that were not returned before.

        Raises:
            JournalError: the directory cannot be read.
        """
        try:
            paths = sorted(path for path in self._root.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise disk.refused(self._root, error) from error
        # What is taken_over already is locked, to this process as well.
        taken = [self._take(path) for path in paths if path.name != own]
        new = [taken_over for taken_over in taken if taken_over is not None]
        self._taken_over |= {taken_over.owner: taken_over for taken_over in new}
        return new

    def sweep(self) -> None:
        """Remove the taken_over journals that are of no more use; to be called every now and then."""
        for owner, taken_over in list(self._taken_over.items()):
            if not taken_over.is_expired:
                continue
            try:
                taken_over.remove()
            except OSError as error:
                log.warning("journal.not_removed", problem=str(disk.refused(self._root / owner, error)))
            else:
                del self._taken_over[owner]

    def close(self) -> None:
        """Let others take over what this process holds."""
        while self._taken_over:
            self._taken_over.popitem()[1].release()

    def _take(self, path: Path) -> AbandonedJournal | None:
        try:
            if _may_be_being_born(path):
                return None
            home = Home.take(path)
            if home is None:
                return None
            if home.segments():
                return AbandonedJournal(home, self._keep_seconds, self._now)
            home.remove()
        except FileNotFoundError:
            pass  # another new_owner removed it meanwhile
        except OSError as error:
            log.warning("journal.not_taken_over", problem=str(disk.refused(path, error)))
        return None


def _may_be_being_born(path: Path) -> bool:
    """To look into its lock would only be in its owner's way."""
    return not segments_in(path) and abs(time.time() - path.stat().st_mtime) < CHILDHOOD_SECONDS
