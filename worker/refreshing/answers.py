"""Answers, from the moment they are read until the store has them.

Rules:
- An answer is on this machine's disk before the store is asked to take it. If the disk cannot take it, the
  store is asked all the same. The answer then stays in memory until the disk has it: the store may forget it.
- While the store is away an answer waits here, blocks nobody, and is offered again and again.
- An answer that the store fails at never blocks the rest: it is set aside, and offered again at growing
  pauses until the store takes it.
- A refresh token that an answer on this machine's disk has used up is dead. The answer is given to the store
  in its place, and those that follow it.
- A reply that could not be read goes the same way. When a journal is replayed it follows the tokens: it may
  have come to a pair among them.
- What a person's sign-in brought, and that it was confirmed, go the same way.
- The store decides by lineage. If the record moved on and its refresh token was not used, the answer is made
  anew as that record's successor. A superseded answer is dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, TypeVar

import structlog

from worker.core import lifecycle
from worker.core.connecting import Confirmed, Consent, following
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.ports import (
    Commit,
    Entry,
    Journal,
    JournalDirectory,
    JournalError,
    KeptReply,
    Lease,
    Observer,
    Sealer,
    SignInStore,
    Store,
    StoreRefusedError,
    StoreUnavailableError,
    UnsealError,
    Verdict,
    WritesRefusedError,
)

T = TypeVar("T")
E = TypeVar("E", bound=Entry)

OFFERED_AT_ONCE: Final = 100
FIRST_PAUSE_SECONDS: Final = 1.0  # before an answer that the store failed at is offered again
LONGEST_PAUSE_SECONDS: Final = 300.0
MOST_FOLLOWED: Final = 1_000  # more than a retention has, at a refresh each second
MOST_OFF_DISK: Final = 1_000  # more than can be in flight when a disk begins to refuse: claims stop then
MOST_REBASES: Final = 10  # a record that moves on more often is in use by others just now

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _OffDisk:
    entry: Entry
    acknowledged: bool = False


@dataclass(slots=True)
class _SetAside:
    """An answer that the store fails at; `offer_at` is by the event loop's clock."""

    entry: Entry
    pause_seconds: float
    offer_at: float


