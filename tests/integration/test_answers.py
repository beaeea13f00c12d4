"""Answers between their arrival and the store, with the real store, real sealing and real files."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.support.callables import (
    Away,
    Configure,
    LoseReplies,
    OnGrant,
    OpenMember,
    Prove,
    SealedAnswer,
    Seed,
    Told,
)
from tests.support.gate import Gate
from tests.support.member import Member
from tests.support.waiting import TIMER_SECONDS, until
from worker.adapters.clock import RedisClock
from worker.adapters.journal.format import read_file
from worker.adapters.sealing import KeyRing
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Grant, Status, TokenPair
from worker.core.lifecycle import Change
from worker.core.outcomes import AnswerKnown, CannotUnseal, Rejected
from worker.core.ports import Commit, Lease, StoreUnavailableError, Verdict
from worker.core.providers import Client
from worker.core.registry import ImportVerdict, Operation
from worker.refreshing import answers as answers_module
from worker.refreshing.answers import OFFERED_AT_ONCE


@pytest.fixture
async def lease_of(client: Client) -> Callable[[Member], Awaitable[Lease]]:
    """Let a process claim the one grant that is due."""

    async def claim(member: Member) -> Lease:
        await member.store.finish_recovery(await member.store.heartbeat(""))
        (lease,) = (await member.store.claim(client, 1, "")).leases
        assert isinstance(lease, Lease)
        return lease

    return claim


async def _find(registry: RedisRegistry, grant_id: str = "one") -> Grant:
    stored = await registry.find(grant_id)
    assert stored is not None
    return stored.grant


def _types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("evergrant.grant.") for event in events]


def _on_disk(journals: Path, member: Member) -> list[Commit]:
    files = sorted((journals / member.owner).glob("*.segment"))
    return [commit for file in files for commit in read_file(file).commits]


# On the disk, then in the store


async def test_an_answer_is_on_the_disk_before_the_store_is_asked(
    open_member: OpenMember,
    behind_gate: Redis,
    gate: Gate,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    journals: Path,
    registry: RedisRegistry,
    told: Told,
) -> None:
    await seed_sealed()
    member = await open_member([], connection=behind_gate)
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    seen: list[list[Commit]] = []

    async def look(_: bytes) -> None:
        seen.append(_on_disk(journals, member))

    gate.watch = look
    await member.answers.keep(commit)

    assert seen == [[commit]]
    assert member.answers.waiting == 0
    assert (await _find(registry)).version == 1
    assert _types(await told()) == ["refreshed"]


@pytest.mark.parametrize("refusal", ["no-directory", "no-sync"])
async def test_where_the_disk_cannot_take_an_answer_the_store_is_asked_all_the_same(
    open_member: OpenMember,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    journals: Path,
    registry: RedisRegistry,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    refusal: str,
) -> None:
    await seed_sealed()
    member = await open_member([])
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    if refusal == "no-directory":
        await asyncio.to_thread(journals.write_text, "in its place")
    else:
        await member.journal.reserve(1)
        monkeypatch.setattr(os, "fdatasync", _fails)

    with capture_logs() as logs:
        await member.answers.keep(commit)

    assert (await _find(registry)).version == 1
    assert member.answers.waiting == 0
    assert _types(await told()) == ["refreshed"]
    (warning,) = (log for log in logs if log["event"] == "journal.cannot_write")
    assert warning["grant"] == "one"


def _fails(_: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


async def test_an_answer_waits_while_the_store_is_away_and_is_stored_once_when_it_is_back(
    open_member: OpenMember,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    await seed_sealed()
    member = await open_member([], connection=behind_gate)
    commit = sealed_answer(await lease_of(member), "r1", by=member)

    async with redis_away():
        await member.answers.keep(commit)
        assert member.answers.waiting == 1
        with pytest.raises(StoreUnavailableError):
            await member.answers.offer_waiting()
        assert member.answers.waiting == 1
    await member.answers.offer_waiting()
    await member.answers.offer_waiting()

    assert member.answers.waiting == 0
    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")
    assert _types(await told()) == ["refreshed"]


async def test_an_answer_whose_reply_was_lost_each_time_is_stored_once(
    open_member: OpenMember,
    behind_gate: Redis,
    lose_replies: LoseReplies,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    told: Told,
) -> None:
    await seed_sealed()
    member = await open_member([], connection=behind_gate)
    commit = sealed_answer(await lease_of(member), "r1", by=member)

    lose_replies(1_000)  # as often as a connection asks again
    await member.answers.keep(commit)
    assert member.answers.waiting == 1
    assert (await _find(registry)).version == 1
    lose_replies(0)
    await member.answers.offer_waiting()

    assert member.answers.waiting == 0
    assert (await _find(registry)).version == 1
    assert _types(await told()) == ["refreshed"]


async def test_nothing_is_claimed_while_an_answer_waits(
    open_member: OpenMember,
    configure: Configure,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    member = await open_member(configure("http://127.0.0.1:9/token"), connection=behind_gate)
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    async with redis_away():
        await member.answers.keep(commit)
    await seed_sealed("two", due_in_ms=-1_000)

    assert await member.refresher.drain("", lambda: False) == 0
    stored = await registry.find("two")
    assert stored is not None
    assert stored.lease_until is None
    await member.answers.offer_waiting()

    assert await member.refresher.drain("", lambda: False) == 1


# A record that moved on


@pytest.mark.parametrize(
    ("moved", "status", "version", "event"),
    [
        ("paused", Status.PAUSED, 1, "refreshed"),
        ("failing", Status.ACTIVE, 1, "recovered"),
        ("failed", Status.ACTIVE, 1, "recovered"),
        ("imported", Status.ACTIVE, 7, "refreshed"),
        ("imported and paused", Status.PAUSED, 7, "refreshed"),
    ],
)
async def test_a_record_that_moved_on_with_its_refresh_token_unused_is_followed(
    open_member: OpenMember,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    failure: Callable[..., Change],
    end_lease: OnGrant,
    clock: RedisClock,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    moved: str,
    status: Status,
    version: int,
    event: str,
) -> None:
    grant = await seed_sealed()
    clock.set(await registry.now(), asked_at=clock.stopwatch())
    member, other = await open_member([]), await open_member([])
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    if "imported" in moved:
        again = replace(grant, version=6)
        again = replace(again, sealed=keys.seal(again, TokenPair("a0", "r0")))
        assert (
            await registry.import_grant(Change(again, None, None, None), replaces=0)
        ).verdict is ImportVerdict.STORED
    if "paused" in moved:
        await registry.operate("one", Operation.PAUSE)
    if moved in {"failing", "failed"}:
        for _ in range(1 if moved == "failing" else 2):
            await end_lease("one")
            lease = await lease_of(other)
            await other.store.record_outcome(
                lease, failure(lease, Rejected("invalid_grant", ambiguous=False))
            )
    before = len(await told())

    await member.answers.keep(commit)

    stored = await _find(registry)
    assert (stored.status, stored.version) == (status, version)
    assert keys.open(stored) == TokenPair("access-r1", "r1")
    assert member.answers.waiting == 0
    (news,) = (await told())[before:]
    assert _types([news]) == [event]
    assert (news["data"]["version"], news["data"]["status"]) == (version, status.value)


@pytest.mark.parametrize("fate", ["stored", "superseded", "gone"])
async def test_an_answer_that_needs_nothing_more_is_let_go_and_released_from_the_journal(
    open_member: OpenMember,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    end_lease: OnGrant,
    journals: Path,
    registry: RedisRegistry,
    keys: KeyRing,
    fate: str,
) -> None:
    await seed_sealed()
    member = await open_member([], connection=behind_gate, keep_seconds=0)
    other = await open_member([])
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    async with redis_away():
        await member.answers.keep(commit)
    await member.journal.sweep()
    assert _on_disk(journals, member) == [commit]
    if fate == "superseded":
        await end_lease("one")
        await other.answers.keep(sealed_answer(await lease_of(other), "r1 of another", by=other))
    elif fate == "gone":
        await registry.operate("one", Operation.DELETE)

    await member.answers.offer_waiting()
    await member.journal.sweep()

    assert member.answers.waiting == 0
    assert _on_disk(journals, member) == []
    if fate == "gone":
        assert await registry.find("one") is None
    else:
        kept = "r1" if fate == "stored" else "r1 of another"
        assert keys.open(await _find(registry)).refresh_token == kept


# Replaying


async def test_a_pair_sealed_with_a_key_that_is_retired_is_stored_as_it_is(
    open_member: OpenMember,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    await seed_sealed()
    member = await open_member([])
    heir = await open_member([], ring=KeyRing({"k2": b"2" * 32}))
    commit = sealed_answer(await lease_of(member), "r1", by=member)

    assert await heir.answers.replay([commit]) == [Verdict.STORED]

    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")


async def test_an_answer_that_cannot_be_unsealed_to_follow_its_record_is_told_and_holds_up_no_other(
    open_member: OpenMember,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    await seed_sealed()
    member = await open_member([])
    heir = await open_member([], ring=KeyRing({"k2": b"2" * 32}))
    first = sealed_answer(await lease_of(member), "r1", by=member)
    await seed_sealed("two")
    second = sealed_answer(await lease_of(member), "r1", by=member)
    await registry.operate("one", Operation.PAUSE)

    with capture_logs() as logs:
        verdicts = await heir.answers.replay([first, second])

    assert verdicts == [None, Verdict.STORED]
    assert (await _find(registry, "one")).version == 0
    assert (await _find(registry, "two")).version == 1
    (problem,) = (log["problem"] for log in logs if log["event"] == "answer.set_aside")
    assert problem == "one: sealed with the key 'k1', which is not in EVERGRANT_KEYS"
    assert await member.answers.replay([first]) == [Verdict.STORED]
    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")


async def test_replaying_twice_changes_nothing(
    open_member: OpenMember,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    told: Told,
) -> None:
    await seed_sealed()
    member, other = await open_member([]), await open_member([])
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    assert await other.answers.replay([commit]) == [Verdict.STORED]
    once = await registry.find("one")

    assert await other.answers.replay([commit, commit]) == [Verdict.KNOWN] * 2

    assert await registry.find("one") == once
    assert _types(await told()) == ["refreshed"]


async def test_as_many_answers_as_there_are_are_replayed_in_their_order(
    open_member: OpenMember,
    client: Client,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    told: Told,
) -> None:
    count = 2 * OFFERED_AT_ONCE + 50
    for number in range(count):
        await seed_sealed(f"grant-{number}")
    member, other = await open_member([]), await open_member([])
    await member.store.finish_recovery(await member.store.heartbeat(""))
    leases = (await member.store.claim(client, count, "")).leases
    commits = [sealed_answer(lease, "r1", by=member) for lease in leases]
    await other.answers.replay(commits[7:8])

    verdicts = await other.answers.replay(commits)

    assert verdicts == [Verdict.STORED] * 7 + [Verdict.KNOWN] + [Verdict.STORED] * (count - 8)
    assert {stored.grant.version async for stored in registry.walk()} == {1}
    assert len(await told()) == count


# An answer that the store fails at


@pytest.fixture
def spoil(redis: Any, prefix: str) -> "Spoil":
    """Let the store fail at every answer of the client, until what this returns is called."""

    async def write() -> Callable[[], Awaitable[None]]:
        counter = f"{prefix}client:acme", "refreshed"
        before = await redis.hget(*counter)
        await redis.hset(*counter, "no number")

        async def mend() -> None:
            await redis.hset(*counter, before or 0)

        return mend

    return write


Spoil = Callable[[], Awaitable[Callable[[], Awaitable[None]]]]


async def test_an_answer_that_the_store_fails_at_is_offered_again_at_growing_pauses_until_it_is_taken(
    open_member: OpenMember,
    behind_gate: Redis,
    gate: Gate,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    keys: KeyRing,
    spoil: Spoil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers_module, "FIRST_PAUSE_SECONDS", 0.05)
    await seed_sealed()
    member = await open_member([], connection=behind_gate)
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    offered_at: list[float] = []

    async def note(request: bytes) -> None:
        if b"one" in request:
            offered_at.append(asyncio.get_running_loop().time())

    gate.watch = note
    mend = await spoil()
    with capture_logs() as logs:
        await member.answers.keep(commit)
        assert (member.answers.waiting, member.answers.set_aside) == (0, ["one"])
        while len(offered_at) < 5:
            await member.answers.offer_waiting()
            await asyncio.sleep(0)
    await mend()

    async def is_taken() -> bool:
        await member.answers.offer_waiting()
        return not member.answers.set_aside

    await until(is_taken)
    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")
    pauses = [later - sooner for sooner, later in pairwise(offered_at[:5])]
    assert all(pause >= 0.05 * 2**times - TIMER_SECONDS for times, pause in enumerate(pauses))
    assert [log["grant"] for log in logs if log["event"] == "answer.set_aside"] == ["one"]


async def test_an_answer_that_is_set_aside_holds_up_no_other_and_no_claim(
    open_member: OpenMember,
    configure: Configure,
    client: Client,
    prove: Prove,
    redis: Any,
    prefix: str,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
) -> None:
    await seed_sealed()
    member = await open_member(configure("http://127.0.0.1:9/token"))
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    record = await redis.get(f"{prefix}grant:one")
    await redis.set(f"{prefix}grant:one", "no record")
    await member.answers.keep(commit)
    await prove(client)
    await seed_sealed("two")

    assert await member.refresher.drain("", lambda: False) == 1
    assert member.answers.set_aside == ["one"]
    await redis.set(f"{prefix}grant:one", record)


# A refresh token that an answer has used up


@pytest.fixture
def put_back(redis: Any, prefix: str, seed_sealed: Seed) -> "PutBack":
    """Put the one grant in; what this returns puts it back to what it was then, due at once."""

    async def seed() -> Callable[[], Awaitable[None]]:
        await seed_sealed()
        record = await redis.get(f"{prefix}grant:one")

        async def restore() -> None:
            await redis.set(f"{prefix}grant:one", record)
            await redis.delete(f"{prefix}events")
            await redis.zadd(f"{prefix}schedule:acme", {"one": 1})

        return restore

    return seed


PutBack = Callable[[], Awaitable[Callable[[], Awaitable[None]]]]


@pytest.mark.parametrize(
    "holder", ["this process", "a dead process", "a living process", "one that has taken it over"]
)
async def test_a_token_that_answers_on_this_disk_have_used_up_is_not_presented_they_are_stored(
    open_member: OpenMember,
    configure: Configure,
    client: Client,
    prove: Prove,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    put_back: PutBack,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    holder: str,
) -> None:
    restore = await put_back()
    clients = configure("http://127.0.0.1:9/token")
    first = await open_member(clients)
    for token in ("r1", "r2"):
        await redis.zadd(f"{prefix}schedule:acme", {"one": 1})
        await first.answers.keep(sealed_answer(await lease_of(first), token, by=first))
    presenter = first
    if holder == "one that has taken it over":
        await first.die()
        another = await open_member(clients)
        assert another.directory.take_over(another.owner)  # and has not sent a heartbeat yet
    if holder == "a dead process":
        await first.die()
    if holder != "this process":
        presenter = await open_member(clients)
        await presenter.membership.beat()
        assert await presenter.membership.recover()
    await prove(client)
    await restore()

    assert await presenter.refresher.drain("", lambda: False) == 1

    stored = await registry.find("one")
    assert stored is not None
    assert keys.open(stored.grant) == TokenPair("access-r2", "r2")
    assert stored.lease_until is None
    assert stored.due_at is not None
    assert not stored.grant.in_doubt
    assert _types(await told()) == ["refreshed"] * 2  # none `failing`: nothing was sent


async def test_a_token_whose_answer_the_store_fails_at_is_not_presented_and_its_grant_is_put_back(
    open_member: OpenMember,
    configure: Configure,
    client: Client,
    prove: Prove,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    end_lease: OnGrant,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    spoil: Spoil,
) -> None:
    await seed_sealed()
    member = await open_member(configure("http://127.0.0.1:9/token"))
    await member.membership.beat()
    assert await member.membership.recover()
    commit = sealed_answer(await lease_of(member), "r1", by=member)
    mend = await spoil()
    await member.answers.keep(commit)
    await prove(client)
    await end_lease("one")

    assert await member.refresher.drain("", lambda: False) == 1

    stored = await registry.find("one")
    assert stored is not None
    assert (stored.lease_until, stored.grant.status) == (None, Status.ACTIVE)
    assert stored.due_at is not None
    assert stored.due_at > await registry.now()
    assert await told() == []
    await mend()
    lease = await member.store.lease("one")
    assert isinstance(lease, Lease)
    assert await member.refresher.refresh_one(lease) == AnswerKnown(is_stored=True)
    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")


async def test_a_token_whose_answer_cannot_be_read_any_more_is_not_presented(
    open_member: OpenMember,
    configure: Configure,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    journals: Path,
    put_back: PutBack,
) -> None:
    restore = await put_back()
    member = await open_member(configure("http://127.0.0.1:9/token"))
    await member.answers.keep(sealed_answer(await lease_of(member), "r1", by=member))
    (segment,) = (journals / member.owner).glob("*.segment")
    await asyncio.to_thread(segment.write_bytes, bytes(100))
    await restore()
    lease = await member.store.lease("one")
    assert isinstance(lease, Lease)

    assert await member.refresher.refresh_one(lease) == AnswerKnown(is_stored=False)


async def test_an_answer_of_a_server_that_keeps_the_refresh_token_uses_none_up(
    open_member: OpenMember,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
) -> None:
    await seed_sealed()
    member = await open_member([])
    lease = await lease_of(member)
    await member.answers.keep(sealed_answer(lease, "r0", by=member))

    assert await member.answers.catch_up(lease) is None


async def test_a_record_that_was_put_in_another_grants_place_is_not_followed_by_its_answers(
    open_member: OpenMember,
    configure: Configure,
    seed_sealed: Seed,
    lease_of: Callable[[Member], Awaitable[Lease]],
    sealed_answer: SealedAnswer,
    redis: Any,
    prefix: str,
) -> None:
    for grant_id in ("one", "two"):
        await seed_sealed(grant_id)
    await redis.copy(f"{prefix}grant:one", f"{prefix}grant:two", replace=True)
    member = await open_member(configure("http://127.0.0.1:9/token"))
    await member.answers.keep(sealed_answer(await lease_of(member), "r1", by=member))
    lease = await member.store.lease("two")
    assert isinstance(lease, Lease)

    assert await member.answers.catch_up(lease) is None
    assert isinstance(await member.refresher.refresh_one(lease), CannotUnseal)
