"""The kept replies: found, listed, given up, and what becomes of their grants and endpoints.

`keep_reply.lua` puts them there (redis_store.py); a commit of the tokens takes them away.
"""

from typing import TYPE_CHECKING, Any, Final

import msgpack

from worker.adapters.cloud_events import to_json
from worker.adapters.store import signatures
from worker.adapters.store.reads import Reads
from worker.core.events import Event
from worker.core.lifecycle import Change
from worker.core.providers import Client
from worker.core.reasons import Reason
from worker.core.registry import StoredReply

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.store.scripts import Scripts

LAST: Final = b"last"  # the field with the last number
MOST_AT_ONCE: Final = 100


class RedisReplies:
    """The kept replies, as `core.registry.Replies` asks for them.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
        source: of the events that this process emits.
        events_kept: about how many events the stream holds.
    """

    def __init__(
        self, redis: "Redis", scripts: "Scripts", prefix: str, *, source: str, events_kept: int
    ) -> None:
        self._redis: Any = Reads(redis)
        self._scripts = scripts
        self._prefix = prefix
        self._source = source
        self._events_kept = events_kept

    async def all(self) -> list[StoredReply]:
        """Every kept reply, the first one first."""
        found = await self._redis.hgetall(self._key("replies"))
        replies = [_reply(int(number), packed) for number, packed in found.items() if number != LAST]
        return sorted(replies, key=lambda reply: reply.number)

    async def find(self, number: int) -> StoredReply | None:
        """One kept reply, or `None`."""
        packed = await self._redis.hget(self._key("replies"), str(number))
        return None if packed is None else _reply(number, packed)

    async def sealed(self, number: int) -> bytes | None:
        """The reply itself, sealed; `None` where it is gone."""
        sealed: bytes | None = await self._redis.get(self._key(f"reply:{number}"))
        return sealed

    async def overdue(self, now: int) -> list[StoredReply]:
        """Some of those whose grants have to fail: their access tokens have ended."""
        found: list[bytes] = await self._redis.zrangebyscore(
            self._key("unread"), "-inf", now, start=0, num=MOST_AT_ONCE
        )
        replies = [await self.find(int(number)) for number in found]
        return [reply for reply in replies if reply is not None]

    async def expire(self, reply: StoredReply, change: Change | None) -> bool:
        """Let the grant of an overdue reply fail; returns whether it did."""
        event = None if change is None else change.event
        answer = await self._scripts.run(
            signatures.ExpireReply(
                number=reply.number,
                id=reply.grant,
                reason=None if change is None else change.grant.reason,
                event=None if event is None else self._json(event),
                events_kept=self._events_kept,
            )
        )
        return bool(answer == b"changed")

    async def reseal(self, number: int, sealed: bytes, resealed: bytes) -> bool:
        """Put a kept reply back sealed anew; returns whether it was still there."""
        answer = await self._scripts.run(signatures.ResealReply(number, sealed, resealed))
        return bool(answer == b"done")

    async def drop(self, number: int) -> bool:
        """Give a reply up; its grant's token is tried again. Returns whether there was one."""
        answer = await self._scripts.run(signatures.DropReply(number, Reason.REPLY_UNKNOWN))
        return bool(answer == b"done")

    async def reopen(self, client: Client, event: Event, grant_id: str) -> bool:
        """Let an endpoint be used again that was stopped for replies of which none is left."""
        answer = await self._scripts.run(
            signatures.ReopenEndpoint(
                token_url=client.token_url,
                reason=Reason.REPLY_UNREAD,
                event=self._json(event),
                events_kept=self._events_kept,
                event_id=event.id,
                grant=grant_id,
            )
        )
        return bool(answer == b"changed")

    def _json(self, event: Event) -> bytes:
        return to_json(event, self._source)

    def _key(self, name: str) -> str:
        return self._prefix + name


def _reply(number: int, packed: bytes) -> StoredReply:
    known = msgpack.unpackb(packed)
    expires_at = known["access_expires_at"]
    return StoredReply(
        number=number,
        grant=known["grant"],
        client=known["client"],
        token_url=known["token_url"],
        version=known["version"],
        fence=known["fence"],
        sent_at=known["sent_at"],
        received_at=known["received_at"],
        detail=known["detail"],
        size=known["size"],
        access_expires_at=None if expires_at is False else expires_at,
    )