class Answers:
    """The answers of one process that the store may not have yet.

    Args:
        store: is offered them.
        sign_ins: is offered what sign-ins brought.
        journal: this process's own.
        directory: has the journals of dead processes.
        sealer: opens an answer that has to be made anew.
        observer: is called with what the store decided.
    """

    def __init__(
        self,
        *,
        store: Store,
        sign_ins: SignInStore,
        journal: Journal,
        directory: JournalDirectory,
        sealer: Sealer,
        observer: Observer,
    ) -> None:
        self._store = store
        self._sign_ins = sign_ins
        self._observer = observer
        self._journal = journal
        self._directory = directory
        self._sealer = sealer
        self._waiting: dict[int, Entry] = {}  # by fence
        self._set_aside: dict[int, _SetAside] = {}  # by fence
        self._off_disk: dict[int, _OffDisk] = {}  # by fence

    @property
    def off_disk(self) -> list[Entry]:
        """The last answers that the disk refused, oldest first."""
        return [each.entry for each in self._off_disk.values()]

    @property
    def waiting(self) -> int:
        """How many answers wait for a store that is away."""
        return len(self._waiting)

    @property
    def set_aside(self) -> list[str]:
        """The grants whose answers the store fails at."""
        return sorted({each.entry.change.grant.id for each in self._set_aside.values()})

    def is_unstored(self, fence: int) -> bool:
        """Whether the store does not have the answer of this lease yet."""
        return fence in self._waiting or fence in self._set_aside

    async def keep(self, entry: Entry) -> Verdict | None:
        """Put an answer on the disk, then into the store.

        Returns the store's verdict; `None` where the answer waits, for the store is away or fails at it.
        """
        try:
            await self._journal.write(entry)
        except JournalError as problem:
            if len(self._off_disk) == MOST_OFF_DISK:
                del self._off_disk[next(iter(self._off_disk))]
            self._off_disk[entry.fence] = _OffDisk(entry)
            log.warning("journal.cannot_write", grant=entry.change.grant.id, problem=str(problem))
        try:
            return await self._offer_and_note(entry)
        except StoreUnavailableError as problem:
            self._waiting[entry.fence] = entry
            log.warning("answer.waits", grant=entry.change.grant.id, problem=str(problem))
            return None

    async def put_on_disk(self) -> None:
        """Put the answers on the disk that it refused before.

        Raises:
            JournalError: it still refuses.
        """
        for fence, each in list(self._off_disk.items()):
            await self._journal.write(each.entry)
            if each.acknowledged:
                self._journal.acknowledge(each.entry)
            self._off_disk.pop(fence, None)

    async def offer_waiting(self) -> None:
        """Offer the waiting answers, and those set aside whose pause is over.

        Raises:
            StoreUnavailableError: the store is still away.
        """
        now = asyncio.get_running_loop().time()
        again = [each.entry for each in self._set_aside.values() if each.offer_at <= now]
        await _in_parts(self._offer_and_note, [*self._waiting.values(), *again])

    async def catch_up(self, lease: Lease) -> Grant | None:
        """Give the store the answers that follow a leased grant's refresh token, where this machine has any.

        Returns the grant as it is after them; `None` where there are none. The lease is still to be ended.

        Raises:
            StoreUnavailableError: the store is away, or fails at one of them.
            JournalError: one of them cannot be read any more.
        """
        grant = lease.grant
        for _ in range(MOST_FOLLOWED):
            entry = await self._answer_to(grant.lineage)
            if entry is None or entry.change.grant.id != grant.id:
                break  # of another grant: a record was put in this one's place, and cannot be unsealed
            log.warning("answer.found_in_journal", grant=grant.id)
            verdict = await self._offer_any(entry)
            if isinstance(entry, KeptReply) and verdict is Verdict.SUPERSEDED:  # a person gave the reply up
                break
            if verdict is None:
                raise StoreRefusedError(f"the answer of {grant.id} in the journal is not taken")
            if not isinstance(entry, Commit):
                return entry.change.grant
            self._observer.committed(entry, verdict)
            grant = entry.change.grant
        return None if grant is lease.grant else grant

    async def that_follow(self, lineage: bytes) -> list[Entry]:
        """The answers that this machine's journals have to a refresh token, each to the one before it.

        Raises:
            JournalError: one of them cannot be read any more.
        """
        found: list[Entry] = []
        while len(found) < MOST_FOLLOWED and (entry := await self._answer_to(lineage)) is not None:
            found.append(entry)
            if not isinstance(entry, Commit) or entry.change.grant.lineage == lineage:
                break
            lineage = entry.change.grant.lineage
        return found

    async def replay(self, entries: Sequence[Entry]) -> list[Verdict | None]:
        """Offer a journal's answers, sorted by `replay_order`.

        The verdict is `STORED` where the store had lost one. `None` stands for an answer that must stay in
        its journal: the store fails at it, or it must be made anew and cannot be unsealed.

        Raises:
            StoreUnavailableError: the store went away; replaying twice is harmless.
        """
        verdicts: list[Verdict | None] = []
        for _, alike in groupby(entries, key=replay_order):
            verdicts += await _in_parts(self._offer_any, list(alike))
        return verdicts

    async def _answer_to(self, lineage: bytes) -> Entry | None:
        if not lineage:
            return None
        for each in self._off_disk.values():
            if each.entry.used_up == lineage:
                return each.entry
        return await self._journal.answer_to(lineage) or await self._directory.answer_to(lineage)

    async def _offer_and_note(self, entry: Entry) -> Verdict | None:
        verdict = await self._offer_any(entry)
        if verdict is not None and isinstance(entry, Commit):
            self._observer.committed(entry, verdict)
        return verdict

    async def _offer_any(self, entry: Entry) -> Verdict | None:
        """Offer an answer; `None` where the store fails at it, and it was set aside."""
        try:
            match entry:
                case Commit():
                    verdict = await self._commit(entry)
                case Confirmed():
                    verdict = await self._confirm(entry)
                case KeptReply():
                    verdict = await self._store.keep_reply(entry)
                case Consent():
                    verdict = await self._sign_ins.keep(entry)
        except (StoreRefusedError, UnsealError) as problem:
            self._put_aside(entry, problem)
            return None
        self._acknowledge(entry)
        return verdict

    async def _commit(self, commit: Commit) -> Verdict:
        offered = commit
        for _ in range(MOST_REBASES):
            committed = await self._store.commit(offered)
            if committed.verdict is not Verdict.REBASE or committed.status is None:
                return committed.verdict
            offered = self._rebased(offered, committed.version, committed.status)
        raise StoreUnavailableError(f"{commit.change.grant.id} moves on again and again")

    async def _confirm(self, confirmed: Confirmed) -> Verdict:
        offered = confirmed
        for _ in range(MOST_REBASES):
            committed = await self._sign_ins.confirm(offered)
            if committed.verdict is not Verdict.REBASE:
                return committed.verdict
            version = None if committed.status is None else committed.version
            sealed = offered.change.grant
            offered = following(offered, version, committed.status)
            offered = replace(offered, change=self._sealed_anew(sealed, offered.change))
        raise StoreUnavailableError(f"{confirmed.change.grant.id} moves on again and again")

    def _acknowledge(self, entry: Entry) -> None:
        self._journal.acknowledge(entry)
        self._waiting.pop(entry.fence, None)
        self._set_aside.pop(entry.fence, None)
        if entry.fence in self._off_disk:
            self._off_disk[entry.fence].acknowledged = True

    def _put_aside(self, entry: Entry, problem: StoreRefusedError | UnsealError) -> None:
        """Offer it again later; what is wrong with it is said once."""
        self._waiting.pop(entry.fence, None)
        before = self._set_aside.get(entry.fence)
        pause = (
            FIRST_PAUSE_SECONDS if before is None else min(2 * before.pause_seconds, LONGEST_PAUSE_SECONDS)
        )
        offer_at = asyncio.get_running_loop().time() + pause
        self._set_aside[entry.fence] = _SetAside(entry, pause, offer_at)
        if before is None:
            log.error("answer.set_aside", grant=entry.change.grant.id, problem=str(problem))

    def _rebased(self, commit: Commit, version: int, status: Status) -> Commit:
        change = lifecycle.rebase(commit.change, version, status, attempt=commit.fence)
        change = self._sealed_anew(commit.change.grant, change)
        return replace(commit, base_version=version, base_status=status, change=change)

    def _sealed_anew(self, sealed: Grant, change: Change) -> Change:
        """A change of another version, with the pair of `sealed`."""
        pair = self._sealer.open(sealed)
        return replace(change, grant=replace(change.grant, sealed=self._sealer.seal(change.grant, pair)))


def replay_order(entry: Entry) -> int:
    """Where an answer comes when a journal is replayed.

    Tokens come first, then the replies that may have come to a pair among them.
    """
    return (Commit, KeptReply, Consent, Confirmed).index(type(entry))


async def _in_parts(offer: Callable[[E], Awaitable[T]], entries: Sequence[E]) -> list[T]:
    """Offer entries in parts; what a store refuses that answers holds up none of the rest.

    Raises:
        StoreUnavailableError: one was not taken.
    """
    taken: list[T] = []
    refused: WritesRefusedError | None = None
    for start in range(0, len(entries), OFFERED_AT_ONCE):
        part = map(offer, entries[start : start + OFFERED_AT_ONCE])
        for reply in await asyncio.gather(*part, return_exceptions=True):
            match reply:
                case WritesRefusedError():
                    refused = reply
                case BaseException():
                    raise reply
                case _:
                    taken.append(reply)
    if refused is not None:
        raise refused
    return taken
