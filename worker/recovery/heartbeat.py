"""The heartbeat: this process tells the store that it lives, and learns which epoch the store is in.

Rules:
- The heartbeat waits for nothing else: a process that replays a long journal still beats every second.
- Each heartbeat says why this process claims nothing, if it does not, and at whose answers the store fails:
  `evergrant status` shows it.
- It is a write, and so finds out within a second that the store takes none. Nothing is claimed or sent then.
- How Redis's clock was set is logged once by each process: how it stands with refreshes, and what to do.
- An embedded server that does not answer is started again here. A worker's main process cannot do it: it
  waits for its broker then, and its forks would inherit the locks that it holds while the server starts.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from worker.core.ports import CLOCK_ADVICE, Epoch, Store, StoreUnavailableError, WritesRefusedError

KeepRunning = Callable[[Callable[[str], None]], None]

NEWS_MS: Final = 60_000  # a process that starts does not tell what happened before
HEARTBEAT_SECONDS: Final = 1.0  # a third of the silence that begins an epoch: see prelude.lua

log = structlog.get_logger(__name__)


class Heartbeat:
    """Tells the store that one process lives.

    Args:
        store: takes the heartbeat.
        keep_running: starts the store's server again if it is away, and reports what it did. It may block
            for seconds. `None` where the server is not ours to start.

    Attributes:
        is_away: the store did not take the last heartbeat.
    """

    def __init__(self, *, store: Store, keep_running: KeepRunning | None = None) -> None:
        self._store = store
        self._keep_running = keep_running
        self._jumped_at = 0  # when the clock was set the last time, as far as this process knows
        self.is_away = False

    async def beat(self, trouble: str, untaken: Sequence[str] = ()) -> Epoch:
        """Say that this process lives; returns the epoch that the store is in.

        Args:
            trouble: why this process claims nothing; empty where it claims.
            untaken: the grants whose answers the store fails at.

        Raises:
            StoreUnavailableError: the store is away, or takes no writes.
        """
        try:
            epoch = await self._store.heartbeat(trouble, untaken)
        except WritesRefusedError as problem:
            if not self.is_away:
                log.error("store.refuses_writes", problem=str(problem))  # noqa: TRY400 the line says it all
            self.is_away = True
            raise
        except StoreUnavailableError as problem:
            if not self.is_away:
                log.warning("store.away", problem=str(problem))
            self.is_away = True
            raise
        if self.is_away:
            log.info("store.back")
        self.is_away = False
        self._tell_of_the_clock(epoch)
        return epoch

    async def bring_the_server_back(self) -> None:
        """Start the store's server again, if it is ours to start."""
        if self._keep_running is None:
            return
        starting = asyncio.create_task(asyncio.to_thread(self._keep_running, _log_of_the_server))
        try:
            await asyncio.shield(starting)
        finally:
            await asyncio.wait([starting])  # what follows closes the server that the thread uses

    def _tell_of_the_clock(self, epoch: Epoch) -> None:
        jump = epoch.jump
        if jump is None or jump.at == self._jumped_at:
            return
        self._jumped_at = jump.at
        if epoch.now - jump.at < NEWS_MS:
            log.warning("store.clock_set", problem=jump.problem, advice=CLOCK_ADVICE)

    async def leave(self) -> None:
        """Say that this process is gone.

        Raises:
            StoreUnavailableError: the store is away.
        """
        await self._store.leave()


def _log_of_the_server(line: str) -> None:
    log.warning("store.server", said=line)
