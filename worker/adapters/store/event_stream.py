"""Reads the streams that the scripts write: events and audit entries."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from worker.adapters.store.reads import Reads
from worker.core.registry import StreamEntry

if TYPE_CHECKING:
    from redis.asyncio import Redis

PAGE: Final = 500


class RedisEventStream:
    """The events of a deployment, as `core.registry.EventStream` asks for them; or its audit entries.

    Args:
        redis: a client that does not decode replies.
        prefix: what every key begins with.
        name: of the stream.
        field: under which each entry has its JSON.
    """

    def __init__(self, redis: "Redis", prefix: str, name: str = "events", field: str = "event") -> None:
        self._redis: Any = Reads(redis)
        self._key = prefix + name
        self._field = field.encode()

    async def read(self, since: str, *, most: int = PAGE, wait_ms: int | None = None) -> list[StreamEntry]:
        """Events after the stream id `since`, oldest first; waits for one if `wait_ms` is given."""
        if wait_ms is None:
            entries = await self._redis.xrange(self._key, min="(" + since, count=most)
        else:
            answer = await self._redis.xread({self._key: since}, count=most, block=wait_ms)
            entries = _entries_of(answer)
        return [
            StreamEntry(entry_id.decode(), json.loads(fields[self._field])) for entry_id, fields in entries
        ]

    async def read_back(self, before: str | None, *, most: int) -> list[StreamEntry]:
        """Events before a stream id, newest first; `None` begins with the last one."""
        entries = await self._redis.xrevrange(self._key, max=f"({before}" if before else "+", count=most)
        return [
            StreamEntry(entry_id.decode(), json.loads(fields[self._field])) for entry_id, fields in entries
        ]

    async def last_id(self) -> str:
        """The stream id after which only new events come."""
        last = await self._redis.xrevrange(self._key, count=1)
        return last[0][0].decode() if last else "0-0"

    def _read(self, entries: Iterable[Any]) -> list[StreamEntry]:
        return [StreamEntry(each.decode(), json.loads(fields[self._field])) for each, fields in entries]


def _entries_of(answer: Any) -> Iterable[Any]:
    """The entries of a one-stream XREAD, in either of redis-py's reply shapes."""
    if not answer:
        return []
    streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer]
    return [entry for stream in streams for entry in (stream[0] if isinstance(answer, dict) else stream)]
