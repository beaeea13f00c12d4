"""An issuer whose documents a test writes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any


class Issuer:
    """An issuer whose documents a test writes.

    Attributes:
        documents: what it answers, by path: a status line's end and a body.
        asked: the paths that it was asked for.
        speaks: it answers nothing before this is set.
    """

    def __init__(self) -> None:
        self.documents: dict[str, tuple[str, bytes]] = {}
        self.asked: list[str] = []
        self.url = ""
        self.speaks = asyncio.Event()
        self.speaks.set()

    def says(self, path: str = "/.well-known/oauth-authorization-server", /, **changes: Any) -> None:
        document = {"issuer": self.url, "token_endpoint": f"{self.url}/token/"} | changes
        self.documents[path] = ("200 OK", json.dumps(document).encode())

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Issuer"]:
        """Listen, with a document where RFC 8414 has it."""
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._answer(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.says()
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                path = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ")[1]
                self.asked.append(path)
                await self.speaks.wait()
                status, body = self.documents.get(path, ("404 Not Found", b""))
                head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        finally:
            writer.close()
