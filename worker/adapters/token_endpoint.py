"""The authorization server's token endpoint, over httpx's transport for aiohttp.

Rules:
- What may have been acted on is never asked again here: a POST to a token endpoint is not idempotent (RFC
  9110 section 9.2.2). The transport does not follow redirects, keep cookies or retry.
- The deadline is total: connecting, sending and reading together. Where this process stood still past it
  (frozen, suspended, starved), what the server sent meanwhile is read first: it may be all that lives. But
  nothing is sent any more: the lease may have ended too.
- Whatever happens is an Outcome. Only what failed before a connection stood is certainly not acted on; all
  else that brought no readable reply is unknown.
- Replies are read up to a cap. TLS is verified. No exception text from the wire is passed on.

The transport is called directly: `httpx.AsyncClient` above it would keep cookies between grants. The deadline
cancels the request, which is safe with this transport and would wreck httpx's own pool
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
from worker.core.ports import ClientCheck
from worker.core.protocol import Reply, TokenRequest, client_credentials_request, read_reply, refresh_request
from worker.core.providers import Client, GrantType, Provider

MAX_REPLY_BYTES: Final = 64 * 1024
# Far more than servers and the proxies before them send, for a head over the limit costs the tokens below it.
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 512
CONNECT_SHARE: Final = 0.5  # of the total deadline
LATE_SECONDS: Final = 0.1  # a deadline that strikes so late was not waited for
CATCH_UP_SECONDS: Final = 0.5
FORM_TYPE: Final = "application/x-www-form-urlencoded"
IDLE_SECONDS: Final = 15.0  # less than servers keep idle connections: few requests meet a closed one

# The transport calls a connection lost after sending a ConnectTimeout too; only the cause tells.
_BEFORE_SENDING = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)

_is_plain = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch


class HttpTokenEndpoint:
    """Asks token endpoints; keeps connections and TLS sessions between requests.

    Args:
        timeout_seconds: the total deadline of one call, a second secret and all.
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

    async def refresh(self, client: Client, pair: TokenPair, now: int) -> Outcome:
        """Ask once for new tokens; the second secret is tried only where the first was refused."""
        outcome: Outcome = Unknown("timeout")
        with suppress(TimeoutError):
            async with _Deadline(self._timeout_seconds) as due:
                for secret in _secrets(client):
                    outcome = Unknown("timeout")
                    outcome = await self._ask_for_tokens(client, secret, pair, now, due)
                    if not _refuses_client(outcome):
                        break
        return outcome

    async def check(self, client: Client, now: int) -> ClientCheck:
        """Ask whether the client itself is accepted, with a client-credentials request.

        A server that knows the client but not this grant type says so, which is an answer too.
        """
        check = ClientCheck.UNKNOWN
        with suppress(TimeoutError):
            async with _Deadline(self._timeout_seconds) as due:
                for secret in _secrets(client):
                    check = ClientCheck.UNKNOWN
                    request = client_credentials_request(client, secret)
                    check = _check_of(await self._ask(request, client.provider, now, due))
                    if check is not ClientCheck.REJECTED:
                        break
        return check

    async def reach(self, client: Client) -> str | None:
        """Whether the endpoint answers anything at all; returns why not. Nothing secret is sent."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._transport.handle_async_request(httpx.Request("HEAD", client.token_url))
                await response.aclose()
        except TimeoutError:
            return f"does not answer within {self._timeout_seconds:g} s"
        except Exception as error:  # noqa: BLE001 whatever it was, it is what the operator asked for
            cause = error.__cause__
            why = cause.os_error.strerror if isinstance(cause, aiohttp.ClientConnectorError) else str(error)
            return f"cannot be reached: {why or type(error).__name__}"
        return None

    async def _ask_for_tokens(
        self, client: Client, secret: str, pair: TokenPair, now: int, due: float
    ) -> Outcome:
        if client.grant_type is GrantType.REFRESH_TOKEN:
            request = refresh_request(client, secret, pair.refresh_token or "")
            return await self._ask(request, client.provider, now, due)
        request = client_credentials_request(client, secret)
        outcome = await self._ask(request, client.provider, now, due)
        if outcome == ClientRejected("invalid_scope"):
            bare = client_credentials_request(client, secret, with_scope=False)
            return await self._ask(bare, client.provider, now, due)
        return outcome

    async def _ask(self, request: TokenRequest, provider: Provider, now: int, due: float) -> Outcome:
        seconds_left = due - asyncio.get_running_loop().time()
        if seconds_left <= 0:
            return Unknown("timeout")
        try:
            reply = await self._exchange(request, seconds_left)
        except Exception as error:  # noqa: BLE001 what went wrong on the wire is an outcome, whatever it was
            if isinstance(error.__cause__, _BEFORE_SENDING) or isinstance(error, httpx.UnsupportedProtocol):
                return Unavailable("could_not_connect")
            return Unknown("connection_lost")
        if len(reply.body) > MAX_REPLY_BYTES:
            return Unknown("reply_too_large")
        return read_reply(reply, provider, now)

    async def _exchange(self, request: TokenRequest, seconds_left: float) -> Reply:
        # Connecting has a deadline of its own, within the total one: what ends there was certainly not sent.
        timeout = {"connect": min(self._timeout_seconds * CONNECT_SHARE, seconds_left)}
        response = await self._transport.handle_async_request(_posted(request, {"timeout": timeout}))
        try:
            return Reply(response.status_code, response.headers, await _read(response))
        finally:
            with suppress(Exception):  # what was read is here, however its connection is let go
                await response.aclose()


class _Deadline:
    """Like `asyncio.timeout`, but one that strikes late leaves time to read what had come by then.

    Gives when it is due, by the loop's clock: nothing may be sent after that.
    """

    __slots__ = ("_due", "_handle", "_loop", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + seconds
        self._timeout = asyncio.Timeout(None)

    async def __aenter__(self) -> float:
        await self._timeout.__aenter__()
        self._handle = self._loop.call_at(self._due, self._strike)
        return self._due

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _strike(self) -> None:
        was_standing_still = self._loop.time() - self._due > LATE_SECONDS
        self._timeout.reschedule(self._loop.time() + (CATCH_UP_SECONDS if was_standing_still else 0))


class _Connector(aiohttp.TCPConnector):
    """Makes no connection later than a request may still be sent, however long this process stood still.

    Only here: resolving, connecting and the TLS handshake wait for others, a kept connection for nobody.
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
        # No limit here: callers bound their requests, and one waiting for a slot would use up its deadline.
        connector=_Connector(limit=0, keepalive_timeout=IDLE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
    )


