"""A receiver of webhooks on loopback, which answers as the test says and keeps what it was sent."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook as Verifier


@dataclass(frozen=True, slots=True)
class Got:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """The event, once its signature was checked as any consumer would."""
        return Verifier(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """What was sent, and how the next requests are answered.

    Attributes:
        url: where it listens.
        got: every request, also those that it refuses.
        answers: statuses or whole responses for the next requests; then `usually`.
        hold: requests are answered while this is set.
    """

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answers: list[int | web.Response] = field(default_factory=list)
    usually: int = 204
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.got]

    async def answer(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.got.append(Got(headers, await request.read()))
            await self.hold.wait()
            answer = self.answers.pop(0) if self.answers else self.usually
            return answer if isinstance(answer, web.Response) else web.Response(status=answer)
        finally:
            self.at_once -= 1


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    """A receiver for as long as the block lasts."""
    receiver = Receiver()
    receiver.hold.set()
    app = web.Application()
    app.router.add_post("/hooks", receiver.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        scheme = "http" if tls is None else "https"
        receiver.url = f"{scheme}://{host}:{port}/hooks"
        yield receiver
    finally:
        await runner.cleanup()
