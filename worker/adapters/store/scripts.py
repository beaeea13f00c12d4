"""The Lua scripts: loaded by SHA, run in groups.

Rules:
- Calls made while a group is on its way leave together in the next one, in one pipeline. Each call
  stays atomic and has its own answer. Under `appendfsync always` a group costs one fsync.
- A group whose replies were lost or late is sent once more. That is harmless: each script is
  idempotent by its attempt's id (see the head of each file in `lua/`).
- The deadline is the group's. redis-py would set one for each reply, with a timer that costs more
  than reading it: the client given here should have none.
- A script's own error bears a code of ours (lua/errors.lua). Every other error that the server answers with
  is the server's trouble: it takes no writes now.
- A Redis that lost its scripts (restart, failover) is given them again; instance.py has what follows
  where its run id may not be read. Idle connections to a Redis that became a replica are dropped: its
  name may lead to the new primary by now.
- Every error of a group, redis-py's own or the event loop's, means that the store is away. No caller
  may lose an answer because of an exception's type.
- With a write concern, a group ends with the wait for replicas. A call that too few replicas have
  fails as an unavailable store; made again, it finds its work done and is waited for again.
- A lease whose reply was lost blocks its grant, so check replicas first: no lease is asked for
  before a wait has succeeded.
- Calls that a worker stands still for leave at once, beside the groups of answers: a late heartbeat
  looks like silence, and a late claim leaves nothing to send. With a write concern, leases wait in
  the groups too.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import BusyLoadingError, NoScriptError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.adapters.store.errors import described
from worker.adapters.store.instance import Instance, asks_for_a_name
from worker.adapters.store.signatures import (
    Call,
    Claim,
    FinishRecovery,
    Heartbeat,
    Lease,
    Leave,
    NoteBeat,
    NoteUnreadable,
    ReleaseDeliverer,
    ReleaseRunner,
    ReserveDeliverer,
    ReserveRunners,
    ServeWebhook,
    name_of,
    pack,
)
from worker.adapters.store.sources import NAMES, sha_of, source
from worker.adapters.store.write_concern import ShortfallError, WriteConcern
from worker.core.ports import StoreRefusedError, StoreUnavailableError, WritesRefusedError

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

TAKE_LEASES: Final = frozenset[type[Call]]({Claim, Lease})
# These writes are repeated soon, or come right by themselves. Every other script's writes must be kept.
NEED_NO_REPLICA: Final = frozenset[type[Call]](
    {FinishRecovery, Heartbeat, Leave, NoteBeat, NoteUnreadable, ReleaseRunner, ReserveRunners}
    | {ReleaseDeliverer, ReserveDeliverer, ServeWebhook}
)
BESIDE: Final = TAKE_LEASES | NEED_NO_REPLICA
BARRIER: Final = "barrier"  # no script: a write to be waited for
MOST_IN_A_GROUP: Final = 100
GROUP_SECONDS: Final = 5.0
REPEATS: Final = 3  # a server may lack the scripts, then a name, then lose that name to another process
OWN_ERROR: Final = "EVERGRANT "  # the code of lua/errors.lua


@dataclass(slots=True)
class _Waiting:
    name: str
    args: bytes
    answer: asyncio.Future[Any] = field(repr=False)


class Scripts:
    """Runs scripts against one deployment's keys.

    Args:
        redis: a client that does not decode replies.
        prefix: what every key begins with, hash tag included.
        write_concern: what a write needs, beyond the primary's answer, to count as stored.
    """

    def __init__(self, redis: "Redis", prefix: str, write_concern: WriteConcern | None = None) -> None:
        instance = Instance(redis, prefix)
        self._kept = _Lane(redis, prefix, write_concern, instance)
        self._beside = _Lane(redis, prefix, None, instance)
        self._leave_beside = BESIDE if write_concern is None else NEED_NO_REPLICA

    async def run(self, call: Call) -> Any:
        """Run one script and return its reply as redis-py reads it.

        Raises:
            StoreUnavailableError: Redis did not answer; the script may have run.
            WritesRefusedError: Redis takes no writes now.
            StoreRefusedError: the script stopped at a record that it cannot read, or at a mistake in it.
            UnicodeEncodeError: an argument holds what UTF-8 cannot, a lone surrogate.
        """
        name, packed, kind = name_of(call), pack(call), type(call)
        if kind in self._leave_beside:
            return await self._beside.call(name, packed)
        if kind in TAKE_LEASES and not self._kept.is_met:
            await self._kept.call(BARRIER, b"")
        return await self._kept.call(name, packed)


class _Lane:
    """Calls one group after another.

    Attributes:
        is_met: whether the last wait met the write concern; true where there is none.
    """

    def __init__(
        self, redis: "Redis", prefix: str, write_concern: WriteConcern | None, instance: Instance
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._write_concern = write_concern
        self._instance = instance
        self._waiting: deque[_Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None
        self.is_met = write_concern is None

    async def call(self, name: str, args: bytes) -> Any:
        """Run a script; errors as `Scripts.run` has them."""
        call = _Waiting(name, args, asyncio.get_running_loop().create_future())
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

    async def _send_group(self, calls: list[_Waiting]) -> None:
        try:
            replies = await _twice_in_time(partial(self._execute, calls))
            for _ in range(REPEATS):
                undone = [i for i, reply in enumerate(replies) if _could_not_begin(reply)]
                if not undone:
                    break
                await self._make_ready([replies[i] for i in undone])
                again = await _twice_in_time(partial(self._execute, [calls[i] for i in undone]))
                for i, reply in zip(undone, again, strict=True):
                    replies[i] = reply
            if any(isinstance(reply, ReadOnlyError) for reply in replies):
                await self._redis.connection_pool.disconnect(inuse_connections=False)
        except Exception as error:  # noqa: BLE001 every caller must get any error
            replies = [error] * len(calls)
        except BaseException:  # the loop ends
            for call in [*calls, *self._waiting]:
                call.answer.cancel()
            self._waiting.clear()
            raise
        for call, reply in zip(calls, replies, strict=True):
            _answer(call.answer, reply)

    async def _execute(self, calls: list[_Waiting]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            if call.name == BARRIER:
                pipeline.set(self._prefix + BARRIER, "")
            else:
                sha = sha_of(call.name, self._instance.of(call.name))
                pipeline.evalsha(sha, 1, self._prefix, call.args)
        if self._write_concern is None:
            return await pipeline.execute(raise_on_error=False)
        # WAIT looks at its own connection's last write. After a script that found its work done, a new
        # connection has none, and WAIT would count every replica at once. So there is always a write.
        pipeline.set(self._prefix + BARRIER, "")
        for command in self._write_concern.commands:
            pipeline.execute_command(*command)
        replies = await pipeline.execute(raise_on_error=False)
        shortfall = self._write_concern.shortfall(written=replies[len(calls)], waited=replies[-1])
        self.is_met = shortfall is None
        return [
            reply if shortfall is None or isinstance(reply, Exception) else ShortfallError(shortfall)
            for reply in replies[: len(calls)]
        ]

    async def _make_ready(self, replies: list[Any]) -> None:
        """Give the server what the scripts lacked that these replies came from."""
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await _twice_in_time(self._load)
        if self._instance.name is not None or any(asks_for_a_name(reply) for reply in replies):
            await _twice_in_time(self._instance.find)

    async def _load(self) -> None:
        for name in NAMES:
            await self._redis.script_load(source(name))


async def _twice_in_time(work: Callable[[], Awaitable[T]]) -> T:
    """Do it, and once more if it takes too long.

    Raises:
        RedisTimeoutError: it took too long twice.
    """
    for _ in range(2):
        with suppress(TimeoutError):
            async with asyncio.timeout(GROUP_SECONDS):
                return await work()
    raise RedisTimeoutError(f"no answer within {GROUP_SECONDS:g} s, twice")


def _could_not_begin(reply: Any) -> bool:
    """Whether a script was not run at all, for a reason that can be mended."""
    return isinstance(reply, NoScriptError) or asks_for_a_name(reply)


def _answer(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():  # its caller gave up waiting
        return
    if isinstance(reply, Exception):
        future.set_exception(_unavailable(reply))
    else:
        future.set_result(reply)


def _unavailable(error: Exception) -> StoreUnavailableError:
    match error:
        case StoreUnavailableError():
            return error
        case ResponseError() if str(error).startswith(OWN_ERROR):
            return StoreRefusedError(described(error).removeprefix(OWN_ERROR))
        case ResponseError() | BusyLoadingError():
            return WritesRefusedError(f"Redis refuses writes: {described(error)}")
        case _:
            return StoreUnavailableError(described(error))
