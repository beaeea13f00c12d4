"""This process's presence at the store: what it says of itself, and gives back to a store that forgot.

Rules:
- It heartbeats as long as it lives, whatever else it is busy with.
- A store that restarted, failed over or was out of reach begins a new epoch, in which nobody claims before
  those present have confirmed it.
- Before it confirms an epoch a process has given back whatever it knows: the leases it holds, the answers
  that wait, and all that its journal and the journals it taken_over hold. Lineage decides what of it is news.
- Each journal's newest answers are given back first: they are what a store forgets, and recovery ends after a
  time whether all has been given back or not.
- A record at which the store breaks off holds up no other: what belongs to it stays in the journal.
- Nothing is removed from a disk while the store is away or has yet to be given back what it forgot.
- It gives back the same before it says that it is gone: nobody waits for it afterwards.
- The journal of a process that died is taken_over by whoever finds it on the same directory, room or none.
- A process whose journal cannot take another answer says so, and does not claim.
- Nor does one to which the store is unfit. It looks once in each epoch, gives back what it knows all the
  same, and confirms no epoch, looking again at each step, until the store is fit.
- An embedded server is brought back when it is away. That is done here and not in a worker's main process,
  which waits for its broker then, and whose forks would inherit the locks held while a server starts.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import structlog

from worker.core.ports import (
    Commit,
    Epoch,
    Journal,
    JournalError,
    Lease,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
    Verdict,
)
from worker.refreshing.answers import Answers

KeepRunning = Callable[[Callable[[str], None]], None]

HEARTBEAT_SECONDS: Final = 1.0  # a third of the silence that begins an epoch: see prelude.lua
LEAVE_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


class AbandonedJournal(Protocol):
    """The journal of a process that died, held by this one."""

    @property
    def owner(self) -> str:
        """Whose it was."""

    @property
    def is_expired(self) -> bool:
        """Whether it has been kept long enough, and need not be offered again."""

    @property
    def is_complete(self) -> bool:
        """Whether all that is in it could be read."""

    def read(self) -> list[Commit]:
        """What it holds, the last answer of each grant, oldest first."""

    def acknowledge(self, *, repaired: bool) -> None:
        """The store has taken all of it, or others in their place: it may be forgotten after the retention.

        Args:
            repaired: the store took some of it just now.
        """


class JournalDirectory(Protocol):
    """The journals in one data directory."""

    def take_over(self, own: str) -> Sequence[AbandonedJournal]:
        """Take over journals whose owners are dead, but for `own`; each is returned once.

        Raises:
            JournalError: the directory cannot be read.
        """

    def sweep(self) -> None:
        """Remove what has been kept long enough."""


class Presence:
    """Keeps one process known to the store, and in agreement with it.

    Args:
        owner: names this process.
        store: where it is present.
        answers: those that wait.
        journal: its own.
        directory: where those of the dead are found.
        held: its leases.
        keep_running: brings the store's server back and tells of it; blocks, but not without end. `None`
            where the server is somebody else's.
        examine: finds out why nothing may be claimed of the store, if anything; `None` where nobody looks.
    """

    def __init__(
        self,
        *,
        owner: str,
        store: Store,
        answers: Answers,
        journal: Journal,
        directory: JournalDirectory,
        held: Callable[[], Sequence[Lease]],
        keep_running: KeepRunning | None = None,
        examine: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._owner = owner
        self._store = store
        self._answers = answers
        self._journal = journal
        self._directory = directory
        self._held = held
        self._keep_running = keep_running
        self._examine = examine
        self._taken_over: list[AbandonedJournal] = []
        self._unplayed: list[AbandonedJournal] = []
        self._epoch: Epoch | None = None
        self._given_back: int | None = None  # in which epoch
        self._confirmed: int | None = None
        self._refusal = ""  # why nothing may be claimed of the store
        self._trouble = ""
        self._is_away = False
        self._news = asyncio.Event()  # an epoch that is not confirmed yet

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Be present for as long as the block lasts."""
        keeping = [
            asyncio.create_task(self._repeat(self._live)),
            asyncio.create_task(self._repeat(self.recover, self._news)),
        ]
        try:
            yield
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await self._leave()

    async def _live(self) -> None:
        """Pulse, and bring the server back that does not hear it."""
        try:
            await self.heartbeat()
        except StoreUnavailableError:
            if self._keep_running is None:
                raise
            bringing = asyncio.create_task(asyncio.to_thread(self._keep_running, _log_of_the_server))
            try:
                await asyncio.shield(bringing)
            finally:
                await asyncio.wait([bringing])  # nobody may close the server's use under the thread

    async def heartbeat(self) -> None:
        """Say that this process lives, and learn which epoch the store is in.

        Raises:
            StoreUnavailableError: the store is away.
        """
        try:
            epoch = self._epoch = await self._store.heartbeat(self._trouble)
        except StoreUnavailableError as problem:
            if not self._is_away:
                log.warning("store.away", problem=str(problem))
            self._is_away = True
            raise
        if self._is_away:
            log.info("store.back")
        self._is_away = False
        if epoch.number != self._confirmed:
            self._news.set()

    async def recover(self) -> bool:
        """Give the store what it may not have; returns whether this process may claim then.

        Raises:
            StoreUnavailableError: the store is away.
        """
        try:
            await self._answers.offer_waiting()  # first: a disk may keep whoever looks at it waiting
        finally:
            await self._look_at_the_disk()
        if self._epoch is None:
            await self.heartbeat()
        epoch = self._epoch
        if epoch is not None and epoch.number != self._given_back:
            leases = self._held()
            await asyncio.gather(*(_apart(self._store.reassert(held), held.grant.id) for held in leases))
            off_disk = self._answers.off_disk
            await self._replay(lambda: [*self._journal.read(), *off_disk])
            self._unplayed = list(self._taken_over)
        while self._unplayed:
            await self._replay_abandoned(self._unplayed[-1])
            self._unplayed.pop()
        if epoch is not None and epoch.number != self._confirmed:
            self._given_back = epoch.number
            self._refusal = "" if self._examine is None else await self._examine()
            if self._refusal:
                return False
            self._epoch = await self._store.finish_recovery(epoch)
            self._confirmed = epoch.number
        if not self._is_away and self._epoch is not None and self._epoch.number == self._confirmed:
            await self._sweep()
        return self._epoch is not None and not self._epoch.recovering

    async def _repeat(self, step: Callable[[], Awaitable[object]], news: asyncio.Event | None = None) -> None:
        """Take a step every second, or sooner where there is news."""
        news = news or asyncio.Event()
        while True:
            try:
                with suppress(StoreUnavailableError):
                    await step()
            except Exception:
                log.exception("presence.broke_off")
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # redis-py may lose a cancellation, while it connects
                return
            # Not `wait_for`: on Python 3.11 it may swallow a cancellation that comes together with the news.
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await news.wait()
                news.clear()

    async def _look_at_the_disk(self) -> None:
        """Find journals to take over, and note what keeps this process from claiming."""
        trouble = self._refusal
        try:
            found = await asyncio.to_thread(self._directory.take_over, self._owner)
            self._taken_over += found
            self._unplayed += found
        except JournalError as problem:
            trouble = str(problem)
        try:
            await self._answers.put_on_disk()
            await self._journal.reserve(len(self._held()) + 1)
        except JournalError as problem:
            trouble = str(problem)
        if trouble and trouble != self._trouble:
            log.error("claims.stopped", problem=trouble)
        elif self._trouble and not trouble:
            log.info("claims.go_on")
        self._trouble = trouble

    async def _sweep(self) -> None:
        await self._journal.sweep()
        await asyncio.to_thread(self._directory.sweep)
        self._taken_over = [abandoned for abandoned in self._taken_over if not abandoned.is_expired]

    async def _replay_abandoned(self, abandoned: AbandonedJournal) -> None:
        verdicts = await self._replay(abandoned.read)
        if None not in verdicts:
            abandoned.acknowledge(repaired=Verdict.STORED in verdicts)
        if (
            abandoned.is_complete
        ):  # else the store waits for what it may have known, as long as for a living one
            await self._store.leave(abandoned.owner)  # only now: an epoch must not end its recovering before

    async def _replay(self, read: Callable[[], list[Commit]]) -> list[Verdict | None]:
        """Offer what is read, the last of it first; returns what became of it, as `Answers.replay` has it."""
        commits = (await asyncio.to_thread(read))[::-1]
        verdicts = await self._answers.replay(commits)
        repaired = verdicts.count(Verdict.STORED)
        if repaired:
            log.warning("journal.repaired_the_store", answers=len(commits), repaired=repaired)
        return verdicts

    async def _leave(self) -> None:
        """Give back what this process knows a last time, and say that it is gone."""
        with suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.heartbeat()
                await self.recover()
                await self._store.leave()
        if self._answers.waiting:
            log.warning("answers.left_in_journal", answers=self._answers.waiting)


async def _apart(telling: Awaitable[None], grant_id: str) -> None:
    """Tell the store something of one grant; where it breaks off at that, the others go on."""
    try:
        await telling
    except StoreRefusedError as problem:
        log.error("grant.cannot_be_told", grant=grant_id, problem=str(problem))  # noqa: TRY400


def _log_of_the_server(line: str) -> None:
    log.warning("store.server", said=line)
