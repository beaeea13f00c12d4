"""Which refresh tokens other processes' journals show to be used up, as of the last look at their files.

Rules:
- Journals are followed whoever holds them: a living process may not have given its answers to the store yet,
  nor those of a dead process that it has taken over.
- Nothing is locked, changed or removed.
- A look finds all that was written before it, and costs what is new: a file is read from its last known
  answer on, as far as it is written. What a lost machine left behind a hole in a file is for whoever replays
  it: such an answer was never synced.
- A file that is gone is forgotten: the store has had its answers for a whole retention.
- What cannot be read is told once, and hides no other journal. What was known of it stays known.
- Looks come from one thread at a time; the event loop may ask meanwhile.
"""

import asyncio
from pathlib import Path

import structlog

from worker.adapters.journal.format import last_answer_to, read_file, read_on
from worker.adapters.journal.places import journals_in, segments_in
from worker.core.ports import Entry, JournalError

log = structlog.get_logger(__name__)


class _File:
    """One file, as far as it was read.

    Attributes:
        used_up: the lineages of the refresh tokens that its answers used up; about 80 bytes each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used_up: set[bytes] = set()
        self._end = 0

    def look(self) -> None:
        entries, self._end = read_on(self.path, self._end)
        self.used_up.update(entry.used_up for entry in entries if entry.used_up)


class FollowedJournals:
    """The journals of all processes in one directory but this one's.

    Args:
        root: where the journals of all processes are.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[Path, _File] = {}  # replaced, never changed
        self._unreadable: set[Path] = set()  # directories and files, at the last look

    def look(self, own: str) -> None:
        """Take note of what was written since the last look. Blocks.

        Args:
            own: the owner of this process's journal, which knows its own answers.

        Raises:
            JournalError: the directory cannot be read.
        """
        files: dict[Path, _File] = {}
        refused: dict[Path, OSError] = {}
        for journal in journals_in(self._root):
            if journal.name == own:
                continue
            try:
                paths = segments_in(journal)
            except OSError as error:
                refused[journal] = error
                paths = [path for path in self._files if path.parent == journal]
            files |= {path: self._files.get(path) or _File(path) for path in paths}
        for path, file in files.items():
            try:
                file.look()
            except OSError as error:
                refused[path] = error
        self._files = files
        self._tell_of(refused)

    def _tell_of(self, refused: dict[Path, OSError]) -> None:
        for path in refused.keys() - self._unreadable:
            log.warning("journal.unreadable", file=str(path), reason=refused[path].strerror)
        self._unreadable = set(refused)

    async def answer_to(self, lineage: bytes) -> Entry | None:
        """The answer that used up the refresh token of this lineage; `None` where none was seen.

        Raises:
            JournalError: there is one, and it cannot be read any more.
        """
        for file in self._files.values():
            if lineage in file.used_up:
                found = await asyncio.to_thread(_answer_in, file.path, lineage)
                if found is not None:
                    return found
        return None


def _answer_in(path: Path, lineage: bytes) -> Entry | None:
    found = last_answer_to(lineage, read_file(path).entries)
    if found is None and path.exists():
        raise JournalError(f"journal: {path}: an answer cannot be read any more")
    return found
