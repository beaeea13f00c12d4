"""`EvergrantAuth`: an application's requests bear a token that works when they arrive.

Rules:
- A token is used while it is promised, less the time that a request may be on its way. The promise counts
  from before the token was asked for.
- Threads and tasks that need a token share one call for it. It has a thread of its own, so it ends for all
  the others when one of them is cancelled. Each waits with a deadline.
- A 401 costs one more try, with the token that follows the refused one.
- The token is put on the request that is being sent, and nowhere else. The service is asked over a connection
  of its own: no hook or redirect of the application's client meets the key.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from ssl import SSLContext
from typing import Final

import httpx

from evergrant_client import calls
from evergrant_client.calls import Token
from evergrant_client.client import Evergrant
from evergrant_client.errors import EvergrantError

ON_THE_WAY_SECONDS: Final = 2.0
WAIT_SECONDS: Final = 120.0  # longer than a call of the service may take


class EvergrantAuth(httpx.Auth):
    """Signs the requests of a `httpx.Client`, or of a `httpx.AsyncClient` under asyncio.

    Keep one for each grant, for it keeps the token. Requests raise `EvergrantError` where there is none.

    Args:
        grant: whose tokens.
        url: of the service; `EVERGRANT_URL` otherwise.
        key: an API key with the scope `tokens`; `EVERGRANT_KEY` otherwise.
        min_ttl: for how many seconds a token must be promised when it is taken.
        verify: certificates to trust, where the usual ones do not do.
    """

    def __init__(
        self,
        grant: str,
        *,
        url: str | None = None,
        key: str | None = None,
        min_ttl: float | None = None,
        verify: SSLContext | bool = True,
    ) -> None:
        calls.connection_to(url, key, verify=verify)  # what is wrong is said now, not at the first request
        self._grant, self._min_ttl = grant, min_ttl
        self._url, self._key, self._verify = url, key, verify
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._until = 0.0
        self._flight: Future[Token] | None = None
        self._flight_is_for: int | None = None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request, and once more after a 401."""
        token = self._take(None)
        response = yield _signed(request, token)
        if _refuses(response, request):
            try:
                token = self._take(token.version)
            except EvergrantError as error:
                if _leaves_the_answer(error):
                    return
                raise
            if _can_be_sent_again(request):
                yield _signed(request, token)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """As `sync_auth_flow`."""
        token = await self._take_async(None)
        response = yield _signed(request, token)
        if _refuses(response, request):
            try:
                token = await self._take_async(token.version)
            except EvergrantError as error:
                if _leaves_the_answer(error):
                    return
                raise
            if _can_be_sent_again(request):
                yield _signed(request, token)

    def _take(self, refused: int | None) -> Token:
        found = self._find(refused)
        try:
            return found if isinstance(found, Token) else found.result(WAIT_SECONDS)
        except TimeoutError:
            raise _took_too_long() from None

    async def _take_async(self, refused: int | None) -> Token:
        found = self._find(refused)
        if isinstance(found, Token):
            return found
        shared = asyncio.shield(asyncio.wrap_future(found))  # who is cancelled does not cancel it for others
        try:
            return await asyncio.wait_for(shared, WAIT_SECONDS)
        except TimeoutError:
            raise _took_too_long() from None

    def _find(self, refused: int | None) -> "Token | Future[Token]":
        """The token at hand, or the call that brings one."""
        with self._lock:
            token = self._token
            if token is not None and token.version != refused and time.monotonic() < self._until:
                return token
            self._token = None
            # A call that was made without word of the refusal may bring the refused token again. And who was
            # not refused is not to wait for a refresh, nor to hear that it came too soon after the last.
            if self._flight is None or refused != self._flight_is_for:
                self._flight, self._flight_is_for = Future(), refused
                threading.Thread(target=self._fly, args=(self._flight, refused), daemon=True).start()
            return self._flight

    def _fly(self, flight: "Future[Token]", refused: int | None) -> None:
        asked_at = time.monotonic()
        try:
            with Evergrant(self._url, self._key, verify=self._verify) as evergrant:
                token = evergrant.token(self._grant, min_ttl=self._min_ttl, refused_version=refused)
        except Exception as error:  # noqa: BLE001 it is raised where the token is waited for
            self._land(flight, None, asked_at)
            flight.set_exception(error)
        else:
            self._land(flight, token, asked_at)
            flight.set_result(token)

    def _land(self, flight: "Future[Token]", token: Token | None, asked_at: float) -> None:
        with self._lock:
            if flight is self._flight:  # or its token was refused meanwhile
                self._flight, self._token = None, token
                self._until = asked_at + (token.expires_in if token else 0) - ON_THE_WAY_SECONDS


def _signed(request: httpx.Request, token: Token) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {token.access_token}"
    return request


def _refuses(response: httpx.Response, request: httpx.Request) -> bool:
    """Whether the token was refused. After a redirect the 401 may be from a host that was not shown it."""
    shown = response.request.headers.get("Authorization")
    return response.status_code == httpx.codes.UNAUTHORIZED and shown == request.headers["Authorization"]


def _leaves_the_answer(error: EvergrantError) -> bool:
    """Whether the grant was refreshed for a 401 less than a minute ago: then the API's 401 stands."""
    return error.code == "too_many_requests"


def _can_be_sent_again(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)


def _took_too_long() -> EvergrantError:
    return EvergrantError("unreachable", f"Evergrant gave no token within {WAIT_SECONDS:g} s")
