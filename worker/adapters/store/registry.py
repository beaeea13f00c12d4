"""All grants of a deployment: import, pause, resume, delete, find and list.

Rules:
- Changes are scripts like the refresher's. Reads are plain commands and may be a moment old.
- A listing walks each client's schedule, which holds every grant, and so reads no foreign keys.
- One unreadable record never blocks the rest: it is passed to the caller's `unreadable`, which raises by
  default.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from worker.adapters.store import record, signatures
from worker.adapters.store.reads import Reads
from worker.adapters.store.store_clock import read_clocks, store_now
from worker.core.audit import By
from worker.core.grant import Grant, Status
from worker.core.lifecycle import NO_END, Change
from worker.core.ports import Lease
from worker.core.registry import (
    GrantPage,
    ImportResult,
    ImportVerdict,
    OnUnreadable,
    Operation,
    OperationResult,
    ResealResult,
    StoredGrant,
    UnreadableRecordError,
    refuse_unreadable,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.store.scripts import Scripts

PAGE: Final = 500
LAST_BYTE: Final = b"\xff"  # behind whatever follows in UTF-8
AUDIT_KEPT: Final = 100_000  # as the setting's default
OPERATIONS: Final[
    dict[Operation, Callable[[str, str | None, signatures.By | None, int], signatures.Call]]
] = {
    Operation.PAUSE: signatures.PauseGrant,
    Operation.RESUME: signatures.ResumeGrant,
    Operation.DELETE: signatures.DeleteGrant,
}


class RedisRegistry:
    """The grants, as `core.registry.Registry` asks for them.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
        audit_kept: about how many entries the audit stream holds.
    """

    def __init__(
        self, redis: "Redis", scripts: "Scripts", prefix: str, *, audit_kept: int = AUDIT_KEPT
    ) -> None:
        # redis-py types a reply as a union over every protocol and encoding; here strings are bytes.
        self._redis: Any = Reads(redis)
        self._scripts = scripts
        self._prefix = prefix
        self._audit_kept = audit_kept

    async def now(self) -> int:
        """The store's clock, Unix ms."""
        return await store_now(self._redis, self._prefix)

    async def ahead_ms(self) -> int:
        """How far the store's clock is ahead of Redis's."""
        return (await read_clocks(self._redis, self._prefix))[1]

    async def import_grant(
        self, change: Change, *, replaces: int | None, by: By | None = None
    ) -> ImportResult:
        """Store a grant that came from outside.

        Args:
            change: the sealed grant and when it is due.
            replaces: the version that must be stored; `None` where the grant must be new.
            by: who asked for it, for the audit stream; `None` for nobody.
        """
        verdict, version, lineage = await self._scripts.run(
            signatures.ImportGrant(
                id=change.grant.id,
                packed=record.pack(change.grant),
                due_at=change.due_at,
                attention_at=change.attention_at,
                replaces=replaces,
                by=signed(by),
                audit_kept=self._audit_kept,
            )
        )
        return ImportResult(ImportVerdict(verdict.decode()), version, lineage)

    async def operate(
        self,
        grant_id: str,
        operation: Operation,
        *,
        only_if: Status | None = None,
        by: By | None = None,
    ) -> OperationResult:
        """Pause, resume or delete one grant, if it has the status that is named. Asking twice is harmless."""
        answer = await self._scripts.run(
            OPERATIONS[operation](grant_id, only_if, signed(by), self._audit_kept)
        )
        return OperationResult(answer.decode())

    async def reseal(self, grant_id: str, sealed: bytes, resealed: bytes) -> ResealResult:
        """Put a pair back sealed anew, if it is still the stored one and nobody has leased its grant."""
        answer = await self._scripts.run(signatures.ResealGrant(grant_id, sealed, resealed))
        return ResealResult(answer.decode())

    async def forget_revoked(self, lease: Lease) -> bool:
        """Delete a grant whose tokens were revoked under `lease`, and end the lease.

        Returns whether no grant is left: one that was given other tokens since stays.
        """
        grant = lease.grant
        call = signatures.ForgetRevoked(id=grant.id, fence=lease.fence, sealed=grant.sealed)
        return bool(await self._scripts.run(call) != b"replaced")

    async def find(self, grant_id: str) -> StoredGrant | None:
        """One grant, or `None`.

        Raises:
            UnreadableRecordError: its record cannot be read.
        """
        packed = await self._redis.get(self._key("grant:" + grant_id))
        if packed is None:
            return None
        grant, _, lease_until = record.unpack(grant_id, packed)
        score = await self._redis.zscore(self._key("schedule:" + grant.client), grant_id)
        return _stored(grant, lease_until, score)

    async def find_each(self, grant_ids: Sequence[str]) -> Sequence[Grant | UnreadableRecordError | None]:
        """What is stored of each of some grants, in their order and in one round trip."""
        if not grant_ids:
            return []
        packed = await self._redis.mget([self._key("grant:" + grant_id) for grant_id in grant_ids])
        return [_grant_in(grant_id, value) for grant_id, value in zip(grant_ids, packed, strict=True)]

    async def walk(
        self, client: str | None = None, *, unreadable: OnUnreadable = refuse_unreadable
    ) -> AsyncIterator[StoredGrant]:
        """Every grant, or every grant of a client, in no particular order."""
        names = [client.encode()] if client is not None else await self._redis.smembers(self._key("clients"))
        for name in sorted(names):
            cursor, seen = 0, set[bytes]()
            while True:
                schedule = self._key("schedule:" + name.decode())
                cursor, found = await self._redis.zscan(schedule, cursor, count=PAGE)
                fresh = [(grant_id, score) for grant_id, score in found if grant_id not in seen]
                seen.update(grant_id for grant_id, _ in fresh)
                for stored in await read_grants(self._redis, self._prefix, fresh, unreadable):
                    yield stored
                if cursor == 0:
                    break

    async def page(
        self,
        client: str,
        after: str,
        most: int,
        *,
        prefix: str = "",
        unreadable: OnUnreadable = refuse_unreadable,
    ) -> GrantPage:
        """The grants of a client that follow the id `after`, in the order of their ids; `""` begins."""
        if not after:
            await self._complete_index(client)
        index, schedule = self._key("ids:" + client), self._key("schedule:" + client)
        begin = "-"
        if after and after >= prefix:
            begin = "(" + after
        elif prefix:
            begin = "[" + prefix
        end = b"(" + prefix.encode() + LAST_BYTE if prefix else "+"
        ids = await self._redis.zrange(index, begin, end, bylex=True, offset=0, num=most)
        if not ids:
            return GrantPage([], None)
        scores = await self._redis.together([("zscore", (schedule, each), {}) for each in ids])
        found = [(each, score) for each, score in zip(ids, scores, strict=True) if score is not None]
        grants = await read_grants(self._redis, self._prefix, found, unreadable)
        return GrantPage(grants, ids[-1].decode() if len(ids) == most else None)

    async def _complete_index(self, client: str) -> None:
        """Index what an earlier release stored, which kept no index; the sizes tell."""
        index, schedule = self._key("ids:" + client), self._key("schedule:" + client)
        sizes = await self._redis.together([("zcard", (index,), {}), ("zcard", (schedule,), {})])
        if sizes[0] == sizes[1]:
            return
        for key in (schedule, index):
            cursor = 0
            while True:
                cursor, found = await self._redis.zscan(key, cursor, count=PAGE)
                ids = tuple(each.decode() for each, _ in found)
                if ids:
                    await self._scripts.run(signatures.IndexGrants(client, ids))
                if cursor == 0:
                    break

    async def needing_attention(
        self, most: int, *, unreadable: OnUnreadable = refuse_unreadable
    ) -> list[tuple[StoredGrant, int | None]]:
        """Grants that may need a person, and when something ends for them; soonest first."""
        found = await self._redis.zrange(self._key("attention"), 0, most - 1, withscores=True)
        listed = list[tuple[StoredGrant, int | None]]()
        for grant_id, score in found:
            try:
                stored = await self.find(grant_id.decode())
            except UnreadableRecordError as problem:
                unreadable(problem)
                continue
            if stored is not None:
                listed.append((stored, None if score >= NO_END else int(score)))
        return listed

    async def noted_unreadable(self, most: int) -> list[UnreadableRecordError]:
        """Some of the grants whose records a claim could not read, as far as they still cannot be read."""
        noted = await self._redis.srandmember(self._key("unreadable"), most)
        still: list[UnreadableRecordError] = []
        found = [(grant_id, 0.0) for grant_id in noted]
        await read_grants(self._redis, self._prefix, found, still.append)
        return still

    def _key(self, name: str) -> str:
        return self._prefix + name


