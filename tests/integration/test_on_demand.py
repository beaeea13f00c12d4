"""Tokens on demand: a refresh in a process like any other, on the real store."""

import asyncio
import hashlib
import re
from typing import Any

import pytest

from tests.support.callables import Configure, Enroll, OnGrant, OpenMember
from tests.support.gate import Gate
from tests.support.member import Member
from tests.support.waiting import PATIENCE_SECONDS, until
from worker.adapters.journal.format import read_file
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.sources import source
from worker.cli.session import AnswerLeftError, heartbeat_kept
from worker.core.grant import Status
from worker.core.ports import Commit, JournalError, Lease, StoreUnavailableError
from worker.core.registry import StoredGrant
from worker.fleet import tokens
from worker.fleet.tokens import TokenError, TokenFailure
from worker.refresher import Effort
from worker.runtime.assembly import Runtime
from worker.sandbox.client import Sandbox

SILENCE_MS = 3_001


@pytest.fixture
def clients(configure: Configure, sandbox: Sandbox) -> Any:
    return configure(sandbox.token_url)


async def _recover(member: Member) -> None:
    await member.membership.beat()
    await member.membership.recover()


async def _refresh_by_command(runtime: Runtime, grant_id: str) -> StoredGrant:
    """What `evergrant grants refresh` does."""
    await runtime.tokens.check(grant_id)
    async with heartbeat_kept(runtime, grant_id):
        return await runtime.tokens.refresh(grant_id)