def _secrets(client: Client) -> list[str]:
    """The secrets to try, the present one first."""
    previous = client.previous_client_secret
    return [client.client_secret] if previous is None else [client.client_secret, previous]


def _refuses_client(outcome: Outcome) -> bool:
    """Whether another secret might change the answer; a server that refuses the client has not acted."""
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
    """As `urllib.parse.urlencode`; most tokens have nothing in them that must be quoted."""
    fields = (f"{name}={value if _is_plain(value) else quote_plus(value)}" for name, value in form.items())
    return "&".join(fields).encode()


def _posted(request: TokenRequest, extensions: dict[str, Any]) -> httpx.Request:
    """As httpx makes a request of `content`, in a fifth of the time: the headers need no completing.

    They are shared by all requests like it; the transport only reads them.
    """
    body = _form_encoded(request.form)
    url = _parsed(request.url)
    posted = httpx.Request("POST", url, stream=httpx.ByteStream(body), extensions=extensions)
    posted.headers = _headers(url, len(body), *request.headers.items())
    posted.read()
    return posted


@lru_cache(maxsize=100)
def _parsed(url: str) -> httpx.URL:
    """Kept, as the headers are: a deployment has few endpoints, and its tokens are mostly of one length."""
    return httpx.URL(url)


@lru_cache(maxsize=100)
def _headers(url: httpx.URL, length: int, *others: tuple[str, str]) -> httpx.Headers:
    own = {"Host": url.netloc.decode(), "Content-Type": FORM_TYPE, "Content-Length": str(length)}
    return httpx.Headers({**own, **dict(others)})


async def _read(response: httpx.Response) -> bytes:
    """The body, decompressed where the server compressed it unasked, to a little beyond the cap at most."""
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
