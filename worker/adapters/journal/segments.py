"""One process's segments: room set aside, answers appended, synced, sealed, removed.

Rules:
- Room is on the disk before the first answer needs it.
- What was synced survives the machine. macOS keeps that promise only when it is asked in its own way.
- After a failed write or sync a segment is never written again: the system may have dropped pages that
  a later sync would not miss. The segment is kept, because the answers may be in it nevertheless.
- A new segment is complete before the present one is left: where there is no room for a new one, the
  present one goes on.
- Room is set aside for answers of a usual size. An oversized answer takes none of it unless the disk
  has no room for another segment.
- One thread at a time works here. `Segments.all` is replaced and never changed, so that others may read
  it.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

import structlog

from worker.adapters.journal.directory import LockedDirectory, sync_directory
from worker.adapters.journal.format import FIRST_LINE, read_file
from worker.adapters.journal.places import refused
from worker.core.ports import Entry, JournalError

if sys.platform == "darwin":
    import fcntl

log = structlog.get_logger(__name__)

SEGMENT_BYTES: Final = 4 * 1024 * 1024
ANSWER_BYTES: Final = 16 * 1024  # set aside for each; a usual one is below 1 KiB
NO_SUPPORT: Final = {errno.EINVAL, errno.EOPNOTSUPP}  # musl and some file systems say so of posix_fallocate


class Segment:
    """One file.

    Attributes:
        path: where it is.
        begun_at: when the first answer was written; `None` before.
        written_at: when the last answer was written.
        unacknowledged: how many of its answers the store is not known to have.
        acknowledged_at: when the store was last known to have one more.
        used_up: the lineages of the refresh tokens that its answers used up; about 80 bytes each.
    """

    def __init__(self, path: Path, descriptor: int | None, size: int, end: int | None) -> None:
        self.path = path
        self.begun_at: float | None = None
        self.written_at = 0.0
        self.unacknowledged = 0
        self.acknowledged_at = 0.0
        self.used_up: set[bytes] = set()
        self._descriptor = descriptor
        self._size = size
        self._end = end  # of what is synced; `None` where another process wrote it
        self._tried = 0  # the end of what may be there

    @classmethod
    def create(cls, path: Path, size: int) -> Self:
        """Make a file and set all of its room aside; otherwise no file is left.

        Raises:
            OSError: the disk refused.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _preallocate(descriptor, size)
            _write(descriptor, FIRST_LINE, 0)
            _sync(descriptor)
            sync_directory(path.parent)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return cls(path, descriptor, size, len(FIRST_LINE))

    @classmethod
    def found(cls, path: Path) -> Self:
        """A file that an earlier use of the same directory left. It stays: nobody here can acknowledge it."""
        segment = cls(path, None, 0, None)
        segment.unacknowledged = 1
        return segment

    @property
    def room(self) -> int:
        """How many more bytes it takes."""
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
        _write(self._descriptor, data, self._end)
        _sync(self._descriptor)
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
        """Remove the file.

        Raises:
            OSError: the disk refused.
        """
        self.path.unlink(missing_ok=True)

    def read(self) -> list[Entry]:
        """What is synced, while more may be being written."""
        return read_file(self.path, self._end).entries


class Segments:
    """The segments of one directory, which is made with the first of them.

    Attributes:
        path: the directory.
        all: every segment that is kept, oldest first.
        current: the one that is written to, if any; it is the last of `all`.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self.all: list[Segment] = []
        self.current: Segment | None = None
        self._now = now
        self._directory: LockedDirectory | None = None
        self._number = 0

    @property
    def room(self) -> int:
        """How many more bytes can be written, even on a full disk."""
        return 0 if self.current is None else self.current.room

    def reserve(self, room: int) -> None:
        """Have at least `room` bytes.

        Raises:
            JournalError: the disk has no room for them.
        """
        if self.room < room:
            self.roll(room)

    def roll(self, room: int) -> Segment:
        """Begin a new segment with at least `room` bytes, and leave the present one.

        Raises:
            JournalError: the disk has no room for a new one; the present one stays.
        """
        new = self._create(max(SEGMENT_BYTES, 2 * room))
        self.seal()
        self.current = new
        self.all = [*self.all, new]
        return new

    def seal(self) -> None:
        """Write no more to the present segment; it is removed if nothing was written to it."""
        old, self.current = self.current, None
        if old is None:
            return
        old.seal()
        if old.begun_at is None:
            self.remove([old])

    def append(self, frames: list[bytes], reserved: int) -> list[Segment | JournalError]:
        """Write frames with one sync, and say of each where it is or why it is not.

        Args:
            frames: at least one.
            reserved: the bytes that are promised to others; oversized frames must not take them.
        """
        total = sum(map(len, frames))
        promised = reserved if max(map(len, frames)) > ANSWER_BYTES else 0
        segment = self.current
        if segment is None or segment.room < total + promised:
            try:
                segment = self.roll(total + reserved)
            except JournalError as error:
                return self._append_what_fits(frames, error)
        return [self._append(segment, frames)] * len(frames)

    def remove(self, segments: Iterable[Segment]) -> None:
        """Remove segments; those the disk refuses to remove are kept, to be removed another time."""
        removed = set()
        for segment in segments:
            try:
                segment.remove()
            except OSError as error:
                log.warning("journal.not_removed", problem=str(refused(segment.path, error)))
            else:
                removed.add(segment)
        self.all = [segment for segment in self.all if segment not in removed]

    def close(self) -> None:
        """Leave the directory to the process that takes it over, or remove it if nothing is in it."""
        self.seal()
        directory, self._directory = self._directory, None
        if directory is None:
            return
        if self.all:
            directory.release()
        else:
            directory.remove()

    def _append_what_fits(self, frames: list[bytes], error: JournalError) -> list[Segment | JournalError]:
        """Write the frames that still fit into the present segment, since there can be no other."""
        places: list[Segment | JournalError] = [error] * len(frames)
        segment = self.current
        if segment is None:
            return places
        fitting: list[int] = []
        left = segment.room
        for index, data in enumerate(frames):
            if len(data) <= left:
                fitting.append(index)
                left -= len(data)
        if fitting:
            place = self._append(segment, [frames[index] for index in fitting])
            for index in fitting:
                places[index] = place
        return places

    def _append(self, segment: Segment, frames: list[bytes]) -> Segment | JournalError:
        try:
            segment.append(b"".join(frames), self._now())
        except OSError as error:
            self.seal()
            return refused(segment.path, error)
        return segment

    def _create(self, size: int) -> Segment:
        directory = self._open()
        self._number += 1
        path = directory.segment(self._number)
        try:
            return Segment.create(path, size)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                # Somebody removed the directory: the next try makes it again.
                directory.release()
                self._directory = None
            raise refused(path, error) from error

    def _open(self) -> LockedDirectory:
        if self._directory is not None:
            return self._directory
        try:
            directory = LockedDirectory.make(self.path)
        except OSError as error:
            raise refused(self.path, error) from error
        if directory.found:
            self.all = [Segment.found(path) for path in directory.found]
            self._number = int(directory.found[-1].stem)
        self._directory = directory
        return directory


def _sync(descriptor: int) -> None:
    """Return when what was written is on the disk, and the file's length with it."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def _preallocate(descriptor: int, size: int) -> None:
    """Fill a new file with zeros, so that it can be written to without asking for more room."""
    if sys.platform != "darwin":
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in NO_SUPPORT:
                raise
        else:
            return
    _write(descriptor, bytes(size), 0)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data`; the system may take it in parts."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
