"""One file of a journal: room set aside, answers appended, sealed, removed.

Rules:
- Its room is on the disk before the first answer needs it.
- A file whose write or sync failed is never written again: the system may have dropped pages that a later
  sync would not miss. It is kept, for what failed may be in it nevertheless.
- Reading never fails for the sake of one place: what cannot be read is logged, without its content, and the
  rest is returned. What a newer release wrote is left for one.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Self

import structlog

from worker.adapters.journal import disk, entry, frame
from worker.core.ports import Commit

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds.

    Attributes:
        commits: in the order they were written.
        complete: nothing in it is left for another release, or for a disk that can be read again.
    """

    commits: list[Commit]
    complete: bool


class Segment:
    """One file.

    Attributes:
        path: where it is.
        begun_at: when the first answer was written, `None` before.
        written_at: when the last one was.
        unacknowledged: how many of its answers are not known to be in the store.
        acknowledged_at: when the last of the others became so.
    """

    def __init__(self, path: Path, descriptor: int | None, size: int, end: int | None) -> None:
        self.path = path
        self.begun_at: float | None = None
        self.written_at = 0.0
        self.unacknowledged = 0
        self.acknowledged_at = 0.0
        self._descriptor = descriptor
        self._size = size
        self._end = end  # of what is synced; `None` where another process wrote it
        self._tried = 0  # of what may be there

    @classmethod
    def create(cls, path: Path, size: int) -> Self:
        """Make a new file with its room; all of it or nothing.

        Raises:
            OSError: the disk refused.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            disk.preallocate(descriptor, size)
            disk.write(descriptor, frame.FIRST_LINE, 0)
            disk.sync(descriptor)
            disk.sync_directory(path.parent)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return cls(path, descriptor, size, len(frame.FIRST_LINE))

    @classmethod
    def found(cls, path: Path) -> Self:
        """A file that an earlier use of the same directory left: it stays, for nobody here can settle it."""
        segment = cls(path, None, 0, None)
        segment.unacknowledged = 1
        return segment

    @property
    def room(self) -> int:
        """How many bytes more it takes."""
        return 0 if self._end is None else self._size - self._end

    def append(self, data: bytes, now: float) -> None:
        """Write frames and return when they are on the disk.

        Raises:
            OSError: they may not be there, and the file must not be written again.
        """
        if self._descriptor is None or self._end is None:
            raise ValueError("a sealed segment is not written to")
        if self.begun_at is None:
            self.begun_at = now
        self.written_at = now
        self._tried = self._end + len(data)
        disk.write(self._descriptor, data, self._end)
        disk.sync(self._descriptor)
        self._end = self._tried

    def seal(self) -> None:
        """Write no more to it, and give back the room it has not used."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        # A refusal costs only room.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, self._tried)
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def remove(self) -> None:
        """Forget it.

        Raises:
            OSError: the disk refused.
        """
        self.path.unlink(missing_ok=True)

    def read(self) -> list[Commit]:
        """What is synced, while more may be being written."""
        return read(self.path, self._end).commits


def read(path: Path, end: int | None = None) -> Reading:
    """Read a file, as far as `end`."""
    try:
        content = disk.read(path)[:end]
    except FileNotFoundError:
        return Reading([], complete=True)  # removed in time meanwhile
    except OSError as error:
        log.warning("journal.unreadable", file=str(path), reason=error.strerror)
        return Reading([], complete=False)
    commits: list[Commit] = []
    damaged: list[int] = []
    unknown: list[int] = [0] if frame.is_of_another_release(content) else []
    for offset, payload in frame.payloads(content):
        if payload is None:
            damaged.append(offset)
            continue
        try:
            commits.append(entry.unpack(payload))
        except entry.UnknownEntryError:
            unknown.append(offset)
    if damaged:
        log.warning("journal.damaged", file=str(path), offset=damaged[0], places=len(damaged))
    if unknown:
        log.warning("journal.not_understood", file=str(path), offset=unknown[0], entries=len(unknown))
    return Reading(commits, complete=not unknown)


def last_of_each_grant(commits: Iterable[Commit]) -> list[Commit]:
    """For each grant the answer with the highest fence, of two with one fence the later; oldest first."""
    last: dict[str, Commit] = {}
    for commit in commits:
        grant_id = commit.change.grant.id
        known = last.get(grant_id)
        if known is None or known.fence <= commit.fence:
            last[grant_id] = commit
    return sorted(last.values(), key=attrgetter("fence"))
