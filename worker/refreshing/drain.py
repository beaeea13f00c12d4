"""Refresh what is due, of every client: claim a chunk, keep requests in flight, claim again.

Rules:
- The store says which clients are due, again each second; with thousands, as many seconds apart as that took
  pages. All of them share this process's slots (slots.py), so no provider holds up another. Nobody waits for
  that: a store that takes answers in replies late.
- Nothing is claimed while an answer waits for the store, or while the disk has no room for the answers
  to come.
- Requests in flight are always finished. Grants that still wait for a slot when the drain ends are given
  back.
- A drain that meets a recovery waits for its end for a few seconds. Ending at once would cost all that is due
  the time until the next sweep.
- A drain whose time is up while requests hang goes on until those have ended, for the endpoints that
  answered when they were asked last. Otherwise a hang would keep the process from everybody.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Final

import structlog

from worker.core.ports import Claim, Clients, Journal, JournalError, Lease, Observer, Store
from worker.core.providers import Client
from worker.refreshing.answers import Answers
from worker.refreshing.in_flight import InFlight, Share

# The most grants of one claim: two claims fill a drain, and a larger one costs a large store too much.
CHUNK: Final = 150
LOOK_UP_SECONDS: Final = 1.0  # the longest wait before `stop` and the due clients are looked at again
LEAST_PAUSE_SECONDS: Final = 0.001  # what is left of a pause may be too little for the clock to show
RECOVERY_SECONDS: Final = 5.0  # with every process alive a recovery takes two: see prelude.lua
RECOVERY_PAUSE_SECONDS: Final = 0.25
CALLS_AT_ONCE: Final = 32  # small claims travel in one call, large ones are synced to the disk together
CLIENTS_PASSED: Final = 256  # in search of one that has room
PAGE: Final = 500  # clients that the store looks at for each second of a drain

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Turn:
    """When an attempt may send.

    Attributes:
        slot: entered while its request is in flight, and until its failure is attributed.
        stop: whether nothing more may be sent.
        is_closed: the client is throttled or rejected, or its endpoint is unavailable.
    """

    slot: AbstractAsyncContextManager[None]
    stop: Callable[[], bool]
    is_closed: bool = False

    def is_over(self, lease: Lease) -> bool:
        """Whether it is too late to send; a probe is still sent to a closed client: it tests just that."""
        is_probe = lease.client_probe or lease.endpoint_probe
        return self.stop() or (self.is_closed and not is_probe)


Start = Callable[[Lease, Client, Turn], Coroutine[None, None, None]]


class Drain:
    """Claims what is due and keeps it in flight.

    Args:
        store: is claimed from.
        journal: makes room for the answers before anything is claimed.
        answers: those that wait stop the claims.
        clients: their settings, read anew when they may have changed.
        observer: is called with each claim.
        at_work: the attempts of this process.
    """

    def __init__(
        self,
        *,
        store: Store,
        journal: Journal,
        answers: Answers,
        clients: Clients,
        observer: Observer,
        at_work: InFlight,
    ) -> None:
        self.store = store
        self.clients = clients
        self.observer = observer
        self.at_work = at_work
        self._journal = journal
        self._answers = answers
        self._unknown: set[str] = set()

    async def run(
        self, runner: str, stop: Callable[[], bool], winds_down: Callable[[], bool], start: Start
    ) -> int:
        """Drain until nothing is due, `stop` says so, or nothing may be claimed.

        Returns how many grants were claimed.

        Args:
            runner: the reserved place that each claim renews.
            stop: whether to claim nothing more.
            winds_down: whether the time is up: what is claimed now is only for endpoints that answered when
                they were asked last, and only while requests to others hang.
            start: makes the work on one lease.

        Raises:
            StoreUnavailableError: the store went away; leases come back by themselves.
        """
        run = _Run(self, runner, stop, winds_down, start)
        try:
            await run.claim_all()
        finally:  # also after an error: answers in flight come first
            await run.until_done()
        if run.failure is not None:
            raise run.failure
        return run.claimed

    def client(self, name: str) -> Client | None:
        """A client that is due; `None` where this process has no settings for it, which is said once."""
        if name in self.clients.names():
            return self.clients.get(name, 0)
        if name not in self._unknown:
            self._unknown.add(name)
            log.warning("drain.client_not_configured", client=name)
        return None

    @property
    def is_behind(self) -> bool:
        """Whether an answer waits for the store or the disk."""
        return bool(self._answers.waiting or self._answers.off_disk)

    async def may_claim(self) -> bool:
        """Whether no answer waits, and the journal has room for the answers to come."""
        if self.is_behind:
            return False
        try:
            await self._journal.reserve(self.at_work.answers_to_come)
        except JournalError as problem:
            log.warning("drain.no_room_for_answers", problem=str(problem))
            return False
        return True


@dataclass(slots=True)
class _Due:
    """A client that may have something due.

    Attributes:
        not_before: when it is claimed from again; infinite while a claim is under way.
    """

    client: Client
    share: Share
    turn: Turn
    not_before: float = 0.0


class _Run:
    """One drain.

    Attributes:
        claimed: how many grants were claimed.
        failure: what a call raised.
    """

    def __init__(
        self,
        drain: Drain,
        runner: str,
        stop: Callable[[], bool],
        winds_down: Callable[[], bool],
        start: Start,
    ) -> None:
        self.claimed = 0
        self.failure: BaseException | None = None
        self._drain = drain
        self._at_work = drain.at_work
        self._runner = runner
        self._stop = stop
        self._winds_down = winds_down
        self._start = start
        self._due: dict[str, _Due] = {}  # by name; those that had their turn are moved to the end
        self._calls: set[asyncio.Task[None]] = set()  # to the store: claims, and who is due
        self._attempts: set[asyncio.Task[None]] = set()
        self._told_at = -inf  # by the last reply who is due; infinite while the store is asked
        self._pages = 1  # that this reply took
        self._recovery_awaited_until = inf  # set by the first claim that meets one
        self._is_barred = False  # nothing may be claimed
        self._is_over = False

    async def claim_all(self) -> None:
        """Claim as long as something is due and may be claimed."""
        while not (self._stop() or self._is_barred or self.failure or self._drain.is_behind):
            pages = self._pages if len(self._due) > PAGE else 1
            if _now() >= self._told_at + pages * LOOK_UP_SECONDS:
                self._told_at, self._pages = inf, 0
                self._call(self._ask_who_is_due())
            pause = self._start_claims()
            is_idle = not (self._due or self._calls or self._attempts)
            if is_idle or (self._winds_down() and not self._at_work.hang()):
                break
            await self._at_work.until_change(pause)
            self._at_work.hand_out()
        self._is_over = self._winds_down()

    async def until_done(self) -> None:
        """Wait until nothing of this drain is at work."""
        while working := self._calls | self._attempts:
            await asyncio.wait(working, timeout=LOOK_UP_SECONDS)
            self._at_work.hand_out()

    async def _ask_who_is_due(self) -> None:
        offset, has_more = 0, True
        while has_more and not self._stop():
            self._pages += 1
            page = await self._drain.store.due_clients(offset, PAGE)
            for name in page.names:
                client = self._drain.client(name) if name not in self._due else None
                if client is not None:
                    self._due[name] = self._of(client)
            offset, has_more = offset + len(page.names), page.has_more
        self._told_at = _now()

    def _of(self, client: Client) -> _Due:
        share = Share(self._at_work, client)
        return _Due(client, share, Turn(share, lambda: self._is_over or self._stop()))

    def _start_claims(self) -> float:
        """Claim for the clients that have room; returns how long nothing else is to be done, seconds."""
        now, pause, winds_down = _now(), LOOK_UP_SECONDS, self._winds_down()
        for name in list(islice(self._due, CLIENTS_PASSED)):
            if len(self._calls) >= CALLS_AT_ONCE:
                break
            due = self._due.pop(name)
            if due.turn.is_closed:
                continue
            self._due[name] = due
            if due.not_before > now:
                pause = min(pause, max(due.not_before - now, LEAST_PAUSE_SECONDS))
            elif not winds_down or self._at_work.answered_last(due.share):
                limit = min(self._at_work.room(due.share), CHUNK)
                if limit:
                    self._begin_claim(name, due, limit)
        return pause

    def _begin_claim(self, name: str, due: _Due, limit: int) -> None:
        due.not_before = inf
        self._at_work.expect(due.share, limit)
        self._call(self._claim(name, due, limit))

    async def _claim(self, name: str, due: _Due, limit: int) -> None:
        leases: Claim | None = None
        share = due.share
        try:
            if not await self._drain.may_claim():
                self._is_barred = True
                return
            leases = await self._drain.store.claim(due.client, limit, self._runner)
        finally:
            self._at_work.claimed(share, limit, 0 if leases is None else len(leases.leases))
        self._take_on(name, due, leases)

    def _take_on(self, name: str, due: _Due, claim: Claim) -> None:
        """Start the work on what was claimed."""
        self._drain.observer.claimed(due.client, claim)
        client, turn, share = self._drain.clients.get(name, claim.generation), due.turn, due.share
        for lease in claim.leases:
            task = self._at_work.start(share, self._start(lease, client, turn))
            self._attempts.add(task)
            task.add_done_callback(self._attempts.discard)
        self.claimed += len(claim.leases)
        if claim.recovering:
            self._await_recovery(due)
            return
        if claim.drained:
            self._due.pop(name, None)
            return
        if client != due.client:
            self._due[name] = due = self._of(client)
        due.not_before = _now() + min(claim.wait_ms / 1_000, LOOK_UP_SECONDS)

    def _await_recovery(self, due: _Due) -> None:
        now = _now()
        self._recovery_awaited_until = min(self._recovery_awaited_until, now + RECOVERY_SECONDS)
        self._is_barred = self._is_barred or now >= self._recovery_awaited_until
        due.not_before = now + RECOVERY_PAUSE_SECONDS

    def _call(self, call: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._end_call)

    def _end_call(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
        self._at_work.note_change()


def _now() -> float:
    return asyncio.get_running_loop().time()