def _grant_in(grant_id: str, packed: bytes | None) -> Grant | UnreadableRecordError | None:
    if packed is None:
        return None
    try:
        grant, _, _ = record.unpack(grant_id, packed)
    except UnreadableRecordError as problem:
        return problem
    return grant


async def read_grants(
    redis: Any, prefix: str, found: Sequence[tuple[bytes, float]], unreadable: OnUnreadable
) -> list[StoredGrant]:
    """Read the records of some members of a schedule.

    Args:
        redis: a client that does not decode replies.
        prefix: what every key begins with.
        found: ids with the scores they have in their schedule.
        unreadable: called for each record that cannot be read.
    """
    if not found:
        return []
    packed = await redis.mget([f"{prefix}grant:{grant_id.decode()}" for grant_id, _ in found])
    stored = []
    for (grant_id, score), value in zip(found, packed, strict=True):
        if value is None:
            continue
        try:
            grant, _, lease_until = record.unpack(grant_id.decode(), value)
        except UnreadableRecordError as problem:
            unreadable(problem)
        else:
            stored.append(_stored(grant, lease_until, score))
    return stored


def signed(by: By | None) -> signatures.By | None:
    """Who asked for a change, as scripts take it."""
    return None if by is None else (by.actor, by.origin)


def instant_of(score: float) -> int | None:
    """A schedule's score as Unix ms; `None` is never."""
    return None if score == float("inf") else int(score)


def _stored(grant: Grant, lease_until: int, score: float | None) -> StoredGrant:
    return StoredGrant(grant, None if score is None else instant_of(score), lease_until or None)
