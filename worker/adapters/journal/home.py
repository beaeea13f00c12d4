"""One journal's directory, and the lock in it that says whether its owner lives.

Rules:
- Whoever holds the lock owns the directory; the kernel takes the lock from the dead.
- The lock counts only while the locked file is the one in the directory: it may have been removed between the
  opening and the locking. So a directory can be removed under a process that is just making it, and that
  process finds out and makes it again.
- Only the holder of the lock removes anything.

The lock does not pass to a program that is executed, but a forked child would keep it alive: a journal is
opened after the last fork.
"""

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import Final, Self

from worker.adapters.journal import disk
from worker.core.ports import JournalError

LOCK: Final = "lock"
SETTLED: Final = "settled"
BIRTH_SECONDS: Final = 0.5  # who looks into a directory and finds nothing lets it go much sooner
POLL_SECONDS: Final = 0.01

_is_segment = re.compile(r"\d{8}\.segment").fullmatch


class Home:
    """A directory whose lock this process holds."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def make(cls, path: Path) -> Self:
        """Make the directory and take its lock.

        Raises:
            JournalError: another process holds it.
            OSError: the disk refused.
        """
        give_up_at = time.monotonic() + BIRTH_SECONDS
        while True:
            disk.make_private_directory(path)
            home = cls.take(path)
            if home is not None:
                return home
            if time.monotonic() > give_up_at:
                raise JournalError(f"journal: {path}: another process uses it")
            time.sleep(POLL_SECONDS)

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Take the lock of a directory, if nobody holds it and the directory is still there.

        Raises:
            OSError: the disk refused.
        """
        lock = path / LOCK
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return cls(path, descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def segments(self) -> list[Path]:
        """The files of answers, oldest first."""
        return segments_in(self.path)

    def segment(self, number: int) -> Path:
        """Where the file of that number is."""
        return self.path / f"{number:08}.segment"

    def note_acknowledged(self) -> None:
        """Note that the store has taken what is in it. Not synced: what forgets it is kept the longer.

        Raises:
            OSError: the disk refused.
        """
        (self.path / SETTLED).touch(mode=0o600)

    def seconds_since_acknowledged(self) -> float | None:
        """How long ago that was noted last; `None` if never, or by a wall clock that was ahead.

        Raises:
            OSError: the disk refused.
        """
        try:
            seconds = time.time() - (self.path / SETTLED).stat().st_mtime
        except FileNotFoundError:
            return None
        return seconds if seconds >= 0 else None

    def remove(self) -> None:
        """Remove the directory, which has no segments any more, and let the lock go."""
        # What cannot be removed is empty, and the next new_owner will try again.
        with contextlib.suppress(OSError):
            (self.path / SETTLED).unlink(missing_ok=True)
            (self.path / LOCK).unlink()
            self.path.rmdir()
        self.release()

    def release(self) -> None:
        """Let the lock go: from now on the directory may be taken_over."""
        os.close(self._descriptor)


def segments_in(path: Path) -> list[Path]:
    """The files of answers in a directory, oldest first; none where it is gone."""
    try:
        return sorted(file for file in path.iterdir() if _is_segment(file.name))
    except FileNotFoundError:
        return []
