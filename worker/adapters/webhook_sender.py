"""Webhooks over HTTP, signed as Standard Webhooks 1.0 says.

Rules:
- A host's addresses are looked up anew for each connection and judged (core/destinations.py); the connection
  goes to those very addresses. A name cannot lead to one place when it is judged, and to another when it is
  used.
- No proxy, no redirects, no cookies. An answer is read up to a small bound, and dropped.
- One deadline covers it all. What goes wrong is an answer without a status. No text from the wire is passed
  on.
- TLS certificates are verified.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks import Webhook as Signer
from yarl import URL

from worker.adapters.tls import verifying_context
from worker.core.delivery import Answer
from worker.core.destinations import Destination, Network, address_in, may_be_sent_to, read_url
from worker.core.waits import retry_after_ms
from worker.core.webhooks import Message

TIMEOUT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 15.0
MAX_ANSWER_BYTES: Final = 4096
CONTENT_TYPE: Final = "application/cloudevents+json"


class AddressRefusedError(OSError):
    """A host leads to where no webhook may be sent."""


class HttpWebhookSender:
    """Sends webhooks; keeps connections between them. It is opened and used in one event loop.

    Args:
        allowed: private ranges that may be sent to.
        ca_file: private certificate authorities, beside the system's.
        timeout_seconds: the deadline of one request.
    """

    def __init__(
        self,
        *,
        allowed: Sequence[Network] = (),
        ca_file: Path | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._allowed = allowed
        self._user_agent = f"evergrant/{version('evergrant')}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._context = verifying_context(ca_file)
        # A plain connection may go to fewer addresses, and a resolver does not know what it resolves for.
        self._sessions = {is_plain: self._open(is_plain=is_plain) for is_plain in (False, True)}

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()

    async def send(self, message: Message) -> Answer:
        """Send once, within the deadline; never raises because of what a receiver does."""
        try:
            there = read_url(message.url, self._allowed)  # an address in the URL is looked up by nobody
        except ValueError:
            return Answer("address_refused")
        try:
            url = URL(message.url, encoded=True)
            if url.host != there.host:  # two parsers, one URL: what was judged is what is used
                return Answer("address_refused")
            return await self._post(self._sessions[there.is_plain], url, message)
        except (TimeoutError, aiohttp.ServerTimeoutError):
            return Answer("timeout")
        except aiohttp.ClientConnectorCertificateError:
            return Answer("certificate_not_trusted")
        except (aiohttp.ClientSSLError, ssl.SSLError):
            return Answer("tls_failed")
        except aiohttp.ClientConnectorError as problem:
            refused = isinstance(problem.os_error, AddressRefusedError)
            return Answer("address_refused" if refused else "could_not_connect")
        except (aiohttp.ClientError, OSError, ValueError):
            return Answer("connection_lost")

    async def _post(self, session: aiohttp.ClientSession, url: URL, message: Message) -> Answer:
        async with session.post(
            url,
            data=message.body,
            headers={
                "Content-Type": CONTENT_TYPE,
                "User-Agent": self._user_agent,
                "Accept-Encoding": "identity",
                **signature(message),
            },
            allow_redirects=False,
        ) as response:
            wait_ms = retry_after_ms({"retry-after": response.headers.get("Retry-After", "")}, message.at)
            with suppress(TimeoutError, aiohttp.ClientError):  # the answer is known
                await response.content.read(MAX_ANSWER_BYTES)
            if not response.content.at_eof():
                response.close()
            return Answer(f"http_{response.status}", response.status, wait_ms)

    def _open(self, *, is_plain: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # callers limit their requests
                keepalive_timeout=IDLE_SECONDS,
                resolver=_JudgingResolver(self._allowed, is_plain=is_plain),
                use_dns_cache=False,
                ssl=self._context,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            auto_decompress=False,
            trust_env=False,
        )


def signature(message: Message) -> dict[str, str]:
    """The headers that sign a message: one signature by each secret."""
    at, body = datetime.fromtimestamp(message.at // 1000, UTC), message.body.decode()
    signatures = [Signer(secret).sign(message.event_id, at, body) for secret in message.secrets]
    return {
        "webhook-id": message.event_id,
        "webhook-timestamp": str(message.at // 1000),
        "webhook-signature": " ".join(signatures),
    }


class _JudgingResolver(AbstractResolver):
    """Looks names up, and gives their addresses only where each of them may be sent to."""

    def __init__(self, allowed: Sequence[Network], *, is_plain: bool) -> None:
        self._allowed = allowed
        self._is_plain = is_plain

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a host."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family
        )
        texts = [str(place[0]) for *_, place in found]
        addresses = [address for text in texts if (address := address_in(text)) is not None]
        there = Destination(host, is_plain=self._is_plain)
        if len(addresses) < len(texts) or not may_be_sent_to(there, addresses, self._allowed):
            raise AddressRefusedError("it leads to an address that is not allowed")
        return [
            ResolveResult(
                hostname=host, host=text, port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for (kind, _, proto, _, _), text in zip(found, texts, strict=True)
        ]

    async def close(self) -> None:
        """Nothing is kept."""
