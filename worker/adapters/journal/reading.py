"""The journals of a deployment on this machine, read as they stand.

Nothing is locked, changed or removed: those of living processes are read too, as far as they are written.
"""

from collections.abc import Iterator
from pathlib import Path

from worker.adapters.journal.format import first_in, read_file
from worker.adapters.journal.places import journals_in, segments_in
from worker.core.ports import Entry


class JournalsOnDisk:
    """Every answer that the journals under one directory hold.

    Args:
        root: where the journals of all processes are.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self, before: int | None = None) -> Iterator[Entry]:
        """Each answer, those of one file in the order they were written. Blocks.

        Args:
            before: only those whose lease began before this instant, in Unix ms. Files that were last written
                about then come first, and one that begins later is not read: long after the instant that
                costs next to nothing.

        Raises:
            JournalError: the directory cannot be read.
        """
        files = [path for journal in journals_in(self._root) for path in segments_in(journal)]
        if before is None:
            for path in files:
                yield from read_file(path).entries
            return
        end = before * 1000  # a fence is at least its own time in µs
        for path in sorted(files, key=lambda path: abs(_written_at(path) - before)):
            first = first_in(path)
            if first is None or first.fence < end:
                yield from (entry for entry in read_file(path).entries if entry.fence < end)


def _written_at(path: Path) -> float:
    """When a file was last written, in Unix ms; 0 for one that was removed meanwhile."""
    try:
        return path.stat().st_mtime * 1000
    except OSError:
        return 0.0
