"""A store, processes of ours and authorization servers for these tests, in one namespace a test.

At the end of each test `redis` checks the store's invariants.
"""

import asyncio
import json
import time
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Never

import msgpack
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from config import load_settings
from tests.support import attempts
from tests.support.callables import (
    Answer,
    Away,
    ClaimOne,
    Configure,
    DueOf,
    Enroll,
    Failure,
    LetProbeBeDue,
    LoseReplies,
    OnGrant,
    OpenMember,
    OpenRefresher,
    OpenStore,
    Prove,
    RecordOf,
    Remember,
    SealedAnswer,
    Seed,
    SeedSealed,
    Told,
    Under,
)
from tests.support.gate import Gate
from tests.support.held_replies import HeldReplies
from tests.support.keyspace import assert_in_key_table
from tests.support.member import Member, NoClients
from tests.support.servers import SECRET, lent
from tests.support.store import assert_sound
from worker.adapters.clock import RedisClock
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal
from worker.adapters.log_observer import LogObserver
from worker.adapters.sealing import KeyRing
from worker.adapters.store import record
from worker.adapters.store.event_stream import RedisEventStream
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.sign_ins import RedisSignIns
from worker.adapters.store.webhooks import RedisWebhooks
from worker.adapters.token_endpoint import HttpTokenEndpoint
from worker.core import lifecycle
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.interchange import read_line
from worker.core.outcomes import Outcome, Refreshed
from worker.core.policy import Rules
from worker.core.ports import Clients, Commit, Committed, Lease
from worker.core.providers import OAUTH2, Client
from worker.core.registry import ImportVerdict
from worker.refresher import Effort, Refresher
from worker.runtime.assembly import Ports, Runtime, assemble, open_runtime
from worker.runtime.clients import ConfiguredClients
from worker.runtime.deployment import deploy
from worker.sandbox.client import Sandbox

JOURNAL_SECONDS = 900.0
RULES = Rules()


# The store


@pytest.fixture
def prefix() -> str:
    """What this test's keys begin with; no other test has it."""
    return f"{{{uuid.uuid4().hex}}}:"


@pytest.fixture
async def redis(valkey_socket: Path, prefix: str) -> AsyncIterator[Redis]:
    """A connection to the real server; what must hold in it is checked when the test is over."""
    async with Redis.from_url(f"unix://{valkey_socket}") as connection:
        yield connection
        await assert_sound(connection, prefix)
        await assert_in_key_table(connection, prefix)


@pytest.fixture
def scripts(redis: Redis, prefix: str) -> Scripts:
    return Scripts(redis, prefix)


@pytest.fixture
def registry(redis: Redis, scripts: Scripts, prefix: str) -> RedisRegistry:
    return RedisRegistry(redis, scripts, prefix)


@pytest.fixture
def fleet_state(redis: Redis, prefix: str) -> RedisFleetState:
    return RedisFleetState(redis, prefix)


@pytest.fixture
def replies(redis: Redis, scripts: Scripts, prefix: str) -> RedisReplies:
    return RedisReplies(redis, scripts, prefix, source="evergrant/test", events_kept=10_000)


@pytest.fixture
def webhook_store(redis: Redis, scripts: Scripts, prefix: str) -> RedisWebhooks:
    return RedisWebhooks(
        redis, scripts, prefix, source="evergrant/test", events_kept=10_000, audit_kept=10_000
    )


@pytest.fixture
def event_stream(redis: Redis, prefix: str) -> RedisEventStream:
    return RedisEventStream(redis, prefix)


@pytest.fixture
def clock() -> RedisClock:
    return RedisClock()


@pytest.fixture
def open_store(scripts: Scripts, clock: RedisClock) -> OpenStore:
    """The store of a process that may claim; leases last as long as the test wants."""

    async def build(*, lease_ms: int = 60_000, owner: str = "this") -> RedisStore:
        limits = StoreLimits(
            lease_ms,
            events_kept=10_000,
            first_probe_ms=60_000,
            longest_probe_ms=200_000,
            first_endpoint_probe_ms=10_000,
            longest_endpoint_probe_ms=35_000,
        )
        store = RedisStore(scripts, clock, limits, source="evergrant/test", owner=owner, is_worker=True)
        await store.finish_recovery(await store.heartbeat(""))
        return store

    return build


@pytest.fixture
async def store(open_store: OpenStore) -> RedisStore:
    return await open_store()


# What stands in the store, and what it told


