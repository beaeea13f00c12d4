"""A primary and its replica: the write concern is waited for; a write that falls short is offered again.

The replica is paused by SIGSTOP: it then acknowledges nothing, however long a wait is. So no test depends on
how fast anything is: a wait that must fail is short, one that must not is far longer than anything takes.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis as blocking
from redis.asyncio import Redis

from config import SettingsError, load_settings
from tests.support.callables import Answer, RecordOf, Seed, Told
from tests.support.servers import Valkey, directory_for_sockets, free_port, server_version, start_valkey
from tests.support.waiting import eventually, until
from worker.adapters.clock import RedisClock
from worker.adapters.store import signatures
from worker.adapters.store.durability import Level, inspect_durability
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.scripts import BARRIER, Scripts
from worker.adapters.store.signatures import Heartbeat, PauseGrant
from worker.adapters.store.write_concern import ShortfallError, WriteConcern
from worker.core.ports import Commit, StoreUnavailableError, Verdict
from worker.core.providers import Client
from worker.runtime.deployment import deploy
from worker.runtime.store_checks import check_store
from worker.runtime.timing import REDIS_TIMEOUT_SECONDS

BRIEF = WriteConcern(1, wait_ms=50)
PATIENT = WriteConcern(1, wait_ms=20_000)
ON_DISK = WriteConcern(1, fsync=True, wait_ms=20_000)

OpenStore = Callable[..., RedisStore]

has_waitaof = pytest.mark.skipif(server_version() < (7, 2), reason="has no WAITAOF")


@dataclass(frozen=True)
class Pair:
    """A primary and its replica, each on a socket."""

    primary: Path
    replica: Path
    replica_process: subprocess.Popen[bytes]

    @contextmanager
    def paused(self) -> Iterator[Callable[[], None]]:
        """Until the block ends, or what it gives is called, the replica takes nothing in."""
        self.replica_process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.replica_process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        try:
            yield self.resume
        finally:
            self.resume()

    def resume(self) -> None:
        self.replica_process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def start_pair() -> Iterator[Callable[..., Pair]]:
    """Start a primary and a replica that is up to date; they end with this module."""
    with directory_for_sockets() as home:
        servers: list[Valkey] = []

        def start(name: str, options: dict[str, str]) -> Valkey:
            place = home / f"{len(servers)}{name}"
            place.mkdir()
            servers.append(start_valkey(place, **options))
            return servers[-1]

        def pair(primary: dict[str, str] | None = None, replica: dict[str, str] | None = None) -> Pair:
            port = str(free_port())
            source = {"port": port, "bind": "127.0.0.1", "repl_diskless_sync_delay": "0"}
            first = start("p", source | (primary or {}))
            second = start("r", {"replicaof": f"127.0.0.1 {port}"} | (replica or {}))
            with blocking.Redis(unix_socket_path=str(first.socket)) as connection:
                eventually(lambda: _has_a_replica(connection))
            return Pair(first.socket, second.socket, second.process)

        try:
            yield pair
        finally:
            for server in servers:
                server.kill()


@pytest.fixture(scope="module")
def pair(start_pair: Callable[..., Pair]) -> Pair:
    return start_pair()


@pytest.fixture(scope="module")
def valkey_socket(pair: Pair) -> Path:
    """The primary is the server that every fixture of `conftest.py` uses here."""
    return pair.primary


@pytest.fixture
def open_with_concern(redis: Redis, prefix: str, clock: RedisClock) -> OpenStore:
    """A store as a process has it whose writes count only once their write concern is met."""

    def build(write_concern: WriteConcern | None = PATIENT, connection: Redis | None = None) -> RedisStore:
        scripts = Scripts(redis if connection is None else connection, prefix, write_concern)
        limits = StoreLimits(
            lease_ms=60_000,
            events_kept=10_000,
            first_probe_ms=60_000,
            longest_probe_ms=60_000,
            first_endpoint_probe_ms=60_000,
            longest_endpoint_probe_ms=60_000,
        )
        return RedisStore(scripts, clock, limits, source="evergrant/test", owner="this")

    return build


@pytest.fixture
async def leased(open_with_concern: OpenStore, client: Client, seed: Seed, answer: Answer) -> Commit:
    """An answer to a leased grant, on its way into the store."""
    await seed("one")
    store = open_with_concern()
    await store.finish_recovery(await store.heartbeat(""))
    claim = await store.claim(client, 1, "")
    return answer(claim.leases[0])


@pytest.fixture
async def new_connection(pair: Pair) -> AsyncIterator[Redis]:
    """One that has written nothing yet."""
    async with Redis(unix_socket_path=str(pair.primary)) as connection:
        yield connection


# Answers


async def test_an_answer_counts_as_stored_no_sooner_than_the_replica_has_it(
    leased: Commit, open_with_concern: OpenStore, pair: Pair, redis: Redis, record_of: RecordOf, prefix: str
) -> None:
    with pair.paused() as resume:
        committing = asyncio.create_task(open_with_concern().commit(leased))
        await until(lambda: _is_waited_for(redis))
        assert (await record_of("one"))["VERSION"] == 1
        assert not committing.done()
        resume()
        committed = await committing

    assert committed.verdict is Verdict.STORED
    async with Redis(unix_socket_path=str(pair.replica)) as replica:
        assert await replica.get(f"{prefix}grant:one") == await redis.get(f"{prefix}grant:one")


async def test_an_answer_that_too_few_have_is_offered_again_and_stored_once_with_one_event(
    leased: Commit, open_with_concern: OpenStore, pair: Pair, record_of: RecordOf, told: Told
) -> None:
    store = open_with_concern(BRIEF)
    with pair.paused():
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match=r"^0 of 1 replicas have the write$"):
                await store.commit(leased)

    committed = await open_with_concern(PATIENT).commit(leased)

    assert committed.verdict is Verdict.KNOWN
    assert (await record_of("one"))["VERSION"] == 1
    assert [event["type"] for event in await told()] == ["evergrant.grant.refreshed"]


async def test_an_answer_offered_again_over_a_new_connection_is_waited_for_though_nothing_is_written_then(
    leased: Commit, open_with_concern: OpenStore, pair: Pair, new_connection: Redis
) -> None:
    with pair.paused():
        with pytest.raises(ShortfallError):
            await open_with_concern(BRIEF).commit(leased)
        with pytest.raises(ShortfallError):
            await open_with_concern(BRIEF, new_connection).commit(leased)


async def test_with_too_few_replicas_the_error_says_how_many(redis: Redis, prefix: str) -> None:
    scripts = Scripts(redis, prefix, WriteConcern(2, wait_ms=50))

    with pytest.raises(ShortfallError):  # the first wait may be over before the replica has answered
        await scripts.run(PauseGrant("nobody"))
    await redis.wait(1, 20_000)
    with pytest.raises(ShortfallError, match=r"^[01] of 2 replicas have the write$"):
        await scripts.run(PauseGrant("nobody"))


# Leases


async def test_no_lease_is_taken_while_too_few_replicas_are_there(
    open_with_concern: OpenStore, client: Client, seed: Seed, pair: Pair, record_of: RecordOf
) -> None:
    await seed("one")
    store = open_with_concern(BRIEF)
    await store.finish_recovery(await store.heartbeat(""))
    with pair.paused():
        with pytest.raises(ShortfallError):
            await store.claim(client, 1, "")
        with pytest.raises(ShortfallError):
            await store.lease("one")
        assert (await record_of("one"))["FENCE"] == 0

    store = open_with_concern(PATIENT)
    await store.finish_recovery(await store.heartbeat(""))
    assert [lease.grant.id for lease in (await store.claim(client, 1, "")).leases] == ["one"]


async def test_a_lease_that_the_replica_does_not_have_is_in_nobodys_hands_and_only_one_is_taken_so(
    redis: Redis, prefix: str, pair: Pair, seed: Seed, record_of: RecordOf, open_with_concern: OpenStore
) -> None:
    await seed("one")
    await seed("two")
    store = open_with_concern(BRIEF)
    epoch = await store.finish_recovery(await store.heartbeat(""))
    scripts = Scripts(redis, prefix, BRIEF)
    await until(lambda: _is_done(scripts))  # it has met its write_concern once
    with pair.paused():
        for name in ("one", "two"):
            with pytest.raises(ShortfallError):
                await scripts.run(signatures.Lease(name, f"claim-{name}", "this", 60_000, epoch.number))

    assert bool((await record_of("one"))["LEASE_OWNER"])
    assert not (await record_of("two"))["LEASE_OWNER"]


# Groups


async def test_what_is_said_again_soon_waits_for_no_replica(open_with_concern: OpenStore, pair: Pair) -> None:
    store = open_with_concern(PATIENT)
    with pair.paused():
        await store.finish_recovery(await store.heartbeat(""))
        assert (await store.reserve_runners(share=1, place_ms=1_000, candidates=["r"])).due == 0
        await store.release_runner("r")
        await store.leave()  # each of them answers: a wait that is not met ends in an error


async def test_a_heartbeat_does_not_queue_behind_a_write_that_waits(
    redis: Redis, prefix: str, pair: Pair
) -> None:
    scripts = Scripts(redis, prefix, PATIENT)
    with pair.paused() as resume:
        operating = asyncio.create_task(scripts.run(PauseGrant("nobody")))
        await until(lambda: _is_waited_for(redis))
        assert await scripts.run(Heartbeat("this", 60_000, None))
        assert not operating.done()
        resume()
        assert await operating == b"gone"


async def test_of_calls_in_one_group_each_hears_that_too_few_replicas_have_it(
    redis: Redis, prefix: str, pair: Pair
) -> None:
    scripts = Scripts(redis, prefix, BRIEF)
    calls = [scripts.run(PauseGrant(name)) for name in ("a", "b")]
    with pair.paused():
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(answer) for answer in answers] == [ShortfallError] * 2
    assert answers[0] is not answers[1]


async def test_a_call_that_failed_by_itself_says_why_and_not_that_replicas_are_missing(
    redis: Any, prefix: str, pair: Pair
) -> None:
    await redis.rpush(f"{prefix}grant:list", "not a record")
    scripts = Scripts(redis, prefix, BRIEF)
    with pair.paused(), pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        await scripts.run(PauseGrant("list"))
    await redis.delete(f"{prefix}grant:list")


async def test_a_primary_that_lost_its_scripts_is_given_them_and_the_second_try_is_waited_for(
    redis: Redis, prefix: str, pair: Pair, seed: Seed, record_of: RecordOf
) -> None:
    await seed("one")
    await redis.script_flush()
    with pair.paused():
        with pytest.raises(ShortfallError):
            await Scripts(redis, prefix, BRIEF).run(PauseGrant("one"))
        assert (await record_of("one"))["STATUS"] == b"paused"
    await redis.script_flush()

    assert await Scripts(redis, prefix, PATIENT).run(PauseGrant("one")) == b"unchanged"


async def test_without_a_write_concern_nothing_is_waited_for_and_nothing_more_is_written(
    redis: Redis, prefix: str, pair: Pair, seed: Seed
) -> None:
    before = await _waits(redis)
    with pair.paused():
        await seed("one")
        assert await Scripts(redis, prefix).run(PauseGrant("one")) == b"done"

    assert await _waits(redis) == before
    assert not await redis.exists(prefix + BARRIER)


# Servers that cannot


async def test_a_server_that_does_not_let_us_wait_is_a_store_unavailable_with_its_own_words(
    redis: Any, prefix: str, pair: Pair
) -> None:
    await redis.execute_command("ACL", "SETUSER", "managed", "on", ">pw", "~*", "+@all", "-wait")
    async with Redis(unix_socket_path=str(pair.primary), username="managed", password="pw") as managed:
        with pytest.raises(StoreUnavailableError, match="'wait' command"):
            await Scripts(managed, prefix, PATIENT).run(PauseGrant("nobody"))


async def test_a_wait_proves_nothing_where_the_write_that_it_is_for_was_refused(
    redis: Redis, prefix: str
) -> None:
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            await Scripts(redis, prefix, PATIENT).run(PauseGrant("nobody"))
    finally:
        await redis.config_set("maxmemory", "0")


# On disk

ALWAYS = {"appendonly": "yes", "appendfsync": "always"}


@has_waitaof
@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_write_that_must_be_on_disk_is_stored_once_it_is_there_on_both_sides(
    start_pair: Callable[..., Pair], prefix: str, fsync: str
) -> None:
    files = {"appendonly": "yes", "appendfsync": fsync}
    pair = start_pair(files, files)
    async with Redis(unix_socket_path=str(pair.primary)) as redis:
        with pair.paused(), pytest.raises(ShortfallError, match=r"on disk|primary's disk"):
            await Scripts(redis, prefix, WriteConcern(1, fsync=True, wait_ms=50)).run(PauseGrant("nobody"))
        assert await Scripts(redis, prefix, ON_DISK).run(PauseGrant("nobody")) == b"gone"


@has_waitaof
@pytest.mark.parametrize(
    ("primary", "replica", "words"),
    [
        pytest.param({}, ALWAYS, "appendonly is disabled", id="no-file-at-the-primary"),
        pytest.param(ALWAYS, {}, "^0 of 1 replicas have the write on disk$", id="no-file-at-the-replica"),
        pytest.param(
            ALWAYS | {"appendfsync": "no"}, ALWAYS, "^the write is not on the primary's disk$", id="no-fsync"
        ),
    ],
)
async def test_without_a_file_or_without_fsync_no_write_is_on_disk(
    start_pair: Callable[..., Pair],
    prefix: str,
    primary: dict[str, str],
    replica: dict[str, str],
    words: str,
) -> None:
    pair = start_pair(primary, replica)
    async with Redis(unix_socket_path=str(pair.primary)) as redis:
        scripts = Scripts(redis, prefix, WriteConcern(1, fsync=True, wait_ms=50))
        with pytest.raises(StoreUnavailableError, match=words):
            await scripts.run(PauseGrant("nobody"))


def test_a_wait_ends_before_its_connection_is_given_up() -> None:
    for write_concern in (WriteConcern(1), WriteConcern(1, fsync=True)):
        longest_ms = sum(int(command[-1]) for command in write_concern.commands)
        assert 0 < longest_ms < REDIS_TIMEOUT_SECONDS * 1_000


# What is said at start


async def test_a_write_concern_that_the_replicas_meet_is_in_order(redis: Redis) -> None:
    found = await inspect_durability(redis, WriteConcern(1))
    assert (found[-1].level, found[-1].text) == (
        Level.OK,
        "1 replica is connected; a write counts once 1 of them have it",
    )


async def test_too_few_replicas_are_warned_of(redis: Redis) -> None:
    found = await inspect_durability(redis, WriteConcern(2))
    assert found[-1].level is Level.WARNING
    assert "1 replica is connected and EVERGRANT_WAIT_REPLICAS is 2: nothing is claimed" in found[-1].text


async def test_replicas_that_nobody_waits_for_are_warned_of(redis: Redis) -> None:
    found = await inspect_durability(redis)
    assert found[-1].level is Level.WARNING
    assert "none is waited for" in found[-1].text


@has_waitaof
@pytest.mark.parametrize("options", [{}, ALWAYS | {"appendfsync": "no"}])
async def test_a_write_concern_for_the_disk_that_can_never_be_met_is_refused(
    start_pair: Callable[..., Pair], options: dict[str, str]
) -> None:
    async with Redis(unix_socket_path=str(start_pair(options).primary)) as redis:
        found = await inspect_durability(redis, ON_DISK)
    (refused,) = [finding.text for finding in found if finding.level is Level.REFUSED]
    assert "with EVERGRANT_WAIT_FSYNC no answer would count as stored" in refused


@has_waitaof
async def test_a_write_concern_for_the_disk_makes_up_for_a_file_that_is_written_every_second(
    start_pair: Callable[..., Pair],
) -> None:
    primary = start_pair({"appendonly": "yes", "appendfsync": "everysec"}).primary
    async with Redis(unix_socket_path=str(primary)) as redis:
        assert {finding.level for finding in await inspect_durability(redis, ON_DISK)} == {Level.OK}


@pytest.mark.parametrize(
    ("forbidden", "write_concern", "words"),
    [
        (
            "-waitaof",
            WriteConcern(0, fsync=True),
            "no WAITAOF (Redis 7.2 or later)",
        ),
        ("-wait", WriteConcern(1), "no WAIT, which EVERGRANT_WAIT_REPLICAS needs"),
    ],
)
async def test_a_write_concern_whose_wait_the_server_forbids_is_refused(
    redis: Any, pair: Pair, forbidden: str, write_concern: WriteConcern, words: str
) -> None:
    # A command that a server does not have cannot be forbidden: there it is unknown.
    rules = [] if "aof" in forbidden and server_version() < (7, 2) else [forbidden]
    await redis.execute_command("ACL", "SETUSER", "managed", "reset", "on", ">pw", "~*", "+@all", *rules)
    async with Redis(unix_socket_path=str(pair.primary), username="managed", password="pw") as managed:
        found = await inspect_durability(managed, write_concern)
    assert any(words in finding.text for finding in found if finding.level is Level.REFUSED)


@pytest.mark.skipif(server_version() < (7, 0), reason="must be asked for its run id")
async def test_a_server_that_may_not_be_asked_is_warned_of_in_one_line(redis: Any, pair: Pair) -> None:
    await redis.execute_command(
        "ACL", "SETUSER", "managed", "reset", "on", ">pw", "~*", "+@all", "-info", "-config"
    )
    async with Redis(unix_socket_path=str(pair.primary), username="managed", password="pw") as managed:
        (found,) = await inspect_durability(managed)
    assert found.level is Level.WARNING
    assert "INFO is refused, so nothing was checked" in found.text


def test_a_worker_does_not_start_where_its_write_concern_can_never_be_met(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{pair.primary}")
    monkeypatch.setenv("EVERGRANT_KEYS", "k1:" + "A" * 43 + "=")
    monkeypatch.setenv("EVERGRANT_WAIT_FSYNC", "true")
    deployment = deploy(load_settings(), lambda _: None)
    assert deployment.write_concern == WriteConcern(0, fsync=True)
    with pytest.raises(SettingsError, match="the append-only file is off: with EVERGRANT_WAIT_FSYNC"):
        check_store(deployment)


# How these tests wait


def _has_a_replica(primary: blocking.Redis) -> bool:
    try:
        replica = primary.info("replication").get("slave0", {})
    except blocking.ConnectionError:  # it is starting
        return False
    return bool(replica.get("state") == "online")


async def _is_waited_for(redis: Redis) -> bool:
    return bool((await redis.info("clients"))["blocked_clients"])


async def _is_done(scripts: Scripts) -> bool:
    try:
        return bool(await scripts.run(PauseGrant("nobody")))
    except ShortfallError:
        return False


async def _waits(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_wait", {}).get("calls", 0))


async def test_a_primary_that_became_a_replica_is_left_for_the_one_that_its_name_leads_to(
    start_pair: Callable[..., Pair], prefix: str, tmp_path: Path
) -> None:
    pair, name = start_pair(), tmp_path / "name"
    name.symlink_to(pair.primary)
    async with (
        Redis(unix_socket_path=str(name)) as connection,
        Redis(unix_socket_path=str(pair.primary)) as old,
        Redis(unix_socket_path=str(pair.replica)) as new,
    ):
        scripts = Scripts(connection, prefix)
        await scripts.run(PauseGrant("nobody"))
        await new.replicaof("NO", "ONE")
        await old.replicaof("127.0.0.1", "1")
        name.unlink()
        name.symlink_to(pair.replica)

        with pytest.raises(StoreUnavailableError, match="read only"):
            await scripts.run(Heartbeat("this", 60_000, None))

        assert await scripts.run(Heartbeat("this", 60_000, None))
