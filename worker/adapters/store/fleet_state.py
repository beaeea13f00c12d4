"""Reads the state of clients, token endpoints and processes, which the scripts keep.

A field of a client that was damaged, so that it holds no number, counts as absent: what needs it fails by its
own name, and the rest of the fleet is still to be seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgpack
from redis.exceptions import ResponseError

from worker.adapters.store.errors import described
from worker.adapters.store.reads import Reads, read_memory
from worker.adapters.store.registry import instant_of, read_grants
from worker.adapters.store.scripts import BARRIER
from worker.adapters.store.store_clock import read_clocks, store_now
from worker.core.grant import Status
from worker.core.ports import ClockJump
from worker.core.registry import (
    WORKER_ALIVE_MS,
    ClientState,
    OnUnreadable,
    StoreLife,
    Workers,
    refuse_unreadable,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

SOONEST: Final = 50  # grants due first, among which the soonest expiry is sought
AT_ONCE: Final = 500  # clients that are read together
MOST_LISTED: Final = 1_000  # processes
ALIVE_SECONDS: Final = WORKER_ALIVE_MS // 1000
SEEN_LATELY_SECONDS: Final = 60  # of a process with a trouble: it may stand still because of that

EMPTY: Final = msgpack.packb([])

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
        return (await self.of_clients([name], unreadable=unreadable))[0]

    async def of_clients(
        self, names: Sequence[str], *, unreadable: OnUnreadable = refuse_unreadable
    ) -> list[ClientState]:
        """Each client's part of the fleet, in the order of the names."""
        states: list[ClientState] = []
        for begin in range(0, len(names), AT_ONCE):
            states += await self._of_some(names[begin : begin + AT_ONCE], unreadable)
        return states

    async def _of_some(self, names: Sequence[str], unreadable: OnUnreadable) -> list[ClientState]:
        """A few round trips for all of them: one at a time, thousands of clients would take a minute."""
        now = await store_now(self._redis, self._prefix)
        schedules = [self._key("schedule:" + name) for name in names]
        texts = await self._texts_of([self._key("client:" + name) for name in names], CLIENT_FIELDS)
        endpoints = await self._texts_of(
            [self._key("endpoint:" + text.get("endpoint", "")) for text in texts], ENDPOINT_FIELDS
        )
        unanswered = await self._unanswered([text.get("endpoint", "") for text in texts])
        due = await self._redis.together([("zcount", (key, "-inf", now), {}) for key in schedules])
        first = await self._redis.together(
            [("zrange", (key, 0, SOONEST - 1), {"withscores": True}) for key in schedules]
        )
        found = [each for members in first for each in members]
        expiries: dict[str, int] = {}
        for stored in await read_grants(self._redis, self._prefix, found, unreadable):
            at = stored.grant.access_expires_at
            if stored.due_at is not None and at is not None:
                expiries[stored.grant.client] = min(at, expiries.get(stored.grant.client, at))
        return [
            replace(
                _state(name, text, endpoint, number, members, expiries.get(name)),
                unanswered=len(failures),
                unanswered_since=min(failures, default=None),
            )
            for name, text, endpoint, number, members, failures in zip(
                names, texts, endpoints, due, first, unanswered, strict=True
            )
        ]

    async def _unanswered(self, urls: Sequence[str]) -> list[list[int]]:
        """When the requests left that each endpoint has not answered usably since it last did."""
        failures = await self._redis.together(
            [("hget", (self._key("endpoint:" + url), "failures"), {}) for url in urls]
        )
        answered = await self._redis.together([("zscore", (self._key("answered"), url), {}) for url in urls])
        return [
            [int(sent_at) for _, _, sent_at in msgpack.unpackb(packed or EMPTY) if sent_at > (last or 0)]
            for packed, last in zip(failures, answered, strict=True)
        ]

    async def life(self) -> StoreLife:
        """Since when the store is what it is."""
        (known,) = await self._texts_of([self._key("epoch")], ("number", "began_at"))
        is_empty = not await self._redis.exists(self._key("clients"))
        return StoreLife(_number(known.get("began_at")), _number(known.get("number")), is_empty)

    async def processes(self) -> list[str]:
        """Every process that has not left: those that live, and dead ones whose journal nobody took over."""
        found = await self._redis.zrange(self._key("processes"), 0, -1)
        return [owner.decode() for owner in found]

    async def workers(self) -> Workers:
        """The processes that live, and what keeps some of them from claiming."""
        (now, ahead_ms), processes = await read_clocks(self._redis, self._prefix), self._key("processes")
        heard, beats = await self._last_heard("workers"), await self._last_heard("beats")
        alive = [owner for owner, at in heard.items() if now - at <= WORKER_ALIVE_MS]
        seen = await self._redis.zrangebyscore(processes, now - SEEN_LATELY_SECONDS * 1000, "+inf")
        troubles = await self._redis.hgetall(self._key("troubles"))
        untaken = await self._redis.hgetall(self._key("untaken"))
        ends_at, jumped_at, jumped_by = await self._redis.hmget(
            self._key("epoch"), ("ends_at", "jumped_at", "jumped_by")
        )
        used, limit = await read_memory(self._redis)
        return Workers(
            alive=len(alive),
            able=sum(owner.encode() not in troubles for owner in alive),
            troubles={owner.decode(): text.decode() for owner, text in troubles.items() if owner in seen},
            recovering_until=int(ends_at) if ends_at is not None and int(ends_at) > now else None,
            refusal=await self._refusal(),
            memory_share=used / limit if used and limit else None,
            clock_jump=ClockJump(int(jumped_at), int(jumped_by), ahead_ms) if jumped_at else None,
            untaken=untaken_in(untaken, seen),
            heard=heard,
            beats=beats,
        )

    async def _last_heard(self, kind: str) -> dict[str, int]:
        """When processes of a kind sent their last heartbeats, the latest first."""
        found = await self._redis.zrange(self._key(kind), -MOST_LISTED, -1, withscores=True)
        return {name.decode(): int(score) for name, score in reversed(found)}

    async def _refusal(self) -> str:
        """Why the store takes no writes, found out by a write: no read fails for want of memory."""
        try:
            await self._redis.set(self._key(BARRIER), "")
        except ResponseError as problem:
            return described(problem).rstrip(".")  # it becomes part of a sentence
        return ""

    async def _texts_of(self, keys: Sequence[str], fields: Sequence[str]) -> list[dict[str, str]]:
        """Some fields of hashes; absent ones are left out."""
        read = await self._redis.together([("hmget", (key, fields), {}) for key in keys])
        return [
            {field: value.decode() for field, value in zip(fields, values, strict=True) if value is not None}
            for values in read
        ]

    def _key(self, name: str) -> str:
        return self._prefix + name


def _state(
    name: str,
    text: Mapping[str, str],
    endpoint: Mapping[str, str],
    due: int,
    first: Sequence[tuple[bytes, float]],
    soonest_expiry_at: int | None,
) -> ClientState:
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
        grants={status: _number(text.get(f"grants:{status}")) or 0 for status in Status},
        due=due,
        next_due_at=instant_of(first[0][1]) if first else None,
        soonest_expiry_at=soonest_expiry_at,
        refreshed=_number(text.get("refreshed")) or 0,
        late=_number(text.get("late")) or 0,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def untaken_in(packed: Mapping[bytes, bytes], seen: Sequence[bytes]) -> list[str]:
    """The grants whose answers the store fails at, as the processes that were seen lately say it."""
    return sorted({name for owner in seen for name in msgpack.unpackb(packed.get(owner, EMPTY))})
