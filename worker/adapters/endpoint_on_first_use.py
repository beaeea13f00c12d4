"""The token endpoint as a command has it: loaded when something is first asked of it.

Importing its HTTP client takes half of a command's start-up, and most commands ask no endpoint. A worker
loads `HttpTokenEndpoint` at its start instead, so that its first refresh does not wait for it.
"""

from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from worker.core.grant import TokenPair
from worker.core.outcomes import Outcome
from worker.core.ports import ClientCheck
from worker.core.providers import Client

if TYPE_CHECKING:
    from worker.adapters.token_endpoint import HttpTokenEndpoint


class EndpointOnFirstUse:
    """An `HttpTokenEndpoint` that is made when it is needed.

    Args:
        timeout_seconds: the total deadline of one call.
    """

    def __init__(self, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
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

    async def check(self, client: Client, now: int) -> ClientCheck:
        """Ask whether the client itself is accepted."""
        return await self._made().check(client, now)

    async def reach(self, client: Client) -> str | None:
        """Why the endpoint cannot be reached, in a line; `None` if it answers anything."""
        return await self._made().reach(client)

    def _made(self) -> "HttpTokenEndpoint":
        if self._endpoint is None:
            from worker.adapters.token_endpoint import HttpTokenEndpoint  # noqa: PLC0415 see above

            self._endpoint = HttpTokenEndpoint(timeout_seconds=self._timeout_seconds)
            self._open.push_async_exit(self._endpoint)
        return self._endpoint
