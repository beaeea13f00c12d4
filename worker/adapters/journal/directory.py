"""One process's directory and its lock; abandoned journals: taken over, read, removed in time.

A journal's directory is named after the process that writes it. A journal is abandoned when that
process is dead, which its free lock shows.

Rules of the lock:
- The process that holds the lock owns the directory. The kernel releases the lock of a process that dies.
- A lock counts only while the locked file is the one in the directory: it may have been removed after
  it was opened. So a directory can be removed while its owner is just making it; the owner notices and
  makes it again.
- Nobody removes anything from a directory without holding its lock.
- The lock does not pass to a program that is executed. A forked child would keep it: open a journal
  after the last fork.

Rules of abandoned journals:
- A process takes over every journal whose lock is free, once. If it dies too, another takes over and
  offers the answers to the store again, which does no harm.
- A journal stays for one retention after the store took the last of its answers, because a store may
  lose its last writes. The age of the files does not count: their machine or the store may have been
  away.
- An offer that brought the store nothing new begins no new retention, and a new owner continues the
  retention that has begun. Otherwise many epochs or short-lived owners would keep a journal for ever.
- A journal that was not read completely is kept.
- A new directory with nothing in it is left alone: its owner may be about to lock it.
- For one thread at a time.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

import structlog

from worker.adapters.journal.following import FollowedJournals
from worker.adapters.journal.format import last_of_each_grant, read_file
from worker.adapters.journal.places import journals_in, refused, segments_in
from worker.core.ports import Entry, JournalError

log = structlog.get_logger(__name__)

LOCK: Final = "lock"
ACKNOWLEDGED: Final = "acknowledged"  # its time is when the store had taken all that is in the directory
FORMER_FILES: Final = ("held", "held.new", "settled")  # written by earlier releases, of no use to this one
LOOKING_SECONDS: Final = 0.5  # a process that looks into an empty directory releases its lock much sooner
POLL_SECONDS: Final = 0.01
NEW_SECONDS: Final = 60.0  # how long an empty directory is left alone


class LockedDirectory:
    """One journal's directory, whose lock this process holds.

    Attributes:
        path: where it is.
        found: the files of answers that were in it when it was locked, oldest first.
    """

    def __init__(self, path: Path, lock: int, found: list[Path]) -> None:
        self.path = path
        self.found = found
        self._lock = lock

    @classmethod
    def make(cls, path: Path) -> Self:
        """Make the directory and take its lock.

        Raises:
            JournalError: another process holds the lock.
            OSError: the disk refused.
        """
        give_up_at = time.monotonic() + LOOKING_SECONDS
        while True:
            _make_private_directory(path)
            directory = cls.lock(path)
            if directory is not None:
                return directory
            if time.monotonic() > give_up_at:
                raise JournalError(f"journal: {path}: another process uses it")
            time.sleep(POLL_SECONDS)

    @classmethod
    def lock(cls, path: Path) -> Self | None:
        """Take a directory's lock; `None` where another process holds it or the directory is gone.

        Raises:
            OSError: the disk refused.
        """
        file = path / LOCK
        try:
            lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), file.stat()):
                return cls(path, lock, segments_in(path))
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def segments(self) -> list[Path]:
        """The files of answers, oldest first."""
        return segments_in(self.path)

    def segment(self, number: int) -> Path:
        """Where the segment of that number is."""
        return self.path / f"{number:08}.segment"

    def note_acknowledged(self) -> None:
        """Note that the store has taken all that is in here. Not synced: without it the files stay longer.

        Raises:
            OSError: the disk refused.
        """
        (self.path / ACKNOWLEDGED).touch(mode=0o600)

    def seconds_since_acknowledged(self) -> float | None:
        """How long ago that was last noted; `None` if never, or by a wall clock that was ahead.

        Raises:
            OSError: the disk refused.
        """
        try:
            seconds = time.time() - (self.path / ACKNOWLEDGED).stat().st_mtime
        except FileNotFoundError:
            return None
        return seconds if seconds >= 0 else None

    def remove(self) -> None:
        """Remove the directory, which must have no segments any more, and release the lock.

        A file that is not the journal's own stays, and the directory with it.
        """
        # Where the disk refuses, no answers are left in it, and the next process tries again.
        with contextlib.suppress(OSError):
            for name in (*FORMER_FILES, ACKNOWLEDGED, LOCK):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()
        self.release()

    def release(self) -> None:
        """Release the lock: from now on another process may take the directory over."""
        os.close(self._lock)


class AbandonedJournal:
    """A dead process's journal, which this process has taken over.

    Attributes:
        owner: the process that wrote it.
    """

    def __init__(self, directory: LockedDirectory, keep_seconds: float, now: Callable[[], float]) -> None:
        self.owner = directory.path.name
        self._directory = directory
        self._keep_seconds = keep_seconds
        self._now = now
        self._complete = False
        self._removable_at: float | None = None

    def read(self) -> list[Entry]:
        """The last answer of each grant in it and every kept reply, oldest first."""
        self._complete = True
        return last_of_each_grant(self._entries())

    @property
    def is_complete(self) -> bool:
        """Whether the last `read` could read all that is in it."""
        return self._complete

    def acknowledge(self, *, repaired: bool) -> None:
        """The store has all that `read` returned: the journal may be removed after the retention.

        Args:
            repaired: the store had lost some of it, and took it just now.
        """
        if self._complete and (repaired or self._removable_at is None):
            elapsed = self._retention_elapsed(anew=repaired)
            self._removable_at = self._now() + self._keep_seconds - elapsed

    @property
    def is_expired(self) -> bool:
        """Whether its retention is over."""
        return self._removable_at is not None and self._now() >= self._removable_at

    def remove(self) -> None:
        """Remove it, the oldest answers first, so that a crash leaves the newest.

        Raises:
            OSError: the disk refused; the rest is still there.
        """
        for path in self._directory.segments():
            path.unlink(missing_ok=True)
        self._directory.remove()

    def release(self) -> None:
        """Let another process take it over."""
        self._directory.release()

    def _entries(self) -> Iterator[Entry]:
        try:
            paths = self._directory.segments()
        except OSError as error:
            log.warning("journal.unreadable", file=str(self._directory.path), reason=error.strerror)
            self._complete = False
            return
        for path in paths:
            reading = read_file(path)
            self._complete = self._complete and reading.complete
            yield from reading.entries

    def _retention_elapsed(self, *, anew: bool) -> float:
        """How many seconds of the retention are over; a retention that begins now is noted."""
        # A refusal costs only room: the next owner keeps the journal longer.
        with contextlib.suppress(OSError):
            seconds = None if anew else self._directory.seconds_since_acknowledged()
            if seconds is not None:
                return seconds
            self._directory.note_acknowledged()
        return 0.0


class JournalDirectory:
    """The journals of a deployment on this machine: takes over the abandoned ones, and follows them all.

    Args:
        root: where the journals of all processes are.
        keep_seconds: the retention after the store took a journal's last answer.
        now: seconds of a monotonic clock.
    """

    def __init__(self, root: Path, keep_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._keep_seconds = keep_seconds
        self._now = now
        self._taken_over: list[AbandonedJournal] = []
        self._followed = FollowedJournals(root)

    def take_over(self, own: str) -> list[AbandonedJournal]:
        """Take over the abandoned journals; those without a file of answers are removed.

        Args:
            own: the owner of this process's journal, which is left alone.

        Returns those that were not returned before.

        Raises:
            JournalError: the directory cannot be read.
        """
        # A journal taken over before is not free, not even to this process.
        found = [self._take_over(path) for path in journals_in(self._root) if path.name != own]
        new = [abandoned for abandoned in found if abandoned is not None]
        self._taken_over += new
        return new

    def look(self, own: str) -> None:
        """Take note of what every other process, dead or living, has written since the last look. Blocks.

        Args:
            own: the owner of this process's journal.

        Raises:
            JournalError: the directory cannot be read.
        """
        self._followed.look(own)

    async def answer_to(self, lineage: bytes) -> Entry | None:
        """The answer that used up the refresh token of this lineage, as of the last look.

        Raises:
            JournalError: there is one, and it cannot be read any more.
        """
        return await self._followed.answer_to(lineage)

    def sweep(self) -> None:
        """Remove those whose retention is over; call it every now and then."""
        for abandoned in [abandoned for abandoned in self._taken_over if abandoned.is_expired]:
            try:
                abandoned.remove()
            except OSError as error:
                problem = refused(self._root / abandoned.owner, error)
                log.warning("journal.not_removed", problem=str(problem))
            else:
                self._taken_over.remove(abandoned)

    def close(self) -> None:
        """Let other processes take over what this one has taken over."""
        while self._taken_over:
            self._taken_over.pop().release()

    def _take_over(self, path: Path) -> AbandonedJournal | None:
        try:
            if _is_new_and_empty(path):
                return None
            directory = LockedDirectory.lock(path)
            if directory is None:
                return None
            if directory.found:
                return AbandonedJournal(directory, self._keep_seconds, self._now)
            directory.remove()
        except FileNotFoundError:
            pass  # another process removed it meanwhile
        except OSError as error:
            log.warning("journal.not_taken_over", problem=str(refused(path, error)))
        return None


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private_directory(path: Path) -> None:
    """Make a directory and those above it for this user alone, and sync each one's name."""
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        _make_private_directory(path.parent)
        _make_private_directory(path)
    except FileExistsError:
        return
    else:
        sync_directory(path.parent)


def _is_new_and_empty(path: Path) -> bool:
    """Whether its owner may not have locked it yet: don't race the directory's creator."""
    return not segments_in(path) and abs(time.time() - path.stat().st_mtime) < NEW_SECONDS
