"""Refresh what one client has due: claim a chunk, keep requests in flight, claim again.

Rules:
- Nothing is claimed while an answer waits for the store, or while the disk has no room for the answers
  to come.
- Requests in flight are always finished. Grants that still wait for a slot when the drain ends are given
  back.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import structlog

from worker.core.ports import Clients, Journal, JournalError, Lease, Observer, Store
from worker.core.providers import Client
from worker.refreshing.answers import Answers
from worker.refreshing.in_flight import InFlight

# The most grants of one claim: two claims fill a drain, and a larger one costs a large store too much.
CHUNK: Final = 150
LOOK_UP_SECONDS: Final = 1.0  # the longest wait before `stop` is looked at again

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
        in_flight: requests at once.
    """

    def __init__(
        self,
        *,
        store: Store,
        journal: Journal,
        answers: Answers,
        clients: Clients,
        observer: Observer,
        in_flight: int,
    ) -> None:
        self._store = store
        self._journal = journal
        self._answers = answers
        self._clients = clients
        self._observer = observer
        self._in_flight = in_flight

    async def run(self, client_name: str, runner: str, stop: Callable[[], bool], start: Start) -> int:
        """Drain one client until nothing is due, `stop` says so, or nothing may be claimed.

        Returns how many grants were claimed.

        Args:
            client_name: whose grants.
            runner: the reserved place that each claim renews.
            stop: whether to claim nothing more.
            start: makes the work on one lease.

        Raises:
            KeyError: no client has that name.
            StoreUnavailableError: the store went away; leases come back by themselves.
        """
        client = self._clients.get(client_name, 0)
        at_work = InFlight(self._in_flight, ahead=client.rate_per_second is None)
        turn = Turn(at_work, stop)
        claimed = 0
        try:
            while not (stop() or turn.is_closed):
                if not at_work.room:
                    await at_work.until_room(LOOK_UP_SECONDS)
                    continue
                limit = min(at_work.room, CHUNK)
                if not await self._may_claim(limit + len(at_work)):
                    break
                claim = await self._store.claim(client, limit, runner)
                self._observer.claimed(client, claim)
                client = self._clients.get(client_name, claim.generation)
                for work in [start(lease, client, turn) for lease in claim.leases]:
                    at_work.start(work)
                claimed += len(claim.leases)
                if claim.drained or claim.recovering:
                    break
                if claim.wait_ms:
                    await asyncio.sleep(min(claim.wait_ms / 1_000, LOOK_UP_SECONDS))
        finally:  # also after an error: answers in flight come first
            await at_work.until_done()
        return claimed

    async def _may_claim(self, answers: int) -> bool:
        """Whether nothing is pending, and the journal has room for so many answers."""
        if self._answers.waiting or self._answers.off_disk:
            return False
        try:
            await self._journal.reserve(answers)
        except JournalError as problem:
            log.warning("drain.no_room_for_answers", problem=str(problem))
            return False
        return True
