"""A browser without a screen: cookies, and one step of the way after another."""

from types import TracebackType
from typing import Protocol, Self
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.support.servers import CALLBACK

PUBLIC_URL = CALLBACK.removesuffix("/integration-callback")


class Service(Protocol):
    """Where the service listens, at the moment."""

    url: str


class Browser:
    """One person's browser.

    Attributes:
        seen: every answer so far.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._http = httpx.AsyncClient(trust_env=False, timeout=30)
        self.seen: list[httpx.Response] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def open(self, url: str, method: str = "GET") -> httpx.Response:
        """Open an address; a redirect is not followed. What is public is where the service listens."""
        if url.startswith(PUBLIC_URL + "/"):
            url = self._service.url + url.removeprefix(PUBLIC_URL)
        response = await self._http.request(method, url)
        self.seen.append(response)
        return response

    async def go_to_provider(self, link: str) -> str:
        """Open a link; returns where the browser is sent."""
        response = await self.open(link)
        assert response.status_code == 303, response.text
        return response.headers["location"]

    async def come_back_from(self, provider: str) -> str:
        """Open the provider's page, where somebody has decided already; returns the callback's address."""
        response = await self.open(provider)
        assert response.status_code in {302, 303}, response.text
        assert response.headers["location"].startswith(CALLBACK)
        return str(response.headers["location"])

    async def sign_in(self, link: str) -> httpx.Response:
        """The whole way; returns what the callback answers."""
        return await self.open(await self.come_back_from(await self.go_to_provider(link)))


def query_of(response: httpx.Response) -> dict[str, str]:
    """What the address holds that a browser is sent to."""
    return dict(parse_qsl(urlsplit(response.headers["location"]).query))
