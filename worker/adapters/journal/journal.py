"""One process's journal: many writers, one sync.

Rules:
- Nothing is made on the disk before the first `reserve` or `write`.
- The disk is worked by one thread of the journal's own; the event loop only waits. What is written while a
  sync runs goes together into the next one.
- Who is cancelled while waiting leaves the others and the answer itself alone: it is written all the same.
- A segment is removed when it is no longer written to, every answer in it is settled, and the retention is
  over since the last one was: an answer may have waited longer than that, and a store that took it a moment
  ago may forget it. Only unacknowledged answers are remembered one by one.
- One that is offered and settled again is kept no longer for it: what is on the disk stays bounded.
- Nobody waits for a disk that hangs. Until it answers again nothing more is taken; what it was given last is
  written all the same.
- For one event loop: every method but `read` is called in its thread.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from worker.adapters.journal import entry
from worker.adapters.journal.chain import ANSWER_BYTES, Chain
from worker.adapters.journal.frame import framed
from worker.adapters.journal.segment import Segment, last_of_each_grant
from worker.core.ports import Commit, JournalError

T = TypeVar("T")

log = structlog.get_logger(__name__)

CLOSE_SECONDS: Final = 10.0
HANGS_SECONDS: Final = 10.0  # a lease leaves the commit more; a disk at work takes milliseconds


class _Answer:
    """One answer, from its writing until it is settled."""

    __slots__ = ("acknowledged", "fence", "frame", "grant_id", "segment", "written")

    def __init__(self, commit: Commit, frame: bytes, written: asyncio.Future[None]) -> None:
        self.grant_id = commit.change.grant.id
        self.fence = commit.fence
        self.frame = frame
        self.written = written
        self.segment: Segment | None = None
        self.acknowledged = False


class Journal:
    """The journal of this process.

    Args:
        root: where the journals of all processes are.
        owner: this process, and no other start of it.
        keep_seconds: the retention after the last answer of a segment was settled.
        now: seconds of a monotonic clock.
    """

    def __init__(
        self, root: Path, owner: str, keep_seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._keep_seconds = keep_seconds
        self._now = now
        self._chain = Chain(root / owner, now)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._disk = asyncio.Lock()  # nothing is removed until it is noted which answers were written where
        self._waiting: list[_Answer] = []
        self._queued_bytes = 0  # of what waits or is being written
        self._reserved_bytes = 0
        self._unacknowledged: dict[str, list[_Answer]] = {}  # by grant
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self._hangs = False

    async def reserve(self, answers: int) -> None:
        """Make sure that so many answers can be written, whatever becomes of the disk meanwhile.

        Args:
            answers: all that may come, those in flight included.

        Raises:
            JournalError: there is no room for them, the directory cannot be used, or the disk hangs.
        """
        self._refuse_if_unusable()
        reserved = answers * ANSWER_BYTES
        room = self._queued_bytes + reserved
        if self._chain.room < room:
            await self._in_time(self._make_room(room))
        self._reserved_bytes = reserved

    async def write(self, commit: Commit) -> None:
        """Put an answer on the disk; it is there when this returns.

        Raises:
            JournalError: it may not be there.
        """
        self._refuse_if_unusable()
        loop = asyncio.get_running_loop()
        answer = _Answer(commit, self._frame(commit), loop.create_future())
        self._unacknowledged.setdefault(answer.grant_id, []).append(answer)
        self._waiting.append(answer)
        self._queued_bytes += len(answer.frame)
        if self._flusher is None:
            self._flusher = loop.create_task(self._flush())
        await answer.written

    def acknowledge(self, commit: Commit) -> None:
        """The store has taken this answer, or another in its place: it may be forgotten after the retention.

        So are the grant's earlier ones, for this one came after them.
        """
        grant_id, now = commit.change.grant.id, self._now()
        later = []
        for answer in self._unacknowledged.pop(grant_id, ()):
            if answer.fence > commit.fence:
                later.append(answer)
                continue
            answer.acknowledged = True
            if answer.segment is not None:
                answer.segment.unacknowledged -= 1
                answer.segment.acknowledged_at = now
        if later:
            self._unacknowledged[grant_id] = later

    def read(self) -> list[Commit]:
        """What this journal holds, the last answer of each grant, oldest first. For any thread."""
        return last_of_each_grant(commit for segment in self._chain.segments for commit in segment.read())

    async def sweep(self) -> None:
        """Remove what is past its retention; to be called every now and then."""
        if self._closed or self._hangs:
            return
        with suppress(JournalError):  # it hangs; the next one will tell
            await self._in_time(self._sweep())

    async def close(self) -> None:
        """Finish what waits; leave the directory to the next new_owner, or remove it if nothing is in it."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._flusher is not None:
                    await asyncio.shield(self._flusher)
                await self._leave()
        except TimeoutError:
            # Its thread may still be at work, so the lock has to go with the process.
            log.warning("journal.not_closed", journal=str(self._chain.path))
        self._thread.shutdown(wait=False)

    async def _sweep(self) -> None:
        async with self._disk:
            current = self._chain.current
            begun_at = None if current is None else current.begun_at
            if begun_at is not None and self._now() - begun_at >= self._keep_seconds / 2:
                try:
                    await self._in_thread(partial(self._chain.roll, self._reserved_bytes))
                except JournalError as error:
                    log.warning("journal.not_rolled", problem=str(error))
            await self._remove_old()

    def _frame(self, commit: Commit) -> bytes:
        try:
            return framed(entry.pack(commit))
        except (TypeError, ValueError, OverflowError) as error:
            # Without the cause, which might quote the answer.
            kind = type(error).__name__
            raise JournalError(f"journal: {self._chain.path}: an answer has no bytes: {kind}") from None

    def _refuse_if_unusable(self) -> None:
        if self._closed:
            raise JournalError(f"journal: {self._chain.path}: closed")
        if self._hangs:
            raise self._hanging()

    def _hanging(self) -> JournalError:
        return JournalError(f"journal: {self._chain.path}: the disk did not answer for {HANGS_SECONDS:g} s")

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(HANGS_SECONDS):
                await work
        except TimeoutError:
            raise self._hanging() from None

    async def _flush(self) -> None:
        """Write what waits, until nothing does."""
        try:
            while self._waiting:
                async with self._disk:  # anew for each group: who makes room or sweeps gets a turn
                    answers, self._waiting = self._waiting, []
                    await self._write_together(answers)
        finally:
            self._flusher = None

    async def _write_together(self, answers: list[_Answer]) -> None:
        frames = [answer.frame for answer in answers]
        putting = asyncio.ensure_future(
            self._in_thread(partial(self._chain.put, frames, self._reserved_bytes))
        )
        done, _ = await asyncio.wait({putting}, timeout=HANGS_SECONDS)
        if not done:
            self._hangs = True
            for answer in (*answers, *self._waiting):
                if not answer.written.done():
                    answer.written.set_exception(self._hanging())
        try:
            places = await putting
        except Exception as error:  # noqa: BLE001 whatever it is, nobody is left waiting for ever
            problem = JournalError(f"journal: {self._chain.path}: {type(error).__name__}")
            places = [problem] * len(answers)
        self._hangs = False
        self._note(answers, places)

    def _note(self, answers: list[_Answer], places: list[Segment | JournalError]) -> None:
        for answer, place in zip(answers, places, strict=True):
            self._queued_bytes -= len(answer.frame)
            answer.frame = b""
            if isinstance(place, JournalError):
                if not answer.written.done():
                    answer.written.set_exception(JournalError(str(place)))
                continue
            if not answer.acknowledged:
                answer.segment = place
                place.unacknowledged += 1
            if not answer.written.done():
                answer.written.set_result(None)

    async def _make_room(self, room: int) -> None:
        async with self._disk:
            await self._in_thread(partial(self._chain.reserve, room))
            await self._remove_old()

    async def _leave(self) -> None:
        async with self._disk:
            await self._in_thread(self._chain.seal)
            await self._remove_old()
            await self._in_thread(self._chain.leave)

    async def _remove_old(self) -> None:
        last = self._now() - self._keep_seconds
        old = [
            segment
            for segment in self._chain.segments
            if segment is not self._chain.current
            and not segment.unacknowledged
            and max(segment.written_at, segment.acknowledged_at) <= last
        ]
        if old:
            await self._in_thread(partial(self._chain.remove, old))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
