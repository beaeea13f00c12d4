"""An old file is imported into a store that lost everything: the journals know which pairs are alive."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import attempts
from tests.support.callables import OpenMember, SealedAnswer
from tests.support.member import Member
from worker.adapters.journal.reading import JournalsOnDisk
from worker.adapters.sealing import KeyRing
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Grant, Status, TokenPair
from worker.core.outcomes import Reply
from worker.core.policy import Rules
from worker.core.ports import KeptReply, Lease, Verdict
from worker.core.providers import Client
from worker.fleet.importing import Importer, Taken
from worker.fleet.journaled import Journaled

OLD_LINE = {"id": "one", "client": "acme", "access_token": "a0", "refresh_token": "r0", "expires_in": 600}
TakeIn = Callable[..., Awaitable[Taken]]
Flush = Callable[[], Awaitable[None]]


@pytest.fixture
def flush(redis: Any, prefix: str) -> Flush:
    """Lose everything."""

    async def run() -> None:
        await redis.delete(*[key async for key in redis.scan_iter(match=prefix + "*")])

    return run


@pytest.fixture
def take_in(
    registry: RedisRegistry, store: RedisStore, client: Client, keys: KeyRing, journals: Path
) -> TakeIn:
    """Import a line as the command does."""

    async def run(
        *, ring: KeyRing = keys, replace_existing: bool = False, keep_reply: Any = None, **changes: Any
    ) -> Taken:
        importer = Importer(
            registry=registry,
            sealer=ring,
            clients=[client],
            rules=Rules(),
            replace_existing=replace_existing,
            journaled=Journaled(JournalsOnDisk(journals).entries()),
            keep_reply=keep_reply or store.keep_reply,
        )
        line = json.dumps(OLD_LINE | changes).encode()
        (taken,) = [each async for each in importer.take_all(iter([(1, line)]))]
        return taken

    return run


@pytest.fixture
async def worker(open_member: OpenMember, take_in: TakeIn) -> Member:
    """A process that has recovered, and a grant in the store that is due."""
    await take_in()
    member = await open_member([])
    await member.store.finish_recovery(await member.store.heartbeat(""))
    return member


async def _rotate(worker: Member, sealed_answer: SealedAnswer, gives: str) -> None:
    lease = await worker.store.lease("one")
    assert isinstance(lease, Lease)
    await worker.answers.keep(sealed_answer(lease, gives, by=worker))


async def _find(registry: RedisRegistry) -> Grant:
    stored = await registry.find("one")
    assert stored is not None
    return stored.grant


async def test_an_old_line_gets_the_pair_that_the_journal_holds_and_its_own_labels(
    worker: Member,
    sealed_answer: SealedAnswer,
    flush: Flush,
    take_in: TakeIn,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    for gives in ("r1", "r2"):
        await _rotate(worker, sealed_answer, gives)
    before = await _find(registry)
    await flush()

    taken = await take_in(labels={"tenant": "acme"}, status="failed")

    found = await _find(registry)
    assert (taken.stored, taken.repaired, taken.without_end, taken.refusals) == (1, 1, 0, [])
    assert keys.open(found) == TokenPair("access-r2", "r2")
    assert replace(found, sealed=b"", labels={}) == replace(before, sealed=b"")
    assert (found.status, found.labels) == (Status.ACTIVE, {"tenant": "acme"})


async def test_a_paused_line_stays_paused_with_the_living_pair(
    worker: Member, sealed_answer: SealedAnswer, flush: Flush, take_in: TakeIn, registry: RedisRegistry
) -> None:
    await _rotate(worker, sealed_answer, "r1")
    await flush()

    await take_in(status="paused")

    found = await _find(registry)
    assert (found.status, found.version) == (Status.PAUSED, 1)


async def test_a_line_from_the_middle_of_the_lineage_gets_the_newest_pair_too(
    worker: Member,
    sealed_answer: SealedAnswer,
    flush: Flush,
    take_in: TakeIn,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    for gives in ("r1", "r2", "r3"):
        await _rotate(worker, sealed_answer, gives)
    await flush()

    await take_in(refresh_token="r1", access_token="access-r1", version=1)

    assert keys.open(await _find(registry)) == TokenPair("access-r3", "r3")


async def test_the_last_answer_is_enough_where_those_before_it_are_gone_from_the_journal(
    worker: Member, sealed_answer: SealedAnswer, journals: Path, registry: RedisRegistry
) -> None:
    imported = (await _find(registry)).lineage
    for gives in ("r1", "r2"):
        await _rotate(worker, sealed_answer, gives)
    *_, last = JournalsOnDisk(journals).entries()

    assert Journaled([last]).newest("one", imported) == last
    assert Journaled([last]).newest("other", imported) is None
    assert Journaled().newest("one", imported) is None


async def test_the_newest_line_is_stored_as_it_is(
    worker: Member, sealed_answer: SealedAnswer, flush: Flush, take_in: TakeIn, registry: RedisRegistry
) -> None:
    await _rotate(worker, sealed_answer, "r1")
    await flush()

    taken = await take_in(refresh_token="r1", access_token="newer", version=7)

    assert taken.repaired == 0
    assert (await _find(registry)).version == 7


async def test_a_repaired_grant_takes_the_answers_that_other_journals_give_back_later(
    worker: Member,
    open_member: OpenMember,
    sealed_answer: SealedAnswer,
    flush: Flush,
    take_in: TakeIn,
    registry: RedisRegistry,
    tmp_path: Path,
    journals: Path,
    keys: KeyRing,
) -> None:
    await _rotate(worker, sealed_answer, "r1")
    elsewhere = await open_member([])
    await elsewhere.store.finish_recovery(await elsewhere.store.heartbeat(""))
    await _rotate(elsewhere, sealed_answer, "r2")
    (journals / elsewhere.owner).rename(tmp_path / "on another machine")
    await flush()
    await take_in()
    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")

    answers = list(JournalsOnDisk(tmp_path).entries())
    await worker.answers.replay([entry for entry in answers if entry.change.grant.version == 2])

    assert keys.open(await _find(registry)) == TokenPair("access-r2", "r2")
    taken = await take_in(replace_existing=True)
    assert [refusal.reason for refusal in taken.refusals] == ["what is stored was issued after this pair"]


async def test_a_reply_that_could_not_be_read_is_kept_again_with_the_old_line(
    worker: Member,
    flush: Flush,
    take_in: TakeIn,
    registry: RedisRegistry,
    store: RedisStore,
    client: Client,
    keys: KeyRing,
) -> None:
    """Until it is kept nobody may present its token, so the grant is not due."""
    long_ago = await registry.now() // 1000 - 700
    await take_in(replace_existing=True, issued_at=long_ago)
    lease = await worker.store.lease("one")
    assert isinstance(lease, Lease)
    kept = attempts.unread(lease, client, worker.clock.now())
    reply = Reply(200, {}, b"tokens")
    await worker.answers.keep(replace(kept, sealed=keys.seal_reply("acme", "one", 0, reply)))
    await flush()
    due = list[bool]()

    async def look_and_keep(kept: KeptReply) -> Verdict:
        stored = await registry.find("one")
        assert stored is not None
        due.append(stored.due_at is not None and stored.due_at <= await registry.now())
        return await store.keep_reply(kept)

    await take_in(keep_reply=look_and_keep)

    found = await registry.find("one")
    assert found is not None
    assert due == [False]
    assert (found.grant.kept_reply, found.due_at, found.grant.status) == (1, None, Status.FAILING)


async def test_a_line_whose_living_pair_no_key_opens_is_refused_and_nothing_is_stored(
    worker: Member, sealed_answer: SealedAnswer, flush: Flush, take_in: TakeIn, registry: RedisRegistry
) -> None:
    await _rotate(worker, sealed_answer, "r1")
    await flush()

    taken = await take_in(ring=KeyRing({"k2": b"2" * 32}))

    (refusal,) = taken.refusals
    assert refusal.reason == (
        "its refresh token is used up, and a journal on this machine has the newer one;"
        " one: sealed with the key 'k1', which is not in EVERGRANT_KEYS"
    )
    assert await registry.find("one") is None
