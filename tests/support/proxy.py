"""Little proxies: one that knows CONNECT (RFC 9110 section 9.3.6), and one address of changing servers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from anyio.from_thread import start_blocking_portal


class ConnectProxy:
    """Attributes:
    asked: the head of each request, as it came.
    answer: its status line in place of a tunnel; empty for a tunnel, `None` to say nothing at all.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: str | None = ""
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ConnectProxy"]:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head)
            if self.answer is None:
                await reader.read()
            elif self.answer:
                writer.write(f"{self.answer}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
            else:
                host, _, port = head.split(" ")[1].rpartition(":")
                there, back = await asyncio.open_connection(host, int(port))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))


class OneAddress:
    """A TCP address of a server on a Unix socket, as a load balancer or a managed Redis has one.

    Args:
        server: its socket.
        tls: how clients are met; `None` for no TLS.

    Attributes:
        server: where new connections lead to; those that are open stay where they are.
        port: on 127.0.0.1.
        is_silent: new connections are taken, and nothing is passed on or closed: the other end's machine is
            gone. A connection that was used meanwhile stays silent for good.
    """

    def __init__(self, server: Path, tls: ssl.SSLContext | None = None) -> None:
        self.server = server
        self.port = 0
        self.is_silent = False
        self._tls = tls

    @contextmanager
    def running_aside(self) -> Iterator["OneAddress"]:
        """It runs in a thread of its own for as long as the block lasts."""
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self.running()):
            yield self

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OneAddress"]:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = listening.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listening.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.is_silent:
                await _never()
            there, back = await asyncio.open_unix_connection(str(self.server))
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        except OSError:  # no server is there, or the client has left
            pass
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _pass_on(reader, writer, lambda: self.is_silent)


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_silent: Callable[[], bool] = lambda: False
) -> None:
    try:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if is_silent():
                    await _never()
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


async def _never() -> None:
    """Wait until this task is cancelled."""
    await asyncio.Event().wait()