async def test_it_waits_while_the_store_recovers(
    runtime: Runtime,
    clients: Any,
    sandbox: Sandbox,
    enroll: Enroll,
    open_member: OpenMember,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    worker = await open_member(clients)
    await _recover(worker)
    await redis.hincrby(f"{prefix}epoch", "heartbeat_at", -SILENCE_MS)

    refreshing = asyncio.create_task(_refresh_by_command(runtime, grant.id))
    await until(lambda: redis.scard(f"{prefix}recovered"))  # the command has; the worker has not
    done, _ = await asyncio.wait({refreshing}, timeout=0.3)
    assert not done
    assert list(sandbox.log(grant.id)) == []
    await _recover(worker)
    refreshed = await refreshing

    assert refreshed == await registry.find(grant.id)
    assert refreshed.grant.version == 1
    assert len(list(sandbox.log(grant.id))) == 1


async def test_it_waits_for_another_process_and_returns_what_that_one_got(
    runtime: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, open_member: OpenMember
) -> None:
    (grant,) = await enroll(sandbox, clients)
    worker = await open_member(clients)
    await _recover(worker)
    lease = await worker.store.lease(grant.id)
    assert isinstance(lease, Lease)

    refreshing = asyncio.create_task(_refresh_by_command(runtime, grant.id))
    done, _ = await asyncio.wait({refreshing}, timeout=0.3)
    assert not done
    await worker.refresher.refresh_one(lease)

    assert (await refreshing).grant.version == 1
    assert len(list(sandbox.log(grant.id))) == 1


async def test_it_gives_back_a_lease_that_it_gets_just_after_another_was_done(
    runtime: Runtime,
    clients: Any,
    sandbox: Sandbox,
    gate: Gate,
    enroll: Enroll,
    open_member: OpenMember,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    worker = await open_member(clients)
    await _recover(worker)
    others: list[Any] = []
    to_lease = hashlib.sha1(source("lease").encode(), usedforsecurity=False).hexdigest().encode()

    async def refresh_by_the_other(request: bytes) -> None:
        """Just before the command asks for a lease that it can get."""
        if to_lease in request and not others and await redis.scard(f"{prefix}recovered") == 2:
            others.append(await worker.store.lease(grant.id))
            await worker.refresher.refresh_one(others[0])

    gate.watch = refresh_by_the_other
    refreshed = await _refresh_by_command(runtime, grant.id)

    stored = await registry.find(grant.id)
    assert others
    assert stored is not None
    assert stored == refreshed
    assert stored.grant.version == 1
    assert stored.lease_until is None
    assert stored.due_at is not None
    assert stored.grant.access_expires_at is not None
    assert await registry.now() < stored.due_at < stored.grant.access_expires_at
    assert len(list(sandbox.log(grant.id))) == 1


async def test_its_answer_is_on_the_disk_before_the_store_is_asked_and_it_leaves_the_store_afterwards(
    runtime: Runtime, clients: Any, sandbox: Sandbox, gate: Gate, enroll: Enroll, redis: Any, prefix: str
) -> None:
    (grant,) = await enroll(sandbox, clients)
    seen: list[tuple[int, int]] = []

    async def look(_: bytes) -> None:
        stored = await redis.get(f"{prefix}grant:{grant.id}")
        seen.append((len(_on_disk(runtime)), stored != before))

    before = await redis.get(f"{prefix}grant:{grant.id}")
    gate.watch = look
    refreshed = await _refresh_by_command(runtime, grant.id)

    assert refreshed.grant.version == 1
    assert (1, True) in seen
    assert await redis.exists(f"{prefix}processes") == 0


async def test_it_may_be_cancelled_again_and_again_and_ends_only_after_its_answer_is_stored(
    runtime: Runtime,
    clients: Any,
    configure: Configure,
    sandbox: Sandbox,
    delayed_replies: tuple[str, asyncio.Event],
    enroll: Enroll,
    registry: RedisRegistry,
) -> None:
    url, let_pass = delayed_replies
    configure(url)
    runtime.clients.reread("acme")
    (grant,) = await enroll(sandbox, clients)
    refreshing = asyncio.create_task(_refresh_by_command(runtime, grant.id))
    await until(lambda: asyncio.to_thread(lambda: list(sandbox.log(grant.id))))
    for _ in range(5):
        refreshing.cancel()
        await asyncio.wait({refreshing}, timeout=0.02)
    assert not refreshing.done()
    let_pass.set()
    with pytest.raises(asyncio.CancelledError):
        await refreshing

    stored = await registry.find(grant.id)
    assert stored is not None
    assert stored.grant.version == 1
    assert stored.lease_until is None


async def test_nothing_is_leased_once_the_disk_has_no_room_for_the_answer(
    runtime: Runtime,
    clients: Any,
    sandbox: Sandbox,
    enroll: Enroll,
    open_member: OpenMember,
    end_lease: OnGrant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    worker = await open_member(clients)
    await _recover(worker)
    await worker.store.lease(grant.id)

    async def refuse(_: int) -> None:
        raise JournalError("journal: full")

    refreshing = asyncio.create_task(_refresh_by_command(runtime, grant.id))
    done, _ = await asyncio.wait({refreshing}, timeout=0.3)
    assert not done
    monkeypatch.setattr(runtime.journal, "reserve", refuse)
    await end_lease(grant.id)
    with pytest.raises(TokenError) as failed:
        await refreshing

    assert (failed.value.code, failed.value.detail) == (TokenFailure.NO_ROOM_ON_DISK, "journal: full")
    assert list(sandbox.log(grant.id)) == []


# Many at once, under one heartbeat


async def test_many_grants_are_refreshed_at_once_and_the_first_to_end_takes_the_heartbeat_from_none(
    runtime: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, redis: Any, prefix: str
) -> None:
    first, *others = await enroll(sandbox, clients, count=3)

    async with runtime.membership.kept():
        assert (await runtime.tokens.refresh(first.id)).grant.version == 1
        refreshed = await asyncio.gather(*(runtime.tokens.refresh(grant.id) for grant in others))
        present = await redis.zcard(f"{prefix}processes")

    assert [stored.grant.version for stored in refreshed] == [1, 1]
    assert present == 1
    assert await redis.exists(f"{prefix}processes") == 0


async def test_refreshes_at_once_each_have_room_on_the_disk(
    runtime: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, monkeypatch: pytest.MonkeyPatch
) -> None:
    grants = await enroll(sandbox, clients, count=3)
    rooms: list[int] = []
    reserve = runtime.journal.reserve

    async def count(answers: int) -> None:
        rooms.append(answers)
        await reserve(answers)

    monkeypatch.setattr(runtime.journal, "reserve", count)
    async with runtime.membership.kept():
        await asyncio.gather(*(runtime.tokens.refresh(grant.id) for grant in grants))

    assert max(rooms) >= 3


async def test_of_two_callers_for_one_grant_both_get_what_one_refresh_brought(
    runtime: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients)

    async with runtime.membership.kept():
        with sandbox.fault("latency", ms=300):
            refreshed = await asyncio.gather(*(runtime.tokens.refresh(grant.id) for _ in range(2)))

    assert [stored.grant.version for stored in refreshed] == [1, 1]
    assert len(list(sandbox.log(grant.id))) == 1


async def test_of_two_callers_for_a_revoked_grant_the_second_does_not_confirm_the_rejection_at_once(
    runtime: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, registry: RedisRegistry
) -> None:
    (grant,) = await enroll(sandbox, clients)
    sandbox.revoke(grant.id)

    async with runtime.membership.kept():
        with sandbox.fault("latency", ms=300):
            failed = await asyncio.gather(
                *(runtime.tokens.refresh(grant.id) for _ in range(2)), return_exceptions=True
            )

    codes = {problem.code for problem in failed if isinstance(problem, TokenError)}
    assert codes == {TokenFailure.PROVIDER_REJECTED, TokenFailure.BEING_CONFIRMED}
    assert len(list(sandbox.log(grant.id))) == 1
    stored = await registry.find(grant.id)
    assert stored is not None
    assert stored.grant.status is Status.FAILING


async def test_a_lease_that_it_gets_just_after_anothers_rejection_is_given_back_until_the_confirming_try(
    runtime: Runtime,
    clients: Any,
    sandbox: Sandbox,
    gate: Gate,
    enroll: Enroll,
    open_member: OpenMember,
    redis: Any,
    prefix: str,
    registry: RedisRegistry,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    sandbox.revoke(grant.id)
    worker = await open_member(clients)
    await _recover(worker)
    others: list[Any] = []
    to_lease = hashlib.sha1(source("lease").encode(), usedforsecurity=False).hexdigest().encode()

    async def refresh_by_the_other(request: bytes) -> None:
        if to_lease in request and not others and await redis.scard(f"{prefix}recovered") == 2:
            others.append(await worker.store.lease(grant.id))
            await worker.refresher.refresh_one(others[0])

    gate.watch = refresh_by_the_other
    with pytest.raises(TokenError) as failed:
        await _refresh_by_command(runtime, grant.id)

    stored = await registry.find(grant.id)
    assert others
    assert stored is not None
    assert failed.value.code is TokenFailure.BEING_CONFIRMED
    assert (stored.grant.status, stored.lease_until) == (Status.FAILING, None)
    assert stored.due_at == failed.value.until
    assert stored.due_at is not None
    assert await registry.now() < stored.due_at
    assert len(list(sandbox.log(grant.id))) == 1


async def test_a_grant_that_is_being_confirmed_is_not_presented_again_by_whoever_asks_next(
    runtime: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, registry: RedisRegistry
) -> None:
    (grant,) = await enroll(sandbox, clients)
    sandbox.revoke(grant.id)
    async with runtime.membership.kept():
        with pytest.raises(TokenError) as rejected:
            await runtime.tokens.refresh(grant.id)
        before = await registry.find(grant.id)
        with pytest.raises(TokenError) as failed:
            await runtime.tokens.refresh(grant.id)

    assert before is not None
    assert rejected.value.code is TokenFailure.PROVIDER_REJECTED
    assert (failed.value.code, failed.value.until) == (TokenFailure.BEING_CONFIRMED, before.due_at)
    assert await registry.find(grant.id) == before
    assert len(list(sandbox.log(grant.id))) == 1


# A store that goes away


async def test_a_read_that_the_store_does_not_answer_fails_as_a_script_would(
    runtime: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, gate: Gate
) -> None:
    (grant,) = await enroll(sandbox, clients)
    await gate.shut()

    for read in (
        runtime.tokens.check(grant.id),
        runtime.fleet_state.client_names(),
        runtime.event_stream.last_id(),
    ):
        with pytest.raises(StoreUnavailableError):
            await read


@pytest.fixture
def shut_at_the_answer(runtime: Runtime, gate: Gate) -> None:
    """Let the store be away from the moment that an answer is on the disk."""
    closing: list[asyncio.Task[None]] = []

    async def shut(_: bytes) -> None:
        if _on_disk(runtime):
            closing.append(asyncio.create_task(gate.shut()))
            await asyncio.Event().wait()

    gate.watch = shut


@pytest.fixture
def presented(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when nothing but an answer can be left to store: what else there was had one try."""
    is_over = asyncio.Event()
    refresh_one = runtime.refresher.refresh_one

    async def refresh(lease: Lease) -> Any:
        try:
            return await refresh_one(lease)
        finally:
            is_over.set()

    monkeypatch.setattr(runtime.refresher, "_effort", Effort(store_patience_seconds=0.0))
    monkeypatch.setattr(runtime.refresher._attribution, "_patience_seconds", 0.0)  # noqa: SLF001 it has a copy
    monkeypatch.setattr(runtime.refresher, "refresh_one", refresh)
    return is_over


@pytest.mark.usefixtures("shut_at_the_answer")
async def test_its_answer_is_offered_until_the_store_is_back_and_only_then_it_leaves(
    runtime: Runtime,
    clients: Any,
    sandbox: Sandbox,
    gate: Gate,
    enroll: Enroll,
    presented: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    registry: RedisRegistry,
    redis: Any,
    prefix: str,
) -> None:
    monkeypatch.setattr(tokens, "OFFERED_SECONDS", PATIENCE_SECONDS)
    (grant,) = await enroll(sandbox, clients)

    refreshing = asyncio.create_task(_refresh_by_command(runtime, grant.id))
    await presented.wait()
    done, _ = await asyncio.wait({refreshing}, timeout=0.5)
    assert not done
    assert runtime.answers.waiting == 1
    gate.watch = None
    await gate.open()
    with pytest.raises(StoreUnavailableError):  # what else was to be said to it could not be
        await refreshing

    stored = await registry.find(grant.id)
    assert stored is not None
    assert stored.grant.version == 1
    assert await redis.exists(f"{prefix}processes") == 0


@pytest.mark.usefixtures("shut_at_the_answer")
@pytest.mark.parametrize("interrupted", [False, True], ids=["its-time-is-up", "interrupted"])
async def test_where_the_store_stays_away_it_says_in_which_directory_its_answer_is(
    runtime: Runtime,
    clients: Any,
    sandbox: Sandbox,
    enroll: Enroll,
    presented: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    *,
    interrupted: bool,
) -> None:
    monkeypatch.setattr(tokens, "OFFERED_SECONDS", PATIENCE_SECONDS if interrupted else 0.0)
    (grant,) = await enroll(sandbox, clients)

    refreshing = asyncio.create_task(_refresh_by_command(runtime, grant.id))
    await presented.wait()
    assert runtime.answers.waiting == 1
    while interrupted and not refreshing.done():
        refreshing.cancel()
        await asyncio.wait({refreshing}, timeout=0.02)
    with pytest.raises(AnswerLeftError, match=re.escape(f"on disk in {runtime.deployment.journals}:")):
        await refreshing

    assert len(_on_disk(runtime)) == 1


@pytest.mark.usefixtures("presented")
async def test_an_answer_that_neither_disk_nor_store_took_is_not_said_to_be_on_disk(
    runtime: Runtime,
    clients: Any,
    sandbox: Sandbox,
    gate: Gate,
    enroll: Enroll,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(_: Commit) -> None:
        await gate.shut()
        raise JournalError("full")

    monkeypatch.setattr(runtime.journal, "write", refuse)
    monkeypatch.setattr(tokens, "OFFERED_SECONDS", 0.0)
    (grant,) = await enroll(sandbox, clients)

    with pytest.raises(AnswerLeftError, match="they are lost with this command"):
        await _refresh_by_command(runtime, grant.id)


def _on_disk(runtime: Runtime) -> list[Commit]:
    files = runtime.deployment.journals.glob("*/*.segment")
    return [commit for file in files for commit in read_file(file).commits]
