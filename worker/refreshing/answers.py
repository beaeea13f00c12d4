"""Answers, from the moment they are read until the store has them.

Rules:
- An answer is on this machine's disk before the store is asked to take it. Where the disk cannot take it, the
  store is asked all the same, and the answer is remembered here until the disk has it: the store may forget
  it.
- While the store is away an answer waits here, holds up nobody, and is offered again and again.
- An answer that breaks the store's own work holds up no other: it stays in the journal, and is offered again
  when the journal is replayed.
- The store decides by lineage. A record that moved on with its refresh token unused is followed; an answer
  that another one has superseded is let go.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog

from worker.core import lifecycle
from worker.core.grant import Status
from worker.core.ports import (
    Commit,
    Journal,
    JournalError,
    Observer,
    Sealer,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
    UnsealError,
    Verdict,
)

T = TypeVar("T")

OFFERED_AT_ONCE: Final = 100
MOST_OFF_DISK: Final = 1_000  # more than are at work when a disk begins to refuse: then nothing is claimed
MOST_REBASES: Final = 10  # a record that moves on more often is somebody else's at the moment

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _OffDisk:
    commit: Commit
    acknowledged: bool = False


class Answers:
    """What one process has been answered and the store may not have yet."""

    def __init__(self, *, store: Store, journal: Journal, sealer: Sealer, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self._journal = journal
        self._sealer = sealer
        self._waiting: dict[int, Commit] = {}  # by fence
        self._off_disk: dict[int, _OffDisk] = {}  # by fence

    @property
    def off_disk(self) -> list[Commit]:
        """The last ones that no journal has, oldest first."""
        return [each.commit for each in self._off_disk.values()]

    @property
    def waiting(self) -> int:
        """How many the store could not take yet."""
        return len(self._waiting)

    def is_waiting(self, fence: int) -> bool:
        """Whether the store could not take the answer of this lease yet."""
        return fence in self._waiting

    async def keep(self, commit: Commit) -> None:
        """Put an answer on the disk, then into the store; while that is away, it waits."""
        try:
            await self._journal.write(commit)
        except JournalError as problem:
            if len(self._off_disk) == MOST_OFF_DISK:
                del self._off_disk[next(iter(self._off_disk))]
            self._off_disk[commit.fence] = _OffDisk(commit)
            log.warning("journal.cannot_write", grant=commit.change.grant.id, problem=str(problem))
        try:
            await self._take_home(commit)
        except StoreUnavailableError as problem:
            self._waiting[commit.fence] = commit
            log.warning("answer.waits", grant=commit.change.grant.id, problem=str(problem))

    async def put_on_disk(self) -> None:
        """Put on the disk what it refused before.

        Raises:
            JournalError: it refuses still.
        """
        for fence, each in list(self._off_disk.items()):
            await self._journal.write(each.commit)
            if each.acknowledged:
                self._journal.acknowledge(each.commit)
            self._off_disk.pop(fence, None)

    async def offer_waiting(self) -> None:
        """Offer what waits.

        Raises:
            StoreUnavailableError: the store is still away.
        """
        await _in_parts(self._take_home, list(self._waiting.values()))

    async def replay(self, commits: Sequence[Commit]) -> list[Verdict | None]:
        """Offer what a journal holds; what the store did not have is `STORED`.

        `None` stands for an answer that must stay in its journal: the store breaks off at it, or it cannot be
        unsealed to follow a record that moved on.

        Raises:
            StoreUnavailableError: the store went away; replaying twice is harmless.
        """
        return await _in_parts(self._offer, commits)

    async def _take_home(self, commit: Commit) -> None:
        verdict = await self._offer(commit)
        self._waiting.pop(commit.fence, None)
        if verdict is not None:
            self._observer.committed(commit, verdict)

    async def _offer(self, commit: Commit) -> Verdict | None:
        offered = commit
        for _ in range(MOST_REBASES):
            try:
                committed = await self._store.commit(offered)
            except StoreRefusedError as problem:
                log.error("answer.refused", grant=commit.change.grant.id, problem=str(problem))  # noqa: TRY400
                return None
            if committed.verdict is not Verdict.REBASE or committed.status is None:
                self._acknowledge(commit)
                return committed.verdict
            try:
                offered = self._rebased(offered, committed.version, committed.status)
            except UnsealError as problem:
                log.warning("answer.cannot_unseal", problem=str(problem))
                return None
        raise StoreUnavailableError(f"{commit.change.grant.id} moves on again and again")

    def _acknowledge(self, commit: Commit) -> None:
        self._journal.acknowledge(commit)
        if commit.fence in self._off_disk:
            self._off_disk[commit.fence].acknowledged = True

    def _rebased(self, commit: Commit, version: int, status: Status) -> Commit:
        pair = self._sealer.open(commit.change.grant)
        change = lifecycle.rebase(commit.change, version, status, attempt=commit.fence)
        sealed = self._sealer.seal(change.grant.id, change.grant.version, pair)
        change = replace(change, grant=replace(change.grant, sealed=sealed))
        return replace(commit, base_version=version, base_status=status, change=change)


async def _in_parts(offer: Callable[[Commit], Awaitable[T]], commits: Sequence[Commit]) -> list[T]:
    taken: list[T] = []
    for start in range(0, len(commits), OFFERED_AT_ONCE):
        taken += await asyncio.gather(*map(offer, commits[start : start + OFFERED_AT_ONCE]))
    return taken
