"""Reads the state of clients, token endpoints and processes, which the scripts keep."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from worker.adapters.store.reads import Reads
from worker.adapters.store.registry import instant_of, read_grants
from worker.core.grant import Status
from worker.core.registry import ClientState, OnUnreadable, refuse_unreadable

if TYPE_CHECKING:
    from redis.asyncio import Redis

SOONEST: Final = 50  # grants due first, among which the soonest expiry is sought
SEEN_LATELY_SECONDS: Final = 60  # a process sends a heartbeat every second

CLIENT_FIELDS: Final = (
    *("state", "reason", "rejected_at", "probe_at", "throttled_until", "endpoint", "claimed_at"),
    *("refreshed", "late", *(f"grants:{status}" for status in Status)),
)
ENDPOINT_FIELDS: Final = ("state", "reason", "since", "probe_at")


class RedisFleetState:
    """The state of a deployment, as `core.registry.FleetState` asks for it.

    Args:
        redis: a client that does not decode replies.
        prefix: what every key begins with.
    """

    def __init__(self, redis: "Redis", prefix: str) -> None:
        self._redis: Any = Reads(redis)
        self._prefix = prefix

    async def client_names(self) -> list[str]:
        """Every client that ever had a grant here."""
        members = await self._redis.smembers(self._key("clients"))
        return sorted(name.decode() for name in members)

    async def of_client(self, name: str, *, unreadable: OnUnreadable = refuse_unreadable) -> ClientState:
        """One client's part of the fleet."""
        seconds, microseconds = await self._redis.time()
        schedule = self._key("schedule:" + name)
        text = await self._texts("client:" + name, CLIENT_FIELDS)
        endpoint = await self._texts("endpoint:" + text.get("endpoint", ""), ENDPOINT_FIELDS)
        due = await self._redis.zcount(schedule, "-inf", seconds * 1000 + microseconds // 1000)
        first = await self._redis.zrange(schedule, 0, SOONEST - 1, withscores=True)
        soonest = [
            stored.grant.access_expires_at
            for stored in await read_grants(self._redis, self._prefix, first, unreadable)
            if stored.due_at is not None and stored.grant.access_expires_at is not None
        ]
        return ClientState(
            name=name,
            state=text.get("state", "accepted"),
            reason=text.get("reason"),
            rejected_at=_number(text.get("rejected_at")),
            probe_at=_number(text.get("probe_at")),
            provider_state=endpoint.get("state", "available"),
            provider_reason=endpoint.get("reason"),
            unavailable_since=_number(endpoint.get("since")),
            endpoint_probe_at=_number(endpoint.get("probe_at")),
            throttled_until=_number(text.get("throttled_until")),
            claimed_at=_number(text.get("claimed_at")),
            grants={status: int(text.get(f"grants:{status}", "0")) for status in Status},
            due=due,
            next_due_at=instant_of(first[0][1]) if first else None,
            soonest_expiry_at=min(soonest, default=None),
            refreshed=int(text.get("refreshed", "0")),
            late=int(text.get("late", "0")),
        )

    async def troubles(self) -> dict[str, str]:
        """Why each process claims nothing, for processes seen in the last minute."""
        now, _ = await self._redis.time()
        since = (now - SEEN_LATELY_SECONDS) * 1000
        seen = set(await self._redis.zrangebyscore(self._key("processes"), since, "+inf"))
        fields = await self._redis.hgetall(self._key("troubles"))
        return {owner.decode(): text.decode() for owner, text in fields.items() if owner in seen}

    async def _texts(self, name: str, fields: Sequence[str]) -> dict[str, str]:
        """Some fields of a hash; absent ones are left out."""
        values = await self._redis.hmget(self._key(name), fields)
        return {
            field: value.decode() for field, value in zip(fields, values, strict=True) if value is not None
        }

    def _key(self, name: str) -> str:
        return self._prefix + name


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
