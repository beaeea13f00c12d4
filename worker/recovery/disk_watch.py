"""The disk watch: it notices that the disk cannot take another answer, and says why nothing is claimed.

Rules:
- There is room on the disk for the answer of every lease that is held, and for one more.
- Answers that the disk refused are put there as soon as it takes them.
- Why nothing is claimed is logged once when it begins and once when it ends; each heartbeat repeats it to the
  store.
"""

from collections.abc import Callable, Sequence

import structlog

from worker.core.ports import Journal, JournalError, Lease
from worker.refreshing.answers import Answers

log = structlog.get_logger(__name__)


class DiskWatch:
    """Looks at the disk that answers are kept on.

    Args:
        answers: those that the disk refused.
        journal: this process's own.
        held: the leases of this process.

    Attributes:
        trouble: why nothing is claimed; empty where something may be.
    """

    def __init__(self, *, answers: Answers, journal: Journal, held: Callable[[], Sequence[Lease]]) -> None:
        self._answers = answers
        self._journal = journal
        self._held = held
        self.trouble = ""

    async def look(self, trouble: str) -> None:
        """Find out whether the disk can take another answer.

        Args:
            trouble: what else keeps this process from claiming; empty where nothing does. A trouble of the
                disk is reported in its place.
        """
        try:
            await self._answers.put_on_disk()
            await self._journal.reserve(len(self._held()) + 1)
        except JournalError as problem:
            trouble = str(problem)
        if trouble and trouble != self.trouble:
            log.error("claims.stopped", problem=trouble)
        elif self.trouble and not trouble:
            log.info("claims.go_on")
        self.trouble = trouble
