"""Replay: a journal's answers are offered to the store, and the ones that it had lost are counted.

The newest answers go first: a store that lost writes lost its last ones, and a recovery ends after a time
even if not all answers are given back.

An answer for a grant that the store does not have is lost, if the store began after it: it was flushed, or is
another one. Such answers are offered again and again, for the grant may be imported from an old file.
"""

import asyncio
from collections.abc import Callable

from worker.core.ports import Entry, Verdict
from worker.refreshing.answers import Answers, replay_order


class Replay:
    """Offers journals to the store, and counts their answers."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._offered = self._repaired = 0
        self._lost: dict[int, Entry] = {}  # by fence
        self.store_began_at = 0

    @property
    def lost_grants(self) -> int:
        """Of how many grants the store lacks everything, though it answers to their journal."""
        return len({entry.change.grant.id for entry in self._lost.values()})

    async def offer_lost(self) -> None:
        """Offer the lost answers again.

        Raises:
            StoreUnavailableError: the store went away.
        """
        lost = list(self._lost.values())
        if lost:
            await self.offer(lambda: lost)

    async def offer(self, read: Callable[[], list[Entry]]) -> list[Verdict | None]:
        """Offer a journal's answers, the newest first; returns the verdicts as `Answers.replay` does.

        Args:
            read: reads the journal, oldest answer first; blocks.

        Raises:
            StoreUnavailableError: the store went away; to offer an answer twice is harmless.
        """
        entries = (await asyncio.to_thread(read))[::-1]
        entries.sort(key=replay_order)
        verdicts = await self._answers.replay(entries)
        self._offered += len(entries)
        self._repaired += verdicts.count(Verdict.STORED)
        for entry, verdict in zip(entries, verdicts, strict=True):
            self._lost.pop(entry.fence, None)
            if verdict is Verdict.GONE and entry.fence < self.store_began_at * 1000:
                self._lost[entry.fence] = entry
        return verdicts

    @property
    def is_complete(self) -> bool:
        """Whether the store has all that was offered: no answer is set aside."""
        return not self._answers.set_aside

    def take_counts(self) -> tuple[int, int]:
        """How many answers were offered since the last call, and how many of them the store had lost."""
        counts = self._offered, self._repaired
        self._offered = self._repaired = 0
        return counts
