"""Takeover: the journals of processes that died are found, replayed and in time removed.

Rules:
- A living process of the same data directory takes over the journal of a dead one, even on a full disk.
- In each new epoch every journal that was taken over is replayed again: the store may have forgotten again.
- The newest answers are replayed first: a store that lost writes lost its last ones, and it does not wait for
  ever until all are given back.
- The store hears that a process is gone only after its journal was replayed. A recovery waits for every
  process that is known, so it cannot end before that.
- A process whose journal could not be read completely is not reported gone: its recovery is waited for as
  long as that of a living one.
"""

import asyncio
from collections.abc import Callable

import structlog

from worker.core.ports import AbandonedJournal, Commit, JournalDirectory, Store, Verdict
from worker.refreshing.answers import Answers

log = structlog.get_logger(__name__)


class Takeover:
    """Gives the store what dead processes knew.

    Args:
        owner: names this process, whose own journal is left alone.
        store: hears which processes are gone.
        answers: offers the answers of a journal to the store.
        directory: where the journals are.
    """

    def __init__(self, *, owner: str, store: Store, answers: Answers, directory: JournalDirectory) -> None:
        self._owner = owner
        self._store = store
        self._answers = answers
        self._directory = directory
        self._taken_over: list[AbandonedJournal] = []
        self._to_replay: list[AbandonedJournal] = []

    async def find(self) -> None:
        """Take over the journals whose owners died since the last look.

        Raises:
            JournalError: the directory cannot be read.
        """
        found = await asyncio.to_thread(self._directory.take_over, self._owner)
        self._taken_over += found
        self._to_replay += found

    def start_over(self) -> None:
        """Have all journals replayed again."""
        self._to_replay = list(self._taken_over)

    async def replay(self) -> list[Verdict | None]:
        """Replay the journals that the store has not been given yet; returns what it made of each answer.

        Raises:
            StoreUnavailableError: the store went away; the next call goes on with the same journal.
        """
        verdicts: list[Verdict | None] = []
        while self._to_replay:
            verdicts += await self._replay_one(self._to_replay[-1])
            self._to_replay.pop()
        return verdicts

    async def sweep(self) -> None:
        """Remove the journals that have been kept long enough."""
        await asyncio.to_thread(self._directory.sweep)
        self._taken_over = [journal for journal in self._taken_over if not journal.is_expired]

    async def _replay_one(self, journal: AbandonedJournal) -> list[Verdict | None]:
        verdicts = await replay(journal.read, self._answers)
        if None not in verdicts:
            journal.acknowledge(repaired=Verdict.STORED in verdicts)
        if journal.is_complete:
            await self._store.leave(journal.owner)
        return verdicts


async def replay(read: Callable[[], list[Commit]], answers: Answers) -> list[Verdict | None]:
    """Offer the store what a journal holds, the newest answer first.

    Args:
        read: reads the journal, oldest answer first; blocks.
        answers: offers them.

    Returns what the store made of each, as `Answers.replay` does.

    Raises:
        StoreUnavailableError: the store went away; replaying twice is harmless.
    """
    commits = (await asyncio.to_thread(read))[::-1]
    verdicts = await answers.replay(commits)
    repaired = verdicts.count(Verdict.STORED)
    if repaired:
        log.warning("journal.repaired_the_store", answers=len(commits), repaired=repaired)
    return verdicts
