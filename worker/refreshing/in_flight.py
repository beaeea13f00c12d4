"""What one drain has at work: requests in flight, and besides them what awaits its turn or is being stored.

Rules:
- So many requests at once and no more. Whatever else an attempt does takes nobody's turn, but for finding out
  whose failure it met: whoever came next might meet it too.
- Others await their turn, so that one that comes free is taken at once. Not so under a rate budget: what
  awaited its turn at a provider that was slow would all leave when it is no more.
- What is being stored has a limit of its own: a slow store does not leave the endpoint without requests, nor
  answers without number in memory.
- One attempt's surprise stops no other; its lease brings the grant back.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Final

import structlog

AHEAD: Final = 200  # attempts that await their turn; a process that is killed leaves as many in vain
BEING_STORED: Final = 200
WORTH_A_CLAIM: Final = 25  # its round trip costs as much as ten grants do

log = structlog.get_logger(__name__)


class InFlight:
    """Attempts at work; an attempt enters it while its request is in flight, and while its failure is judged.

    Args:
        requests: how many may be in flight at once.
        ahead: whether others may await their turn.
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
        """How many more may be started; none until there are enough to be worth a claim."""
        room = min(self._most - len(self._at_work), self._most_unanswered - len(self._unanswered))
        return room if room >= self._worth_a_claim else 0

    def start(self, attempt: Coroutine[None, None, None]) -> None:
        """Let an attempt begin."""
        task = asyncio.create_task(attempt)
        self._at_work.add(task)
        self._unanswered.add(task)
        task.add_done_callback(self._end)

    async def until_room(self, seconds: float) -> None:
        """Wait until there is room again, though not longer than that."""
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
            log.error("refresh.broke_off", error=type(error).__name__, exc_info=error)
