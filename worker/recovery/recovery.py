"""Recovery: what the store may have forgotten is given back, once in each epoch.

Rules:
- A store that restarted, failed over or was out of reach begins a new epoch. Nobody claims in it before the
  processes that the store knows have finished their recovery.
- A process finishes its recovery only after it has given back its leases, the answers of its own journal
  and of the journals that it took over, and the promises of tokens that it handed out. The store decides by
  lineage which of the answers are news.
- One unreadable record never blocks the rest: its answers stay in the journal.
- The store's durability is examined once in each epoch. A refused store is given back everything all the
  same, but recovery is not finished: the store is examined again at each step until it is accepted.
- Answers are removed from the disk only in an epoch whose recovery this process has finished, and not while
  the store has lost their grants: it was flushed, and only the journal has the living tokens. That ends after
  a day.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from worker.core.ports import Epoch, Journal, Lease, Observer, Store, StoreRefusedError
from worker.recovery.replay import Replay
from worker.recovery.takeover import Takeover
from worker.refreshing.answers import Answers
from worker.refreshing.promises_given import PromisesGiven

OFFER_LOST_MS: Final = 10_000
KEEP_LOST_MS: Final = 86_400_000

log = structlog.get_logger(__name__)


class Recovery:
    """Gives the store back what this process knows.

    Args:
        store: may have forgotten.
        answers: of this process; they know which of them no journal has.
        journal: this process's own.
        replay: offers journals to the store.
        takeover: the journals of dead processes.
        promises: that this process gave.
        held: returns the leases of this process.
        observer: is called with what was given back.
        examine: returns why nothing may be claimed from the store, empty if claims are allowed. `None`: the
            store is not examined.

    Attributes:
        epoch: the newest one that the store reported; `None` before the first heartbeat.
        refusal: why nothing may be claimed from the store; empty if claims are allowed.
    """

    def __init__(
        self,
        *,
        store: Store,
        answers: Answers,
        journal: Journal,
        replay: Replay,
        takeover: Takeover,
        promises: PromisesGiven,
        held: Callable[[], Sequence[Lease]],
        observer: Observer,
        examine: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._store = store
        self._answers = answers
        self._journal = journal
        self._replay = replay
        self._takeover = takeover
        self._promises = promises
        self._held = held
        self._observer = observer
        self._examine = examine
        self._given_back_in: int | None = None  # an epoch's number
        self._finished_in: int | None = None  # likewise
        self._lost_offered_at = 0
        self._lost_told = 0  # of so many grants
        self.epoch: Epoch | None = None
        self.refusal = ""

    @property
    def is_finished(self) -> bool:
        """Whether this process has finished its recovery in the newest epoch."""
        return self.epoch is not None and self.epoch.number == self._finished_in

    @property
    def may_claim(self) -> bool:
        """Whether this process and all others have finished their recovery."""
        return self.is_finished and self.epoch is not None and not self.epoch.recovering

    async def step(self, epoch: Epoch) -> None:
        """Give back what the store was not given in this epoch yet, and finish its recovery.

        Raises:
            StoreUnavailableError: the store went away; the next step gives everything back again.
        """
        self._replay.store_began_at = epoch.began_at
        if epoch.number != self._given_back_in:
            await self._give_back_own()
            self._takeover.start_over()
        await self._takeover.replay_all()
        await self._promises.give_back(epoch)
        if epoch.now - self._lost_offered_at >= OFFER_LOST_MS:
            self._lost_offered_at = epoch.now
            await self._replay.offer_lost()
        self._tell_of_the_lost()
        self._report(epoch)
        if epoch.number == self._finished_in:
            return
        self._given_back_in = epoch.number
        self.refusal = "" if self._examine is None else await self._examine()
        if not self.refusal:
            self.epoch = await self._store.finish_recovery(epoch)
            self._finished_in = epoch.number

    async def sweep(self) -> None:
        """Remove answers that have been kept long enough."""
        epoch = self.epoch
        if epoch is not None and self._replay.lost_grants and epoch.now - epoch.began_at < KEEP_LOST_MS:
            return
        await self._journal.sweep()
        await self._takeover.sweep()

    async def _give_back_own(self) -> None:
        await asyncio.gather(*map(self._reassert, self._held()))
        off_disk = self._answers.off_disk
        await self._replay.offer(lambda: [*self._journal.read(), *off_disk])

    def _tell_of_the_lost(self) -> None:
        lost = self._replay.lost_grants
        if lost and lost != self._lost_told:
            log.error(
                "store.lost_grants",
                grants=lost,
                problem="Redis began anew and lacks grants whose answers this journal holds:"
                " was it flushed, or restored from a backup?",
                advice="stop every worker, import your newest export, start them again",
            )
        self._lost_told = lost

    def _report(self, epoch: Epoch) -> None:
        offered, repaired = self._replay.take_counts()
        if offered or epoch.number != self._given_back_in:
            self._observer.recovered(epoch.number, offered=offered, repaired=repaired)

    async def _reassert(self, lease: Lease) -> None:
        try:
            await self._store.reassert(lease)
        except StoreRefusedError as problem:
            log.error("lease.not_reasserted", grant=lease.grant.id, problem=str(problem))  # noqa: TRY400
