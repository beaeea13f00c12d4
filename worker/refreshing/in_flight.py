"""The attempts of one process: requests in flight, attempts that wait for a slot, answers being stored.

Rules:
- Who may send next is for `Slots` to say. An attempt occupies a slot only while its request is in flight and
  its failure is being attributed: the next request might meet the same failure.
- Some attempts wait for a slot, so that a free slot is taken at once. Under a rate limit nothing queues: a
  recovered provider would get a burst.
- Answers being stored have a limit of their own. A slow store neither keeps the endpoint idle nor fills the
  memory.
- An attempt that raises stops no other; its grant comes back when its lease ends.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType

import structlog

from worker.core.outcomes import Outcome, Unavailable, Unknown
from worker.core.providers import Client
from worker.refreshing.slots import Slots

log = structlog.get_logger(__name__)


class Share:
    """One client's use of the slots. Entering takes a slot, leaving frees it.

    Attributes:
        client: its name.
        url: its endpoint.
        ahead: whether more attempts may wait for a slot.
    """

    def __init__(self, in_flight: "InFlight", client: Client) -> None:
        self.client = client.name
        self.url = client.token_url
        self.ahead = client.rate_per_second is None
        self._in_flight = in_flight

    async def __aenter__(self) -> None:
        await self._in_flight.take(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_flight.free(self)


class InFlight:
    """Attempts at work.

    Args:
        requests: the number of slots.
        request_seconds: the longest that one request takes.
    """

    def __init__(self, requests: int, request_seconds: float) -> None:
        self._slots = Slots(requests, request_seconds)
        self._waiting: dict[tuple[str, str], deque[asyncio.Future[None]]] = {}
        self._unanswered: dict[asyncio.Task[None], Share] = {}
        self._at_work = 0
        self._to_be_claimed = 0
        self._watchers: list[asyncio.Future[None]] = []

    @property
    def answers_to_come(self) -> int:
        """How many answers may still have to be stored."""
        return self._at_work + self._to_be_claimed

    def hang(self) -> bool:
        """Whether requests are in flight at an endpoint that does not answer."""
        return self._slots.hang(_now())

    def answered_last(self, share: Share) -> bool:
        """Whether a client's endpoint answered this process when it was asked last."""
        return self._slots.pace(share.url).answered_last(_now())

    def room(self, share: Share) -> int:
        """How many more grants of a client may be claimed; 0 until there are enough to be worth a claim."""
        return self._room(share, _now())

    def _room(self, share: Share, now: float) -> int:
        being_stored = self._at_work - len(self._unanswered)
        return self._slots.room(share.client, share.url, now, being_stored=being_stored, ahead=share.ahead)

    def expect(self, share: Share, number: int) -> None:
        """So many grants are about to be claimed."""
        self._to_be_claimed += number
        self._slots.lease(share.client, share.url, number, _now())

    def claimed(self, share: Share, expected: int, number: int) -> None:
        """Of those that were expected, so many were claimed; each is started next."""
        self._to_be_claimed -= expected
        if number != expected:
            self._slots.lease(share.client, share.url, number - expected, _now())

    def start(self, share: Share, attempt: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start an attempt on a grant that was claimed."""
        task = asyncio.create_task(attempt)
        self._at_work += 1
        self._unanswered[task] = share
        task.add_done_callback(self._end)
        return task

    async def take(self, share: Share) -> None:
        """Wait for a slot."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault((share.client, share.url), deque())
        queue.append(waiter)
        if len(queue) == 1:  # otherwise the one before it may not send either
            self.hand_out()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.free(share)
            raise

    def free(self, share: Share) -> None:
        """Give a slot back."""
        now = _now()
        self._slots.free(share.client, share.url, now)
        self._answer(asyncio.current_task(), now)
        self._give_slots(now)

    def hand_out(self) -> None:
        """Give free slots to those that wait; called also as time passes, because an endpoint may hang."""
        self._give_slots(_now())

    def _give_slots(self, now: float) -> None:
        while self._waiting:
            chosen = self._slots.next(self._waiting, now)
            if chosen is None:
                return
            queue = self._waiting[chosen]
            waiter = queue.popleft()
            if not queue:
                del self._waiting[chosen]
            if not waiter.cancelled():
                self._slots.take(*chosen, now)
                waiter.set_result(None)

    def heard(self, client: Client, sent_at: float, outcome: Outcome) -> None:
        """What a request came to.

        Args:
            client: whose request it was.
            sent_at: when it left, by the event loop's clock.
            outcome: of the request.
        """
        pace, now = self._slots.pace(client.token_url), _now()
        if isinstance(outcome, Unknown | Unavailable):
            pace.failed(sent_at, now)
        else:
            pace.answered(sent_at, now)

    async def until_change(self, seconds: float) -> None:
        """Wait until there may be room again, at most so many seconds."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(change)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await change

    def note_change(self) -> None:
        """Wake those that wait for a change."""
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    def _answer(self, task: asyncio.Task[None] | None, now: float) -> None:
        share = self._unanswered.pop(task, None) if task is not None else None
        if share is not None:
            self._slots.lease(share.client, share.url, -1, now)
            if self._room(share, now):
                self.note_change()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._at_work -= 1
        self._answer(task, _now())
        if not self._at_work:
            self.note_change()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("refresh.crashed", error=type(error).__name__, exc_info=error)


def _now() -> float:
    return asyncio.get_running_loop().time()
