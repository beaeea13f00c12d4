"""The application of the demo: it calls the provider's API for one person after another, all the time.

It takes tokens from the HTTP service, as an application does, and keeps each one while it is promised. So
every 401 of the API is a broken promise, unless the person has withdrawn the consent, or the promise ended
while the call was on its way.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Self

import httpx

PAUSE_SECONDS: Final = 0.05
ON_THE_WAY_SECONDS: Final = 1.0  # a call may take as long to reach the API
ANSWER_SECONDS: Final = 30.0


class ApplicationError(Exception):
    """The application cannot go on; the message is one line that says why."""


class Application:
    """Calls the API for as long as the block of `at_work` lasts.

    Args:
        service: the URL of the HTTP service.
        key: an API key that may take tokens.
        api_url: the provider's API.
        people: the ids of their grants.

    Attributes:
        calls: that the API answered.
        tokens: that the service handed out.
        refused: 401s to tokens whose promise held.
    """

    def __init__(self, service: str, key: str, api_url: str, people: Sequence[str]) -> None:
        self.calls = 0
        self.tokens = 0
        self.refused = 0
        self._service = service
        self._authorization = f"Bearer {key}"
        self._api_url = api_url
        self._people = list(people)
        self._promised: dict[str, tuple[str, float]] = {}

    def forget(self, person: str) -> None:
        """Call no more for a person who withdraws the consent."""
        self._people.remove(person)
        self._promised.pop(person, None)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Self]:
        """Call without pause until the block ends; an error of the calls is raised then.

        Raises:
            ApplicationError: the API cannot be reached.
        """
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_SECONDS) as http:
            task = asyncio.create_task(self._call_on(http))
            try:
                yield self
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _call_on(self, http: httpx.AsyncClient) -> None:
        while True:
            await self._call(http, random.choice(self._people))  # noqa: S311 no secret comes of it
            await asyncio.sleep(PAUSE_SECONDS)

    async def _call(self, http: httpx.AsyncClient, person: str) -> None:
        token, until = self._promised.get(person, ("", 0.0))
        if time.monotonic() + ON_THE_WAY_SECONDS >= until:
            token, until = await self._take(http, person)
        if time.monotonic() + ON_THE_WAY_SECONDS >= until or person not in self._people:
            return
        self._promised[person] = token, until
        try:
            answer = await http.get(self._api_url, headers={"Authorization": f"Bearer {token}"})
        except httpx.TransportError as problem:
            raise ApplicationError(f"the sandbox's API: {problem!r}") from None
        self.calls += 1
        if answer.status_code == httpx.codes.UNAUTHORIZED and person in self._people:
            self.refused += time.monotonic() < until

    async def _take(self, http: httpx.AsyncClient, person: str) -> tuple[str, float]:
        """A token and until when it is promised; none where the service gives none now, or is not up yet."""
        asked_at = time.monotonic()
        try:
            answer = await http.post(
                f"{self._service}/v1/token/{person}", headers={"Authorization": self._authorization}
            )
        except httpx.TransportError:
            return "", 0.0
        if not answer.is_success:
            return "", 0.0
        self.tokens += 1
        given = answer.json()
        return given["access_token"], asked_at + given["expires_in"]
