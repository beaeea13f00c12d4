"""API keys in Redis: a hash of what is known of each, and one of when each was last used.

A key is looked up at each call and never kept in the process: revoked, it opens nothing from that moment on.
"""

from typing import TYPE_CHECKING, Any

import msgpack

from worker.adapters.store import signatures
from worker.adapters.store.reads import Reads
from worker.adapters.store.registry import AUDIT_KEPT, signed
from worker.core.api_keys import USE_NOTED_MS, ApiKey, Scope, id_of
from worker.core.audit import By

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.store.scripts import Scripts


class RedisApiKeys:
    """The keys of a deployment, as `core.api_keys.ApiKeyStore` asks for them.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
        audit_kept: about how many entries the audit stream holds.
    """

    def __init__(
        self, redis: "Redis", scripts: "Scripts", prefix: str, *, audit_kept: int = AUDIT_KEPT
    ) -> None:
        self._redis: Any = Reads(redis)
        self._scripts = scripts
        self._keys = prefix + "apikeys"
        self._uses = prefix + "keyuses"
        self._audit_kept = audit_kept

    async def add(self, key: ApiKey, by: By | None = None) -> bool:
        """Store a key; returns whether its name was free. Storing the same key twice is harmless."""
        call = signatures.AddApiKey(key.id, key.name, _pack(key), signed(by), self._audit_kept)
        return bool(await self._scripts.run(call) == b"done")

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

    async def remove(self, name: str, by: By | None = None) -> bool:
        """Forget a key; returns whether there was one."""
        call = signatures.RemoveApiKey(id_of(name), name, signed(by), self._audit_kept)
        return bool(await self._scripts.run(call))

    async def note_use(self, key_id: str, by: By | None = None) -> None:
        """Note that a key was used now, unless that was noted within the last minute."""
        call = signatures.NoteKeyUse(key_id, USE_NOTED_MS, signed(by), self._audit_kept)
        await self._scripts.run(call)


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
