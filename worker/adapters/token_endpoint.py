"""The authorization server's token endpoint, over httpx's transport for aiohttp.

Rules:
- A request that the server may have acted on is never repeated here: a POST to a token endpoint is not
  idempotent (RFC 9110 section 9.2.2). The transport does not follow redirects, keep cookies or retry.
- One deadline covers connecting, sending and reading. If this process stood still past it (frozen, suspended,
  starved), a reply that arrived meanwhile is still read: it may hold the only living tokens. But nothing more
  is sent, because the lease may have ended too.
- Every end of a request is an outcome. If no connection was made, the server certainly did not act. In every
  other case without a readable reply it is unknown whether it did.
- Replies are read up to a cap. TLS certificates are verified. No exception text from the wire is passed on.

The transport is called directly, because `httpx.AsyncClient` would keep cookies from grant to grant. The
deadline cancels the request: safe with this transport, but it would break httpx's own pool
(docs/decisions/0004-token-endpoint-transport.md).
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote_plus

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from httpx_aiohttp import AiohttpTransport

from worker.core.grant import TokenPair
from worker.core.outcomes import ClientRejected, Outcome, Refreshed, Rejected, Unavailable, Unknown
from worker.core.ports import ClientCheck, ClientCredentials
from worker.core.protocol import Reply, TokenRequest, client_credentials_request, read_reply, refresh_request
from worker.core.providers import Client, GrantType, Provider

MAX_REPLY_BYTES: Final = 64 * 1024
# Far more than servers and proxies send, because a reply whose head exceeds a limit loses its tokens.
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 512
CONNECT_SHARE: Final = 0.5  # of the deadline
LATE_SECONDS: Final = 0.1  # a deadline that fires this late means that the process stood still
CATCH_UP_SECONDS: Final = 0.5
FORM_TYPE: Final = "application/x-www-form-urlencoded"
IDLE_SECONDS: Final = 15.0  # servers keep idle connections longer, so few requests meet a closed one

# The transport raises ConnectTimeout also when a connection is lost after sending; only the cause tells.
_BEFORE_SENDING = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)

_is_plain = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch


class HttpTokenEndpoint:
    """Sends token requests; keeps connections and TLS sessions between them.

    Args:
        timeout_seconds: the deadline of one call, however many credentials it tries.
    """

    def __init__(self, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._transport = AiohttpTransport(client=_open_session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    def load(self) -> None:
        """Nothing is left to load."""

    async def refresh(self, client: Client, pair: TokenPair, now: int) -> Outcome:
        """Ask for new tokens, within the deadline; never raises because of what a server does.

        The client's next credentials are tried only when the ones before were refused: a server that refuses
        the client has not acted on the request.

        Args:
            client: whose credentials to try and whose token endpoint to ask.
            pair: holds the refresh token; ignored for a client-credentials grant.
            now: Unix milliseconds, to read a `Retry-After` that names a date.
        """
        outcome: Outcome = Unknown("timeout")
        with suppress(TimeoutError):
            async with _Deadline(self._timeout_seconds) as due:
                for credentials in client.credentials:
                    outcome = Unknown("timeout")
                    outcome = await self._ask_for_tokens(client, credentials, pair, now, due)
                    if not _refuses_client(outcome):
                        break
        return outcome

    async def check(self, client: Client, now: int) -> ClientCheck:
        """Ask whether the client itself is accepted, with a client-credentials request.

        A server that accepts the client but not this grant type has accepted the client.
        """
        check = ClientCheck.UNKNOWN
        with suppress(TimeoutError):
            async with _Deadline(self._timeout_seconds) as due:
                for credentials in client.credentials:
                    check = ClientCheck.UNKNOWN
                    request = credentials.authenticate(client_credentials_request(client), client.client_id)
                    check = _check_of(await self._ask(request, client.provider, now, due))
                    if check is not ClientCheck.REJECTED:
                        break
        return check

    async def reach(self, client: Client) -> str | None:
        """Why the endpoint cannot be reached, in a line; `None` if it answers anything. Sends no secret."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._transport.handle_async_request(httpx.Request("HEAD", client.token_url))
                await response.aclose()
        except TimeoutError:
            return f"does not answer within {self._timeout_seconds:g} s"
        except Exception as error:  # noqa: BLE001 the operator asked what goes wrong
            cause = error.__cause__
            why = cause.os_error.strerror if isinstance(cause, aiohttp.ClientConnectorError) else str(error)
            return f"cannot be reached: {why or type(error).__name__}"
        return None

    async def _ask_for_tokens(
        self, client: Client, credentials: ClientCredentials, pair: TokenPair, now: int, due: float
    ) -> Outcome:
        if client.grant_type is GrantType.REFRESH_TOKEN:
            request = refresh_request(client, pair.refresh_token or "")
        else:
            request = client_credentials_request(client)
        authenticated = credentials.authenticate(request, client.client_id)
        outcome = await self._ask(authenticated, client.provider, now, due)
        if client.grant_type is GrantType.CLIENT_CREDENTIALS and outcome == ClientRejected("invalid_scope"):
            bare = credentials.authenticate(
                client_credentials_request(client, with_scope=False), client.client_id
            )
            return await self._ask(bare, client.provider, now, due)
        return outcome

    async def _ask(self, request: TokenRequest, provider: Provider, now: int, due: float) -> Outcome:
        seconds_left = due - asyncio.get_running_loop().time()
        if seconds_left <= 0:
            return Unknown("timeout")
        try:
            reply = await self._exchange(request, seconds_left)
        except Exception as error:  # noqa: BLE001 any failure on the wire is an outcome
            if isinstance(error.__cause__, _BEFORE_SENDING) or isinstance(error, httpx.UnsupportedProtocol):
                return Unavailable("could_not_connect")
            return Unknown("connection_lost")
        if len(reply.body) > MAX_REPLY_BYTES:
            return Unknown("reply_too_large")
        return read_reply(reply, provider, now)

    async def _exchange(self, request: TokenRequest, seconds_left: float) -> Reply:
        # Connecting has a shorter deadline: a request that ends there was certainly not sent.
        timeout = {"connect": min(self._timeout_seconds * CONNECT_SHARE, seconds_left)}
        response = await self._transport.handle_async_request(_posted(request, {"timeout": timeout}))
        try:
            return Reply(response.status_code, response.headers, await _read(response))
        finally:
            with suppress(Exception):  # the reply is read; failing to release its connection costs nothing
                await response.aclose()


