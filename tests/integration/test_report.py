"""Why nothing is tried: the report says what is so, and asks for a worker only where none is seen."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from config.settings import variable_of
from tests.support.callables import Configure, Enroll, OpenMember, OpenStore, Seed
from tests.support.waiting import until
from worker.adapters.clock import RedisClock
from worker.adapters.sealing import KeyRing
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.signatures import NoteBeat
from worker.core.grant import Status, TokenPair
from worker.core.lifecycle import Change
from worker.fleet.report import Incident, Report, report_on
from worker.sandbox.client import Sandbox

MINUTE_MS = 60_000
URL = "https://as.test/token"
ASKS_WHETHER_THEY_RUN = "Are a worker and beat running"

Let = Callable[..., Awaitable[None]]
Told = Callable[[], Awaitable[Incident]]
Whole = Callable[[], Awaitable[Report]]


@pytest.fixture
def let_it_say(redis: Any, prefix: str) -> Let:
    """Let the store's record of something say this."""

    async def write(key: str, **fields: Any) -> None:
        await redis.hset(prefix + key, mapping=fields)

    return write


@pytest.fixture
def told(registry: RedisRegistry, fleet_state: RedisFleetState, replies: RedisReplies) -> Told:
    """The one incident about the client."""

    async def read() -> Incident:
        report = await report_on(
            registry,
            fleet_state,
            replies,
            {"acme"},
            variable_of,
            key_of=KeyRing({"k1": bytes(32)}).key_of,
        )
        (incident,) = [each for each in report.incidents if each.subject == "acme"]
        return incident

    return read


@pytest.fixture
async def overdue(seed: Seed) -> None:
    await seed("one", due_in_ms=-2 * MINUTE_MS)


@pytest.fixture
async def living(open_store: OpenStore) -> Any:
    """A worker's heartbeat."""
    return await open_store(owner="worker")


@pytest.fixture
async def beating(scripts: Scripts) -> None:
    """A beat's heartbeat."""
    await scripts.run(NoteBeat("host-1:17", is_gone=False))


@pytest.fixture
def service(scripts: Scripts, clock: RedisClock) -> RedisStore:
    """The store of a process that runs no refresh tasks."""
    limits = StoreLimits(60_000, 10_000, 60_000, 60_000, 10_000, 10_000)
    return RedisStore(scripts, clock, limits, source="evergrant/test", owner="service")


@pytest.fixture
def whole(registry: RedisRegistry, fleet_state: RedisFleetState, replies: RedisReplies) -> Whole:
    """All that the report says."""

    async def read() -> Report:
        keys = KeyRing({"k1": bytes(32)})
        return await report_on(registry, fleet_state, replies, {"acme"}, variable_of, key_of=keys.key_of)

    return read


@pytest.mark.usefixtures("living", "beating")
async def test_each_worker_and_beat_is_listed_with_its_last_heartbeat(
    whole: Whole, redis: Any, prefix: str
) -> None:
    await redis.zadd(f"{prefix}workers", {"host-2:5:abc": await redis.zscore(f"{prefix}beats", "host-1:17")})
    await redis.zincrby(f"{prefix}workers", -20_000, "host-2:5:abc")

    report = await whole()

    assert [(each.role, each.name, each.host, each.is_alive) for each in report.processes] == [
        ("worker", "worker", "worker", True),
        ("worker", "host-2:5:abc", "host-2", False),
        ("beat", "host-1:17", "host-1", True),
    ]
    assert report.incidents == []  # others of each are alive


@pytest.mark.usefixtures("living", "beating")
@pytest.mark.parametrize(("kind", "name"), [("worker", "worker"), ("beat", "host-1:17")])
async def test_workers_that_were_killed_are_an_incident_and_so_is_beat(
    whole: Whole, seed: Seed, redis: Any, prefix: str, kind: str, name: str
) -> None:
    await seed("one", due_in_ms=MINUTE_MS)
    await redis.zincrby(f"{prefix}{kind}s", -MINUTE_MS, name)

    (incident,) = (await whole()).incidents

    assert (incident.kind, incident.subject, incident.needs_a_person) == (f"{kind}_dead", name, True)
    assert incident.problem.startswith(f"no {kind} is alive: nothing was heard of this one since 20")


