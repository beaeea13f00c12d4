"""API keys in Redis: a hash of what is known of each, and one of when each was last used.

A key is looked up at each call and never kept in the process: revoked, it opens nothing from that moment on.
"""

from typing import TYPE_CHECKING, Any

import msgpack

from worker.adapters.store import signatures
from worker.adapters.store.reads import Reads
from worker.core.api_keys import USE_NOTED_MS, ApiKey, Scope

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.store.scripts import Scripts


class RedisApiKeys:
    """The keys of a deployment, as `core.api_keys.ApiKeyStore` asks for them.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
    """

    def __init__(self, redis: "Redis", scripts: "Scripts", prefix: str) -> None:
        self._redis: Any = Reads(redis)
        self._scripts = scripts
        self._keys = prefix + "apikeys"
        self._uses = prefix + "keyuses"

    async def add(self, key: ApiKey) -> bool:
        """Store a key; returns whether its name was free. Storing the same key twice is harmless."""
        return bool(await self._scripts.run(signatures.AddApiKey(key.id, _pack(key))) == b"done")

    async def find(self, key_id: str) -> ApiKey | None:
        """One key, or `None`."""
        packed = await self._redis.hget(self._keys, key_id)
        return None if packed is None else _unpack(packed, None)

    async def all(self) -> list[ApiKey]:
        """Every key, by its name."""
        found, uses = await self._redis.together(
            [("hgetall", (self._keys,), {}), ("hgetall", (self._uses,), {})]
        )
        keys = [_unpack(packed, uses.get(key_id)) for key_id, packed in found.items()]
        return sorted(keys, key=lambda key: key.name)

    async def remove(self, key_id: str) -> bool:
        """Forget a key; returns whether there was one."""
        return bool(await self._scripts.run(signatures.RemoveApiKey(key_id)))

    async def note_use(self, key_id: str) -> None:
        """Note that a key was used now, unless that was noted within the last minute."""
        await self._scripts.run(signatures.NoteKeyUse(key_id, USE_NOTED_MS))


def _pack(key: ApiKey) -> bytes:
    scopes = sorted(scope.value for scope in key.scopes)
    labels = dict(sorted(key.labels.items()))
    fields = [key.name, key.digest, scopes, labels, key.created_at]
    packed: bytes = msgpack.packb(fields)
    return packed


def _unpack(packed: bytes, used_at: bytes | None) -> ApiKey:
    name, digest, scopes, labels, created_at, *_ = msgpack.unpackb(packed)
    return ApiKey(
        name=name,
        digest=digest,
        scopes=frozenset(scope for scope in Scope if scope.value in scopes),  # a newer release may have more
        labels=labels,
        created_at=created_at,
        used_at=None if used_at is None else int(used_at),
    )
