"""A proxy of an authorization server: requests go through at once, replies when the test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

from anyio.from_thread import start_blocking_portal


class HeldReplies:
    """The server acts on what it is sent, and nobody hears of it yet.

    Args:
        token_url: of the server.

    Attributes:
        token_url: of the proxy.
        let_pass: set once replies may pass, those that were held and those to come.
    """

    def __init__(self, token_url: str) -> None:
        self.token_url = ""
        self.let_pass = asyncio.Event()
        self._server = urlsplit(token_url)
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["HeldReplies"]:
        """It runs in this loop for as long as the block lasts."""
        listening = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        self.token_url = self._server._replace(netloc=f"127.0.0.1:{port}").geturl()
        try:
            yield self
        finally:
            self.let_pass.set()
            listening.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def running_aside(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """It runs in a thread of its own meanwhile; gives its token URL, and what lets replies pass."""
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self.running()):
            yield self.token_url, lambda: portal.call(self.let_pass.set)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._server.hostname is not None
        up_reader, up_writer = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._tasks.add(asyncio.create_task(self._carry(reader, up_writer)))
        self._tasks.add(asyncio.create_task(self._carry(up_reader, writer, self.let_pass)))

    @staticmethod
    async def _carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None = None
    ) -> None:
        try:
            while data := await reader.read(65_536):
                if gate is not None:
                    await gate.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
