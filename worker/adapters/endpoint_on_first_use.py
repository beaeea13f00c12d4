"""The token endpoint as a command has it: loaded when something is first asked of it.

Importing its HTTP client takes half of a command's start-up, and most commands ask no endpoint. A worker
loads `HttpTokenEndpoint` at its start instead, so that its first refresh does not wait for it.
"""

from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from worker.core.grant import TokenPair
from worker.core.outcomes import Outcome
from worker.core.ports import ClientCheck
from worker.core.providers import Client
from worker.core.reachability import Reached
from worker.core.revocation import Revocation

if TYPE_CHECKING:
    from worker.adapters.token_endpoint import HttpTokenEndpoint


class EndpointOnFirstUse:
    """An `HttpTokenEndpoint` that is made when it is needed.

    Args:
        timeout_seconds: the total deadline of one call.
        ca_file: private certificate authorities, beside the system's.
    """

    def __init__(self, *, timeout_seconds: float, ca_file: Path | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        self._ca_file = ca_file
        self._open = AsyncExitStack()
        self._endpoint: HttpTokenEndpoint | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def load(self) -> None:
        """Load what a request needs. To be called before a lease is taken: it may block for seconds."""
        self._made()

    async def refresh(self, client: Client, pair: TokenPair, now: int) -> Outcome:
        """Ask once for new tokens."""
        return await self._made().refresh(client, pair, now)

    async def exchange(
        self, client: Client, code: str, *, redirect_uri: str, verifier: str, now: int
    ) -> Outcome:
        """Ask once for the tokens of a code."""
        return await self._made().exchange(
            client, code, redirect_uri=redirect_uri, verifier=verifier, now=now
        )

    async def check(self, client: Client, now: int) -> ClientCheck:
        """Ask whether the client itself is accepted."""
        return await self._made().check(client, now)

    async def revoke(self, client: Client, pair: TokenPair, now: int) -> Revocation:
        """Ask once to revoke a pair."""
        return await self._made().revoke(client, pair, now)

    async def reach(self, client: Client) -> Reached:
        """Ask a client's token endpoint a question that it can only refuse."""
        return await self._made().reach(client)

    def _made(self) -> "HttpTokenEndpoint":
        if self._endpoint is None:
            from worker.adapters.token_endpoint import HttpTokenEndpoint  # noqa: PLC0415 see above

            self._endpoint = HttpTokenEndpoint(timeout_seconds=self._timeout_seconds, ca_file=self._ca_file)
            self._open.push_async_exit(self._endpoint)
        return self._endpoint
