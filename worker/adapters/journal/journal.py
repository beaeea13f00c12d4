"""One process's journal: many writers, one sync.

Rules:
- Nothing is made on the disk before the first `reserve` or `write`.
- The disk is worked by one thread of the journal's own; the event loop only waits. What is written
  while a sync runs goes together into the next one.
- A writer that is cancelled while it waits changes nothing for the others, and its answer is written
  too.
- A segment is removed when it is no longer written to, the store has all of its answers, and the
  retention has passed since the store took the last of them: a store that took an answer a moment ago
  may forget it, however long ago it was written.
- An answer that could not be written may be in its segment nevertheless, which stays for the retention.
- A second acknowledgement of an answer does not prolong its retention, so that the journal stays
  bounded on the disk. Only unacknowledged answers are remembered one by one.
- Nobody waits for a disk that hangs. Until it answers, nothing more is taken. What it was given before is
  written.
- For one event loop: every method but `read` is called in its thread.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from worker.adapters.journal.format import framed, last_answer_to, last_of_each_grant, pack
from worker.adapters.journal.segments import ANSWER_BYTES, Segment, Segments
from worker.core.connecting import Confirmed, Consent
from worker.core.ports import Commit, Entry, JournalError

T = TypeVar("T")

log = structlog.get_logger(__name__)

CLOSE_SECONDS: Final = 10.0
HANGS_SECONDS: Final = 10.0  # a lease leaves the commit more; a disk at work takes milliseconds


class _Answer:
    """One answer, from when it is to be written until the store has it."""

    __slots__ = ("acknowledged", "fence", "frame", "grant_id", "segment", "used_up", "written")

    def __init__(self, entry: Entry, frame: bytes, written: asyncio.Future[None]) -> None:
        self.grant_id = _subject(entry)
        self.fence = entry.fence
        self.used_up = entry.used_up
        self.frame = frame
        self.written = written
        self.segment: Segment | None = None
        self.acknowledged = False


def _subject(entry: Entry) -> str:
    """Whose answers follow one another: a grant's, or a sign-in's, which is no grant's yet."""
    if isinstance(entry, Consent | Confirmed):
        return f"sign-in\n{entry.sign_in}"
    return entry.change.grant.id


