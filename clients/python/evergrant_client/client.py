"""`Evergrant` and `AsyncEvergrant`: the calls of the HTTP service, for threads and for asyncio."""

from collections.abc import Mapping, Sequence
from ssl import SSLContext
from typing import Self, TypeVar

import httpx

from evergrant_client import calls
from evergrant_client.calls import Call, Grant, SignIn, Token

T = TypeVar("T")


class Evergrant:
    """Calls the service; threads may share it. Every call raises `EvergrantError` where it fails.

    Args:
        url: of the service; `EVERGRANT_URL` otherwise.
        key: an API key; `EVERGRANT_KEY` otherwise.
        verify: certificates to trust, where the usual ones do not do.

    Attributes:
        grants: `put` and `get`.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, *, verify: SSLContext | bool = True
    ) -> None:
        self._http = httpx.Client(**calls.connection_to(url, key, verify=verify))
        self.grants = Grants(self)

    def token(
        self, grant_id: str, *, min_ttl: float | None = None, refused_version: int | None = None
    ) -> Token:
        """Take an access token.

        Args:
            grant_id: whose.
            min_ttl: seconds that it must work at least.
            refused_version: the API answered 401 to the token of this version.
        """
        return self.send(calls.token(grant_id, min_ttl, refused_version))

    def connect(
        self,
        *,
        grant: str,
        client: str,
        scopes: Sequence[str] | str | None = None,
        labels: Mapping[str, str] | None = None,
        return_to: str | None = None,
    ) -> SignIn:
        """Begin a sign-in: send the person to its URL."""
        return self.send(calls.connect(grant, client, scopes, labels, return_to))

    def confirm(self, code: str) -> Grant:
        """Say that the person who came back with this code is the one who was sent; gives the grant."""
        return self.send(calls.confirm(code))

    def send(self, call: Call[T]) -> T:
        """Send one call."""
        try:
            response = self._http.request(call.method, call.path, json=call.body)
        except httpx.HTTPError as error:
            raise calls.unreachable(error) from None
        return call.result_of(response)

    def close(self) -> None:
        """Close its connections; a `with` statement does."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Grants:
    """The grants of a service."""

    def __init__(self, evergrant: Evergrant) -> None:
        self._evergrant = evergrant

    def put(self, line: Mapping[str, object], *, replace: bool = False) -> Grant:
        """Put in one import line: a token response with an id and a client."""
        return self._evergrant.send(calls.put_grant(line, replace=replace))

    def get(self, grant_id: str) -> Grant:
        """Show a grant, without its tokens."""
        return self._evergrant.send(calls.get_grant(grant_id))


class AsyncEvergrant:
    """`Evergrant` for the tasks of one event loop."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, verify: SSLContext | bool = True
    ) -> None:
        self._http = httpx.AsyncClient(**calls.connection_to(url, key, verify=verify))
        self.grants = AsyncGrants(self)

    async def token(
        self, grant_id: str, *, min_ttl: float | None = None, refused_version: int | None = None
    ) -> Token:
        """As `Evergrant.token`."""
        return await self.send(calls.token(grant_id, min_ttl, refused_version))

    async def connect(
        self,
        *,
        grant: str,
        client: str,
        scopes: Sequence[str] | str | None = None,
        labels: Mapping[str, str] | None = None,
        return_to: str | None = None,
    ) -> SignIn:
        """As `Evergrant.connect`."""
        return await self.send(calls.connect(grant, client, scopes, labels, return_to))

    async def confirm(self, code: str) -> Grant:
        """As `Evergrant.confirm`."""
        return await self.send(calls.confirm(code))

    async def send(self, call: Call[T]) -> T:
        """Send one call."""
        try:
            response = await self._http.request(call.method, call.path, json=call.body)
        except httpx.HTTPError as error:
            raise calls.unreachable(error) from None
        return call.result_of(response)

    async def close(self) -> None:
        """Close its connections; an `async with` statement does."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncGrants:
    """The grants of a service."""

    def __init__(self, evergrant: AsyncEvergrant) -> None:
        self._evergrant = evergrant

    async def put(self, line: Mapping[str, object], *, replace: bool = False) -> Grant:
        """As `Grants.put`."""
        return await self._evergrant.send(calls.put_grant(line, replace=replace))

    async def get(self, grant_id: str) -> Grant:
        """As `Grants.get`."""
        return await self._evergrant.send(calls.get_grant(grant_id))
