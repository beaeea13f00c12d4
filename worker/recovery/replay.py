"""Replay: a journal's answers are offered to the store, and the ones that it had lost are counted.

The newest answers go first: a store that lost writes lost its last ones, and a recovery ends after a time
even if not all answers are given back.
"""

import asyncio
from collections.abc import Callable

from worker.core.ports import Commit, Verdict
from worker.refreshing.answers import Answers


class Replay:
    """Offers journals to the store, and counts their answers."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._offered = self._repaired = 0

    async def offer(self, read: Callable[[], list[Commit]]) -> list[Verdict | None]:
        """Offer a journal's answers, the newest first; returns the verdicts as `Answers.replay` does.

        Args:
            read: reads the journal, oldest answer first; blocks.

        Raises:
            StoreUnavailableError: the store went away; to offer an answer twice is harmless.
        """
        commits = (await asyncio.to_thread(read))[::-1]
        verdicts = await self._answers.replay(commits)
        self._offered += len(commits)
        self._repaired += verdicts.count(Verdict.STORED)
        return verdicts

    def take_counts(self) -> tuple[int, int]:
        """How many answers were offered since the last call, and how many of them the store had lost."""
        counts = self._offered, self._repaired
        self._offered = self._repaired = 0
        return counts
