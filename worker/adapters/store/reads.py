"""Plain reads: redis-py's commands, with the port's error where the server does not answer."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.adapters.store.errors import described
from worker.core.ports import StoreUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Reads:
    """The commands of a client, each of which raises `StoreUnavailableError` as a script would."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    async def together(self, commands: Iterable[tuple[str, Sequence[Any], Mapping[str, Any]]]) -> list[Any]:
        """The replies to many commands, each a name, its arguments and its options, in one round trip."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for name, arguments, options in commands:
                getattr(pipe, name)(*arguments, **options)
            try:
                return await pipe.execute()
            except (RedisConnectionError, RedisTimeoutError) as problem:
                raise StoreUnavailableError(described(problem)) from problem

    def __getattr__(self, command: str) -> Callable[..., Awaitable[Any]]:
        async def read(*args: Any, **options: Any) -> Any:
            try:
                return await getattr(self._redis, command)(*args, **options)
            except (RedisConnectionError, RedisTimeoutError) as problem:
                raise StoreUnavailableError(described(problem)) from problem

        return read


async def read_memory(redis: Any) -> tuple[int | None, int | None]:
    """How many bytes of memory the server uses, and its limit; managed servers may hide both.

    Each is `None` where the server does not say, or has no limit.
    """
    try:
        info = await redis.info("memory")
    except ResponseError:
        return None, None
    return info.get("used_memory"), info.get("maxmemory") or None
