"""Beat's presence at the store: `evergrant status` tells a beat that is dead from workers that are.

Rules:
- It has a thread and a connection of its own: beat's loop waits neither for the store nor for its deadline.
- Beat is there while its loop turns. A loop that hangs is silent after a minute.
- A store that is away costs nothing but the heartbeat.
"""

import asyncio
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Final

from worker.adapters.store.scripts import Scripts
from worker.adapters.store.signatures import NoteBeat
from worker.core.ports import StoreUnavailableError
from worker.runtime.connections import connect
from worker.runtime.deployment import Deployment
from worker.runtime.liveness import SILENT_SECONDS

EVERY_SECONDS: Final = 2.0
END_SECONDS: Final = 3.0  # in which a beat that ends says so


class BeatPresence:
    """Tells the store that this process's beat lives.

    Args:
        deployment: where the store is.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._turned_at = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="beat presence", daemon=True)

    def begin(self) -> None:
        """Be there from now on."""
        self._thread.start()

    def beat(self) -> None:
        """Say that beat's loop turns."""
        self._turned_at = time.monotonic()

    def end(self) -> None:
        """Be gone: nobody is to look for this beat."""
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stay())

    async def _stay(self) -> None:
        async with connect(self._deployment.redis_url, self._deployment.prefix) as redis:
            scripts = Scripts(redis, self._deployment.prefix)
            while not self._ended.is_set():
                if time.monotonic() - self._turned_at < SILENT_SECONDS:
                    await self._say(scripts, is_gone=False)
                # Not in a thread: an interpreter that ends gives none out any more.
                with suppress(TimeoutError):
                    async with asyncio.timeout(EVERY_SECONDS):
                        await self._ended.wait()
            await self._say(scripts, is_gone=True)

    async def _say(self, scripts: Scripts, *, is_gone: bool) -> None:
        with suppress(StoreUnavailableError):
            await scripts.run(NoteBeat(self._name, is_gone))
