"""Answers, from the moment they are read until the store has them.

Rules:
- An answer is on this machine's disk before the store is asked to take it. If the disk cannot take it, the
  store is asked all the same. The answer then stays in memory until the disk has it: the store may forget it.
- While the store is away an answer waits here, blocks nobody, and is offered again and again.
- An answer that the store fails at never blocks the rest: it stays in the journal, and is offered again when
  the journal is replayed.
- The store decides by lineage. If the record moved on and its refresh token was not used, the answer is made
  anew as that record's successor. A superseded answer is dropped.
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
MOST_OFF_DISK: Final = 1_000  # more than can be in flight when a disk begins to refuse: claims stop then
MOST_REBASES: Final = 10  # a record that moves on more often is in use by others just now

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _OffDisk:
    commit: Commit
    acknowledged: bool = False


class Answers:
    """The answers of one process that the store may not have yet."""

    def __init__(self, *, store: Store, journal: Journal, sealer: Sealer, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self._journal = journal
        self._sealer = sealer
        self._waiting: dict[int, Commit] = {}  # by fence
        self._off_disk: dict[int, _OffDisk] = {}  # by fence

    @property
    def off_disk(self) -> list[Commit]:
        """The last answers that the disk refused, oldest first."""
        return [each.commit for each in self._off_disk.values()]

    @property
    def waiting(self) -> int:
        """How many answers the store could not take yet."""
        return len(self._waiting)

    def is_waiting(self, fence: int) -> bool:
        """Whether the store could not take the answer of this lease yet."""
        return fence in self._waiting

    async def keep(self, commit: Commit) -> None:
        """Put an answer on the disk, then into the store; it waits while the store is away."""
        try:
            await self._journal.write(commit)
        except JournalError as problem:
            if len(self._off_disk) == MOST_OFF_DISK:
                del self._off_disk[next(iter(self._off_disk))]
            self._off_disk[commit.fence] = _OffDisk(commit)
            log.warning("journal.cannot_write", grant=commit.change.grant.id, problem=str(problem))
        try:
            await self._offer_and_note(commit)
        except StoreUnavailableError as problem:
            self._waiting[commit.fence] = commit
            log.warning("answer.waits", grant=commit.change.grant.id, problem=str(problem))

    async def put_on_disk(self) -> None:
        """Put the answers on the disk that it refused before.

        Raises:
            JournalError: it still refuses.
        """
        for fence, each in list(self._off_disk.items()):
            await self._journal.write(each.commit)
            if each.acknowledged:
                self._journal.acknowledge(each.commit)
            self._off_disk.pop(fence, None)

    async def offer_waiting(self) -> None:
        """Offer the waiting answers.

        Raises:
            StoreUnavailableError: the store is still away.
        """
        await _in_parts(self._offer_and_note, list(self._waiting.values()))

    async def replay(self, commits: Sequence[Commit]) -> list[Verdict | None]:
        """Offer a journal's answers; the verdict is `STORED` where the store had lost one.

        `None` stands for an answer that must stay in its journal: the store fails at it, or it must be made
        anew and cannot be unsealed.

        Raises:
            StoreUnavailableError: the store went away; replaying twice is harmless.
        """
        return await _in_parts(self._offer, commits)

    async def _offer_and_note(self, commit: Commit) -> None:
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
