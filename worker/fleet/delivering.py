"""Webhooks are delivered: by one task of a deployment at a time, in short turns, each webhook on its own.

Rules:
- An event is put into its webhook's queue, then sent, then recorded. A process that dies in between costs a
  second delivery.
- A task at work keeps its place. The place of a killed task ends within seconds, and the next one goes on.
- A webhook has no more than some requests in flight. One that is slow or dead holds up itself alone.
- A turn ends when nothing is due, or its time is up. Then other tasks get the process: refreshes among them.
  While it has to wait for requests that hang, it goes on for the other webhooks.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import structlog

from worker.core.delivery import SCHEDULE_MS, Answer, decide
from worker.core.destinations import origin_of
from worker.core.events import EventType, webhook_event
from worker.core.ports import StoreUnavailableError, UnsealError
from worker.core.webhooks import (
    DeliveryQueue,
    Message,
    Turn,
    Waiting,
    WebhookSealer,
    WebhookSender,
)

AT_ONCE: Final = 10  # requests to one webhook
TURN_SECONDS: Final = 10.0
KEEP_SECONDS: Final = 3.0  # between two renewals of the place, a third of what it lasts
LOOK_SECONDS: Final = 0.5  # between two looks at a webhook with nothing due, while others are at work

log = structlog.get_logger(__name__)


class _Progress:
    """How far a turn has come.

    Args:
        seconds: how long it goes on by itself.
        stop: says when to take up nothing more.

    Attributes:
        at_work: the webhooks that had something due when they were last looked at.
    """

    def __init__(self, seconds: float, stop: Callable[[], bool]) -> None:
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + seconds
        self._stop = stop
        self._waited_for = 0
        self.at_work: set[str] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be taken up."""
        return self._stop() or (self._now() > self._end and not self._waited_for)

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request; the turn waits for those that begin within its time."""
        counted = int(self._now() <= self._end)
        self._waited_for += counted
        try:
            yield
        finally:
            self._waited_for -= counted


class Delivering:
    """Sends what waits for the webhooks.

    Args:
        queue: of each webhook.
        sender: sends.
        sealer: opens signing secrets.
        chance: a random number from 0 to 1, for jitter.
        schedule: the pauses between the tries of one event, in ms.
        turn_seconds: how long a turn goes on taking up events.
    """

    def __init__(
        self,
        *,
        queue: DeliveryQueue,
        sender: WebhookSender,
        sealer: WebhookSealer,
        chance: Callable[[], float],
        schedule: Sequence[int] = SCHEDULE_MS,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._sealer = sealer
        self._chance = chance
        self._schedule = schedule
        self._turn_seconds = turn_seconds

    async def reserve(self) -> str | None:
        """The id of a task to start now; `None` where nothing is to be delivered, or a task is at it."""
        task = str(uuid.uuid4())
        try:
            return task if await self._queue.reserve(task, is_at_work=False) else None
        except StoreUnavailableError as problem:
            log.warning("deliver.store_away", problem=str(problem))
            return None

    async def give_back(self, task: str) -> None:
        """Free the place of a task that cannot be started, or has ended."""
        try:
            await self._queue.release(task)
        except StoreUnavailableError as problem:
            log.warning("deliver.store_away", problem=str(problem))  # the place ends by itself

    async def run_turn(self, task: str, stop: Callable[[], bool]) -> None:
        """Deliver what is due for a while, and give the place back.

        Args:
            task: whose place was reserved.
            stop: says when to take up nothing more.
        """
        progress = _Progress(self._turn_seconds, stop)
        try:
            if not await self._queue.reserve(task, is_at_work=True):
                return
            async with self._keeping(task):
                ids = await self._queue.ids()
                await asyncio.gather(*(self._serve(each, task, progress) for each in ids))
        except StoreUnavailableError as problem:
            log.warning("deliver.store_away", problem=str(problem))
        finally:
            await self.give_back(task)

    @asynccontextmanager
    async def _keeping(self, task: str) -> AsyncIterator[None]:
        """Keep a task's place for as long as the block lasts."""
        over = asyncio.Event()
        keeping = asyncio.create_task(self._keep(task, over))
        try:
            yield
        finally:
            over.set()
            await keeping  # a renewal that is on its way must not follow the place's end

    async def _keep(self, task: str, over: asyncio.Event) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), KEEP_SECONDS)
                return
            with suppress(StoreUnavailableError):  # whoever serves meets it too
                await self._queue.reserve(task, is_at_work=True)

    async def _serve(self, webhook_id: str, task: str, progress: _Progress) -> None:
        """Serve one webhook; what goes wrong with it is the business of no other."""
        try:
            await self._serve_while_due(webhook_id, task, progress)
        except StoreUnavailableError as problem:
            log.warning("deliver.store_away", webhook=webhook_id, problem=str(problem))
        except Exception as problem:  # noqa: BLE001 whatever one webhook's data do to us, the others go on
            # Its text may hold what came over the wire, or a URL.
            log.error("deliver.failed", webhook=webhook_id, problem=type(problem).__name__)  # noqa: TRY400
        finally:
            progress.at_work.discard(webhook_id)

    async def _serve_while_due(self, webhook_id: str, task: str, progress: _Progress) -> None:
        progress.at_work.add(webhook_id)
        while not progress.is_over:
            turn = await self._queue.serve(webhook_id, task, AT_ONCE)
            if turn is None:
                return
            if turn.due or turn.page:
                progress.at_work.add(webhook_id)
                if turn.page:
                    await self._queue.enqueue(turn)
                await asyncio.gather(*(self._deliver(turn, event, progress) for event in turn.due))
                continue
            progress.at_work.discard(webhook_id)
            if not progress.at_work:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _deliver(self, turn: Turn, event: Waiting, progress: _Progress) -> None:
        begun = asyncio.get_running_loop().time()
        event_id = json.loads(event.body)["id"]
        with progress.request():
            answer = await self._ask(turn, event, event_id)
        now = turn.now + int((asyncio.get_running_loop().time() - begun) * 1000)
        decision = decide(
            answer,
            tries=event.tries,
            failing_ms=0 if turn.failing_since is None else now - turn.failing_since,
            chance=self._chance(),
            schedule=self._schedule,
        )
        webhook, told = turn.webhook, None
        if decision.disables is not None:
            told = webhook_event(
                EventType.WEBHOOK_DISABLED,
                webhook.id,
                origin_of(webhook.url),
                now=now,
                reason=decision.disables,
            )
        await self._queue.record(turn, event, answer, decision, told)
        say = log.info if answer.is_success else log.warning
        say(
            "deliver",
            webhook=webhook.id,
            event_id=event_id,
            tries=event.tries + 1,
            answer=answer.detail,
            next=decision.next.value,
            disabled=decision.disables,
        )

    async def _ask(self, turn: Turn, event: Waiting, event_id: str) -> Answer:
        webhook = turn.webhook
        try:
            secrets = [
                self._sealer.open_secret(webhook.id, each.sealed) for each in webhook.signing(turn.now)
            ]
        except UnsealError:
            return Answer("cannot_unseal")
        return await self._sender.send(Message(webhook.url, event_id, event.body, turn.signed_at, secrets))
