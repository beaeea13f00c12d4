"""The authorization server's token endpoint, over HTTP.

Rules:
- A request that the server may have acted on is never repeated here: a POST to a token endpoint is not
  idempotent (RFC 9110 section 9.2.2). The transport does not follow redirects, keep cookies or retry.
- One deadline covers connecting, sending and reading. If this process stood still past it (frozen, suspended,
  starved), a reply that arrived meanwhile is still read: it may hold the only living tokens. But nothing more
  is sent, because the lease may have ended too.
- Every end of a request is an outcome. If no connection was made, the server certainly did not act. Where
  nothing of a reply came after that, it is unknown whether it did.
- Nothing that came is thrown away. Where a reply is no good HTTP, or the deadline ends it, its bytes are read
  as they are (received.py, broken_http.py): they may hold the only living tokens.
- Replies are read up to a cap. TLS certificates are verified. No exception text from the wire is passed on.

The transport is called directly, because `httpx.AsyncClient` would keep cookies from grant to grant. The
deadline cancels the request: safe with this transport, but it would break httpx's own pool
(docs/decisions/0004-token-endpoint-transport.md).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote_plus

import aiohttp
import httpx

from worker.adapters.content_encoding import MAGIC_NUMBERS, decompressed
from worker.adapters.credentials.certificates import TlsClientAuth
from worker.adapters.credentials.public import PublicClient
from worker.adapters.received import RECEIVED, Received
from worker.adapters.transport import MAX_HEADER_BYTES, NotConnectedError, Transport
from worker.core.grant import TokenPair
from worker.core.outcomes import (
    ClientRejected,
    Outcome,
    Refreshed,
    Rejected,
    Reply,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.ports import ClientCheck, ClientCredentials
from worker.core.protocol import (
    REDIRECT,
    TokenRequest,
    client_credentials_request,
    code_request,
    read_reply,
    refresh_request,
)
from worker.core.providers import Client, GrantType
from worker.core.reachability import Reach, Reached, harmless_request, read_reach
from worker.core.revocation import (
    NotRevoked,
    Revocation,
    RevocationUnanswered,
    Revoked,
    read_revocation_reply,
    revocation_request,
)

MAX_REPLY_BYTES: Final = 1024 * 1024
CONNECT_SHARE: Final = 0.5  # of the deadline
LATE_SECONDS: Final = 0.1  # a deadline that fires this late means that the process stood still
CATCH_UP_SECONDS: Final = 0.5
FORM_TYPE: Final = "application/x-www-form-urlencoded"

# A connection that is lost after sending raises none of these.
_BEFORE_SENDING = (
    *(aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL),
    *(aiohttp.NonHttpUrlClientError, NotConnectedError),
)

_is_plain = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch


class HttpTokenEndpoint:
    """Sends token requests; keeps connections and TLS sessions between them.

    Args:
        timeout_seconds: the deadline of one call, however many credentials it tries.
        ca_file: private certificate authorities, beside the system's.
    """

    def __init__(self, *, timeout_seconds: float, ca_file: Path | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        self._transport = Transport(ca_file)

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
        return await self._ask_with_each(client, now, partial(self._ask_for_tokens, pair=pair))

    async def exchange(
        self, client: Client, code: str, *, redirect_uri: str, verifier: str, now: int
    ) -> Outcome:
        """Ask for the tokens of a code with which a person came back; as `refresh` otherwise.

        Args:
            client: whose credentials to try and whose token endpoint to ask.
            code: the provider's, for one use.
            redirect_uri: where the person came back to.
            verifier: of PKCE.
            now: Unix milliseconds.
        """
        request = code_request(client, code, redirect_uri=redirect_uri, verifier=verifier)
        return await self._ask_with_each(client, now, partial(self._ask_once, request=request))

    async def _ask_with_each(
        self,
        client: Client,
        now: int,
        ask: Callable[["_Asked", ClientCredentials, float], Awaitable[Outcome]],
    ) -> Outcome:
        """Ask with each of a client's credentials in turn, until it is not the client that is refused."""
        asked = _Asked(client, now)
        outcome: Outcome = Unknown("timeout")
        try:
            async with _Deadline(self._timeout_seconds) as due:
                for credentials in client.credentials:
                    outcome = await ask(asked, credentials, due)
                    if not _refuses_client(outcome):
                        break
        except TimeoutError:
            return asked.what_came("timeout")
        return outcome

    async def _ask_once(
        self, asked: "_Asked", credentials: ClientCredentials, due: float, *, request: TokenRequest
    ) -> Outcome:
        authenticated = credentials.authenticate(request, asked.client.client_id, asked.now)
        return await self._ask(asked, authenticated, due)

    async def check(self, client: Client, now: int) -> ClientCheck:
        """Ask whether the client itself is accepted, with a client-credentials request.

        A server that accepts the client but not this grant type has accepted the client.
        """
        check = ClientCheck.UNKNOWN
        with suppress(TimeoutError):
            async with _Deadline(self._timeout_seconds) as due:
                for credentials in client.credentials:
                    check = ClientCheck.UNKNOWN
                    question = client_credentials_request(client)
                    request = credentials.authenticate(question, client.client_id, now)
                    check = _check_of(await self._ask(_Asked(client, now), request, due), credentials)
                    if check is not ClientCheck.REJECTED:
                        break
        return check

    async def revoke(
        self,
        client: Client,
        pair: TokenPair,
        now: int,
    ) -> Revocation:
        """Ask the client's revocation endpoint to revoke a pair; a pair without tokens needs no request.

        Raises:
            ValueError: nobody says where the client's revocation endpoint is.
        """
        if client.revoke_url is None:
            raise ValueError(f"the client {client.name} has no revocation endpoint")
        request = revocation_request(client.revoke_url, client, pair)
        if request is None:
            return Revoked()
        revocation: Revocation = RevocationUnanswered("timeout")
        with suppress(TimeoutError):
            async with _Deadline(self._timeout_seconds) as due:
                for credentials in client.credentials:
                    revocation = RevocationUnanswered("timeout")
                    authenticated = credentials.authenticate(request, client.client_id, now)
                    revocation = await self._ask_to_revoke(authenticated, due)
                    if not (isinstance(revocation, NotRevoked) and revocation.of_client):
                        break
        return revocation

    async def _ask_to_revoke(self, request: TokenRequest, due: float) -> Revocation:
        seconds_left = due - asyncio.get_running_loop().time()
        if seconds_left <= 0:
            return RevocationUnanswered("timeout")
        try:
            reply = await self._exchange(request, seconds_left)
        except Exception as error:  # noqa: BLE001 any failure on the wire is an answer
            return RevocationUnanswered(
                "could_not_connect" if isinstance(error, _BEFORE_SENDING) else "connection_lost"
            )
        return read_revocation_reply(reply)

    async def reach(self, client: Client) -> Reached:
        """Ask a client's token endpoint a question that it can only refuse. Sends no token and no secret."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                request = harmless_request(client).over(_context_of(client))
                reply = await self._exchange(request, self._timeout_seconds)
        except TimeoutError:
            return Reached(Reach.TIMES_OUT)
        except Exception as error:  # noqa: BLE001 whatever goes wrong is what was asked for
            return Reached(_why_unreachable(error))
        return read_reach(reply, client.token_url)

    async def _ask_for_tokens(
        self, asked: "_Asked", credentials: ClientCredentials, due: float, *, pair: TokenPair
    ) -> Outcome:
        client = asked.client
        if client.grant_type is GrantType.REFRESH_TOKEN:
            request = refresh_request(client, pair.refresh_token or "")
        else:
            request = client_credentials_request(client)
        outcome = await self._ask_once(asked, credentials, due, request=request)
        if client.grant_type is GrantType.CLIENT_CREDENTIALS and outcome == ClientRejected("invalid_scope"):
            bare = client_credentials_request(client, with_scope=False)
            return await self._ask_once(asked, credentials, due, request=bare)
        return outcome

    async def _ask(self, asked: "_Asked", request: TokenRequest, due: float) -> Outcome:
        seconds_left = due - asyncio.get_running_loop().time()
        if seconds_left <= 0:
            return Unknown("timeout")
        asked.begin(request)
        try:
            reply = await self._exchange(request, seconds_left)
        except Exception as error:  # noqa: BLE001 any failure on the wire is an outcome
            if isinstance(error, _BEFORE_SENDING):
                return Unavailable("could_not_connect")
            return asked.what_came("connection_lost")
        return asked.outcome_of(reply)

    async def _exchange(self, request: TokenRequest, seconds_left: float) -> Reply:
        # Connecting has a shorter deadline: a request that ends there was certainly not sent.
        body = _form_encoded(request)
        response = await self._transport.send(
            "POST",
            request.url,
            headers=_headers(request.url, len(body), *request.headers.items()),
            body=body,
            tls=request.tls,
            connect_seconds=min(self._timeout_seconds * CONNECT_SHARE, seconds_left),
        )
        try:
            headers = httpx.Headers(response.raw_headers)
            return _reply(response.status, headers, await _read(response.content))
        finally:
            with suppress(Exception):  # the reply is read; failing to release its connection costs nothing
                response.release()


class _Asked:
    """The requests of one call, one after the other, and what came for the last of them."""

    __slots__ = ("_received", "_sent", "client", "now")

    def __init__(self, client: Client, now: int) -> None:
        self.client = client
        self.now = now
        self._sent: TokenRequest | None = None
        self._received = Received(0)

    def begin(self, request: TokenRequest) -> None:
        """From now on what comes is for this request."""
        self._sent = request
        self._received = Received(MAX_HEADER_BYTES + MAX_REPLY_BYTES)
        RECEIVED.set(self._received)

    def outcome_of(self, reply: Reply) -> Outcome:
        """Read a reply that is good HTTP."""
        self._received.forget()
        return self._read(reply)

    def what_came(self, otherwise: str) -> Outcome:
        """Read the bytes that came, without trust in their framing.

        Args:
            otherwise: the detail where nothing of a reply came: then it is unknown whether the server acted.
        """
        came = self._received.read()
        self._received.forget()
        if came is None:
            return Unknown(otherwise)
        outcome = self._read(_reply(came.status, came.headers, came.body, is_whole=came.is_whole))
        if isinstance(outcome, Refreshed):
            return outcome
        is_something = came.has_head and (came.body.strip() or not isinstance(outcome, Unread))
        return outcome if is_something else Unknown(otherwise)

    def _read(self, reply: Reply) -> Outcome:
        return read_reply(reply, self.client, self.now, self._sent)


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


def _refuses_client(outcome: Outcome) -> bool:
    """Whether other credentials might change the outcome; a server that refuses the client has not acted."""
    if isinstance(outcome, ClientRejected):
        return not outcome.code.startswith(REDIRECT)
    return isinstance(outcome, Rejected) and outcome.ambiguous


def _why_unreachable(error: Exception) -> Reach:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return Reach.NOT_TRUSTED
        case aiohttp.ClientConnectorSSLError():
            return Reach.NO_TLS
        case TimeoutError():
            return Reach.TIMES_OUT
        case aiohttp.ClientConnectorError() | aiohttp.InvalidURL() | NotConnectedError():
            return Reach.NO_CONNECTION
        case _:
            return Reach.BREAKS_OFF


def _check_of(outcome: Outcome, credentials: ClientCredentials) -> ClientCheck:
    match outcome:
        case Refreshed():
            return ClientCheck.ACCEPTED
        case ClientRejected(
            code="unauthorized_client" | "unsupported_grant_type" | "invalid_scope" | "invalid_target"
        ):
            return ClientCheck.ACCEPTED
        case ClientRejected() | Rejected(ambiguous=True) if credentials.method == PublicClient.method:
            # Client credentials are for confidential clients (RFC 6749 section 4.4): this says nothing.
            return ClientCheck.UNKNOWN
        case ClientRejected(code=code) if code.startswith(REDIRECT):
            return ClientCheck.UNKNOWN
        case ClientRejected() | Rejected(ambiguous=True):
            return ClientCheck.REJECTED
        case _:
            return ClientCheck.UNKNOWN


def _context_of(client: Client) -> object:
    """What a connection of this client is made with, where it proves itself by it."""
    first = client.credentials[0]
    return first.context if isinstance(first, TlsClientAuth) else None


def _form_encoded(request: TokenRequest) -> bytes:
    """Like `urllib.parse.urlencode`, but faster for values that need no quoting, as most tokens."""
    pairs = chain(request.form.items(), request.parameters)
    fields = (f"{name}={value if _is_plain(value) else quote_plus(value)}" for name, value in pairs)
    return "&".join(fields).encode()


@lru_cache(maxsize=100)
def _headers(url: str, length: int, *others: tuple[str, str]) -> Mapping[str, str]:
    """Cached: a deployment has few endpoints, and most of its tokens have one length."""
    host = httpx.URL(url).netloc.decode()
    own = {"Host": host, "Content-Type": FORM_TYPE, "Content-Length": str(length)}
    return {**own, **dict(others)}


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The body as it came; reading ends a little beyond the cap."""
    first = await content.readany()
    if content.at_eof():
        return first
    body = bytearray(first)
    while len(body) <= MAX_REPLY_BYTES and not content.at_eof():
        body += await content.readany()
    return bytes(body)


def _reply(status: int, headers: Mapping[str, str], body: bytes, *, is_whole: bool = True) -> Reply:
    """With the body decompressed if the server compressed it unasked, and cut at the cap."""
    encoding = headers.get("content-encoding", "")
    if encoding or body.startswith(MAGIC_NUMBERS):
        body, is_complete = decompressed(body, encoding, MAX_REPLY_BYTES)
        is_whole = is_whole and is_complete
    if len(body) > MAX_REPLY_BYTES:
        return Reply(status, headers, body[:MAX_REPLY_BYTES], is_whole=False)
    return Reply(status, headers, body, is_whole=is_whole)
