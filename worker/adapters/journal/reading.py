"""The journals of a deployment on this machine, read as they stand.

Nothing is locked, changed or removed: those of living processes are read too, as far as they are written.
"""

from collections.abc import Iterator
from pathlib import Path

from worker.adapters.journal.format import read_file
from worker.adapters.journal.places import journals_in, segments_in
from worker.core.ports import Entry


class JournalsOnDisk:
    """Every answer that the journals under one directory hold.

    Args:
        root: where the journals of all processes are.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self, about: int | None = None) -> Iterator[Entry]:
        """Each answer, those of one file in the order they were written. Blocks.

        Args:
            about: files last written about this instant, in Unix ms, come first; `None` for the oldest of
                each process first.

        Raises:
            JournalError: the directory cannot be read.
        """
        files = [path for journal in journals_in(self._root) for path in segments_in(journal)]
        if about is not None:
            files.sort(key=lambda path: abs(_written_at(path) - about))
        for path in files:
            yield from read_file(path).entries


def _written_at(path: Path) -> float:
    """When a file was last written, in Unix ms; 0 for one that was removed meanwhile."""
    try:
        return path.stat().st_mtime * 1000
    except OSError:
        return 0.0
