"""A store that takes no writes: its own trouble, in the words of each server, and never an answer's."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import MovedError
from structlog.testing import capture_logs

from config.settings import variable_of
from tests.support.callables import Configure, Enroll, OpenMember, Prove, Seed, Told
from tests.support.redis_server import (
    NO_RECORDS,
    SERVERS,
    TROUBLES,
    UNDER_LOAD,
    RedisServer,
    running,
    trouble,
)
from tests.support.waiting import PATIENCE_SECONDS, until
from worker.adapters.journal.reading import JournalsOnDisk
from worker.adapters.sealing import KeyRing
from worker.adapters.store.errors import described
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.measures import RedisMeasures
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.signatures import PauseGrant
from worker.core.ports import StoreRefusedError, StoreUnavailableError, WritesRefusedError
from worker.core.providers import Client
from worker.fleet import losses
from worker.fleet.report import Report, report_on
from worker.sandbox.client import Sandbox

IN_FLIGHT = 10
MINUTE_MS = 60_000


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running(request.param) as started:
        yield started


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis(unix_socket_path=str(server.socket)) as connection:
        yield connection


@pytest.fixture
def report(
    registry: RedisRegistry, fleet_state: RedisFleetState, replies: RedisReplies
) -> Callable[[], Awaitable[Report]]:
    """What `evergrant status` says now."""
    return lambda: report_on(
        registry,
        fleet_state,
        replies,
        ["acme"],
        variable_of,
        key_of=KeyRing({"k1": bytes(32)}).key_of,
    )


async def until_equal(look: Callable[[], Any], expected: object) -> None:
    """Wait until what `look` returns, or its awaitable brings, is what is expected."""

    async def holds() -> bool:
        found = look()
        return bool((await found if asyncio.iscoroutine(found) else found) == expected)

    await until(holds)


@pytest.mark.parametrize("words", TROUBLES)
async def test_a_write_that_the_server_refuses_is_named_by_its_code_and_made_once_it_may_be(
    scripts: Scripts, seed: Seed, server: RedisServer, words: str
) -> None:
    await seed("one")
    with trouble(words, server):
        with pytest.raises(WritesRefusedError, match=f"^Redis refuses writes: {words}") as refusal:
            await scripts.run(PauseGrant("one"))
        assert len(str(refusal.value).splitlines()) == 1

    assert await scripts.run(PauseGrant("one")) == b"done"


async def test_a_record_that_cannot_be_read_is_told_from_a_server_that_takes_no_writes(
    scripts: Scripts, seed: Seed, redis: Redis, prefix: str
) -> None:
    await seed("one")
    await redis.set(f"{prefix}grant:no-record", "no record")
    await redis.set(f"{prefix}grant:cut", b"\xdc\x00\x20\xda\xff")
    await redis.rpush(f"{prefix}grant:list", "no record")
    counter = f"{prefix}client:acme", "grants:active"
    active = await redis.hget(*counter)
    await redis.hset(*counter, "no number")
    names = ("no-record", "cut", "list", "one")

    calls = (scripts.run(PauseGrant(name)) for name in names)
    refusals = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(refusal) for refusal in refusals] == [StoreRefusedError] * len(names), refusals
    await redis.hset(*counter, active)
    await redis.delete(*(f"{prefix}grant:{name}" for name in ("no-record", "cut", "list")))


@pytest.mark.parametrize(("share", "is_told"), [(0.8, False), (0.93, True), (None, False)])
async def test_a_server_that_is_nearly_full_is_named_before_it_refuses_writes(
    report: Callable[[], Awaitable[Report]],
    seed: Seed,
    server: RedisServer,
    share: float | None,
    is_told: bool,  # noqa: FBT001 pytest passes it by name
) -> None:
    await seed("one")
    used = (
        server.operator.info("memory")["used_memory"] + 50_000_000
    )  # what one more client takes, is little of it
    server.operator.setrange("filler", 50_000_000, b"0")
    server.operator.config_set("maxmemory", 0 if share is None else int(used / share))

    incidents = (await report()).incidents

    server.operator.config_set("maxmemory", 0)
    server.operator.delete("filler")
    assert [incident.kind for incident in incidents] == ["store_nearly_full"] * is_told
    if is_told:
        assert incidents[0].problem in (
            "Redis has used 93% of its maxmemory",
            "Redis has used 94% of its maxmemory",
        )


# The answers of that time


@pytest.mark.slow
@pytest.mark.parametrize("words", UNDER_LOAD)
async def test_what_is_answered_while_the_server_refuses_writes_is_stored_afterwards_and_no_more_is_sent(
    open_member: OpenMember,
    configure: Configure,
    enroll: Enroll,
    sandbox: Sandbox,
    delayed_replies: tuple[str, asyncio.Event],
    report: Callable[[], Awaitable[Report]],
    registry: RedisRegistry,
    told: Told,
    server: RedisServer,
    words: str,
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url)
    ids = {grant.id for grant in await enroll(sandbox, clients, 3 * IN_FLIGHT)}
    member = await open_member(
        clients, in_flight=IN_FLIGHT, timeout_seconds=PATIENCE_SECONDS, lease_ms=120_000
    )

    async def rotated() -> int:
        known = [await asyncio.to_thread(sandbox.grant, grant_id) for grant_id in ids]
        return sum(grant["rotations"] for grant in known)

    async def drain() -> int:
        return await member.refresher.drain("", lambda: False)

    with capture_logs() as logs:
        async with member.membership.kept():
            await until(member.membership.recover)
            draining = asyncio.create_task(drain())
            await until_equal(rotated, IN_FLIGHT)
            with trouble(words, server):
                await until_equal(lambda: _named(logs), 1)
                let_pass.set()
                await until_equal(lambda: member.answers.waiting, IN_FLIGHT)
                (incident,) = (await report()).incidents
                assert await rotated() == IN_FLIGHT
            with suppress(StoreUnavailableError):
                await draining

            async def is_done() -> bool:
                with suppress(StoreUnavailableError):
                    await drain()
                return {stored.grant.version async for stored in registry.walk()} == {1}

            await until(is_done)

    assert incident.kind == "store_refuses_writes"
    assert re.match(f"Redis refuses writes: {words}", incident.problem)
    assert not incident.problem.endswith("."), "it becomes part of a sentence"
    assert incident.needs_a_person
    assert _named(logs) == 1
    assert await rotated() == len(ids)
    assert [event["type"] for event in await told()] == ["evergrant.grant.refreshed"] * len(ids)
    assert member.answers.waiting == 0


def _named(logs: list[Any]) -> int:
    return sum(log["event"] == "store.refuses_writes" for log in logs)


async def test_an_answer_that_the_store_fails_at_is_shown_until_it_is_taken(
    open_member: OpenMember,
    configure: Configure,
    enroll: Enroll,
    sandbox: Sandbox,
    report: Callable[[], Awaitable[Report]],
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    scripts: Scripts,
    journals: Path,
    redis: Any,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "ON_ITS_WAY_MS", -MINUTE_MS)
    measures = RedisMeasures(redis, scripts, prefix)
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients)
    member = await open_member(clients)
    async with member.membership.kept():
        await until(member.membership.recover)
        await redis.hset(f"{prefix}client:acme", "refreshed", "no number")
        await member.refresher.drain("", lambda: False)
        await until_equal(lambda: member.answers.set_aside, [grant.id])

        await member.membership.beat()
        incidents = (await report()).incidents
        assert [(incident.kind, incident.subject) for incident in incidents] == [("answer_untaken", grant.id)]
        measured = await measures.read({})
        assert (measured.untaken, measured.clients, measured.unread_clients) == (1, [], 1)
        entries = JournalsOnDisk(journals).entries
        assert await losses.find_losses(registry, fleet_state, entries, seconds=None) is None
        await redis.hset(f"{prefix}client:acme", "refreshed", 0)

        async def all_incidents() -> list[Any]:
            return list((await report()).incidents)

        await until_equal(all_incidents, [])
        assert (await measures.read({})).untaken == 0


def test_a_code_that_the_client_library_takes_out_of_an_error_is_shown_all_the_same() -> None:
    assert described(MovedError("4151 127.0.0.1:48275")) == "MOVED 4151 127.0.0.1:48275"


async def test_a_right_that_was_taken_away_makes_no_record_unreadable(
    store: RedisStore,
    seed: Seed,
    client: Client,
    prove: Prove,
    redis: Redis,
    prefix: str,
    server: RedisServer,
) -> None:
    await seed("one")
    await prove(client)
    with trouble(NO_RECORDS, server), pytest.raises(WritesRefusedError):
        await store.claim(client, 1, "")

    assert await redis.smembers(f"{prefix}unreadable") == set()
    assert len((await store.claim(client, 1, "")).leases) == 1


async def test_a_server_without_memory_refuses_the_heartbeat_that_would_begin_an_epoch_too(
    store: RedisStore, redis: Redis, prefix: str, server: RedisServer
) -> None:
    await redis.hset(f"{prefix}epoch", "heartbeat_at", 1)
    before = await redis.hgetall(f"{prefix}epoch")

    with trouble("OOM command not allowed", server), pytest.raises(WritesRefusedError):
        await store.heartbeat("")

    assert await redis.hgetall(f"{prefix}epoch") == before
