"""Plain reads: redis-py's commands, with the port's error where the server does not answer."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.core.ports import StoreUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Reads:
    """The commands of a client, each of which raises `StoreUnavailableError` as a script would."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def __getattr__(self, command: str) -> Callable[..., Awaitable[Any]]:
        async def read(*args: Any, **options: Any) -> Any:
            try:
                return await getattr(self._redis, command)(*args, **options)
            except (RedisConnectionError, RedisTimeoutError) as problem:
                raise StoreUnavailableError.because(problem) from problem

        return read
