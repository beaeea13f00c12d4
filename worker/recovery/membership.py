"""Membership: while a process lives, the store knows it, and has what the process knows.

Rules:
- Two loops keep it: the heartbeat, and the recovery step. Neither waits for the other, and neither ends
  because a step failed.
- A recovery step is taken every second, and at once when a new epoch begins.
- Nothing is removed from the disk while the store is away, or may lack what this process knows.
- A leaving process gives back what it knows, then says that it is gone: nobody waits for it after that.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from worker.core.ports import Epoch, JournalError, StoreUnavailableError
from worker.recovery.disk_watch import DiskWatch
from worker.recovery.heartbeat import HEARTBEAT_SECONDS, Heartbeat
from worker.recovery.recovery import Recovery
from worker.recovery.takeover import Takeover
from worker.refreshing.answers import Answers

LEAVE_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


class Membership:
    """Keeps one process known to the store, and the store in possession of what the process knows."""

    def __init__(
        self,
        *,
        heartbeat: Heartbeat,
        recovery: Recovery,
        takeover: Takeover,
        disk_watch: DiskWatch,
        answers: Answers,
    ) -> None:
        self._heartbeat = heartbeat
        self._recovery = recovery
        self._takeover = takeover
        self._disk_watch = disk_watch
        self._answers = answers
        self._new_epoch = asyncio.Event()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Be a member for as long as the block lasts."""
        loops = [
            asyncio.create_task(self._repeat(self._live)),
            asyncio.create_task(self._repeat(self.recover, self._new_epoch)),
        ]
        try:
            yield
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._leave()

    @property
    def trouble(self) -> str:
        """Why this process can take no lease now; empty where it can."""
        if self._heartbeat.is_away:
            return "the store is away, or takes no writes"
        if self._disk_watch.trouble:
            return self._disk_watch.trouble
        return "" if self._recovery.may_claim else "the store is recovering"

    async def beat(self) -> Epoch:
        """Say that this process lives; an epoch in which it has not recovered starts a recovery step.

        Raises:
            StoreUnavailableError: the store is away.
        """
        trouble, untaken = self._disk_watch.trouble, self._answers.set_aside
        epoch = self._recovery.epoch = await self._heartbeat.beat(trouble, untaken)
        if not self._recovery.is_finished:
            self._new_epoch.set()
        return epoch

    async def recover(self) -> bool:
        """Give the store what it may lack; returns whether this process may claim afterwards.

        Raises:
            StoreUnavailableError: the store is away.
        """
        try:
            await self._answers.offer_waiting()  # first, because looking at a disk may block
        finally:
            await self._look_at_the_disk()
        await self._recovery.step(self._recovery.epoch or await self.beat())
        if self._recovery.is_finished and not self._heartbeat.is_away:
            await self._recovery.sweep()
        return self._recovery.may_claim

    async def _live(self) -> None:
        try:
            await self.beat()
        except StoreUnavailableError:
            await self._heartbeat.bring_the_server_back()

    async def _look_at_the_disk(self) -> None:
        trouble = self._recovery.refusal
        try:
            await self._takeover.find()
        except JournalError as problem:
            trouble = str(problem)
        await self._disk_watch.look(trouble)

    async def _repeat(self, step: Callable[[], Awaitable[object]], news: asyncio.Event | None = None) -> None:
        """Take a step every second, and at once when there is news."""
        news = news or asyncio.Event()
        while True:
            try:
                with suppress(StoreUnavailableError):
                    await step()
            except Exception:
                log.exception("membership.step_failed")
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # redis-py may lose a cancellation while it connects
                return
            # Not `wait_for`: on Python 3.11 it may swallow a cancellation that comes together with the news.
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await news.wait()
                news.clear()

    async def _leave(self) -> None:
        with suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.beat()
                await self.recover()
                await self._heartbeat.leave()
        left = self._answers.waiting + len(self._answers.set_aside)
        if left:
            log.warning("answers.left_in_journal", answers=left)
