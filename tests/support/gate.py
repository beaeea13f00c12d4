"""A gate between our processes and Redis: it can be shut, and it can lose replies on their way back."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Gate:
    """Lets connections through from one socket to another.

    Attributes:
        watch: what is done with each request before it is let through.
        losing: how many of the next replies are lost.
        lost: set once a reply was lost.
    """

    def __init__(self, socket: Path, upstream: Path) -> None:
        self.socket = socket
        self.losing = 0
        self.lost = asyncio.Event()
        self.watch: Callable[[bytes], Awaitable[None]] | None = None
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_unix_server(self._let_through, self.socket)

    async def shut(self) -> None:
        """Cut all connections, and let none be made."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        self.socket.unlink(missing_ok=True)

    async def _let_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        try:
            if self._server is not None:  # else it was shut since this one was accepted
                await self._pass_on(reader, writer)
        except asyncio.CancelledError:
            pass  # the gate is being shut
        finally:
            writer.close()
            self._passing.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        there = asyncio.create_task(self._carry(reader, up_writer))
        back = asyncio.create_task(self._carry(up_reader, writer, replies=True))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (there, back):
                each.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            up_writer.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool = False
    ) -> None:
        while data := await reader.read(65_536):
            if replies and self.losing:
                self.losing -= 1
                self.lost.set()
                return
            if not replies and self.watch is not None:
                await self.watch(data)
            writer.write(data)
            await writer.drain()