@pytest.fixture
def client() -> Client:
    return Client("acme", OAUTH2, "http://127.0.0.1:9/token", "id", (ClientSecretPost(SECRET),))


@pytest.fixture
def under() -> Under:
    """The lease of a grant that need not exist, as a probe or not."""

    def make(grant_id: str, *, client_probe: bool = False, endpoint_probe: bool = False) -> Lease:
        grant = Grant(grant_id, "acme", Status.ACTIVE, 0, b"", b"", 0, None, 0, None, None)
        return Lease(grant, fence=0, until=0, client_probe=client_probe, endpoint_probe=endpoint_probe)

    return make


@pytest.fixture
def prove(redis: Redis, prefix: str) -> Prove:
    """Let a client's registration have refreshed a grant: until then, one at a time is tried."""

    async def note(client: Client) -> None:
        await redis.hset(f"{prefix}client:{client.name}", "proved", client.registration)

    return note


@pytest.fixture
def seed(registry: RedisRegistry, client: Client, prove: Prove) -> Seed:
    """Put a grant into the store, due a second ago unless the test says otherwise."""

    async def put(
        grant_id: str = "one",
        *,
        holds: str | None = "r0",
        due_in_ms: int | None = -1_000,
        **changes: Any,
    ) -> Grant:
        now = await registry.now()
        issued_at = now - 3_000_000
        grant = Grant(
            id=grant_id,
            client="acme",
            status=Status.ACTIVE,
            version=0,
            lineage=lineage_of(grant_id, holds),
            sealed=b"sealed at first",
            issued_at=issued_at,
            access_expires_at=now + 600_000,
            refresh_issued_at=issued_at,
            refresh_expires_at=None,
            authorized_at=None,
        )
        grant = replace(grant, **changes)
        due_at = None if due_in_ms is None else now + due_in_ms
        await prove(replace(client, name=changes.get("client", "acme")))
        result = await registry.import_grant(lifecycle.Change(grant, due_at, None, None), replaces=None)
        assert result.verdict is ImportVerdict.STORED
        return grant

    return put


@pytest.fixture
def record_of(redis: Redis, prefix: str) -> RecordOf:
    """A stored record, field by field."""

    async def read(grant_id: str) -> dict[str, Any]:
        packed = await redis.get(f"{prefix}grant:{grant_id}")
        return dict(zip(record.FIELDS, msgpack.unpackb(packed, raw=True), strict=True))

    return read


@pytest.fixture
def due_of(redis: Redis, prefix: str) -> DueOf:
    """When a grant is due, as its client's schedule says."""

    async def read(grant_id: str, client_name: str = "acme") -> float | None:
        score: float | None = await redis.zscore(f"{prefix}schedule:{client_name}", grant_id)
        return score

    return read


@pytest.fixture
def end_lease(redis: Redis, prefix: str) -> OnGrant:
    """Let a lease run out, as time would."""

    async def end(grant_id: str, client_name: str = "acme") -> None:
        key = f"{prefix}grant:{grant_id}"
        values = msgpack.unpackb(await redis.get(key), raw=True)
        values[record.FIELDS.index("LEASE_UNTIL")] = 1
        await redis.set(key, msgpack.packb(values, use_bin_type=False))
        await redis.zadd(f"{prefix}schedule:{client_name}", {grant_id: 1}, xx=True)
        await redis.zadd(f"{prefix}agenda", {client_name: 1})

    return end


@pytest.fixture
def epoch_number(store: RedisStore, redis: Any, prefix: str) -> Callable[[], Awaitable[int]]:  # noqa: ARG001
    """The store's epoch, in which this process has finished its recovery."""

    async def read() -> int:
        return int(await redis.hget(f"{prefix}epoch", "number"))

    return read


@pytest.fixture
def make_due(redis: Redis, prefix: str) -> OnGrant:
    """Bring a grant's due time forward to now, as waiting would."""

    async def bring(grant_id: str, client_name: str = "acme") -> None:
        await redis.zadd(f"{prefix}schedule:{client_name}", {grant_id: 1}, xx=True)
        await redis.zadd(f"{prefix}agenda", {client_name: 1})

    return bring


@pytest.fixture
def let_the_client_probe_be_due(redis: Redis, prefix: str) -> LetProbeBeDue:
    """Let a rejected client's probe be due now, as waiting would."""

    async def bring(client_name: str = "acme") -> None:
        await redis.hset(f"{prefix}client:{client_name}", "probe_at", "1")
        await redis.zadd(f"{prefix}agenda", {client_name: 1})

    return bring


