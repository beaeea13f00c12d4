"""Whom a refusal means, found by comparison: dead grants among healthy ones, or a client that is wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

import msgpack
import pytest
from redis.asyncio import Redis

from tests.support.callables import Configure, LetProbeBeDue, OnGrant, OpenRefresher, OpenStore, Prove, Told
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.sealing import KeyRing
from worker.adapters.store import record
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.registry import RedisRegistry
from worker.core import lifecycle
from worker.core.grant import Grant, Status
from worker.core.interchange import read_line
from worker.core.policy import Rules
from worker.core.registry import Operation
from worker.refresher import Refresher
from worker.runtime.clients import ConfiguredClients

Answer = tuple[int, bytes]
Bring = Callable[..., Awaitable[list[Grant]]]
Work = Callable[..., Awaitable[dict[str, Grant]]]
OnClient = Callable[[str], Awaitable[None]]
Rewrite = Callable[..., Awaitable[None]]

REJECTED: Answer = (400, b'{"error": "invalid_grant"}')


@dataclass
class Server:
    """An authorization server that rotates strictly, and refuses whom it is told to refuse.

    Attributes:
        url: its token endpoint.
        live: the refresh tokens that it accepts, each with its client's id.
        refusals: what it answers to others, by the grant that the token was made for; `*` is all.
        check: what it answers to a client-credentials request.
        asked: whose token came, in order.
    """

    url: str = ""
    live: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, Answer] = field(default_factory=dict)
    check: Answer = (503, b"")
    asked: list[str] = field(default_factory=list)

    def answer(self, form: dict[str, str]) -> Answer:
        """Rotate, or refuse."""
        if form["grant_type"] == "client_credentials":
            return self.check
        token = form["refresh_token"]
        grant_id, version = token.rsplit(".", 1)
        self.asked.append(grant_id)
        if "*" in self.refusals:
            return self.refusals["*"]
        if self.live.get(token) != form["client_id"]:
            return self.refusals.get(grant_id, REJECTED)
        del self.live[token]
        successor = f"{grant_id}.{int(version) + 1}"
        self.live[successor] = form["client_id"]
        tokens = {"access_token": f"a-{successor}", "refresh_token": successor, "expires_in": 28_800}
        return 200, json.dumps(tokens).encode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    ours, connected = Server(), set[asyncio.StreamWriter]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                body = await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
                form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
                status, reply = ours.answer(form)
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(reply)}\r\n\r\n".encode() + reply)
        connected.discard(writer)
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    ours.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/token"
    yield ours
    listening.close()
    for writer in connected:
        writer.close()


@pytest.fixture
def bring(registry: RedisRegistry, keys: KeyRing, server: Server) -> Bring:
    """Import grants that are due and known to the server; their tokens work for `lives_ms`."""

    async def import_all(
        clients: Any, ids: Sequence[str], *, name: str = "acme", lives_ms: int = 600_000
    ) -> list[Grant]:
        known = {client.name: client for client in clients}
        now = await registry.now()
        grants = []
        for grant_id in ids:
            line = {
                "id": grant_id,
                "client": name,
                "access_token": f"a-{grant_id}.0",
                "refresh_token": f"{grant_id}.0",
                "issued_at": (now + lives_ms) / 1000 - 28_800,
                "expires_in": 28_800,
            }
            read = read_line(json.dumps(line), known, now)
            grant = read.grant
            change = lifecycle.admit(grant, known[name], Rules(), now)
            sealed = keys.seal(grant, read.pair)
            grant = replace(grant, sealed=sealed)
            await registry.import_grant(
                lifecycle.Change(grant, change.due_at, change.attention_at, None), replaces=None
            )
            server.live[f"{grant_id}.0"] = known[name].client_id
            grants.append(grant)
        return grants

    return import_all


@pytest.fixture
def let_disbelief_end(redis: Redis, prefix: str) -> OnClient:
    """Let the rejection of every grant of a client be believed now, as waiting would."""

    async def bring_about(client_name: str) -> None:
        await redis.hset(f"{prefix}client:{client_name}", "believed_at", "1")

    return bring_about


@pytest.fixture
def let_a_rejection_be_believed(redis: Redis, prefix: str, rewrite: Rewrite) -> OnGrant:
    """Let the rejection of one grant be believed now, as the end of its access token would."""

    async def bring_about(grant_id: str, client_name: str = "acme") -> None:
        await rewrite(grant_id, rejected_at=1, access_expires_at=2)
        await redis.zadd(f"{prefix}rejections:{client_name}", {grant_id: 1})
        await redis.zadd(f"{prefix}agenda", {client_name: 1})

    return bring_about


@pytest.fixture
def rewrite(redis: Redis, prefix: str) -> Rewrite:
    """Change fields of a stored record."""

    async def change(grant_id: str, **changes: int) -> None:
        key = f"{prefix}grant:{grant_id}"
        values = msgpack.unpackb(await redis.get(key), raw=True)
        for name, value in changes.items():
            values[record.FIELDS.index(name.upper())] = value
        await redis.set(key, msgpack.packb(values, use_bin_type=False))

    return change


@pytest.fixture
def work(registry: RedisRegistry, server: Server, make_due: OnGrant) -> Work:
    """Drain again and again, each waiting try due at once, until the test has seen what it waits for."""

    async def go_on(
        refresher: Refresher, until: Callable[[dict[str, Grant]], bool], *names: str, most: int = 100
    ) -> dict[str, Grant]:
        names = names or ("acme",)
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(most):
                await refresher.drain("runner", lambda: False)
                ids = {token.rsplit(".", 1)[0] for token in server.live} | set(server.refusals) - {"*"}
                found = {grant_id: await _find(registry, grant_id) for grant_id in sorted(ids)}
                if until(found):
                    return found
                for grant in found.values():
                    if grant.status is Status.FAILING or not grant.version:
                        await make_due(grant.id, grant.client)
        raise AssertionError({each.id: (each.status, each.reason, each.version) for each in found.values()})

    return go_on


async def _find(registry: RedisRegistry, grant_id: str) -> Grant:
    stored = await registry.find(grant_id)
    assert stored is not None
    return stored.grant


HEALTHY = [f"healthy-{number:02}" for number in range(20)]
DEAD = [f"dead-{number}" for number in range(6)]


@pytest.mark.parametrize("is_proved", [True, False], ids=["a-client-at-work", "a-new-client"])
@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        pytest.param((400, b'{"error": "unauthorized_client"}'), "revoked", id="unauthorized-client"),
        pytest.param((400, b'{"error": "invalid_scope"}'), "revoked", id="invalid-scope"),
        pytest.param((401, b""), "revoked", id="a-bare-401"),
        pytest.param((400, b'{"error": "invalid_request"}'), "invalid_request", id="invalid-request"),
        pytest.param((400, b""), "refused", id="an-empty-400"),
        pytest.param((400, b'{"error": "gone_fishing"}'), "refused", id="a-word-that-nobody-knows"),
    ],
)
async def test_six_dead_grants_of_26_end_alone_and_are_announced_each_with_its_reason(
    server: Server,
    configure: Configure,
    bring: Bring,
    open_refresher: OpenRefresher,
    prove: Prove,
    work: Work,
    told: Told,
    *,
    refusal: Answer,
    reason: str,
    is_proved: bool,
) -> None:
    clients = configure(server.url)
    if is_proved:
        await prove(next(iter(clients)))
    await bring(clients, DEAD, lives_ms=-1_000)
    await bring(clients, HEALTHY)
    for grant_id in DEAD:
        del server.live[f"{grant_id}.0"]
        server.refusals[grant_id] = refusal
    refresher = await open_refresher(clients)

    def all_are_settled(found: dict[str, Grant]) -> bool:
        refreshed = all(found[each].version for each in HEALTHY)
        return refreshed and all(found[each].status is Status.FAILED for each in DEAD)

    found = await work(refresher, all_are_settled)

    assert {found[each].status for each in HEALTHY} == {Status.ACTIVE}
    assert {found[each].reason for each in DEAD} == {reason}
    events = await told()
    failed = [event["subject"] for event in events if event["type"] == "evergrant.grant.failed"]
    assert sorted(failed) == DEAD
    kinds = {event["type"] for event in events}
    assert not kinds & {"evergrant.client.rejected", "evergrant.provider.unavailable"}


# Every grant rejected


async def test_many_grants_that_died_at_once_are_no_incident_of_their_client(
    server: Server,
    configure: Configure,
    bring: Bring,
    prove: Prove,
    open_refresher: OpenRefresher,
    work: Work,
    told: Told,
) -> None:
    clients = configure(server.url)
    await prove(next(iter(clients)))
    dead = [f"dead-{number:02}" for number in range(15)]
    await bring(clients, dead)
    await bring(clients, HEALTHY, lives_ms=20_000_000)  # and none of them is due
    for grant_id in dead:
        del server.live[f"{grant_id}.0"]
        server.refusals[grant_id] = REJECTED
    refresher = await open_refresher(clients)

    found = await work(refresher, lambda now: all(now[each].status is Status.FAILED for each in dead))

    assert {found[each].reason for each in dead} == {"revoked"}
    kinds = [event["type"] for event in await told()]
    assert kinds.count("evergrant.grant.failed") == len(dead)
    assert "evergrant.client.rejected" not in kinds


async def _swapped(server: Server, configure: Configure, bring: Bring) -> tuple[list[str], ConfiguredClients]:
    """Two registrations with 30 due grants each, entered the wrong way round; ids and settings."""
    configure(server.url, "acme", client_id="id-of-acme")
    clients = configure(server.url, "beta", client_id="id-of-beta")
    ids = []
    for name in ("acme", "beta"):
        ours = [f"{name}-{number:02}" for number in range(30)]
        await bring(clients, ours, name=name)
        ids += ours
    swap = {"id-of-acme": "id-of-beta", "id-of-beta": "id-of-acme"}
    server.live = {token: swap[client_id] for token, client_id in server.live.items()}
    return ids, clients


async def test_two_swapped_registrations_end_no_grant_and_all_60_live_once_they_are_put_right(
    server: Server,
    configure: Configure,
    bring: Bring,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    work: Work,
    fleet_state: RedisFleetState,
    told: Told,
) -> None:
    ids, clients = await _swapped(server, configure, bring)
    refresher = await open_refresher(clients)
    rounds = iter(range(10))

    await work(refresher, lambda _: next(rounds, None) is None, "acme", "beta")
    for name in ("acme", "beta"):
        await let_the_client_probe_be_due(name)
        assert await refresher.drain("runner", lambda: False) == 1  # and it is rejected too
    while_wrong = await told()
    states = [await fleet_state.of_client(name) for name in ("acme", "beta")]
    configure(server.url, "acme", client_id="id-of-beta")
    configure(server.url, "beta", client_id="id-of-acme")
    for name in ("acme", "beta"):
        await let_the_client_probe_be_due(name)
    found = await work(refresher, lambda now: all(each.version for each in now.values()), "acme", "beta")

    assert {(state.state, state.reason) for state in states} == {("rejected", "every_grant_rejected")}
    kinds = [event["type"].removeprefix("evergrant.") for event in while_wrong]
    assert kinds.count("client.rejected") == 2
    assert kinds.count("grant.failed") == 0
    assert max(server.asked.count(each) for each in ids) <= 5  # and no more while it lasts: probes are spaced
    assert {found[each].status for each in ids} == {Status.ACTIVE}
    kinds = [event["type"].removeprefix("evergrant.") for event in await told()]
    assert kinds.count("client.recovered") == 2


@pytest.fixture
async def refresher(
    server: Server, configure: Configure, bring: Bring, open_refresher: OpenRefresher, work: Work
) -> Refresher:
    """Of a client whose every grant is rejected, so that it is an incident by now."""
    clients = configure(server.url)
    await bring(clients, HEALTHY)
    server.refusals = dict.fromkeys(HEALTHY, REJECTED)
    server.live.clear()
    refresher = await open_refresher(clients)
    rounds = iter(range(5))
    await work(refresher, lambda _: next(rounds, None) is None)
    return refresher


async def test_where_people_really_withdrew_everything_that_is_believed_in_the_end(
    server: Server,
    refresher: Refresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    let_disbelief_end: OnClient,
    work: Work,
    told: Told,
) -> None:
    for _ in range(2 * len(HEALTHY)):
        await let_the_client_probe_be_due()
        await refresher.drain("runner", lambda: False)
    assert max(server.asked.count(each) for each in HEALTHY) > 1
    assert "evergrant.grant.failed" not in [event["type"] for event in await told()]

    await let_disbelief_end("acme")
    found = await work(refresher, lambda now: all(each.status is Status.FAILED for each in now.values()))

    assert {each.reason for each in found.values()} == {"revoked"}
    assert [event["type"] for event in await told()].count("evergrant.grant.failed") == len(HEALTHY)


async def test_a_grant_whose_access_token_has_ended_is_believed_before_the_others(
    registry: RedisRegistry,
    refresher: Refresher,
    let_a_rejection_be_believed: OnGrant,
    told: Told,
) -> None:
    (first, *_) = [each for each in HEALTHY if (await _find(registry, each)).status is Status.FAILING]

    await let_a_rejection_be_believed(first)
    await refresher.drain("runner", lambda: False)

    failed = [event["subject"] for event in await told() if event["type"] == "evergrant.grant.failed"]
    assert failed == [first]


async def test_a_grant_that_was_paused_is_not_presented_when_its_rejection_would_be_believed(
    server: Server, registry: RedisRegistry, refresher: Refresher, let_a_rejection_be_believed: OnGrant
) -> None:
    (first, *_) = [each for each in HEALTHY if (await _find(registry, each)).status is Status.FAILING]
    await registry.operate(first, Operation.PAUSE)
    before = server.asked.count(first)

    await let_a_rejection_be_believed(first)
    await refresher.drain("runner", lambda: False)

    assert server.asked.count(first) == before


async def test_after_an_import_of_new_pairs_a_client_whose_every_grant_was_rejected_recovers(
    server: Server,
    configure: Configure,
    bring: Bring,
    refresher: Refresher,
    let_disbelief_end: OnClient,
    work: Work,
    fleet_state: RedisFleetState,
) -> None:
    await let_disbelief_end("acme")

    await bring(configure(server.url), ["new"])
    await work(refresher, lambda now: bool(now["new"].version))

    assert (await fleet_state.of_client("acme")).state == "accepted"


# A registration that has not refreshed anything yet


async def test_a_new_registration_is_tried_with_one_grant_and_the_rest_follow_at_a_slow_start(
    server: Server,
    configure: Configure,
    bring: Bring,
    open_store: OpenStore,
    open_refresher: OpenRefresher,
) -> None:
    clients = configure(server.url)
    await bring(clients, HEALTHY)
    (client,) = clients
    store = await open_store()

    first = await store.claim(client, 100, "")
    meanwhile = await store.claim(client, 100, "")

    assert (len(first.leases), len(meanwhile.leases)) == (1, 0)
    assert meanwhile.wait_ms
    assert not meanwhile.drained
    await (await open_refresher(clients)).drain("", lambda: not server.asked)
    assert len(server.asked) <= 1


async def test_a_grant_whose_reply_was_lost_at_a_new_registration_is_the_only_one_at_risk(
    server: Server,
    configure: Configure,
    bring: Bring,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
) -> None:
    clients = configure(server.url)
    await bring(clients, HEALTHY, lives_ms=9_000_000)
    server.refusals["*"] = (500, b"")
    refresher = await open_refresher(clients)

    for _ in range(3):
        await refresher.drain("", lambda: False)
        for grant_id in HEALTHY:
            await make_due(grant_id)

    assert len(set(server.asked)) == 1


async def test_another_grant_is_risked_at_a_new_registration_when_its_access_token_is_about_to_end(
    server: Server, configure: Configure, bring: Bring, open_refresher: OpenRefresher, make_due: OnGrant
) -> None:
    clients = configure(server.url)
    await bring(clients, HEALTHY, lives_ms=9_000_000)
    server.refusals["*"] = (500, b"")
    refresher = await open_refresher(clients)
    await refresher.drain("", lambda: False)
    await bring(clients, ["ends-soon"])

    for _ in range(3):
        await refresher.drain("", lambda: False)
        for grant_id in HEALTHY:
            await make_due(grant_id)

    assert len(set(server.asked)) == 2
    assert "ends-soon" in server.asked


async def test_a_registration_that_was_changed_has_to_prove_itself_anew_and_a_new_secret_has_not(
    server: Server, configure: Configure, bring: Bring, open_store: OpenStore, prove: Prove
) -> None:
    clients = configure(server.url)
    await prove(next(iter(clients)))
    await bring(clients, HEALTHY)
    store = await open_store(lease_ms=1)

    async def claimed(**settings: str) -> int:
        (client,) = configure(server.url, **settings)
        return len((await store.claim(client, 3, "")).leases)

    assert await claimed(secret="another") == 3
    assert await claimed(authentication="client_secret_basic") == 1
