"""HTTP as token requests need it: httpx's interface on aiohttp's connections.

Rules:
- A URL is sent byte for byte. httpx and aiohttp would both put it into a form of their own, and a server may
  know one form only.
- A connection with a client's certificate carries that client's requests alone.
- `HTTPS_PROXY` and `NO_PROXY` are followed, as by every other tool. Plain HTTP goes to loopback only, and
  never through a proxy.
- What goes wrong before a request is sent is a `NotConnectedError`: the server certainly did not act.
- Redirects are not followed, and cookies not kept.
"""

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions
from yarl import URL

from worker.adapters import proxy
from worker.adapters.received import KeepingProtocol
from worker.adapters.tls import verifying_context

# Far more than servers and proxies send, because a reply whose head exceeds a limit loses its tokens.
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 512
IDLE_SECONDS: Final = 15.0  # servers keep idle connections longer, so few requests meet a closed one


class NotConnectedError(aiohttp.ClientConnectionError):
    """No connection was made to the server: the proxy refused, or broke off."""


class Transport(AiohttpTransport):
    """Sends one request at a time over kept connections.

    Of a request's extensions it reads `target`, the URL as it is to be sent.

    Args:
        ca_file: private certificate authorities, beside the system's.
    """

    def __init__(self, ca_file: Path | None = None) -> None:
        super().__init__(client=self._open_session)
        self._context = verifying_context(ca_file)
        self._ways: dict[str, _Way] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response before the body is read.

        Raises:
            httpx.TransportError: its cause is aiohttp's exception.
        """
        with map_aiohttp_exceptions():
            response = await self.send(
                request.method, request.extensions["target"], headers=request.headers, body=request.content
            )
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=AiohttpResponseStream(response),
            request=request,
        )

    async def send(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        tls: object = None,
        connect_seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        """The same without httpx's objects, which cost a twelfth of a refresh.

        Args:
            method: of HTTP.
            target: the URL as it is to be sent.
            headers: all of them.
            body: empty for none.
            tls: a context of the request's own; `None` for that of every request.
            connect_seconds: for resolving, connecting and TLS together; `None` for no limit.

        Raises:
            aiohttp.ClientError: nothing came, or no good HTTP.
        """
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self._open_session()
        way = self._way(target)
        return await self.client.request(
            method,
            way.url,
            headers=headers,
            data=aiohttp.BytesPayload(body) if body else None,
            allow_redirects=False,
            auto_decompress=False,
            compress=False,
            timeout=_connecting_within(connect_seconds, is_over_a_proxy=way.proxy is not None),
            ssl=tls if isinstance(tls, ssl.SSLContext) else True,
            proxy=way.proxy,
            proxy_headers=way.proxy_headers,
        )

    def _way(self, target: str) -> "_Way":
        """The environment is read once for each URL."""
        if target not in self._ways:
            self._ways[target] = _way_to(target)
        return self._ways[target]

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # No limit here: callers limit their requests, and waiting for a slot would use up the deadline.
            connector=_Connector(limit=0, keepalive_timeout=IDLE_SECONDS, ssl=self._context),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )


class _Connector(aiohttp.TCPConnector):
    """Makes connections that keep what they receive, and says whether one was made.

    One that was made after its deadline is given up: this process stood still. A kept connection needs no
    such check, for only resolving, connecting and the TLS handshake wait for others.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(KeepingProtocol, loop=self._loop)  # type: ignore[assignment] # a kind of it

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 the base class's signature
    ) -> ResponseHandler:
        begun = self._loop.time()
        try:
            protocol = await super()._create_connection(req, traces, timeout)
        except (aiohttp.ClientConnectorError, TimeoutError):
            raise  # they say so already
        except aiohttp.ClientHttpProxyError as problem:
            raise NotConnectedError(f"the proxy answered {problem.status}") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise NotConnectedError(type(problem).__name__) from problem
        limit = timeout.sock_connect
        if limit is not None and self._loop.time() - begun > limit:
            protocol.close()
            raise aiohttp.ConnectionTimeoutError("connected too late")
        return protocol


@lru_cache(maxsize=100)
def _connecting_within(seconds: float | None, *, is_over_a_proxy: bool) -> aiohttp.ClientTimeout:
    """Each step has its own limit, but for a proxy's reply: there one limit is over all of them."""
    return aiohttp.ClientTimeout(connect=seconds if is_over_a_proxy else None, sock_connect=seconds)


@dataclass(frozen=True, slots=True)
class _Way:
    """How one URL is reached: the password of a proxy apart from its address, which aiohttp's errors name."""

    url: URL
    proxy: URL | None = None
    proxy_headers: Mapping[str, str] | None = field(default=None, repr=False)


def _way_to(target: str) -> _Way:
    url, named = URL(target, encoded=True), proxy.of_environment_for(target)
    if named is None:
        return _Way(url)
    there = URL(named)
    if there.user is None:
        return _Way(url, there)
    credentials = base64.b64encode(f"{there.user}:{there.password or ''}".encode()).decode()
    return _Way(url, there.with_user(None), {"Proxy-Authorization": f"Basic {credentials}"})
