"""One process's segments: the one that is written to, those before it, and when to begin another.

Rules:
- Used by one thread at a time; `segments` is replaced, never changed, so that others may read it.
- A new segment is whole before the old one is left: where there is no room for a new one, the old one's is
  still there.
- Room is set aside for answers of a usual size; an oversized one takes none of it if that can be helped.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from worker.adapters.journal import disk
from worker.adapters.journal.home import Home
from worker.adapters.journal.segment import Segment
from worker.core.ports import JournalError

log = structlog.get_logger(__name__)

SEGMENT_BYTES: Final = 4 * 1024 * 1024
ANSWER_BYTES: Final = 16 * 1024  # set aside for each; a usual one is below 1 KiB


class Chain:
    """The segments of one directory, which is made with the first of them.

    Attributes:
        path: the directory.
        segments: every one that is held, oldest first.
        current: the one that is written to, if any; it is the last of `segments`.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self.current: Segment | None = None
        self._now = now
        self._home: Home | None = None
        self._number = 0

    @property
    def room(self) -> int:
        """How many bytes more can be written, whatever becomes of the disk."""
        return 0 if self.current is None else self.current.room

    def reserve(self, room: int) -> None:
        """Have at least so much room.

        Raises:
            JournalError: there is none to be had.
        """
        if self.room < room:
            self.roll(room)

    def roll(self, room: int) -> Segment:
        """Begin a new segment with at least so much room, and leave the present one.

        Raises:
            JournalError: there is no room for a new one; the present one stays.
        """
        new = self._create(max(SEGMENT_BYTES, 2 * room))
        self.seal()
        self.current = new
        self.segments = [*self.segments, new]
        return new

    def seal(self) -> None:
        """Write no more to the present segment; it is kept if anything is in it."""
        old, self.current = self.current, None
        if old is None:
            return
        old.seal()
        if old.begun_at is None:
            self.remove([old])

    def put(self, frames: list[bytes], reserved: int) -> list[Segment | JournalError]:
        """Write frames with one sync, and say of each where it is or why it is not.

        Args:
            frames: at least one.
            reserved: the room that is promised to others; oversized frames are not to take it.
        """
        total = sum(map(len, frames))
        promised = reserved if max(map(len, frames)) > ANSWER_BYTES else 0
        segment = self.current
        if segment is None or segment.room < total + promised:
            try:
                segment = self.roll(total + reserved)
            except JournalError as error:
                return self._squeeze(frames, error)
        return [self._append(segment, frames)] * len(frames)

    def remove(self, segments: Iterable[Segment]) -> None:
        """Remove segments; what the disk refuses to remove is tried again another time."""
        removed = set()
        for segment in segments:
            try:
                segment.remove()
            except OSError as error:
                log.warning("journal.not_removed", problem=str(disk.refused(segment.path, error)))
            else:
                removed.add(segment)
        self.segments = [segment for segment in self.segments if segment not in removed]

    def leave(self) -> None:
        """Let the directory go: to whoever takes over what is in it, or altogether if nothing is."""
        self.seal()
        home, self._home = self._home, None
        if home is None:
            return
        if self.segments:
            home.release()
        else:
            home.remove()

    def _squeeze(self, frames: list[bytes], error: JournalError) -> list[Segment | JournalError]:
        """Write those that still fit into the present segment, when there can be no other."""
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
            return disk.refused(segment.path, error)
        return segment

    def _create(self, size: int) -> Segment:
        home = self._open()
        self._number += 1
        path = home.segment(self._number)
        try:
            return Segment.create(path, size)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                # Somebody removed the directory: the next try makes it anew.
                home.release()
                self._home = None
            raise disk.refused(path, error) from error

    def _open(self) -> Home:
        if self._home is not None:
            return self._home
        try:
            home = Home.make(self.path)
            found = home.segments()
        except OSError as error:
            raise disk.refused(self.path, error) from error
        if found:
            self.segments = [Segment.found(path) for path in found]
            self._number = int(found[-1].stem)
        self._home = home
        return home