class Journal:
    """The journal of this process.

    Args:
        root: where the journals of all processes are.
        owner: names this start of this process.
        keep_seconds: the retention after the store took the last answer of a segment.
        now: seconds of a monotonic clock.
    """

    def __init__(
        self, root: Path, owner: str, keep_seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._keep_seconds = keep_seconds
        self._now = now
        self._segments = Segments(root / owner, now)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._disk = asyncio.Lock()  # held until it is noted which answers are where, so that none is removed
        self._waiting: list[_Answer] = []
        self._queued_bytes = 0  # of what waits or is being written
        self._reserved_bytes = 0
        self._unacknowledged: dict[str, list[_Answer]] = {}  # by grant
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self._hangs = False

    async def reserve(self, answers: int) -> None:
        """Make sure that so many answers can be written, even if the disk fills up meanwhile.

        Args:
            answers: all that may come, including those in flight.

        Raises:
            JournalError: the disk has no room for them or hangs, or the directory cannot be used.
        """
        self._refuse_if_unusable()
        reserved = answers * ANSWER_BYTES
        room = self._queued_bytes + reserved
        if self._segments.room < room:
            await self._in_time(self._make_room(room))
        self._reserved_bytes = reserved

    async def write(self, entry: Entry) -> None:
        """Put an answer on the disk and return when it is there.

        Raises:
            JournalError: it may not be there.
        """
        self._refuse_if_unusable()
        loop = asyncio.get_running_loop()
        answer = _Answer(entry, self._frame(entry), loop.create_future())
        self._unacknowledged.setdefault(answer.grant_id, []).append(answer)
        self._waiting.append(answer)
        self._queued_bytes += len(answer.frame)
        if self._flusher is None:
            self._flusher = loop.create_task(self._flush())
        await answer.written

    def acknowledge(self, entry: Entry) -> None:
        """The store has this answer, or a later one in its place: it may be removed after the retention.

        So may the grant's earlier answers, which new tokens replace; nothing else replaces anything.
        """
        grant_id, now = _subject(entry), self._now()
        replaces = isinstance(entry, Commit | Confirmed)
        others = []
        for answer in self._unacknowledged.pop(grant_id, ()):
            if not (answer.fence == entry.fence or (replaces and answer.fence < entry.fence)):
                others.append(answer)
                continue
            answer.acknowledged = True
            if answer.segment is not None:
                answer.segment.unacknowledged -= 1
                answer.segment.acknowledged_at = now
        if others:
            self._unacknowledged[grant_id] = others

    def read(self) -> list[Entry]:
        """The last answer of each grant in it and every kept reply, oldest first. For any thread."""
        return last_of_each_grant(entry for segment in self._segments.all for entry in segment.read())

    async def answer_to(self, lineage: bytes) -> Entry | None:
        """The answer that used up the refresh token of this lineage; `None` where this journal has none.

        Raises:
            JournalError: there is one, and it cannot be read.
        """
        segments = [segment for segment in self._segments.all if lineage in segment.used_up]
        if not segments:
            return None
        return await asyncio.to_thread(self._read_answer_to, lineage, segments)

    async def sweep(self) -> None:
        """Remove what is past its retention; call it every now and then."""
        if self._closed or self._hangs:
            return
        with suppress(JournalError):  # it hangs; the next caller gets the error
            await self._in_time(self._sweep())

    async def close(self) -> None:
        """Write what waits; leave the directory to its next owner, or remove it if nothing is in it."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._flusher is not None:
                    await asyncio.shield(self._flusher)
                await self._finish()
        except TimeoutError:
            # The thread may still be at work, so the lock is released only when the process ends.
            log.warning("journal.not_closed", journal=str(self._segments.path))
        self._thread.shutdown(wait=False)

    async def _sweep(self) -> None:
        async with self._disk:
            current = self._segments.current
            begun_at = None if current is None else current.begun_at
            if begun_at is not None and self._now() - begun_at >= self._keep_seconds / 2:
                try:
                    await self._in_thread(partial(self._segments.roll, self._reserved_bytes))
                except JournalError as error:
                    log.warning("journal.not_rolled", problem=str(error))
            await self._remove_old()

    def _read_answer_to(self, lineage: bytes, segments: Sequence[Segment]) -> Entry:
        found = last_answer_to(lineage, (entry for segment in segments for entry in segment.read()))
        if found is None:
            raise JournalError(f"journal: {self._segments.path}: an answer cannot be read any more")
        return found

    def _frame(self, entry: Entry) -> bytes:
        try:
            return framed(pack(entry))
        except (TypeError, ValueError, OverflowError) as error:
            # Without the cause, which might quote the answer.
            kind = type(error).__name__
            raise JournalError(f"journal: {self._segments.path}: an answer has no bytes: {kind}") from None

    def _refuse_if_unusable(self) -> None:
        if self._closed:
            raise JournalError(f"journal: {self._segments.path}: closed")
        if self._hangs:
            raise self._hanging()

    def _hanging(self) -> JournalError:
        return JournalError(
            f"journal: {self._segments.path}: the disk did not answer for {HANGS_SECONDS:g} s"
        )

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
                async with self._disk:  # taken for each group, so that `reserve` and `sweep` get a turn
                    answers, self._waiting = self._waiting, []
                    await self._write_together(answers)
        finally:
            self._flusher = None

    async def _write_together(self, answers: list[_Answer]) -> None:
        frames = [answer.frame for answer in answers]
        writing = asyncio.ensure_future(
            self._in_thread(partial(self._segments.append, frames, self._reserved_bytes))
        )
        done, _ = await asyncio.wait({writing}, timeout=HANGS_SECONDS)
        if not done:
            self._hangs = True
            for answer in (*answers, *self._waiting):
                if not answer.written.done():
                    answer.written.set_exception(self._hanging())
        try:
            places = await writing
        except Exception as error:  # noqa: BLE001 after any error no writer may be left waiting
            problem = JournalError(f"journal: {self._segments.path}: {type(error).__name__}")
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
            if answer.used_up:
                place.used_up.add(answer.used_up)
            if not answer.acknowledged:
                answer.segment = place
                place.unacknowledged += 1
            if not answer.written.done():
                answer.written.set_result(None)

    async def _make_room(self, room: int) -> None:
        async with self._disk:
            await self._in_thread(partial(self._segments.reserve, room))
            await self._remove_old()

    async def _finish(self) -> None:
        async with self._disk:
            await self._in_thread(self._segments.seal)
            await self._remove_old()
            await self._in_thread(self._segments.close)

    async def _remove_old(self) -> None:
        last = self._now() - self._keep_seconds
        old = [
            segment
            for segment in self._segments.all
            if segment is not self._segments.current
            and not segment.unacknowledged
            and max(segment.written_at, segment.acknowledged_at) <= last
        ]
        if old:
            await self._in_thread(partial(self._segments.remove, old))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