@pytest.fixture
def let_the_endpoint_probe_be_due(redis: Redis, prefix: str, client: Client) -> LetProbeBeDue:
    """Let an unavailable endpoint's probe be due now, as waiting would."""

    async def bring(token_url: str = client.token_url) -> None:
        await redis.hset(f"{prefix}endpoint:{token_url}", "probe_at", "1")
        agenda: dict[Any, Any] = dict.fromkeys(await redis.zrange(f"{prefix}agenda", 0, -1), 1)
        if agenda:
            await redis.zadd(f"{prefix}agenda", agenda)

    return bring


@pytest.fixture
def throttled_until_of(redis: Any, prefix: str) -> Callable[..., Awaitable[int]]:
    """Until when the client is throttled."""

    async def read(client_name: str = "acme") -> int:
        return int(await redis.hget(f"{prefix}client:{client_name}", "throttled_until") or 0)

    return read


@pytest.fixture
def told(redis: Any, prefix: str) -> Told:
    """Every event so far, oldest first."""

    async def read() -> list[dict[str, Any]]:
        entries = await redis.xrange(f"{prefix}events")
        return [json.loads(fields[b"event"]) for _, fields in entries]

    return read


@pytest.fixture
def answer(client: Client, clock: RedisClock) -> Answer:
    """What a server's tokens make of a leased grant, ready to be stored."""

    def make(lease: Lease, gives: str = "r1", *, used: str = "r0", onto: Committed | None = None) -> Commit:
        return attempts.answer(lease, client, clock.now(), gives, used=used, onto=onto)

    return make


@pytest.fixture
def failure(client: Client, clock: RedisClock) -> Failure:
    """What an outcome without tokens makes of a leased grant, ready to be stored."""

    def make(lease: Lease, outcome: Outcome) -> lifecycle.Change:
        return attempts.failure(lease, client, outcome, clock.now())

    return make


@pytest.fixture
def claim_one(store: RedisStore, client: Client) -> ClaimOne:
    """Lease the one grant that is due."""

    async def run() -> Lease:
        (lease,) = (await store.claim(client, 1, "")).leases
        return lease

    return run


# Authorization servers


@pytest.fixture
def sandbox(oauth2_server: Sandbox) -> Iterator[Sandbox]:
    """A strict server that answers as RFC 6749 says."""
    yield from lent(oauth2_server)


@pytest.fixture
def buddy(buddy_server: Sandbox) -> Iterator[Sandbox]:
    """A strict server that answers every refusal with a bare 401."""
    yield from lent(buddy_server)


@pytest.fixture
def pagerduty(pagerduty_server: Sandbox) -> Iterator[Sandbox]:
    """A server whose grants end a year after consent."""
    yield from lent(pagerduty_server)


# Processes of ours