class _Deadline:
    """Like `asyncio.timeout`, but when it fires late it leaves time to read a reply that arrived meanwhile.

    Entering it gives the instant, by the loop's clock, after which nothing may be sent.
    """

    __slots__ = ("_due", "_handle", "_loop", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + seconds
        self._timeout = asyncio.Timeout(None)

    async def __aenter__(self) -> float:
        await self._timeout.__aenter__()
        self._handle = self._loop.call_at(self._due, self._fire)
        return self._due

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _fire(self) -> None:
        stood_still = self._loop.time() - self._due > LATE_SECONDS
        self._timeout.reschedule(self._loop.time() + (CATCH_UP_SECONDS if stood_still else 0))


class _Connector(aiohttp.TCPConnector):
    """Gives up a new connection that is made after its deadline, because this process stood still.

    A kept connection needs no such check: only resolving, connecting and the TLS handshake wait for others.
    """

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 the base class's signature
    ) -> ResponseHandler:
        begun = self._loop.time()
        protocol = await super()._create_connection(req, traces, timeout)
        limit = timeout.sock_connect
        if limit is not None and self._loop.time() - begun > limit:
            protocol.close()
            raise aiohttp.ConnectionTimeoutError("connected too late")
        return protocol


def _open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # No limit here: callers limit their requests, and waiting for a slot would use up the deadline.
        connector=_Connector(limit=0, keepalive_timeout=IDLE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
    )


def _refuses_client(outcome: Outcome) -> bool:
    """Whether other credentials might change the outcome; a server that refuses the client has not acted."""
    return isinstance(outcome, ClientRejected) or (isinstance(outcome, Rejected) and outcome.ambiguous)


def _check_of(outcome: Outcome) -> ClientCheck:
    match outcome:
        case Refreshed():
            return ClientCheck.ACCEPTED
        case ClientRejected(code="unauthorized_client" | "unsupported_grant_type" | "invalid_scope"):
            return ClientCheck.ACCEPTED
        case ClientRejected() | Rejected(ambiguous=True):
            return ClientCheck.REJECTED
        case _:
            return ClientCheck.UNKNOWN


def _form_encoded(form: Mapping[str, str]) -> bytes:
    """Like `urllib.parse.urlencode`, but faster for values that need no quoting, as most tokens."""
    fields = (f"{name}={value if _is_plain(value) else quote_plus(value)}" for name, value in form.items())
    return "&".join(fields).encode()


def _posted(request: TokenRequest, extensions: dict[str, Any]) -> httpx.Request:
    """The same as `httpx.Request(content=...)` in a fifth of the time, because the headers are complete.

    Requests with equal headers share them; the transport only reads them.
    """
    body = _form_encoded(request.form)
    url = _parsed(request.url)
    posted = httpx.Request("POST", url, stream=httpx.ByteStream(body), extensions=extensions)
    posted.headers = _headers(url, len(body), *request.headers.items())
    posted.read()
    return posted


@lru_cache(maxsize=100)
def _parsed(url: str) -> httpx.URL:
    """Cached, like the headers: a deployment has few endpoints, and most of its tokens have one length."""
    return httpx.URL(url)


@lru_cache(maxsize=100)
def _headers(url: httpx.URL, length: int, *others: tuple[str, str]) -> httpx.Headers:
    own = {"Host": url.netloc.decode(), "Content-Type": FORM_TYPE, "Content-Length": str(length)}
    return httpx.Headers({**own, **dict(others)})


async def _read(response: httpx.Response) -> bytes:
    """The body, decompressed if the server compressed it unasked; reading ends a little beyond the cap."""
    body = bytearray()
    stream = response.stream
    compressed = any(name.lower() == b"content-encoding" for name, _ in response.headers.raw)
    if compressed or not isinstance(stream, httpx.AsyncByteStream):
        chunks = response.aiter_bytes()
    else:
        chunks = aiter(stream)
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            break
    return bytes(body)
