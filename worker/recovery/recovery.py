"""Recovery: what the store may have forgotten is given back, once in each epoch.

Rules:
- A store that restarted, failed over or was out of reach begins a new epoch. Nobody claims in it before the
  processes that the store knows have finished their recovery.
- A process finishes its recovery only after it has given back its leases, and the answers of its own journal
  and of the journals that it took over. The store decides by lineage which of them are news.
- The newest answers are given back first: a store that lost writes lost its last ones, and it does not wait
  for ever until all are given back.
- One unreadable record never blocks the rest: what belongs to it stays in the journal.
- The store's durability is examined once in each epoch. An unfit store is given back everything all the
  same, but recovery is not finished: the store is examined again at each step until it is fit.
- Answers are removed from the disk only in an epoch whose recovery this process has finished.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import structlog

from worker.core.ports import Epoch, Journal, Lease, Observer, Store, StoreRefusedError, Verdict
from worker.recovery.takeover import Takeover, replay
from worker.refreshing.answers import Answers

log = structlog.get_logger(__name__)


class Recovery:
    """Gives the store back what this process knows.

    Args:
        store: what may have forgotten.
        answers: those that no journal has, and what offers the others to the store.
        journal: this process's own.
        takeover: the journals of dead processes.
        held: the leases of this process.
        observer: hears of each recovery that is finished.
        examine: says why nothing may be claimed of the store, empty where something may. `None` where nobody
            examines it.

    Attributes:
        epoch: the newest one that was heard of; `None` before the first heartbeat.
        refusal: why nothing may be claimed of the store; empty where something may.
    """

    def __init__(
        self,
        *,
        store: Store,
        answers: Answers,
        journal: Journal,
        takeover: Takeover,
        held: Callable[[], Sequence[Lease]],
        observer: Observer,
        examine: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._store = store
        self._answers = answers
        self._journal = journal
        self._takeover = takeover
        self._held = held
        self._observer = observer
        self._examine = examine
        self._given_back_in: int | None = None  # an epoch's number, as the next one
        self._finished_in: int | None = None
        self._verdicts = Counter[Verdict | None]()  # on the answers given back in this epoch
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
        """Give back what the store has not been given in this epoch, and finish its recovery.

        Raises:
            StoreUnavailableError: the store went away; the next step gives everything back again.
        """
        if epoch.number != self._given_back_in:
            self._verdicts = Counter(await self._give_back_own())
            self._takeover.start_over()
        self._verdicts.update(await self._takeover.replay())
        if epoch.number == self._finished_in:
            return
        self._given_back_in = epoch.number
        self.refusal = "" if self._examine is None else await self._examine()
        if not self.refusal:
            self.epoch = await self._store.finish_recovery(epoch)
            self._finished_in = epoch.number
            offered, repaired = self._verdicts.total(), self._verdicts[Verdict.STORED]
            self._observer.recovered(epoch.number, offered=offered, repaired=repaired)

    async def sweep(self) -> None:
        """Remove answers that have been kept long enough."""
        await self._journal.sweep()
        await self._takeover.sweep()

    async def _give_back_own(self) -> list[Verdict | None]:
        await asyncio.gather(*map(self._reassert, self._held()))
        off_disk = self._answers.off_disk
        return await replay(lambda: [*self._journal.read(), *off_disk], self._answers)

    async def _reassert(self, lease: Lease) -> None:
        try:
            await self._store.reassert(lease)
        except StoreRefusedError as problem:
            log.error("grant.cannot_be_told", grant=lease.grant.id, problem=str(problem))  # noqa: TRY400