@pytest.mark.usefixtures("beating")
async def test_the_last_worker_that_was_killed_stays_known_although_its_journal_was_taken_over(
    whole: Whole, seed: Seed, open_store: OpenStore, service: RedisStore
) -> None:
    await seed("one", due_in_ms=MINUTE_MS)
    for name in ("killed-1", "killed-2"):
        await open_store(owner=name)

    for name in ("killed-1", "killed-2"):
        await service.leave(name)
    killed = [each.name for each in (await whole()).processes if each.role == "worker"]
    await open_store(owner="living")
    await service.leave("killed-2")
    left = [each.name for each in (await whole()).processes if each.role == "worker"]

    assert (killed, left) == (["killed-2"], ["living"])


async def test_a_worker_that_died_is_forgotten_after_a_day(
    whole: Whole, registry: RedisRegistry, open_store: OpenStore, redis: Any, prefix: str
) -> None:
    a_day_ago = await registry.now() - 24 * 60 * MINUTE_MS
    killed = {"a-day-ago": a_day_ago - 10_000, "later": a_day_ago + MINUTE_MS}
    await redis.zadd(f"{prefix}workers", killed)

    await open_store(owner="living")

    assert [each.name for each in (await whole()).processes] == ["living", "later"]


async def test_those_that_were_stopped_are_none(
    whole: Whole, seed: Seed, scripts: Scripts, open_store: OpenStore
) -> None:
    await seed("one", due_in_ms=MINUTE_MS)
    await (await open_store(owner="worker")).leave()
    for is_gone in (False, True):
        await scripts.run(NoteBeat("host-1:17", is_gone=is_gone))

    report = await whole()

    assert (report.incidents, report.processes) == ([], [])


async def test_a_lost_key_is_one_incident_however_many_grants_it_sealed(
    whole: Whole, seed: Seed, registry: RedisRegistry
) -> None:
    one = await seed("first")
    sealed = KeyRing({"k-old": bytes(32)}).seal(one, TokenPair("a", "r"))
    for number in range(30):
        grant = replace(one, id=f"g{number:02}", sealed=sealed, reason="key_missing")
        ends_at = grant.access_expires_at
        change = Change(grant, None, attention_at=ends_at, event=None)
        await registry.import_grant(change, replaces=None)

    (incident,) = [each for each in (await whole()).incidents if each.kind != "not_refreshing"]

    assert (incident.kind, incident.subject) == ("key_missing", "k-old")
    assert (
        "the tokens of 30 grants cannot be read: the key k-old that sealed them is not in" in incident.problem
    )
    assert (incident.ends_at, incident.needs_a_person) == (one.access_expires_at, True)


async def test_a_grant_whose_key_is_there_is_not_told_to_lack_one(
    whole: Whole, seed: Seed, registry: RedisRegistry
) -> None:
    one = await seed("first")
    sealed = KeyRing({"k1": bytes(32)}).seal(one, TokenPair("a", "r"))
    grant = replace(one, id="second", sealed=sealed, status=Status.FAILING, reason="cannot_unseal")
    change = Change(grant, None, attention_at=grant.access_expires_at, event=None)
    await registry.import_grant(change, replaces=None)

    (incident,) = [each for each in (await whole()).incidents if each.kind != "not_refreshing"]

    assert (incident.kind, incident.subject) == ("grant_failing", "second")
    assert incident.advice.startswith("Its key is there.")


async def test_a_provider_that_leaves_refreshes_unanswered_is_told_of_before_it_is_unavailable(
    told: Told, seed: Seed, registry: RedisRegistry, let_it_say: Let, redis: Any, prefix: str
) -> None:
    await seed("one", due_in_ms=MINUTE_MS)
    sent_at = await registry.now() - 20_000
    await let_it_say("client:acme", endpoint=URL)
    failures = msgpack.packb([["event-1", "one", sent_at - 60_000], ["event-2", "one", sent_at]])
    await let_it_say(f"endpoint:{URL}", failures=failures)
    await redis.zadd(f"{prefix}answered", {URL: sent_at - 30_000})

    incident = await told()

    assert (incident.kind, incident.needs_a_person) == ("provider_failing", False)
    assert incident.problem.endswith("refreshes that it left unanswered: 1")

    await redis.zadd(f"{prefix}answered", {URL: sent_at + 1})
    with pytest.raises(ValueError, match="unpack"):
        await told()


