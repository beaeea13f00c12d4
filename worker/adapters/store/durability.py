"""What a Redis server promises to keep: eviction, the append-only file and its fsync.

A server that evicts keys forgets grants, so it is refused; one that may lose its last second is only warned
of. Managed servers often hide CONFIG: what cannot be read is said to be unknown.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    REFUSED = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    text: str


async def inspect_durability(redis: "Redis") -> list[Finding]:
    """Look at what the server promises to keep."""
    memory, persistence = await redis.info("memory"), await redis.info("persistence")
    return [
        _eviction(str(memory.get("maxmemory_policy", "unknown"))),
        _append_only(enabled=bool(persistence.get("aof_enabled")), fsync=await _config(redis, "appendfsync")),
    ]


async def _config(redis: "Redis", name: str) -> str | None:
    try:
        values = await redis.config_get(name)
    except ResponseError:
        return None
    return str(values[name]) if name in values else None


def _eviction(policy: str) -> Finding:
    if policy == "noeviction":
        return Finding(Level.OK, "nothing is evicted (maxmemory-policy noeviction)")
    if policy == "unknown":
        return Finding(Level.WARNING, "maxmemory-policy cannot be read; it must be noeviction")
    return Finding(
        Level.REFUSED,
        f"maxmemory-policy is {policy}: grants would be evicted; set it to noeviction",
    )


def _append_only(*, enabled: bool, fsync: str | None) -> Finding:
    if not enabled:
        return Finding(
            Level.WARNING, "the append-only file is off: a restart loses rotations; set appendonly yes"
        )
    if fsync == "always":
        return Finding(Level.OK, "every write is on disk before it is answered (appendfsync always)")
    if fsync is None:
        return Finding(Level.WARNING, "appendfsync cannot be read; it should be always")
    return Finding(
        Level.WARNING, f"appendfsync is {fsync}: a crash may lose the last second; set it to always"
    )
