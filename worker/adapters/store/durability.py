"""What a Redis server promises to keep: eviction, the append-only file and its fsync.

A server that evicts keys forgets grants, so it is refused; one that may lose its last second is only warned
of. Managed servers often hide CONFIG: what cannot be read is said to be unknown. Where more is demanded of a
write than the primary's answer, what can never be met is refused, and what is not met now is warned of.

A worker looks when it starts, if the server can be asked then, and again in each epoch: one that restarted
may have other settings, and one that was promoted is another server.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError, ResponseError

from worker.adapters.store.write_concern import WriteConcern
from worker.core.ports import StoreUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)


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


class DurabilityWatch:
    """Looks at the store's server now and then, and warns of each thing that it finds once.

    Args:
        redis: asks it.
        write_concern: what must be true of a write.
        told: warnings that were given already.
    """

    def __init__(self, redis: "Redis", write_concern: WriteConcern | None, told: Collection[str]) -> None:
        self._redis = redis
        self._write_concern = write_concern
        self._told = told

    async def refusal(self) -> str:
        """Why nothing may be claimed of this store; empty where something may.

        Raises:
            StoreUnavailableError: it cannot be asked.
        """
        try:
            findings = await inspect_durability(self._redis, self._write_concern)
        except RedisError as problem:
            raise StoreUnavailableError.because(problem) from None
        warnings = warnings_of(findings)
        for text in warnings:
            if text not in self._told:
                log.warning("store.promises_too_little", problem=text)
        self._told = warnings
        return refusal_of(findings)


def warnings_of(findings: Collection[Finding]) -> list[str]:
    """What is to be warned of."""
    return [finding.text for finding in findings if finding.level is Level.WARNING]


def refusal_of(findings: Collection[Finding]) -> str:
    """Why the store is refused, with its setting's name; empty where it is not."""
    refused = (finding.text for finding in findings if finding.level is Level.REFUSED)
    return next((f"EVERGRANT_REDIS_URL: {text}" for text in refused), "")


async def inspect_durability(redis: "Redis", write_concern: WriteConcern | None = None) -> list[Finding]:
    """Look at what the server promises to keep, and whether it can give what is demanded of its replicas."""
    memory, persistence = await redis.info("memory"), await redis.info("persistence")
    replication = await redis.info("replication")
    fsync = await _config(redis, "appendfsync")
    enabled = bool(persistence.get("aof_enabled"))
    on_disk = _awaited_fsync if write_concern is not None and write_concern.fsync else _append_only
    return [
        _eviction(_policy(memory)),
        on_disk(enabled=enabled, fsync=fsync),
        *_replicas(
            int(replication.get("connected_slaves", 0)),
            0 if write_concern is None else write_concern.replicas,
        ),
    ]


async def inspect_broker(broker: "Redis", store: "Redis") -> list[Finding]:
    """Look at what the broker promises to keep, where it is another server than the store.

    A lost message costs a delay, for the next sweep sends another: nothing is refused.
    """
    of_broker, of_store = await broker.info("server"), await store.info("server")
    if of_broker.get("run_id") == of_store.get("run_id"):
        return []
    policy = _policy(await broker.info("memory"))
    if policy == "noeviction":
        return [Finding(Level.OK, "the broker evicts nothing (maxmemory-policy noeviction)")]
    text = f"the broker's maxmemory-policy is {policy}: evicting delays refreshes; set it to noeviction"
    return [Finding(Level.WARNING, text)]


async def _config(redis: "Redis", name: str) -> str | None:
    try:
        values = await redis.config_get(name)
    except ResponseError:
        return None
    return str(values[name]) if name in values else None


def _policy(memory: Mapping[str, Any]) -> str:
    return str(memory.get("maxmemory_policy", "unknown"))


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


def _awaited_fsync(*, enabled: bool, fsync: str | None) -> Finding:
    """Every write is waited for until it is on the primary's disk: it must get there by itself."""
    if not enabled:
        return Finding(
            Level.REFUSED,
            "the append-only file is off: with EVERGRANT_WAIT_FSYNC no answer would count as stored;"
            " set appendonly yes",
        )
    if fsync == "no":
        return Finding(
            Level.REFUSED,
            "appendfsync is no: with EVERGRANT_WAIT_FSYNC no answer would count as stored; set it to always",
        )
    return Finding(Level.OK, "every write is on disk before it counts as stored (EVERGRANT_WAIT_FSYNC)")


def _replicas(connected: int, demanded: int) -> list[Finding]:
    there = "1 replica is connected" if connected == 1 else f"{connected} replicas are connected"
    if connected < demanded:
        cost = "nothing is claimed and no answer counts as stored until there are enough"
        return [Finding(Level.WARNING, f"{there} and EVERGRANT_WAIT_REPLICAS is {demanded}: {cost}")]
    if demanded:
        return [Finding(Level.OK, f"{there}; a write counts once {demanded} of them have it")]
    if connected:
        return [
            Finding(
                Level.WARNING,
                f"{there} and none is waited for: a failover may forget the last writes, and journals give"
                " back the answers alone; EVERGRANT_WAIT_REPLICAS waits",
            )
        ]
    return []
