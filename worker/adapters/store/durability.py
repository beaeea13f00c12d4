"""What a Redis server promises to keep: eviction, the append-only file and its fsync.

A server that evicts keys forgets grants, so it is refused. A server that may lose its last second only gives
a warning. Managed servers often hide CONFIG or INFO; what cannot be read gives a warning and is no reason to
refuse the server. A server that can never meet the write concern is refused; a server that cannot meet it now
gives a warning.

A worker inspects the server when it starts, if it can be reached, and again in each epoch: a restarted server
may have other settings, and a promoted one is another server.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from worker.adapters.store.errors import described
from worker.adapters.store.instance import INFO_NEEDED
from worker.adapters.store.write_concern import WriteConcern
from worker.core.ports import StoreUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    REFUSED = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One property of a server, and what it means for the grants."""

    level: Level
    text: str


class DurabilityWatch:
    """Inspects the store's server now and then, and logs each warning once.

    Args:
        redis: a connection to it.
        write_concern: what a write needs to count as stored, beyond the primary's answer.
        warned: texts of warnings that were logged before.
    """

    def __init__(self, redis: "Redis", write_concern: WriteConcern | None, warned: Collection[str]) -> None:
        self._redis = redis
        self._write_concern = write_concern
        self._warned = warned

    async def refusal(self) -> str:
        """Why nothing may be claimed from this store; empty if claims are allowed.

        Raises:
            StoreUnavailableError: the server does not answer.
        """
        try:
            findings = await inspect_durability(self._redis, self._write_concern)
        except RedisError as problem:
            raise StoreUnavailableError(described(problem)) from None
        warnings = warnings_of(findings)
        for text in warnings:
            if text not in self._warned:
                log.warning("store.durability_warning", problem=text)
        self._warned = warnings
        return refusal_of(findings)


def warnings_of(findings: Collection[Finding]) -> list[str]:
    """The texts of the warnings."""
    return [finding.text for finding in findings if finding.level is Level.WARNING]


def refusal_of(findings: Collection[Finding]) -> str:
    """Why the store is refused, with the name of the setting; empty if it is accepted."""
    refused = (finding.text for finding in findings if finding.level is Level.REFUSED)
    return next((f"EVERGRANT_REDIS_URL: {text}" for text in refused), "")


async def inspect_durability(redis: "Redis", write_concern: WriteConcern | None = None) -> list[Finding]:
    """Find out what the server promises to keep, and whether its replicas can meet the write concern."""
    info = await _info(redis, "memory", "persistence", "replication")
    waits = await _waiting(redis, write_concern)
    if info is None:
        return [await _without_info(redis), *waits]
    fsync = await _config(redis, "appendfsync")
    enabled = bool(info.get("aof_enabled"))
    on_disk = _awaited_fsync if write_concern is not None and write_concern.fsync else _append_only
    return [
        _eviction(_policy(info)),
        on_disk(enabled=enabled, fsync=fsync),
        *waits,
        *_replicas(
            int(info.get("connected_slaves", 0)),
            0 if write_concern is None else write_concern.replicas,
        ),
    ]


async def inspect_broker(broker: "Redis", store: "Redis") -> list[Finding]:
    """Find out what the broker promises to keep, unless it is the store's own server.

    Nothing is refused: a lost message costs a delay, and the next sweep sends another.
    """
    of_broker, of_store = await _info(broker, "server", "memory"), await _info(store, "server")
    if of_broker is None:
        text = "the broker refuses INFO: its maxmemory-policy cannot be read; it must be noeviction"
        return [Finding(Level.WARNING, text)]
    if of_store is not None and of_broker.get("run_id") == of_store.get("run_id"):
        return []
    policy = _policy(of_broker)
    if policy == "noeviction":
        return [Finding(Level.OK, "the broker evicts nothing (maxmemory-policy noeviction)")]
    text = f"the broker's maxmemory-policy is {policy}: evicting delays refreshes; set it to noeviction"
    return [Finding(Level.WARNING, text)]


async def _info(redis: "Redis", *sections: str) -> dict[str, Any] | None:
    """What INFO says in these sections; `None` where this user may not ask."""
    known: dict[str, Any] = {}
    try:
        for section in sections:
            known |= await redis.info(section)
    except ResponseError:
        return None
    return known


async def _without_info(redis: "Redis") -> Finding:
    """What it means that INFO is refused. Redis before 7 does not tell scripts its version."""
    if not await redis.eval("return redis.REDIS_VERSION_NUM and 1 or 0", 0):
        return Finding(Level.REFUSED, INFO_NEEDED)
    text = "INFO is refused, so nothing was checked: set maxmemory-policy noeviction and appendonly yes"
    return Finding(Level.WARNING, text)


async def _waiting(redis: Any, write_concern: WriteConcern | None) -> list[Finding]:
    """A refusal where the server lacks, or forbids, the command that waits."""
    if write_concern is None:
        return []
    try:
        await redis.execute_command(*write_concern.probe)
    except ResponseError as problem:
        if not isinstance(problem, NoPermissionError) and "unknown command" not in str(problem):
            return []
        needed = (
            "WAITAOF (Redis 7.2 or later), which EVERGRANT_WAIT_FSYNC needs"
            if write_concern.fsync
            else "WAIT, which EVERGRANT_WAIT_REPLICAS needs"
        )
        return [Finding(Level.REFUSED, f"this server has no {needed}, or forbids it to this user")]
    return []


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
    """Each write is awaited until it is on the primary's disk, so the server must fsync by itself."""
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


def _replicas(connected: int, required: int) -> list[Finding]:
    there = "1 replica is connected" if connected == 1 else f"{connected} replicas are connected"
    if connected < required:
        cost = "nothing is claimed and no answer counts as stored until there are enough"
        return [Finding(Level.WARNING, f"{there} and EVERGRANT_WAIT_REPLICAS is {required}: {cost}")]
    if required:
        return [Finding(Level.OK, f"{there}; a write counts once {required} of them have it")]
    if connected:
        return [
            Finding(
                Level.WARNING,
                f"{there} and none is waited for: a failover may forget the last writes, and journals give"
                " back the answers alone; EVERGRANT_WAIT_REPLICAS waits",
            )
        ]
    return []
