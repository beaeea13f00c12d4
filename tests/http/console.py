"""A browser without a screen at the console: its cookies, its forms, every page that it was shown."""

import re
from collections.abc import Mapping
from html import unescape
from types import TracebackType
from typing import Self
from urllib.parse import quote

import httpx

from tests.http.conftest import Web

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_TOKEN = re.compile(r'name="form_token" value="([^"]*)"')


class Person:
    """Somebody at the console.

    Attributes:
        pages: every answer so far.
    """

    def __init__(self, web: Web) -> None:
        self.http = httpx.AsyncClient(
            base_url=web.url, trust_env=False, timeout=60, event_hooks={"response": [self._note]}
        )
        self.pages: list[httpx.Response] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def _note(self, response: httpx.Response) -> None:
        await response.aread()
        self.pages.append(response)

    async def sees(self, path: str, **headers: str) -> httpx.Response:
        """Open an address; a redirect is not followed."""
        return await self.http.get(
            path, headers={name.replace("_", "-"): each for name, each in headers.items()}
        )

    async def sends(
        self, path: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a form as it is."""
        return await self.http.post(path, data=dict(fields), headers=headers)

    async def signs_in(self, key: str, wanted: str = "/") -> httpx.Response:
        """Open the form for a key in a browser that has no session, and send it."""
        self.http.cookies.clear()
        form = await self.sees(f"/sign-in?next={quote(wanted, safe='')}")
        return await self.sends("/sign-in", {"form_token": token_in(form), "next": wanted, "key": key})

    async def does(self, action: str, grant_id: str) -> httpx.Response:
        """Ask for an action, and confirm it."""
        path = path_of(action, grant_id)
        return await self.sends(path, {"form_token": token_in(await self.sees(path))})


def path_of(front: str, grant_id: str) -> str:
    return f"/{front}/{quote(grant_id, safe='')}"


def token_in(page: httpx.Response) -> str:
    """The form token of a page; the last form's, which is not the one for signing out."""
    found = _TOKEN.findall(page.text)
    assert found, page.text[:2_000]
    return unescape(str(found[-1]))


def text_of(page: httpx.Response) -> str:
    """What a page says, without its tags."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.text)).split())
