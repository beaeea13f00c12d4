"""The Lua scripts: loaded by SHA, run in groups.

Rules:
- Calls made while another group is on its way leave together, in one pipeline. Each is still atomic and
  has its own answer; under `appendfsync always` a group costs one fsync instead of many.
- redis-py may send a group again when the reply was lost. That is harmless: each script is idempotent by
  its attempt (see the head of each file in `lua/`).
- A Redis that lost its scripts (restart, failover) is given them again.
"""

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError

from worker.adapters.store.record import lua_positions
from worker.core.ports import StoreUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis

NAMES = ("claim", "client", "commit", "import", "lease", "operate", "release_runner", "settle", "sweep")
MOST_IN_A_GROUP = 100


@cache
def source(name: str) -> str:
    """One script as it is loaded: field positions, prelude, body."""
    lua = files("worker.adapters.store") / "lua"
    body = (lua / f"{name}.lua").read_text()
    return lua_positions() + (lua / "prelude.lua").read_text() + body


@cache
def _sha(name: str) -> str:
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class _Call:
    name: str
    args: list[bytes | float]
    answer: asyncio.Future[Any] = field(repr=False)


class Scripts:
    """Runs scripts against one deployment's keys.

    Args:
        redis: a client that does not decode replies.
        prefix: what every key begins with, hash tag included.
    """

    def __init__(self, redis: "Redis", prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._waiting: deque[_Call] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def run(self, name: str, *args: str | bytes | float) -> Any:
        """Run one script and return its reply as redis-py reads it.

        Raises:
            StoreUnavailableError: Redis did not answer, or could not do it now; the script may have run.
            UnicodeEncodeError: an argument holds what UTF-8 cannot, a lone surrogate.
        """
        encoded = [arg.encode() if isinstance(arg, str) else arg for arg in args]
        call = _Call(name, encoded, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await call.answer

    async def _send(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), MOST_IN_A_GROUP)
                await self._send_group([self._waiting.popleft() for _ in range(size)])
        finally:
            self._sender = None

    async def _send_group(self, calls: list[_Call]) -> None:
        try:
            replies = await self._execute(calls)
            forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if forgotten:
                await self._load()
                again = await self._execute([calls[i] for i in forgotten])
                for i, reply in zip(forgotten, again, strict=True):
                    replies[i] = reply
        except Exception as error:  # noqa: BLE001 whatever it is, every caller must hear of it
            replies = [error] * len(calls)
        except BaseException:  # the loop ends
            for call in [*calls, *self._waiting]:
                call.answer.cancel()
            self._waiting.clear()
            raise
        for call, reply in zip(calls, replies, strict=True):
            _answer(call.answer, reply)

    async def _execute(self, calls: list[_Call]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(_sha(call.name), 1, self._prefix, *call.args)
        return await pipeline.execute(raise_on_error=False)

    async def _load(self) -> None:
        for name in NAMES:
            await self._redis.script_load(source(name))


def _answer(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():  # its caller gave up waiting
        return
    if isinstance(reply, RedisError):
        future.set_exception(StoreUnavailableError.because(reply))
    elif isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)
