"""Ended sessions of the console in Redis: one key each, for as long as its cookie could be shown."""

import hashlib
from typing import TYPE_CHECKING, Any

from worker.adapters.store import signatures
from worker.adapters.store.reads import Reads
from worker.core.sessions import LONGEST_MS, Session

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.store.scripts import Scripts


class RedisSessions:
    """Which sessions were ended, as `core.sessions.SessionStore` asks for it.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
    """

    def __init__(self, redis: "Redis", scripts: "Scripts", prefix: str) -> None:
        self._redis: Any = Reads(redis)
        self._scripts = scripts
        self._prefix = prefix

    async def end(self, session: Session) -> None:
        """End a session for as long as its cookie could be shown."""
        await self._scripts.run(signatures.EndSession(_name_of(session), LONGEST_MS))

    async def has_ended(self, session: Session) -> bool:
        """Whether it was ended."""
        return bool(await self._redis.exists(f"{self._prefix}ended:{_name_of(session)}"))


def _name_of(session: Session) -> str:
    """A session's name in the store, from which its form token cannot be made."""
    return hashlib.sha256(session.id).hexdigest()[:32]
