"""Writes what this release stores, for later releases to read: `python -m tests.formats.write DIRECTORY`.

Real scripts on a real server write the records, and a real journal writes the segment. A release that changes
how something is stored runs this once, commits the new directory beside the others, and keeps the others.

- `redis.jsonl`: every grant and kept reply, one `{"key", "field"?, "value"}` a line, values in base64.
- `segment`: a journal with two commits and a kept reply.
"""

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from redis.asyncio import Redis

from tests.support import attempts
from tests.support.servers import running_valkey
from worker.adapters.clock import RedisClock
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.journal.journal import Journal
from worker.adapters.sealing import KeyRing
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.lifecycle import Change
from worker.core.outcomes import Rejected, Reply
from worker.core.policy import Rules
from worker.core.ports import Commit, KeptReply, Lease
from worker.core.promises import Request, Verdict, plan_for
from worker.core.providers import OAUTH2, Client
from worker.core.registry import Operation

KEYS: Final = KeyRing({"fixture": b"a key of no deployment, 32 bytes"})
PREFIX: Final = "{evergrant}:"
CLIENT: Final = Client("acme", OAUTH2, "http://127.0.0.1:9/token", "id", (ClientSecretPost("of nobody"),))
REPLY: Final = Reply(200, {"content-type": "text/plain"}, b"tokens, but who can read them?")
LIMITS: Final = StoreLimits(60_000, 10_000, 60_000, 200_000, 10_000, 35_000)


@dataclass
class Deployment:
    """A store with one process, and its journal."""

    redis: Redis
    store: RedisStore
    registry: RedisRegistry
    promises: RedisPromises
    clock: RedisClock
    journal: Journal

    async def bring(self, grant_id: str, **changes: Any) -> Lease:
        """Import a grant whose pair is `a0 of ID` and `r0 of ID`, and lease it."""
        now = await self.registry.now()
        grant = Grant(
            id=grant_id,
            client="acme",
            status=Status.ACTIVE,
            version=0,
            lineage=lineage_of(grant_id, f"r0 of {grant_id}"),
            sealed=b"",
            issued_at=now - 3_000_000,
            access_expires_at=now + 600_000,
            refresh_issued_at=now - 3_000_000,
            refresh_expires_at=None,
            authorized_at=None,
        )
        grant = replace(grant, **changes)
        sealed = KEYS.seal(grant, TokenPair(f"a0 of {grant_id}", f"r0 of {grant_id}"))
        change = Change(replace(grant, sealed=sealed), now, None, None)
        await self.registry.import_grant(change, replaces=None)
        lease = await self.store.lease(grant_id)
        assert isinstance(lease, Lease)
        return lease

    def answer(self, lease: Lease) -> Commit:
        """The answer `a1 of ID`, `r1 of ID`."""
        grant_id = lease.grant.id
        commit = attempts.answer(
            lease, CLIENT, self.clock.now(), f"r1 of {grant_id}", used=f"r0 of {grant_id}"
        )
        pair = TokenPair(f"a1 of {grant_id}", f"r1 of {grant_id}")
        grant = replace(commit.change.grant, sealed=KEYS.seal(commit.change.grant, pair))
        return replace(commit, change=replace(commit.change, grant=grant))

    async def promise(self, grant_id: str) -> None:
        """Hand out its access token for ten minutes."""
        request = Request(grant_id, min_ttl_ms=600_000, actor="somebody", origin="somewhere")
        stored = await self.registry.find(grant_id)
        assert stored is not None
        plan = plan_for(stored.grant, CLIENT, Rules())
        answer = await self.promises.hand_out(request, "the first", plan=plan)
        assert answer.verdict is Verdict.PROMISED

    def unread(self, lease: Lease) -> KeptReply:
        """The reply that nobody could read."""
        kept = attempts.unread(lease, CLIENT, self.clock.now())
        return replace(kept, sealed=KEYS.seal_reply("acme", lease.grant.id, 0, REPLY), size=len(REPLY.body))


async def fill(deployment: Deployment) -> None:
    """A grant in each state that a record can be in, and their answers in the journal."""
    store, registry, journal = deployment.store, deployment.registry, deployment.journal
    rich = {
        "refresh_expires_at": 4_000_000_000_000,
        "authorized_at": 1_700_000_000_000,
        "scope": "read write",
        "labels": {"tenant": "acme", "plan": "größer"},
        "stated_life_ms": 3_600_000,
        "narrowed": "admin",
        "token_type": "MAC",
    }
    refreshed = deployment.answer(await deployment.bring("refreshed", **rich))
    await journal.write(refreshed)
    await store.commit(refreshed)
    await deployment.promise("refreshed")
    await deployment.bring("leased")
    lease = await deployment.bring("failing")
    change = attempts.failure(lease, CLIENT, Rejected("invalid_grant"), deployment.clock.now())
    await store.record_outcome(lease, change)
    await deployment.bring("paused")
    await registry.operate("paused", Operation.PAUSE)
    kept = deployment.unread(await deployment.bring("unread"))
    await journal.write(kept)
    await store.keep_reply(kept)
    # An answer that the store never got: it still has the pair before it.
    await journal.write(deployment.answer(await deployment.bring("behind")))


async def stored(redis: Any) -> AsyncIterator[dict[str, str]]:
    """Every grant and kept reply, as lines of `redis.jsonl`."""
    for kind in ("grant:*", "reply:*"):
        for key in sorted([key async for key in redis.scan_iter(match=PREFIX + kind)]):
            yield {"key": key.decode().removeprefix(PREFIX), "value": _text(await redis.get(key))}
    for field, value in sorted((await redis.hgetall(PREFIX + "replies")).items()):
        yield {"key": "replies", "field": field.decode(), "value": _text(value)}


async def fill_and_read(socket: Path, journals: Path) -> list[str]:
    """Fill a store and a journal; returns the lines of `redis.jsonl`."""
    async with Redis(unix_socket_path=str(socket)) as redis:
        scripts, clock = Scripts(redis, PREFIX), RedisClock()
        store = RedisStore(scripts, clock, LIMITS, source="evergrant/fixture", owner="this")
        await store.finish_recovery(await store.heartbeat(""))
        await redis.hset(f"{PREFIX}client:acme", "proved", CLIENT.registration)
        journal = Journal(journals, "this", 900)
        registry = RedisRegistry(redis, scripts, PREFIX)
        promises = RedisPromises(scripts, audit_kept=1_000, recovery_ms=LIMITS.lease_ms)
        await fill(Deployment(redis, store, registry, promises, clock, journal))
        await journal.close()
        return [json.dumps(line) async for line in stored(redis)]


def write(directory: Path) -> None:
    """Write a directory of fixtures."""
    directory.mkdir(parents=True)
    with running_valkey() as socket, TemporaryDirectory() as journals:
        lines = asyncio.run(fill_and_read(socket, Path(journals)))
        (segment,) = Path(journals).glob("this/*.segment")
        (directory / "segment").write_bytes(segment.read_bytes())
    (directory / "redis.jsonl").write_text("\n".join(lines) + "\n")


def _text(value: bytes) -> str:
    return b64encode(value).decode()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
