"""Takeover: the journals of dead processes are found, replayed, and removed after their retention.

Rules:
- A living process of the same data directory takes over the journal of a dead one, even on a full disk.
- In each new epoch every journal that was taken over is replayed again: the store may have forgotten again.
- Every step looks at all journals of the directory, those in other hands too, before it finishes a recovery.
  So no token is presented to which one of them has the answer: in a new epoch nobody claims before such a
  step, and a lease that was not ended counts for much longer than a step takes.
- A dead process is reported gone only after its journal was replayed. A recovery waits for every process that
  the store knows, so it cannot end before that.
- A dead process whose journal could not be read completely, or has an answer that the store fails at, is not
  reported gone. So its grants are not leased too soon, and a recovery waits for it as for a living one.
- A journal with such an answer is replayed again once the store has taken what was set aside.
"""

import asyncio

from worker.core.ports import AbandonedJournal, JournalDirectory, Store, Verdict
from worker.recovery.replay import Replay


class Takeover:
    """Gives the store what dead processes knew.

    Args:
        owner: names this process, whose own journal is left alone.
        store: is told which processes are gone.
        replay: offers journals to the store.
        directory: where the journals are.
    """

    def __init__(self, *, owner: str, store: Store, replay: Replay, directory: JournalDirectory) -> None:
        self._owner = owner
        self._store = store
        self._replay = replay
        self._directory = directory
        self._taken_over: list[AbandonedJournal] = []
        self._to_replay: list[AbandonedJournal] = []
        self._unfinished: list[AbandonedJournal] = []

    async def find(self) -> None:
        """Take over the journals whose owners died since the last look, and read what is new in any other.

        Raises:
            JournalError: the directory cannot be read.
        """
        found = await asyncio.to_thread(self._directory.take_over, self._owner)
        self._taken_over += found
        self._to_replay += found
        await asyncio.to_thread(self._directory.look, self._owner)

    def start_over(self) -> None:
        """Have all journals replayed again."""
        self._to_replay = list(self._taken_over)
        self._unfinished.clear()

    async def replay_all(self) -> None:
        """Replay the journals that the store has not been given yet.

        Raises:
            StoreUnavailableError: the store went away; the next call goes on with the same journal.
        """
        if self._unfinished and self._replay.is_complete:
            self._to_replay += self._unfinished
            self._unfinished.clear()
        while self._to_replay:
            await self._replay_one(self._to_replay[-1])
            self._to_replay.pop()

    async def sweep(self) -> None:
        """Remove the journals that have been kept long enough."""
        await asyncio.to_thread(self._directory.sweep)
        self._taken_over = [journal for journal in self._taken_over if not journal.is_expired]

    async def _replay_one(self, journal: AbandonedJournal) -> None:
        verdicts = await self._replay.offer(journal.read)
        if None in verdicts:
            self._unfinished.append(journal)
            return
        journal.acknowledge(repaired=Verdict.STORED in verdicts)
        if journal.is_complete:
            await self._store.leave(journal.owner)
