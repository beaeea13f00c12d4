"""Reads when grants are due, without reading every grant.

Rules:
- A large schedule is sampled by rank: the members in the middle of as many equal parts. So the sample is due
  as the whole schedule is, however the due times are spread.
- Schedules change while they are read. A grant may be met twice or be missed, which a forecast can bear.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from worker.adapters.store import record
from worker.adapters.store.reads import Reads
from worker.adapters.store.registry import read_grants
from worker.adapters.store.store_clock import store_now
from worker.core.grant import Grant
from worker.core.providers import DAY_MS
from worker.core.registry import (
    ListedEnds,
    OnUnreadable,
    StoredGrant,
    UnreadableRecordError,
    refuse_unreadable,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")
Asked = list[tuple[str, tuple[Any, ...], dict[str, Any]]]  # commands, as `Reads.together` takes them

AT_ONCE: Final = 500  # commands in one round trip


class RedisSchedules:
    """The schedules of a deployment, as `core.registry.Schedules` asks for them.

    Args:
        redis: a client that does not decode replies.
        prefix: what every key begins with.
    """

    def __init__(self, redis: "Redis", prefix: str) -> None:
        self._redis: Any = Reads(redis)
        self._prefix = prefix

    async def now(self) -> int:
        """The store's clock, Unix ms."""
        return await store_now(self._redis, self._prefix)

    async def due_before(self, clients: Sequence[str], before: int) -> list[int]:
        """How many grants of each client are due before an instant."""
        numbers: list[int] = []
        for some in _parts(clients):
            asked: Asked = [("zcount", (self._schedule(name), "-inf", f"({before}"), {}) for name in some]
            numbers += await self._redis.together(asked)
        return numbers

    async def sample(
        self, client: str, before: int, most: int, *, unreadable: OnUnreadable = refuse_unreadable
    ) -> list[StoredGrant]:
        """The grants of a client that are due before an instant; of more than `most` an even sample."""
        (number,) = await self.due_before([client], before)
        taken = min(number, most)
        ranks = [int((place + 0.5) * number / taken) for place in range(taken)]
        stored: list[StoredGrant] = []
        for some in _parts(ranks):
            members = await self._members(client, some, is_whole=taken == number)
            stored += await read_grants(self._redis, self._prefix, members, unreadable)
        return stored

    async def ending(
        self,
        start: int,
        until: int,
        most: int,
        *,
        only: str | None = None,
        unreadable: OnUnreadable = refuse_unreadable,
    ) -> ListedEnds:
        """Listed grants that end after `start` and until `until`."""
        attention = self._prefix + "attention"
        found = await self._redis.zrangebyscore(
            attention, f"({start}", until, start=0, num=most, withscores=True
        )
        soonest: list[tuple[Grant, int]] = []
        for some in _parts(found):
            soonest += await self._grants(some, unreadable)
        edges = range(start, until, DAY_MS)
        if only is None:
            asked: Asked = [("zcount", (attention, f"({edge}", edge + DAY_MS), {}) for edge in edges]
            return ListedEnds(await self._redis.together(asked), soonest)
        own = [(grant, ends_at) for grant, ends_at in soonest if grant.client == only]
        days = [sum(edge < ends_at <= edge + DAY_MS for _, ends_at in own) for edge in edges]
        return ListedEnds(days, own)

    async def _members(
        self, client: str, ranks: Sequence[int], *, is_whole: bool
    ) -> list[tuple[bytes, float]]:
        """The members of a schedule at these ranks; `is_whole` where the ranks follow each other."""
        key = self._schedule(client)
        if is_whole:
            whole: list[tuple[bytes, float]] = await self._redis.zrange(
                key, ranks[0], ranks[-1], withscores=True
            )
            return whole
        asked: Asked = [("zrange", (key, rank, rank), {"withscores": True}) for rank in ranks]
        return [each for members in await self._redis.together(asked) for each in members]

    async def _grants(
        self, found: Sequence[tuple[bytes, float]], unreadable: OnUnreadable
    ) -> list[tuple[Grant, int]]:
        packed = await self._redis.mget([f"{self._prefix}grant:{each.decode()}" for each, _ in found])
        grants = []
        for (grant_id, score), value in zip(found, packed, strict=True):
            if value is None:
                continue
            try:
                grants.append((record.unpack(grant_id.decode(), value)[0], int(score)))
            except UnreadableRecordError as problem:
                unreadable(problem)
        return grants

    def _schedule(self, client: str) -> str:
        return f"{self._prefix}schedule:{client}"


def _parts(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    for begin in range(0, len(whole), AT_ONCE):
        yield whole[begin : begin + AT_ONCE]
