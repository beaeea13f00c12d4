"""The attempts of one drain: requests in flight, attempts that wait for a slot, answers being stored.

Rules:
- The number of slots is fixed. An attempt occupies a slot only while its request is in flight and its failure
  is being attributed: the next request might meet the same failure.
- Some attempts wait for a slot, so that a free slot is taken at once. Under a rate limit nothing queues: a
  recovered provider would get a burst.
- Answers being stored have a limit of their own. A slow store neither keeps the endpoint idle nor fills the
  memory.
- An attempt that raises stops no other; its grant comes back when its lease ends.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Final

import structlog

AHEAD: Final = 200  # attempts that wait for a slot; if the process is killed, their leases run out unused
BEING_STORED: Final = 200
WORTH_A_CLAIM: Final = 25  # a claim's round trip costs as much as ten grants do

log = structlog.get_logger(__name__)


class InFlight:
    """Attempts at work. Entering takes a slot, leaving frees it.

    Args:
        requests: the number of slots.
        ahead: whether more attempts may wait for a slot.
    """

    def __init__(self, requests: int, *, ahead: bool) -> None:
        self._turns = asyncio.Semaphore(requests)
        self._most_unanswered = requests + (min(2 * requests, AHEAD) if ahead else 0)
        self._most = self._most_unanswered + min(2 * requests, BEING_STORED)
        self._worth_a_claim = min((requests + 1) // 2, WORTH_A_CLAIM)
        self._at_work: set[asyncio.Task[None]] = set()
        self._unanswered: set[asyncio.Task[None]] = set()
        self._has_room = asyncio.Event()
        self._is_done = asyncio.Event()

    def __len__(self) -> int:
        return len(self._at_work)

    async def __aenter__(self) -> None:
        await self._turns.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.release()
        self._answer(asyncio.current_task())

    @property
    def room(self) -> int:
        """How many more attempts may start; 0 until there are enough to be worth a claim."""
        room = min(self._most - len(self._at_work), self._most_unanswered - len(self._unanswered))
        return room if room >= self._worth_a_claim else 0

    def start(self, attempt: Coroutine[None, None, None]) -> None:
        """Start an attempt."""
        task = asyncio.create_task(attempt)
        self._at_work.add(task)
        self._unanswered.add(task)
        task.add_done_callback(self._end)

    async def until_room(self, seconds: float) -> None:
        """Wait until there is room again, at most so many seconds."""
        self._has_room.clear()
        if not self.room:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._has_room.wait()

    async def until_done(self) -> None:
        """Wait until nothing is at work."""
        self._is_done.clear()
        if self._at_work:
            await self._is_done.wait()

    def _answer(self, task: asyncio.Task[None] | None) -> None:
        self._unanswered.discard(task)
        if self.room:
            self._has_room.set()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._at_work.discard(task)
        self._answer(task)
        if not self._at_work:
            self._is_done.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("refresh.crashed", error=type(error).__name__, exc_info=error)