@pytest.fixture
def keys() -> KeyRing:
    return KeyRing({"k1": bytes(32)})


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write a client's settings where a deployment has them, and read them as a process does.

    The secret stands in a file of the secrets directory, so that a test can replace it.
    """
    secrets_dir = tmp_path / "secrets"
    secrets_dir.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_SECRETS_DIR", str(secrets_dir))

    def write(
        token_url: str = "", name: str = "acme", *, secret: str = SECRET, **settings: str
    ) -> ConfiguredClients:
        if token_url:
            start = f"EVERGRANT_CLIENTS__{name.upper()}__"
            given = {"provider": "oauth2", "client_id": "sandbox-client", "token_url": token_url, **settings}
            for setting, value in given.items():
                monkeypatch.setenv(start + setting.upper(), value)
        (secrets_dir / f"evergrant_clients__{name}__client_secret").write_text(secret)
        return ConfiguredClients(load_settings())

    return write


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    """Where the processes on this machine keep their journals."""
    return tmp_path / "journal"


@pytest.fixture
async def open_member(redis: Redis, prefix: str, keys: KeyRing, journals: Path) -> AsyncIterator[OpenMember]:
    """A process that has not sent a heartbeat yet, with a journal and connections of its own."""
    async with AsyncExitStack() as opened:

        async def build(
            clients: Clients | list[Never],
            *,
            connection: Redis | None = None,
            ring: KeyRing | None = None,
            root: Path = journals,
            keep_seconds: float = JOURNAL_SECONDS,
            now: Callable[[], float] = time.monotonic,
            lease_ms: int = 60_000,
            first_probe_ms: int = 60_000,
            first_endpoint_probe_ms: int = 60_000,
            timeout_seconds: float = 10.0,
            in_flight: int = 20,
            request_ms: int | None = None,
            chance: float = 0.0,
            examine: Callable[[], Awaitable[str]] | None = None,
            paced: bool = False,
        ) -> Member:
            clock = RedisClock()
            limits = StoreLimits(
                lease_ms,
                events_kept=10_000,
                first_probe_ms=first_probe_ms,
                longest_probe_ms=10 * first_probe_ms,
                first_endpoint_probe_ms=first_endpoint_probe_ms,
                longest_endpoint_probe_ms=10 * first_endpoint_probe_ms,
            )
            scripts = Scripts(redis if connection is None else connection, prefix)
            owner = uuid.uuid4().hex
            endpoint = HttpTokenEndpoint(timeout_seconds=timeout_seconds)
            sealer = keys if ring is None else ring
            store = RedisStore(scripts, clock, limits, source="evergrant/test", owner=owner, is_worker=True)
            journal = Journal(root, owner, keep_seconds, now)
            opened.push_async_callback(journal.close)
            directory = JournalDirectory(root, keep_seconds, now)
            opened.callback(directory.close)
            process = assemble(
                Ports(
                    owner=owner,
                    store=store,
                    places=store,
                    registry=RedisRegistry(redis, scripts, prefix),
                    promises=RedisPromises(scripts, clock=clock, audit_kept=10_000, recovery_ms=lease_ms),
                    sign_ins=RedisSignIns(
                        redis,
                        scripts,
                        prefix,
                        clock=clock,
                        recovery_ms=lease_ms,
                        source="evergrant/test",
                        events_kept=10_000,
                        audit_kept=10_000,
                    ),
                    lease_ms=lease_ms,
                    endpoint=await opened.enter_async_context(endpoint),
                    sealer=sealer,
                    journal=journal,
                    directory=directory,
                    clients=NoClients() if isinstance(clients, list) else clients,
                    clock=clock,
                    rules=RULES,
                    chance=lambda: chance,
                    observer=LogObserver(),
                    effort=Effort(
                        in_flight=in_flight,
                        request_ms=int(timeout_seconds * 1000) if request_ms is None else request_ms,
                    ),
                    examine=examine,
                )
            )
            if not paced:
                put_at_full_pace(process.refresher, clients)
            return Member(
                owner,
                store,
                clock,
                journal,
                directory,
                process.answers,
                process.refresher,
                process.membership,
                process.handing_out,
            )

        yield build


def put_at_full_pace(refresher: Refresher, clients: Iterable[Client]) -> None:
    """As if the endpoints of these clients had answered many requests just now."""
    now = asyncio.get_running_loop().time()
    for client in clients:
        pace = refresher._in_flight._slots.pace(client.token_url)  # noqa: SLF001 it takes many requests otherwise
        pace.answered(now, now)
        pace._limit = float(pace._most)  # noqa: SLF001 the same


@pytest.fixture
async def open_refresher(open_member: OpenMember) -> AsyncIterator[OpenRefresher]:
    """The refresher of a process that may claim."""
    async with AsyncExitStack() as opened:

        async def build(clients: ConfiguredClients, **options: Any) -> Refresher:
            member = await open_member(clients, **options)
            await member.membership.beat()
            assert await member.membership.recover()
            await opened.enter_async_context(member.membership.kept())
            return member.refresher

        yield build


@pytest.fixture
async def runtime(
    clients: Any, gate: Gate, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Runtime]:
    """What a command has, behind the gate; the clients in its settings are those of the test."""
    assert clients
    monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{gate.socket}")
    monkeypatch.setenv("EVERGRANT_NAMESPACE", prefix.strip("{}:"))
    monkeypatch.setenv("EVERGRANT_KEYS", "k1:" + b64encode(bytes(32)).decode())
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    deployment = deploy(load_settings(), lambda _: None)
    async with open_runtime(deployment) as opened:
        yield opened


@pytest.fixture
def seed_sealed(seed: Seed, keys: KeyRing) -> SeedSealed:
    """Put a grant into the store whose tokens can be unsealed."""

    async def put(grant_id: str = "one", *, holds: str = "r0", **changes: Any) -> Grant:
        named = Grant(
            grant_id, changes.get("client", "acme"), Status.ACTIVE, 0, b"", b"", 0, None, 0, None, None
        )
        sealed = keys.seal(named, TokenPair("a0", holds))
        return await seed(grant_id, holds=holds, sealed=sealed, **changes)

    return put


@pytest.fixture
def sealed_answer(client: Client, keys: KeyRing) -> SealedAnswer:
    """What a server's tokens make of the grant that a process has leased, as its refresher would have it."""

    def make(lease: Lease, gives: str, *, by: Member) -> Commit:
        base, now = lease.grant, by.clock.now()
        refreshed = Refreshed(f"access-{gives}", gives, 3_600_000, None, None)
        held = keys.open(base)
        sealed = keys.seal_successor(base, lifecycle.pair_after(held, refreshed, client))
        change = lifecycle.succeed(
            base, held, refreshed, client, RULES, sealed=sealed, attempt=lease.fence, sent_at=now, now=now
        )
        return Commit(lease.fence, base.lineage, base.version, base.status, change)

    return make


