"""Processes and a store that forgot: several on one real store, each with a journal on a real disk.

A process is led step by step (`heartbeat`, `recover`) where a test is about the order of steps. One that
dies takes no more steps, and its journal is free.
"""
# ruff: noqa: ASYNC240 - what a test does to its files may hold up its own loop

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.support.callables import (
    Away,
    Configure,
    Enroll,
    OnGrant,
    OpenMember,
    Remember,
    SealedAnswer,
    Seed,
    Told,
)
from tests.support.gate import Gate
from tests.support.member import Member
from tests.support.waiting import PATIENCE_SECONDS, until
from worker.adapters.clock import RedisClock
from worker.adapters.journal.segments import ANSWER_BYTES, SEGMENT_BYTES
from worker.adapters.sealing import KeyRing
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.grant import Grant, TokenPair, lineage_of
from worker.core.lifecycle import Change
from worker.core.ports import Lease, Recovering, StoreUnavailableError
from worker.core.providers import Client
from worker.core.registry import ImportVerdict, Operation
from worker.refreshing import drain
from worker.sandbox.client import Sandbox

Step = Callable[[], Awaitable[None]]
Join = Callable[..., Awaitable[Member]]
Claim = Callable[[Member], Awaitable[list[Lease]]]
Present = Callable[[], Awaitable[set[str]]]

SILENCE_MS = 3_001
SEVERAL = 4  # requests: who is due, a claim, and more than that
NEVER: Callable[[], bool] = lambda: False  # noqa: E731


@pytest.fixture(autouse=True)
async def somebody(scripts: Scripts) -> AsyncIterator[None]:
    """Asks the store for something now and then: a test that takes its time is no silence."""
    limits = StoreLimits(60_000, 0, 0, 0, 0, 0)
    store = RedisStore(scripts, RedisClock(), limits, source="", owner="somebody")

    async def ask() -> None:
        while True:
            assert await store.lease("nobody") == Recovering()
            await asyncio.sleep(0.2)

    asking = asyncio.create_task(ask())
    yield
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking


@pytest.fixture
def join(open_member: OpenMember) -> Join:
    """A process that the store knows, and that has finished its recovery."""

    async def build(clients: Any = (), **options: Any) -> Member:
        member = await open_member(clients, **options)
        await _recover(member)
        return member

    return build


@pytest.fixture
def claim(client: Client) -> Claim:
    """Let a process claim what is due."""

    async def ask(member: Member) -> list[Lease]:
        return list((await member.store.claim(client, 10, "")).leases)

    return ask


@pytest.fixture
def present(redis: Any, prefix: str) -> Present:
    """The processes that the next recovery waits for."""

    async def read() -> set[str]:
        return {owner.decode() for owner in await redis.zrange(f"{prefix}processes", 0, -1)}

    return read


@pytest.fixture
def restart(redis: Any, prefix: str) -> Step:
    """Restart a store that forgot nothing."""

    async def say() -> None:
        await redis.hset(f"{prefix}epoch", "run_id", "of another run")

    return say


@pytest.fixture
def epoch_now(redis: Any, prefix: str) -> Callable[[], Awaitable[int]]:
    """The number of the epoch that the store is in."""

    async def read() -> int:
        return int(await redis.hget(f"{prefix}epoch", "number"))

    return read


@pytest.fixture
def silence(redis: Any, prefix: str) -> Step:
    """Let no process have sent a heartbeat for longer than an epoch allows."""

    async def pass_by() -> None:
        await redis.hincrby(f"{prefix}epoch", "heartbeat_at", -SILENCE_MS)

    return pass_by


@pytest.fixture
def let_the_least_pass(redis: Any, prefix: str) -> Step:
    """Let the least time of a recovery pass, as waiting would."""

    async def wait() -> None:
        await redis.hset(f"{prefix}epoch", "least_until", "1")

    return wait


async def _recover(member: Member) -> bool:
    await member.membership.beat()
    may_claim: bool = await member.membership.recover()
    return may_claim


async def _find(registry: RedisRegistry, grant_id: str = "one") -> Grant:
    stored = await registry.find(grant_id)
    assert stored is not None
    return stored.grant


async def _claims(claim: Claim, member: Member) -> bool:
    return await claim(member) != []


def _types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("evergrant.") for event in events]


# What a store forgot is given back


@pytest.mark.parametrize("disk", ["sound", "refuses"])
async def test_a_rotation_that_the_store_forgot_is_given_back_with_its_event(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    let_the_least_pass: Step,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    disk: str,
) -> None:
    await seed_sealed()
    one = await join()
    go_back = await remember()
    (lease,) = await claim(one)
    with monkeypatch.context() as broken:
        if disk == "refuses":
            broken.setattr(os, "fdatasync", _fails)
        await one.answers.keep(sealed_answer(lease, "r1", by=one))
    before = await registry.find("one"), await told()
    await go_back()
    assert (await _find(registry)).version == 0

    for _ in range(3):
        await _recover(one)
        await let_the_least_pass()

    assert (await registry.find("one"), await told()) == before
    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")
    assert await claim(one) == []


