"""Answers to write, and what stands in for the clock and for a disk that fails."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import PATIENCE_SECONDS
from worker.core.events import Event, EventType
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.ports import Commit, Entry, KeptReply

KEEP = 900.0
SEALED = b"sealed, and yet not for a log"


def answer(fence: int, grant_id: str | None = None, *, size: int = 0) -> Commit:
    """An answer for a grant of its own, unless one is named."""
    grant_id = f"grant-{fence}" if grant_id is None else grant_id
    grant = Grant(
        id=grant_id,
        client="acme",
        status=Status.ACTIVE,
        version=fence,
        lineage=b"l" * 16,
        sealed=SEALED + bytes(range(256)) + b"." * size,
        issued_at=1,
        access_expires_at=None,
        refresh_issued_at=1,
        refresh_expires_at=None,
        authorized_at=None,
        labels={"team": "blue"},
    )
    event = Event(EventType.GRANT_REFRESHED, f"{fence}-grant-refreshed", grant_id, 1, {"client": "acme"})
    return Commit(fence, b"b" * 16, fence - 1, Status.ACTIVE, Change(grant, 2, None, event))


def reply(fence: int, grant_id: str) -> KeptReply:
    """A reply to a grant that nobody could read."""
    base = answer(fence, grant_id)
    outage = Event(EventType.PROVIDER_UNAVAILABLE, f"{fence}-provider-unavailable", "http://id/token", 1, {})
    return KeptReply(fence, base.change, SEALED, 1, "http_200_not_json", 1, 2, "f00", False, outage)  # noqa: FBT003


def fences(entries: Sequence[Entry]) -> list[int]:
    return [entry.fence for entry in entries]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.at = 100.0  # a machine that has just been started

    def __call__(self) -> float:
        return self.at


class Syncs:
    """The system call that puts data on the disk: counted, blocked, or failing.

    Attributes:
        count: how many there were.
        most_at_once: how many threads were in it together.
        begun: set when the next one begins.
        failing: with which error the next ones fail, the last first.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.most_at_once = 0
        self.begun = threading.Event()
        self.failing: list[int] = []
        self._running = 0
        self._may_end = threading.Event()
        self._may_end.set()
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        self.begun.set()
        self._may_end.wait()
        self._running -= 1
        if self.failing:
            raise OSError(self.failing.pop(), "Input/output error")
        self._real(descriptor)

    @asynccontextmanager
    async def blocked_from(self, first: asyncio.Task[Any]) -> AsyncIterator[None]:
        """From `first`'s sync on until the block ends, no sync returns."""
        self.begun.clear()
        self._may_end.clear()
        try:
            assert await asyncio.to_thread(self.begun.wait, PATIENCE_SECONDS), "nothing is synced"
            assert not first.done()
            yield
        finally:
            self._may_end.set()


def make_old(path: Path) -> None:
    os.utime(path, (0, 0))


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.segment"))
