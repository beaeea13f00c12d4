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

    def entries(self) -> Iterator[Entry]:
        """Each answer, those of one process in the order they were written. Blocks.

        Raises:
            JournalError: the directory cannot be read.
        """
        for journal in journals_in(self._root):
            for path in segments_in(journal):
                yield from read_file(path).entries