async def test_a_provider_that_hangs_is_told_of_after_two_timeouts(
    open_member: OpenMember,
    configure: Configure,
    enroll: Enroll,
    sandbox: Sandbox,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    replies: RedisReplies,
    keys: KeyRing,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        clients = configure(f"http://127.0.0.1:{silent.getsockname()[1]}/token")
        await enroll(sandbox, clients)
        member = await open_member(clients, timeout_seconds=0.2)
        await member.membership.recover()
        stop = asyncio.Event()
        draining = asyncio.create_task(member.refresher.drain("", stop.is_set))

        async def told_of() -> list[Incident]:
            report = await report_on(
                registry, fleet_state, replies, clients.names(), variable_of, key_of=keys.key_of
            )
            return list(report.incidents)

        await until(told_of)
        (incident,) = await told_of()
        stop.set()
        await draining

    assert incident.kind == "provider_failing"
    assert "refreshes that it left unanswered: 1" in incident.problem


@pytest.fixture
def rejected(registry: RedisRegistry, let_it_say: Let) -> Let:
    """Let the client be rejected five minutes ago."""

    async def begin(*, probe_in_ms: int) -> None:
        now = await registry.now()
        since, probe_at = now - 5 * MINUTE_MS, now + probe_in_ms
        fields = {"state": "rejected", "reason": "invalid_client", "rejected_at": since}
        await let_it_say("client:acme", **fields, probe_at=probe_at)

    return begin


@pytest.fixture
def unavailable(registry: RedisRegistry, let_it_say: Let) -> Let:
    """Let the client's endpoint be unavailable since five minutes ago."""

    async def begin(*, probe_in_ms: int) -> None:
        now = await registry.now()
        await let_it_say("client:acme", endpoint=URL)
        fields = {"state": "unavailable", "reason": "http_502", "since": now - 5 * MINUTE_MS}
        await let_it_say(f"endpoint:{URL}", **fields, probe_at=now + probe_in_ms, probe_delay=1000)

    return begin


@pytest.mark.usefixtures("overdue")
async def test_where_no_worker_lives_it_asks_whether_one_is_running(told: Told) -> None:
    incident = await told()

    assert (incident.kind, incident.needs_a_person) == ("not_refreshing", True)
    assert incident.problem == "nobody refreshes its grants (no worker is alive), overdue: 1"
    assert incident.advice.startswith(ASKS_WHETHER_THEY_RUN)


@pytest.mark.usefixtures("overdue")
async def test_a_worker_whose_last_heartbeat_is_old_does_not_live(
    told: Told, living: Any, redis: Any, prefix: str
) -> None:
    assert living
    await redis.zincrby(f"{prefix}workers", -11_000, "worker")

    assert "(no worker is alive: worker was heard of last, at 20" in (await told()).problem


@pytest.mark.usefixtures("overdue", "beating")
async def test_a_beat_that_lives_is_told_from_workers_that_do_not(told: Told) -> None:
    incident = await told()

    assert "(no worker is alive)" in incident.problem
    assert incident.advice.startswith("Beat is alive. Start a worker")


@pytest.mark.usefixtures("overdue", "living")
async def test_a_beat_that_is_dead_is_told_from_workers_that_live(
    told: Told, redis: Any, prefix: str, scripts: Scripts, registry: RedisRegistry, let_it_say: Let
) -> None:
    await let_it_say("client:acme", claimed_at=await registry.now() - 2 * MINUTE_MS)
    await scripts.run(NoteBeat("host-7:4711", is_gone=False))
    await redis.zincrby(f"{prefix}beats", -5 * MINUTE_MS, "host-7:4711")

    incident = await told()

    assert incident.kind == "not_refreshing"
    assert "(no beat is alive: host-7:4711 was heard of last, at 20" in incident.problem
    assert incident.advice == "Start beat. Workers are alive: 1."


@pytest.mark.usefixtures("overdue", "living", "beating")
async def test_workers_that_live_and_ask_for_nothing_are_told_from_workers_that_are_dead(
    told: Told, registry: RedisRegistry, let_it_say: Let
) -> None:
    await let_it_say("client:acme", claimed_at=await registry.now() - 2 * MINUTE_MS)

    incident = await told()

    assert (incident.kind, incident.needs_a_person) == ("not_refreshing", True)
    assert "no worker has asked for its grants since 20" in incident.problem
    assert "and 1 are alive)" in incident.problem
    assert "Beat is alive: has it the workers' broker?" in incident.advice
    assert ASKS_WHETHER_THEY_RUN not in incident.advice


@pytest.mark.usefixtures("overdue", "living")
async def test_a_backlog_that_is_worked_off_is_behind_and_needs_nobody(
    told: Told, registry: RedisRegistry, let_it_say: Let
) -> None:
    await let_it_say("client:acme", claimed_at=await registry.now() - 1_000)

    incident = await told()

    assert (incident.kind, incident.needs_a_person) == ("behind", False)


@pytest.mark.usefixtures("overdue")
async def test_a_trouble_of_all_workers_is_the_reason_and_one_of_some_is_not(
    told: Told, living: Any, open_store: OpenStore, registry: RedisRegistry, let_it_say: Let
) -> None:
    await living.heartbeat("journal: No space left on device")

    incident = await told()
    assert "no worker claims anything (journal: No space left on device)" in incident.problem
    assert incident.advice.startswith("The workers are alive.")
    assert incident.needs_a_person

    await open_store(owner="another")
    await let_it_say("client:acme", claimed_at=await registry.now() - 1_000)
    assert (await told()).kind == "behind"


@pytest.mark.usefixtures("overdue", "living")
async def test_a_recovery_is_the_reason_while_it_lasts(
    told: Told, registry: RedisRegistry, let_it_say: Let
) -> None:
    await let_it_say("epoch", ends_at=await registry.now() + MINUTE_MS)
    incident = await told()
    assert "the store is recovering until 20" in incident.problem
    assert not incident.needs_a_person

    await let_it_say("epoch", ends_at=await registry.now() - 1)
    assert "recovering" not in (await told()).problem


@pytest.mark.usefixtures("overdue", "living")
async def test_a_rejected_client_says_since_when_and_when_its_next_probe_is(
    told: Told, rejected: Let
) -> None:
    await rejected(probe_in_ms=40_500)

    incident = await told()

    assert incident.kind == "client_rejected"
    assert "credentials (invalid_client) since 20" in incident.problem
    assert ", next probe in " in incident.problem
    assert "nobody tries" not in incident.problem


@pytest.mark.usefixtures("overdue")
async def test_a_probe_of_a_rejected_client_that_nobody_sends_says_why(told: Told, rejected: Let) -> None:
    await rejected(probe_in_ms=-2 * MINUTE_MS)

    assert (await told()).problem.endswith("next probe is due, and nobody tries (no worker is alive)")


@pytest.mark.usefixtures("overdue")
@pytest.mark.parametrize("held_back_by", ["nothing", "throttling", "recovery", "trouble", "schedule"])
async def test_an_outage_whose_probe_is_late_says_what_holds_it_back(
    told: Told,
    living: Any,
    unavailable: Let,
    registry: RedisRegistry,
    let_it_say: Let,
    redis: Any,
    prefix: str,
    held_back_by: str,
) -> None:
    await unavailable(probe_in_ms=-2 * MINUTE_MS)
    now = await registry.now()
    await let_it_say("client:acme", claimed_at=now - 1_000)
    match held_back_by:
        case "throttling":
            await let_it_say("client:acme", throttled_until=now + MINUTE_MS)
        case "recovery":
            await let_it_say("epoch", ends_at=now + MINUTE_MS)
        case "trouble":
            await living.heartbeat("journal: full")
        case "schedule":
            await redis.zadd(f"{prefix}schedule:acme", {"one": "+inf"})

    incident = await told()

    said = {
        "nothing": "next try is due",
        "throttling": "nobody tries (its token endpoint told it to wait until 20",
        "recovery": "nobody tries (the store is recovering until 20",
        "trouble": "nobody tries (no worker claims anything (journal: full)",
        "schedule": "nobody tries (none of its grants is in the schedule",
    }
    assert incident.kind == "provider_unavailable"
    assert said[held_back_by] in incident.problem
    assert ASKS_WHETHER_THEY_RUN not in incident.advice
    is_close = held_back_by != "schedule"  # the seeded token ends in ten minutes
    assert incident.needs_a_person is is_close


@pytest.mark.usefixtures("overdue", "living")
async def test_an_outage_whose_probe_is_yet_to_come_says_since_when_and_when(
    told: Told, unavailable: Let
) -> None:
    await unavailable(probe_in_ms=40_500)

    incident = await told()

    assert "gives no usable answer (http_502) since 20" in incident.problem
    assert ", next try in " in incident.problem