@pytest.mark.parametrize("whose", ["its own", "of the dead", "on no disk"])
async def test_what_the_store_forgot_is_given_back_the_newest_first(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    whose: str,
) -> None:
    """A store forgets its last writes, and waits only for so long for all that a journal holds."""
    grants = [f"grant-{number}" for number in range(6)]
    for grant in grants:
        await seed_sealed(grant)
    answering, other = await join(), await join()
    go_back = await remember()
    leases = sorted(await claim(answering), key=attrgetter("fence"))
    with monkeypatch.context() as broken:
        for number, lease in enumerate(leases):
            if whose == "on no disk" and number == 3:
                broken.setattr(os, "fdatasync", _fails)
            await answering.answers.keep(sealed_answer(lease, "r1", by=answering))
    await go_back()
    if whose == "of the dead":
        await answering.die()

    await _recover(other if whose == "of the dead" else answering)

    assert [event["subject"] for event in await told()] == [lease.grant.id for lease in reversed(leases)]


async def test_of_a_grants_answers_on_the_disk_and_on_none_the_newest_is_what_the_store_has_then(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    make_due: OnGrant,
    remember: Remember,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await seed_sealed()
    one = await join()
    go_back = await remember()
    for gives in ("r1", "r2"):
        await make_due("one")
        (lease,) = await claim(one)
        await one.answers.keep(sealed_answer(lease, gives, by=one))
        monkeypatch.setattr(os, "fdatasync", _fails)
    await go_back()

    await _recover(one)

    stored = await _find(registry)
    assert (stored.version, keys.open(stored)) == (2, TokenPair("access-r2", "r2"))
    assert [event["data"]["version"] for event in await told()] == [2]


async def test_what_a_disk_refused_is_put_there_once_it_takes_it(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    registry: RedisRegistry,
    keys: KeyRing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await seed_sealed()
    one, other = await join(), await join()
    go_back = await remember()
    (lease,) = await claim(one)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", _fails)
        await one.answers.keep(sealed_answer(lease, "r1", by=one))
        assert [commit.fence for commit in one.answers.off_disk] == [lease.fence]
        await one.membership.recover()
        assert "its reserve is used up, and answers are on no disk" in one.membership.trouble

    await _recover(one)

    assert one.answers.off_disk == []
    assert one.membership.trouble == ""
    await one.die()
    await go_back()
    await _recover(other)
    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")


async def test_what_a_disk_refused_is_put_there_while_the_store_is_away_too(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await seed_sealed()
    one = await join(connection=behind_gate)
    (lease,) = await claim(one)
    async with redis_away():
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", _fails)
            await one.answers.keep(sealed_answer(lease, "r1", by=one))
        assert [commit.fence for commit in one.answers.off_disk] == [lease.fence]

        with pytest.raises(StoreUnavailableError):
            await one.membership.recover()

        assert one.answers.off_disk == []
        assert one.answers.waiting == 1


async def test_what_a_store_forgot_before_it_was_away_for_longer_than_the_retention_is_given_back(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    await seed_sealed()
    seconds = [0.0]
    one = await join(connection=behind_gate, keep_seconds=900, now=lambda: seconds[0])
    go_back = await remember()
    (lease,) = await claim(one)
    await one.answers.keep(sealed_answer(lease, "r1", by=one))
    async with redis_away():
        with suppress(StoreUnavailableError):
            await one.membership.beat()
        for _ in range(2):  # the segment is closed, and would be removed
            seconds[0] += 21 * 60
            with suppress(StoreUnavailableError):
                await one.membership.recover()
    await go_back()

    await _recover(one)

    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")


async def test_an_answer_that_waited_for_longer_than_the_retention_is_given_back_if_it_is_forgotten_at_once(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    await seed_sealed()
    seconds = [0.0]
    one = await join(connection=behind_gate, keep_seconds=900, now=lambda: seconds[0])
    go_back = await remember()
    (lease,) = await claim(one)
    async with redis_away():
        await one.answers.keep(sealed_answer(lease, "r1", by=one))
        seconds[0] = 21 * 60
    await _recover(one)
    assert (await _find(registry)).version == 1
    seconds[0] += 1
    await _recover(one)
    await go_back()

    await _recover(one)

    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")


@pytest.mark.parametrize("first", [0, 1], ids=["the-older-first", "the-newer-first"])
async def test_a_store_that_forgot_rotations_in_several_journals_is_brought_to_the_newest(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    make_due: OnGrant,
    remember: Remember,
    let_the_least_pass: Step,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    first: int,
) -> None:
    await seed_sealed()
    members = [await join(), await join()]
    go_back = await remember()
    for number, gives in enumerate(["r1", "r2", "r3", "r4"]):
        member = members[number // 2]
        await make_due("one")
        (lease,) = await claim(member)
        await member.answers.keep(sealed_answer(lease, gives, by=member))
    await go_back()

    for member in (members[first], members[1 - first]):
        await _recover(member)
    await let_the_least_pass()
    await _recover(members[0])

    stored = await _find(registry)
    assert (stored.version, keys.open(stored)) == (4, TokenPair("access-r4", "r4"))
    events = await told()
    assert {event["type"] for event in events} == {"evergrant.grant.refreshed"}
    versions = [event["data"]["version"] for event in events]
    assert versions == ([2, 4] if first == 0 else [4])
    assert [await claim(member) for member in members] == [[], []]


async def test_a_grant_that_was_deleted_since_stays_deleted(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    restart: Step,
    registry: RedisRegistry,
    told: Told,
) -> None:
    await seed_sealed()
    one = await join()
    (lease,) = await claim(one)
    await one.answers.keep(sealed_answer(lease, "r1", by=one))
    await registry.operate("one", Operation.DELETE)
    await restart()

    await _recover(one)

    assert await registry.find("one") is None
    assert _types(await told()) == ["grant.refreshed"]


async def test_a_grant_that_was_imported_anew_since_is_left_alone(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    restart: Step,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    grant = await seed_sealed()
    one = await join()
    (lease,) = await claim(one)
    await one.answers.keep(sealed_answer(lease, "r1", by=one))
    anew = replace(
        grant,
        version=2,
        lineage=lineage_of("one", "consent"),
        issued_at=await registry.now(),
    )
    anew = replace(anew, sealed=keys.seal(anew, TokenPair("a", "consent")))
    result = await registry.import_grant(Change(anew, None, None, None), replaces=1)
    assert result.verdict is ImportVerdict.STORED
    await restart()

    await _recover(one)

    assert keys.open(await _find(registry)) == TokenPair("a", "consent")
    assert _types(await told()) == ["grant.refreshed"]


async def test_what_a_recovery_repaired_is_logged_once(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    epoch_now: Callable[[], Awaitable[int]],
) -> None:
    for grant in ("one", "two"):
        await seed_sealed(grant)
    one = await join()
    first, second = await claim(one)
    await one.answers.keep(sealed_answer(first, "r1", by=one))
    go_back = await remember()
    await one.answers.keep(sealed_answer(second, "r1", by=one))
    await go_back()

    with capture_logs() as logs:
        for _ in range(2):
            await _recover(one)

    (told,) = (log for log in logs if log["event"] == "journal.repaired_the_store")
    assert (told["answers"], told["repaired"], told["epoch"]) == (2, 1, await epoch_now())


async def test_a_recovery_without_repairs_logs_no_warning(
    join: Join, claim: Claim, seed_sealed: Seed, sealed_answer: SealedAnswer, restart: Step
) -> None:
    await seed_sealed()
    one = await join()
    (lease,) = await claim(one)
    await one.answers.keep(sealed_answer(lease, "r1", by=one))
    await restart()

    with capture_logs() as logs:
        await _recover(one)

    assert [log for log in logs if log["log_level"] != "debug"] == []


# Nobody claims before


async def test_after_a_restart_nobody_claims_before_every_live_process_has_finished_its_recovery(
    join: Join, claim: Claim, seed_sealed: Seed, restart: Step, let_the_least_pass: Step
) -> None:
    members = [await join() for _ in range(3)]
    await seed_sealed()
    await restart()

    for number, member in enumerate(members):
        assert [await claim(each) for each in members] == [[]] * 3
        may_claim = await _recover(member)
        await let_the_least_pass()
        assert may_claim is False or number == 2
    assert await _recover(members[0])

    assert len(await claim(members[0])) == 1


async def test_a_drain_that_meets_a_recovery_goes_on_when_it_is_over(
    join: Join,
    behind_gate: Redis,
    gate: Gate,
    configure: Configure,
    enroll: Enroll,
    sandbox: Sandbox,
    restart: Step,
    let_the_least_pass: Step,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain, "RECOVERY_SECONDS", PATIENCE_SECONDS)
    clients = configure(sandbox.token_url)
    await enroll(sandbox, clients)
    one = await join(clients, connection=behind_gate)
    await restart()
    asked = 0

    async def count(_: bytes) -> None:
        nonlocal asked
        asked += 1

    async def has_claimed_again() -> bool:
        return draining.done() or asked > SEVERAL

    gate.watch = count
    draining = asyncio.create_task(one.refresher.drain("", NEVER))
    await until(has_claimed_again)
    assert not draining.done()
    await _recover(one)
    await let_the_least_pass()
    await _recover(one)

    assert await draining == 1


async def test_a_drain_waits_for_a_recovery_only_so_long(
    join: Join,
    configure: Configure,
    enroll: Enroll,
    sandbox: Sandbox,
    restart: Step,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain, "RECOVERY_SECONDS", 0.5)
    clients = configure(sandbox.token_url)
    await enroll(sandbox, clients)
    one = await join(clients)
    await restart()

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await one.refresher.drain("", NEVER) == 0


async def test_an_answer_is_given_back_before_its_process_finishes_its_recovery(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    gate: Gate,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    one = await join(connection=behind_gate)
    go_back = await remember()
    (lease,) = await claim(one)
    await one.answers.keep(sealed_answer(lease, "r1", by=one))
    await go_back()
    seen: list[tuple[bool, int]] = []

    async def look(_: bytes) -> None:
        confirmed = await redis.sismember(f"{prefix}recovered", one.owner)
        seen.append((bool(confirmed), (await _find(registry)).version))

    await one.membership.beat()
    gate.watch = look
    await one.membership.recover()
    await one.membership.beat()

    assert (False, 0) in seen
    assert (True, 0) not in seen
    assert seen[-1] == (True, 1)


async def test_an_answer_that_waits_is_offered_before_anybody_claims_after_a_silence(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    end_lease: OnGrant,
    silence: Step,
    registry: RedisRegistry,
    told: Told,
) -> None:
    """Its lease ran out: without the epoch the other process would present a superseded token."""
    await seed_sealed()
    one, other = await join(connection=behind_gate), await join()
    (lease,) = await claim(one)
    async with redis_away():
        await one.answers.keep(sealed_answer(lease, "r1", by=one))
        await end_lease("one")
        await silence()
        assert not await _recover(other)
        assert await claim(other) == []
        with pytest.raises(StoreUnavailableError):
            await one.membership.recover()

    assert await _recover(one)

    assert one.answers.waiting == 0
    assert (await _find(registry)).version == 1
    assert await _recover(other)
    assert await claim(other) == []
    assert _types(await told()) == ["grant.refreshed"]


async def test_an_answer_that_waits_is_offered_in_the_same_epoch_too(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    one = await join(connection=behind_gate)
    (lease,) = await claim(one)
    async with redis_away():
        await one.answers.keep(sealed_answer(lease, "r1", by=one))

    await one.membership.recover()

    assert one.answers.waiting == 0
    assert (await _find(registry)).version == 1


async def test_a_process_that_was_frozen_through_the_recovery_gives_back_what_it_has_before_it_claims(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    frozen, other = await join(), await join()
    go_back = await remember()
    (lease,) = await claim(frozen)
    await frozen.answers.keep(sealed_answer(lease, "r1", by=frozen))
    await go_back()
    await _recover(other)
    await redis.hset(f"{prefix}epoch", "ends_at", "1")  # the longest that it recovers is over
    await _recover(other)
    assert await claim(frozen) == []

    assert await _recover(frozen)

    assert (await _find(registry)).version == 1
    await seed_sealed("two")
    assert [lease.grant.id for lease in await claim(frozen)] == ["two"]


async def test_a_process_that_died_with_its_disk_is_waited_for_as_long_as_recovery_lasts_and_no_longer(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    silence: Step,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
    tmp_path: Path,
) -> None:
    one = await join()
    await join(root=tmp_path / "another machine's")
    await seed_sealed()
    await silence()
    await _recover(one)
    ends_at = await registry.now() + 500
    await redis.hset(f"{prefix}epoch", "ends_at", ends_at)

    await until(lambda: _claims(claim, one))

    assert await registry.now() >= ends_at


# Leases that a store forgot


async def test_a_lease_that_the_store_forgot_is_taken_back_before_anybody_can_present_its_token(
    join: Join,
    sandbox: Sandbox,
    delayed_replies: tuple[str, asyncio.Event],
    configure: Configure,
    enroll: Enroll,
    remember: Remember,
    let_the_least_pass: Step,
    present: Present,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url)
    one = await join(clients, timeout_seconds=2 * PATIENCE_SECONDS, lease_ms=600_000)
    other = await join(configure(sandbox.token_url))
    (grant,) = await enroll(sandbox, clients)
    go_back = await remember()
    draining = asyncio.create_task(one.refresher.drain("", NEVER))
    await until(lambda: _has_rotated(sandbox, grant))
    await go_back()
    stored = await registry.find(grant.id)
    assert stored is not None
    assert stored.lease_until is None
    assert one.owner in await present()

    await _recover(other)
    await let_the_least_pass()
    assert await other.refresher.drain("", NEVER) == 0
    assert await _recover(one)
    assert await _recover(other)
    assert await other.refresher.drain("", NEVER) == 0
    assert not draining.done()
    let_pass.set()
    assert await draining == 1

    assert len(list(sandbox.log(grant.id))) == 1
    (live,) = (pair for pair in sandbox.pairs() if pair["id"] == grant.id)
    assert keys.open(await _find(registry, grant.id)).refresh_token == live["refresh_token"]
    counts = sandbox.grant(grant.id)["counts"]
    assert (counts["superseded"], counts["concurrent"]) == (0, 0)
    assert _types(await told()) == ["grant.refreshed"]


async def _has_rotated(sandbox: Sandbox, grant: Grant) -> bool:
    return bool(sandbox.grant(grant.id)["rotations"])


async def test_a_lease_is_reasserted_before_its_holder_finishes_its_recovery(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    gate: Gate,
    sandbox: Sandbox,
    delayed_replies: tuple[str, asyncio.Event],
    configure: Configure,
    enroll: Enroll,
    remember: Remember,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url)
    one = await join(clients, connection=behind_gate, timeout_seconds=2 * PATIENCE_SECONDS, lease_ms=600_000)
    (grant,) = await enroll(sandbox, clients)
    go_back = await remember()
    draining = asyncio.create_task(one.refresher.drain("", NEVER))
    await until(lambda: _has_rotated(sandbox, grant))
    await go_back()
    seen: list[tuple[bool, bool]] = []

    async def look(_: bytes) -> None:
        stored = await registry.find(grant.id)
        assert stored is not None
        confirmed = await redis.sismember(f"{prefix}recovered", one.owner)
        seen.append((bool(confirmed), stored.lease_until is not None))

    await one.membership.beat()
    gate.watch = look
    await one.membership.recover()
    await one.membership.beat()
    gate.watch = None
    let_pass.set()
    await draining

    assert (False, False) in seen
    assert (True, False) not in seen
    assert seen[-1] == (True, True)
    assert await claim(one) == []


# Journals of the dead


async def test_the_journal_of_a_process_that_died_ends_the_waiting_for_it(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    end_lease: OnGrant,
    restart: Step,
    let_the_least_pass: Step,
    present: Present,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    await seed_sealed()
    dying, one, other = await join(connection=behind_gate), await join(), await join()
    (lease,) = await claim(dying)
    async with redis_away():
        await dying.answers.keep(sealed_answer(lease, "r1", by=dying))
    await end_lease("one")
    await restart()
    for member in (one, other, one):
        await _recover(member)
    await let_the_least_pass()
    assert not await _recover(one)  # it may be alive
    await dying.die()

    await one.membership.recover()

    assert await _recover(other)
    assert await present() == {one.owner, other.owner}
    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")
    assert [await claim(member) for member in (one, other)] == [[], []]
    assert _types(await told()) == ["grant.refreshed"]


async def test_a_dead_process_is_said_to_be_gone_only_when_its_answers_were_given_back(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    gate: Gate,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    present: Present,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    dying, one = await join(), await join(connection=behind_gate)
    (lease,) = await claim(dying)
    await dying.journal.write(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    seen: list[tuple[bool, int]] = []

    async def look(_: bytes) -> None:
        seen.append((dying.owner in await present(), (await _find(registry)).version))

    gate.watch = look
    await one.membership.recover()
    await one.membership.beat()

    assert (False, 0) not in seen
    assert seen[-1] == (False, 1)


async def test_the_answers_of_the_dead_are_given_back_in_each_new_epoch(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    dying, one = await join(), await join()
    go_back = await remember()
    (lease,) = await claim(dying)
    await dying.answers.keep(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    await _recover(one)

    for _ in range(2):
        await go_back()
        assert (await _find(registry)).version == 0
        await _recover(one)
        assert (await _find(registry)).version == 1


async def test_a_takeover_that_dies_is_followed_by_another(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    present: Present,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    dying = await join()
    new_owner, next_one = await join(connection=behind_gate), await join()
    (lease,) = await claim(dying)
    await dying.journal.write(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    async with redis_away():
        with pytest.raises(StoreUnavailableError):
            await new_owner.membership.recover()
    await _recover(next_one)
    assert (await _find(registry)).version == 0  # the new_owner holds it, and may be about to give it back
    await new_owner.die()

    await _recover(next_one)

    assert (await _find(registry)).version == 1
    assert dying.owner not in await present()


async def test_a_takeover_that_lost_the_store_goes_on_when_it_is_back(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    dying, new_owner = await join(), await join(connection=behind_gate)
    (lease,) = await claim(dying)
    await dying.journal.write(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    async with redis_away():
        with pytest.raises(StoreUnavailableError):
            await new_owner.membership.recover()

    await new_owner.membership.recover()

    assert (await _find(registry)).version == 1


async def test_the_dead_are_present_as_long_as_their_journal_may_know_more_than_was_read(
    join: Join, claim: Claim, seed_sealed: Seed, sealed_answer: SealedAnswer, journals: Path, present: Present
) -> None:
    await seed_sealed()
    dying, new_owner = await join(), await join()
    (lease,) = await claim(dying)
    await dying.answers.keep(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    (segment,) = (journals / dying.owner).glob("*.segment")
    segment.write_bytes(segment.read_bytes().replace(b"journal 1\n", b"journal 27\n"))

    await _recover(new_owner)

    assert dying.owner in await present()


async def test_a_journal_that_was_taken_over_is_removed_after_the_retention_and_not_before(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    journals: Path,
    restart: Step,
) -> None:
    await seed_sealed()
    seconds = [0.0]
    dying, one = await join(), await join(keep_seconds=900, now=lambda: seconds[0])
    (lease,) = await claim(dying)
    await dying.answers.keep(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    await _recover(one)
    seconds[0] = 899
    await restart()
    await _recover(one)
    await _recover(one)
    assert (journals / dying.owner).exists()

    seconds[0] = 901
    await _recover(one)

    assert not (journals / dying.owner).exists()
    await restart()
    assert await _recover(one) in {True, False}  # nothing is left to stumble over


async def test_an_answer_of_a_machine_that_was_away_is_given_back_as_often_as_it_is_forgotten(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    journals: Path,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    """It was away for longer than the retention; then the store that took the answer forgets it, twice."""
    await seed_sealed()
    seconds = [0.0]
    dying, one = await join(), await join(keep_seconds=900, now=lambda: seconds[0])
    go_back = await remember()
    (lease,) = await claim(dying)
    await dying.journal.write(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    for file in (journals / dying.owner).iterdir():
        os.utime(file, (0, 0))
    await _recover(one)

    for _ in range(2):
        seconds[0] += 899
        await _recover(one)
        await go_back()
        assert (await _find(registry)).version == 0
        await _recover(one)
        assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")

    seconds[0] += 899
    await _recover(one)
    assert (journals / dying.owner).exists()
    seconds[0] += 1
    await _recover(one)
    assert not (journals / dying.owner).exists()


async def test_journals_that_were_removed_cost_a_new_epoch_nothing(
    join: Join,
    claim: Claim,
    gate: Gate,
    behind_gate: Redis,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    journals: Path,
    silence: Step,
) -> None:
    """Each process that ends leaves one, be it a command: a worker takes over thousands in its life."""
    one = await join(connection=behind_gate, keep_seconds=0)
    requests: list[int] = []

    async def count(_: bytes) -> None:
        requests[-1] += 1

    gate.watch = count
    for deaths in (0, 3):
        for number in range(deaths):
            await seed_sealed(f"grant-{number}")
            dying = await join()
            (lease,) = await claim(dying)
            await dying.answers.keep(sealed_answer(lease, "r1", by=dying))
            await dying.die()
        requests.append(0)
        await _recover(one)
        await _recover(one)
        assert [path.name for path in journals.iterdir()] == [one.owner]
        await silence()
        await one.membership.beat()
        requests[-1] = 0
        await one.membership.recover()

    assert requests[0] == requests[1] > 0


async def test_what_cannot_be_unsealed_to_follow_its_record_stays_for_one_who_can(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    present: Present,
    journals: Path,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    await seed_sealed()
    dying = await join()
    stranger = await join(ring=KeyRing({"k2": b"2" * 32}), keep_seconds=0)
    (lease,) = await claim(dying)
    await dying.journal.write(sealed_answer(lease, "r1", by=dying))
    await registry.operate("one", Operation.PAUSE)
    await dying.die()

    for _ in range(3):
        await _recover(stranger)
    assert await present() == {stranger.owner, dying.owner}  # so that nobody presents the token too soon
    assert (journals / dying.owner).exists()
    await stranger.die()
    await _recover(await join())

    assert keys.open(await _find(registry)) == TokenPair("access-r1", "r1")


async def test_a_record_that_the_store_cannot_read_holds_up_no_other_and_its_answer_stays(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    present: Present,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    await seed_sealed("one")
    await seed_sealed("two")
    dying = await join()
    leases = await claim(dying)
    for lease in leases:
        await dying.journal.write(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    packed = await redis.getset(f"{prefix}grant:one", "what no release has written")

    with capture_logs() as logs:
        other = await join(keep_seconds=0)
        await _recover(other)

    assert (await _find(registry, "two")).version == 1
    assert await present() == {other.owner, dying.owner}  # so that nobody presents the token too soon
    assert {log["grant"] for log in logs if log["log_level"] == "error"} == {"one"}
    await redis.set(f"{prefix}grant:one", packed)

    async def is_taken() -> bool:
        await _recover(other)
        return await present() == {other.owner}

    await until(is_taken)
    assert keys.open(await _find(registry, "one")) == TokenPair("access-r1", "r1")


async def test_a_lease_whose_record_the_store_cannot_read_keeps_its_holder_from_nothing(
    join: Join,
    sandbox: Sandbox,
    delayed_replies: tuple[str, asyncio.Event],
    configure: Configure,
    enroll: Enroll,
    redis: Any,
    prefix: str,
    silence: Step,
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url)
    one = await join(clients, timeout_seconds=2 * PATIENCE_SECONDS, lease_ms=600_000)
    (grant,) = await enroll(sandbox, clients)
    draining = asyncio.create_task(one.refresher.drain("", NEVER))
    await until(lambda: _has_rotated(sandbox, grant))
    packed = await redis.getset(f"{prefix}grant:{grant.id}", "what no release has written")
    await silence()

    assert await _recover(one)

    let_pass.set()
    assert await draining == 1
    await redis.set(f"{prefix}grant:{grant.id}", packed)


async def test_journals_are_taken_over_where_the_disk_has_no_room_for_answers_too(
    open_member: OpenMember,
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    journals: Path,
    registry: RedisRegistry,
) -> None:
    """A full disk may kill processes too: the living ones must give back the answers of the dead."""
    await seed_sealed()
    dying, one = await join(), await open_member([])
    (lease,) = await claim(dying)
    await dying.journal.write(sealed_answer(lease, "r1", by=dying))
    await dying.die()
    (journals / one.owner).write_text("in the place of its journal")

    await _recover(one)

    assert (await _find(registry)).version == 1


# The disk


async def test_nothing_is_claimed_while_the_disk_has_no_room_and_everybody_can_see_why(
    open_member: OpenMember,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    journals: Path,
    redis: Any,
    prefix: str,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients)
    one = await open_member(clients)
    journals.write_text("in the place of the journals")
    with capture_logs() as logs:
        for _ in range(3):
            await _recover(one)

    troubles = await redis.hgetall(f"{prefix}troubles")
    assert list(troubles) == [one.owner.encode()]
    assert troubles[one.owner.encode()].startswith(f"journal: {journals}".encode())
    assert await one.refresher.drain("", NEVER) == 0
    assert list(sandbox.log(grant.id)) == []
    assert [log["event"] for log in logs].count("claims.stopped") == 1
    journals.unlink()
    for _ in range(2):
        await _recover(one)

    assert await redis.exists(f"{prefix}troubles") == 0
    assert await one.refresher.drain("", NEVER) == 1


# What the store promises


@pytest.fixture
def examined(join: Join) -> Callable[..., Awaitable[tuple[Member, list[str]]]]:
    """A process that examines the store: what it finds against it, and how often it looked."""

    async def build(found: dict[str, str], **options: Any) -> tuple[Member, list[str]]:
        looks = []

        async def examine() -> str:
            looks.append(found["against it"])
            return looks[-1]

        return await join(examine=examine, **options), looks

    return build


async def test_nothing_is_claimed_of_a_store_that_is_refused_and_everybody_can_see_why(
    examined: Callable[..., Awaitable[tuple[Member, list[str]]]],
    claim: Claim,
    seed_sealed: Seed,
    let_the_least_pass: Step,
    redis: Any,
    prefix: str,
) -> None:
    await seed_sealed()
    found = {"against it": "it evicts"}
    with capture_logs() as logs:
        one, looks = await examined(found)
        await let_the_least_pass()
        await redis.hset(f"{prefix}epoch", "ends_at", "1")  # the longest that it recovers is over
        for _ in range(2):
            await _recover(one)
        assert await claim(one) == []
        await one.membership.beat()
        assert await redis.hgetall(f"{prefix}troubles") == {one.owner.encode(): b"it evicts"}

        found["against it"] = ""
        for _ in range(2):
            await _recover(one)

    assert looks == ["it evicts"] * 3 + [""]
    assert len(await claim(one)) == 1
    await one.membership.beat()
    assert await redis.exists(f"{prefix}troubles") == 0
    told = [(log["event"], log["log_level"]) for log in logs if log["event"].startswith("claims")]
    assert told == [("claims.stopped", "error"), ("claims.resumed", "info")]


async def test_the_store_is_examined_once_in_each_epoch(
    examined: Callable[..., Awaitable[tuple[Member, list[str]]]], restart: Step, silence: Step
) -> None:
    one, looks = await examined({"against it": ""})
    for number, begin in enumerate((restart, silence), 2):
        await begin()
        for _ in range(3):
            await _recover(one)
        assert len(looks) == number


async def test_a_process_leaves_though_a_look_at_the_store_loses_its_cancellation(
    open_member: OpenMember, present: Present
) -> None:
    looking = asyncio.Event()

    async def examine() -> str:
        if not looking.is_set():
            looking.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return ""

    one = await open_member([], examine=examine)
    async with asyncio.timeout(PATIENCE_SECONDS), one.membership.kept():
        await looking.wait()
        assert one.owner in await present()

    assert one.owner not in await present()


async def test_a_store_that_is_refused_is_given_back_what_it_forgot_and_once_only(
    examined: Callable[..., Awaitable[tuple[Member, list[str]]]],
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    behind_gate: Redis,
    gate: Gate,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    found = {"against it": ""}
    one, _ = await examined(found, connection=behind_gate)
    go_back = await remember()
    (lease,) = await claim(one)
    await one.answers.keep(sealed_answer(lease, "r1", by=one))
    await go_back()
    found["against it"] = "it evicts"

    await _recover(one)

    assert (await _find(registry)).version == 1
    asked: list[bytes] = []

    async def note(request: bytes) -> None:
        asked.append(request)

    gate.watch = note
    assert not await one.membership.recover()
    assert asked == []


async def test_the_room_for_what_is_in_flight_stays_reserved(
    join: Join,
    claim: Claim,
    sandbox: Sandbox,
    delayed_replies: tuple[str, asyncio.Event],
    configure: Configure,
    enroll: Enroll,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    journals: Path,
) -> None:
    """More of it than a segment has by itself; the segment is left for a new one meanwhile."""
    url, let_pass = delayed_replies
    clients = configure(url)
    seconds = [0.0]
    count = SEGMENT_BYTES // ANSWER_BYTES + 20
    one = await join(
        clients,
        in_flight=2 * count,
        timeout_seconds=2 * PATIENCE_SECONDS,
        lease_ms=600_000,
        now=lambda: seconds[0],
    )
    await seed_sealed("early")
    (lease,) = await claim(one)
    await enroll(sandbox, clients, count)
    draining = asyncio.create_task(one.refresher.drain("", NEVER))

    async def are_held() -> bool:
        return len(one.refresher.held()) == count

    await until(are_held)
    await _recover(one)
    await one.answers.keep(sealed_answer(lease, "r1", by=one))
    seconds[0] = 500  # more than half of the retention: a new segment is due
    before = set((journals / one.owner).glob("*.segment"))

    await _recover(one)

    (new,) = set((journals / one.owner).glob("*.segment")) - before
    assert new.stat().st_size > count * ANSWER_BYTES
    let_pass.set()
    assert await draining == count


# Being present


async def test_a_process_is_present_as_long_as_it_is_kept_and_no_longer(
    open_member: OpenMember, present: Present, claim: Claim, seed_sealed: Seed
) -> None:
    await seed_sealed()
    one = await open_member([])

    async with one.membership.kept():
        await until(lambda: _claims(claim, one))
        assert await present() == {one.owner}

    assert await present() == set()


async def test_a_process_that_leaves_gives_what_waits_a_last_chance(
    open_member: OpenMember,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    present: Present,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    one = await open_member([], connection=behind_gate)
    await _recover(one)
    (lease,) = await claim(one)
    async with redis_away():
        await one.answers.keep(sealed_answer(lease, "r1", by=one))

    async with one.membership.kept():
        pass

    assert (await _find(registry)).version == 1
    assert await present() == set()


async def test_a_process_that_cannot_give_back_what_waits_is_not_said_to_be_gone(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    present: Present,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    one, other = await join(connection=behind_gate), await join()
    (lease,) = await claim(one)
    async with redis_away():
        await one.answers.keep(sealed_answer(lease, "r1", by=one))
        with capture_logs() as logs:
            async with one.membership.kept():
                pass
    assert {"event": "answers.left_in_journal", "answers": 1, "log_level": "warning"} in logs
    assert one.owner in await present()
    await one.die()

    await _recover(other)

    assert (await _find(registry)).version == 1
    assert await present() == {other.owner}


async def test_a_process_that_leaves_a_store_that_forgot_gives_back_what_it_knows_first(
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    remember: Remember,
    present: Present,
    registry: RedisRegistry,
) -> None:
    """Nobody waits for it afterwards, and its journal may be on another machine than theirs."""
    await seed_sealed()
    one = await join()
    go_back = await remember()
    (lease,) = await claim(one)
    await one.answers.keep(sealed_answer(lease, "r1", by=one))
    await go_back()

    async with one.membership.kept():
        pass

    assert await present() == set()
    assert (await _find(registry)).version == 1


async def test_the_beat_goes_on_while_a_journal_takes_long_to_read(
    open_member: OpenMember,
    join: Join,
    claim: Claim,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    journals: Path,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
) -> None:
    await seed_sealed()
    dying, one = await join(), await open_member([])
    (lease,) = await claim(dying)
    await dying.journal.write(sealed_answer(lease, "r1", by=dying))
    await dying.die()

    async with one.membership.kept():
        with _unreadable(journals / dying.owner / "00000009.segment"):
            await _beat(redis, prefix, one)
            assert (await _find(registry)).version == 0
            assert not await redis.sismember(f"{prefix}recovered", one.owner)

        async def has_given_back() -> bool:
            return (await _find(registry)).version == 1

        await until(has_given_back)


async def _beat(redis: Any, prefix: str, member: Member) -> None:
    """Wait until a process has sent three heartbeats."""
    beats: set[float] = set()

    async def has_beaten() -> bool:
        beats.update({await redis.zscore(f"{prefix}processes", member.owner)} - {None})
        return len(beats) >= 3

    await until(has_beaten)


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """A pipe among a journal's segments: reading it blocks until the block ends."""
    os.mkfifo(path)
    at_last = threading.Timer(PATIENCE_SECONDS, _let_go, (path,))  # should the loop itself wait
    at_last.start()
    try:
        yield
    finally:
        at_last.cancel()
        _let_go(path)


def _let_go(path: Path) -> None:
    with suppress(FileNotFoundError):
        end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        path.unlink()
        os.close(end)


async def test_a_process_that_begins_while_the_store_is_away_is_present_when_it_is_back(
    open_member: OpenMember,
    claim: Claim,
    behind_gate: Redis,
    gate: Gate,
    seed_sealed: Seed,
    redis: Any,
    prefix: str,
) -> None:
    await seed_sealed()
    one = await open_member([], connection=behind_gate)
    await gate.shut()

    with capture_logs() as logs:

        async def has_missed_it() -> bool:
            return bool(_of_the_store(logs))

        async with one.membership.kept():
            await until(has_missed_it)
            await gate.open()
            await until(lambda: _claims(claim, one))
            await _beat(redis, prefix, one)

    assert _of_the_store(logs) == ["store.away", "store.back"]


def _of_the_store(logs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [log["event"] for log in logs if log["event"].startswith("store.")]


async def test_a_step_that_breaks_off_is_taken_again_until_it_succeeds(
    join: Join,
    claim: Claim,
    behind_gate: Redis,
    redis_away: Away,
    seed_sealed: Seed,
    sealed_answer: SealedAnswer,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
) -> None:
    """Here at a record with an unknown status."""
    await seed_sealed()
    one = await join(connection=behind_gate)
    (lease,) = await claim(one)
    async with redis_away():
        await one.answers.keep(sealed_answer(lease, "r1", by=one))
    key = f"{prefix}grant:one"
    await redis.set(key, (await redis.get(key)).replace(b"active", b"absurd"))

    with capture_logs() as logs:

        async def has_broken_off() -> bool:
            return "membership.step_failed" in [log["event"] for log in logs]

        async def is_stored() -> bool:
            return (await _find(registry)).version == 1

        async with one.membership.kept():
            await until(has_broken_off)
            await redis.set(key, (await redis.get(key)).replace(b"absurd", b"active"))
            await until(is_stored)


async def test_a_new_epoch_starts_a_recovery_step_at_once(
    open_member: OpenMember,
    claim: Claim,
    seed_sealed: Seed,
    silence: Step,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.recovery.membership.HEARTBEAT_SECONDS", 10 * PATIENCE_SECONDS)
    one = await open_member([])
    async with one.membership.kept():
        await seed_sealed("one")
        await until(lambda: _claims(claim, one))
        await silence()
        await seed_sealed("two")

        await one.membership.beat()

        await until(lambda: _claims(claim, one))


async def test_a_process_that_was_just_opened_may_claim_after_its_first_look(
    open_member: OpenMember, claim: Claim, seed_sealed: Seed
) -> None:
    await seed_sealed()
    one = await open_member([])

    assert await one.membership.recover()

    assert len(await claim(one)) == 1


def _fails(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))
