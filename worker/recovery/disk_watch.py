"""The disk watch: notices that the disk cannot take another answer, and knows why nothing is claimed.

Rules:
- Room for the answer of every held lease, and for one more, is reserved on the disk.
- Answers that the disk refused are put there as soon as it takes them.
- A trouble is logged once when it begins and once when it ends. Each heartbeat repeats it to the store.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from worker.core.ports import Journal, JournalError, Lease
from worker.refreshing.answers import Answers

USED_UP: Final = (
    "; its reserve is used up, and answers are on no disk: they must not be lost with this process"
)

log = structlog.get_logger(__name__)


class DiskWatch:
    """Looks at the disk of this process's journal.

    Args:
        answers: of this process; they know which of them the disk refused.
        journal: this process's own.
        held: returns the leases of this process.

    Attributes:
        trouble: why nothing is claimed; empty if claims are allowed.
    """

    def __init__(self, *, answers: Answers, journal: Journal, held: Callable[[], Sequence[Lease]]) -> None:
        self._answers = answers
        self._journal = journal
        self._held = held
        self.trouble = ""

    async def look(self, trouble: str) -> None:
        """Find out whether the disk can take another answer.

        Args:
            trouble: another reason why nothing is claimed; empty if there is none. A trouble of the disk
                takes its place.
        """
        try:
            await self._answers.put_on_disk()
            await self._journal.reserve(len(self._held()) + 1)
        except JournalError as problem:
            trouble = str(problem) + (USED_UP if self._answers.off_disk else "")
        if trouble and trouble != self.trouble:
            log.error("claims.stopped", problem=trouble)
        elif self.trouble and not trouble:
            log.info("claims.resumed")
        self.trouble = trouble
