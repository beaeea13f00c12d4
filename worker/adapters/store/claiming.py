"""Claims that are asked for at the same time travel as one call of claim.lua.

Rules:
- Half of a small claim's cost is that of any script. With thousands of clients nearly all claims are small.
- One call takes no more grants than the largest claim of one client: the server does nothing else meanwhile.
- What cannot be read of one client fails that client's claim and no other. What keeps the store from being
  asked fails all of a call.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from worker.adapters.store import signatures
from worker.core.ports import StoreRefusedError
from worker.core.providers import Client

MOST_GRANTS: Final = 150  # of one call

Answer = tuple[int, list[Any] | None]  # the store's time, and what it answered; `None` while it recovers
Send = Callable[[str, tuple[signatures.Ask, ...]], Awaitable[tuple[int, int, Sequence[Any]]]]


@dataclass(slots=True)
class _Asked:
    runner: str
    ask: signatures.Ask
    answer: asyncio.Future[Answer] = field(repr=False)


class Claiming:
    """Asks for several clients at once.

    Args:
        send: runs the script for a runner and some asks.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._asked: deque[_Asked] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def claim(self, client: Client, limit: int, runner: str) -> Answer:
        """What claim.lua answers for one client.

        Raises:
            StoreUnavailableError: the store did not answer.
            StoreRefusedError: what it has of this client cannot be read.
        """
        ask = signatures.Ask(
            client.name, limit, client.rate_per_second, client.token_url, client.registration
        )
        asked = _Asked(runner, ask, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await asked.answer

    async def _send_all(self) -> None:
        together: list[_Asked] = []
        try:
            while self._asked:
                together = self._next()
                await self._send_some(together)
        except BaseException:  # the loop ends
            for each in [*together, *self._asked]:
                each.answer.cancel()
            self._asked.clear()
            raise
        finally:
            self._sender = None

    def _next(self) -> list[_Asked]:
        """The first that were asked for, of one runner."""
        together = [self._asked.popleft()]
        grants = together[0].ask.limit
        while self._asked and self._asked[0].runner == together[0].runner:
            grants += self._asked[0].ask.limit
            if grants > MOST_GRANTS:
                break
            together.append(self._asked.popleft())
        return together

    async def _send_some(self, together: list[_Asked]) -> None:
        try:
            now, recovering, answers = await self._send(
                together[0].runner, tuple(each.ask for each in together)
            )
        except Exception as problem:  # noqa: BLE001 every caller must get any error
            for each in together:
                _fail(each.answer, problem)
            return
        for each, answer in zip(together, [None] * len(together) if recovering else answers, strict=True):
            if isinstance(answer, bytes):
                _fail(each.answer, StoreRefusedError(answer.decode(errors="replace")))
            elif not each.answer.done():
                each.answer.set_result((now, answer))


def _fail(answer: asyncio.Future[Answer], problem: Exception) -> None:
    if not answer.done():  # its caller may have given up waiting
        answer.set_exception(problem)


def claim_id() -> str:
    """Names one attempt to take leases."""
    return secrets.token_hex(8)