@pytest.fixture
def remember(redis: Any, prefix: str) -> Remember:
    """Remember all that the store has; what is returned restarts it without all that it learnt since."""

    async def take() -> Callable[[], Awaitable[None]]:
        kept = {key: await redis.dump(key) async for key in redis.scan_iter(match=prefix + "*")}

        async def go_back() -> None:
            new = [key async for key in redis.scan_iter(match=prefix + "*")]
            async with redis.pipeline(transaction=True) as restart:
                restart.delete(*new)
                for key, value in kept.items():
                    if value is not None:  # it ran out
                        restart.restore(key, 0, value)
                restart.hset(f"{prefix}epoch", "run_id", "of another run")
                await restart.execute()

        return go_back

    return take


@pytest.fixture
async def delayed_replies(sandbox: Sandbox) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A proxy of the sandbox that delays replies until the event is set: its token URL, and the event."""
    async with HeldReplies(sandbox.token_url).running() as held:
        yield held.token_url, held.let_pass


@pytest.fixture
def enroll(registry: RedisRegistry, keys: KeyRing, prove: Prove) -> Enroll:
    """Let the server mint grants and import them, old enough to be due unless the test says otherwise."""

    async def bring(
        server: Sandbox,
        clients: ConfiguredClients,
        count: int = 1,
        *,
        name: str = "acme",
        age: float = 0.9,
        changes: dict[str, Any] | None = None,
        access_seconds: int = 600,
        **order: Any,
    ) -> list[Grant]:
        known = {client.name: client for client in clients}
        order |= {"access_seconds": access_seconds, "prefix": uuid.uuid4().hex, "client": name}
        await prove(known[name])
        now = await registry.now()
        grants = []
        for line in server.issue(count, **order):
            issued_at = datetime.fromtimestamp((now - age * 1000 * access_seconds) / 1000, UTC)
            given = line | {"issued_at": issued_at.isoformat()} | (changes or {})
            read = read_line(json.dumps(given), known, now)
            sealed = keys.seal(read.grant, read.pair)
            grant = replace(read.grant, sealed=sealed)
            result = await registry.import_grant(
                lifecycle.admit(grant, known[name], RULES, now), replaces=None
            )
            assert result.verdict is ImportVerdict.STORED
            grants.append(grant)
        return grants

    return bring


@pytest.fixture
async def gate(valkey_socket: Path, prefix: str) -> AsyncIterator[Gate]:
    gate = Gate(valkey_socket.with_name(prefix[1:9]), valkey_socket)
    await gate.open()
    yield gate
    await gate.shut()


@pytest.fixture
async def behind_gate(gate: Gate) -> AsyncIterator[Redis]:
    """A connection that a test can cut; it asks again as often as a worker's does."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.001, cap=0.01), retries=3)
    async with Redis.from_url(f"unix://{gate.socket}", retry=retry) as connection:
        yield connection


@pytest.fixture
def redis_away(gate: Gate) -> Away:
    """For as long as the block lasts, connections behind the gate are cut and none can be made."""

    @asynccontextmanager
    async def away() -> AsyncIterator[None]:
        await gate.shut()
        yield
        await gate.open()

    return away


@pytest.fixture
def lose_replies(gate: Gate) -> LoseReplies:
    """Cut the connection behind the gate in place of its next replies, after Redis has acted."""

    def lose(number: int) -> asyncio.Event:
        gate.losing = number
        return gate.lost

    return lose
