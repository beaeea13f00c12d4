"""The store's clock, for those who read it without a script: lua/prelude.lua (`now_us`) has the rule."""

from typing import Any, Final

from worker.adapters.store.reads import Reads

SLOWER: Final = 100


async def store_now(redis: Reads, prefix: str) -> int:
    """What the store's clock shows, Unix ms."""
    return (await read_clocks(redis, prefix))[0]


async def read_clocks(redis: Reads, prefix: str) -> tuple[int, int]:
    """What the store's clock shows, Unix ms, and how far it is ahead of Redis's."""
    reads: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("time", (), {}),
        ("hget", (prefix + "epoch", "meets_at"), {}),
    ]
    (seconds, microseconds), meets_at = await redis.together(reads)
    by_redis = int(seconds) * 1000 + int(microseconds) // 1000
    ahead_ms = max((int(meets_at or 0) - by_redis) // SLOWER, 0)
    return by_redis + ahead_ms, ahead_ms
