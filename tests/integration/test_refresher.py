"""The refresher with the real store, real HTTP and a strict judge."""

import asyncio
import errno
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.callables import (
    Away,
    Configure,
    Enroll,
    LetProbeBeDue,
    OnGrant,
    OpenRefresher,
    OpenStore,
    Seed,
    Told,
)
from tests.support.gate import Gate
from tests.support.held_replies import HeldReplies
from tests.support.waiting import PATIENCE_SECONDS, until
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.sealing import KeyRing
from worker.adapters.store import record, scripts
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.outcomes import Refreshed, Unavailable
from worker.core.ports import Lease, StoreUnavailableError
from worker.core.registry import ImportVerdict, StoredGrant
from worker.refresher import NO_ANSWER_PAUSE_MS, Refresher
from worker.refreshing import drain
from worker.sandbox.client import Sandbox

HoldOf = Callable[..., Awaitable[int]]
Answer = tuple[int, str, str]
Reply = Callable[[], Awaitable[Answer]]
Serve = Callable[[Reply], Awaitable[str]]
Script = Callable[..., Awaitable[str]]

DEAD = ("superseded", "never_issued", "revoked", "refresh_expired", "absolute_limit")
# For requests that a test holds back: no deadline and no lease ends meanwhile, and no answer counts as slow.
PATIENT = {"timeout_seconds": 4 * PATIENCE_SECONDS, "lease_ms": 1_000_000}
TOKENS = (200, '{"access_token": "a-new", "refresh_token": "r-new", "expires_in": 600}', "")


def _never() -> bool:
    return False


async def _find(registry: RedisRegistry, grant_id: str) -> StoredGrant:
    stored = await registry.find(grant_id)
    assert stored is not None
    return stored


async def _drain(refresher: Refresher) -> int:
    return await asyncio.wait_for(refresher.drain("", _never), PATIENCE_SECONDS)


async def _wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def _until_rotated(registry: RedisRegistry, grants: Sequence[Grant]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all([(await _find(registry, grant.id)).grant.version for grant in grants]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def _assert_alive(registry: RedisRegistry, keys: KeyRing, server: Sandbox, grants: list[Grant]) -> None:
    """The stored tokens are the live ones at the server, and no dead token was presented."""
    live = {pair["id"]: pair for pair in server.pairs()}
    for grant in grants:
        stored = (await _find(registry, grant.id)).grant
        pair = keys.open(stored)
        assert (pair.access_token, pair.refresh_token) == (
            live[grant.id]["access_token"],
            live[grant.id]["refresh_token"],
        )
        assert stored.status is Status.ACTIVE
        counts = server.grant(grant.id)["counts"]
        assert [counts[what] for what in (*DEAD, "concurrent")] == [0] * (len(DEAD) + 1)


def _types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("evergrant.") for event in events]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A server that answers each request with what it is given; its address."""
    servers: list[asyncio.Server] = []
    connected: set[asyncio.StreamWriter] = set()

    async def start(reply: Reply) -> str:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.add(writer)
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                    await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
                    status, body, header = await reply()
                    lines = [
                        f"HTTP/1.1 {status} X",
                        f"Content-Length: {len(body)}",
                        *([header] * bool(header)),
                    ]
                    writer.write(("\r\n".join([*lines, "", ""]) + body).encode())
            connected.discard(writer)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"

    yield start
    for server in servers:
        server.close()
    for writer in connected:
        writer.close()


@pytest.fixture
def scripted(serve: Serve) -> Script:
    """A server that gives these answers, one a request, the last one ever after; its address."""

    async def start(*answers: Answer) -> str:
        left = list(answers)

        async def reply() -> Answer:
            return left.pop(0) if len(left) > 1 else left[0]

        return await serve(reply)

    return start


@dataclass(frozen=True)
class Attended:
    """A server that answers when the test says so.

    Attributes:
        url: its address.
        requests: where the answer to each goes.
    """

    url: str
    requests: asyncio.Queue[asyncio.Future[Answer]]

    async def next_request(self) -> asyncio.Future[Answer]:
        """Wait for it; returns where its answer goes."""
        return await asyncio.wait_for(self.requests.get(), PATIENCE_SECONDS)


@pytest.fixture
async def attended(serve: Serve) -> Attended:
    requests: asyncio.Queue[asyncio.Future[Answer]] = asyncio.Queue()

    async def reply() -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        requests.put_nowait(answer)
        return await answer

    return Attended(await serve(reply), requests)


# One at a time


async def test_many_drains_at_once_refresh_each_grant_exactly_once(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 60)
    processes = [await open_refresher(clients, in_flight=7) for _ in range(4)]

    attempted = await asyncio.gather(*(_drain(process) for process in processes for _ in range(2)))

    assert sum(attempted) == 60
    await _assert_alive(registry, keys, sandbox, grants)
    assert [sandbox.grant(grant.id)["rotations"] for grant in grants] == [1] * 60
    assert _types(await told()) == ["grant.refreshed"] * 60
    assert {event["subject"] for event in await told()} == {grant.id for grant in grants}


async def test_a_drain_of_nothing_due_asks_nobody(
    sandbox: Sandbox, configure: Configure, enroll: Enroll, open_refresher: OpenRefresher
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients, age=0.1)

    assert await _drain(await open_refresher(clients)) == 0
    assert list(sandbox.log(grant.id)) == []


async def test_a_grant_claimed_before_its_time_is_put_back_until_then(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients, age=0.1)
    due_at = (await _find(registry, grant.id)).due_at
    await make_due(grant.id)

    await _drain(await open_refresher(clients))

    stored = await _find(registry, grant.id)
    assert (stored.due_at, stored.lease_until) == (due_at, None)
    assert (stored.grant, await told()) == (replace(grant, root=grant.lineage), [])


async def test_a_refresh_somebody_asks_for_goes_the_same_way(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_store: OpenStore,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 2, age=0.1)
    refresher = await open_refresher(clients)
    await _drain(refresher)  # a process that is at work already
    lease = await (await open_store()).lease(grants[0].id)
    assert isinstance(lease, Lease)

    assert isinstance(await refresher.refresh_one(lease), Refreshed)
    await _assert_alive(registry, keys, sandbox, grants)
    assert (await _find(registry, grants[0].id)).grant.version == 1


# Replies that nobody could read


async def test_after_an_unknown_reply_the_same_token_is_sent_once_more_under_the_same_lease(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients)
    sandbox.add_fault("drop_before", times=1)

    assert await _drain(await open_refresher(clients)) == 1

    await _assert_alive(registry, keys, sandbox, grants)
    assert [visit["fault"] for visit in sandbox.log(grants[0].id)] == ["drop_before", None]
    assert _types(await told()) == ["grant.refreshed"]


async def test_two_unknown_replies_leave_a_grant_as_it_is_but_in_doubt_while_no_other_was_answered(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    make_due: OnGrant,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients)
    refresher = await open_refresher(clients, chance=1.0)
    sandbox.add_fault("drop_before", times=2)

    await _drain(refresher)
    left = (await _find(registry, grants[0].id)).grant
    await make_due(grants[0].id)
    await _drain(refresher)

    assert (left.status, left.reason, left.in_doubt) == (Status.ACTIVE, None, True)
    await _assert_alive(registry, keys, sandbox, grants)
    assert _types(await told()) == ["grant.refreshed"]


async def test_a_grant_that_gets_no_reply_while_another_is_answered_is_failing_until_it_recovers(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    make_due: OnGrant,
) -> None:
    clients = configure(sandbox.token_url)
    (ailing,) = await enroll(sandbox, clients)
    refresher = await open_refresher(clients, chance=1.0)

    with sandbox.fault("drop_before", grant=ailing.id):
        await _drain(refresher)
        (well,) = await enroll(sandbox, clients)
        await _drain(refresher)
        await make_due(ailing.id)
        await _drain(refresher)
    failing = (await _find(registry, ailing.id)).grant
    await make_due(ailing.id)
    await _drain(refresher)

    assert (failing.status, failing.reason, failing.in_doubt) == (Status.FAILING, "reply_unknown", True)
    await _assert_alive(registry, keys, sandbox, [ailing, well])
    its_own = [event["type"] for event in await told() if event["subject"] == ailing.id]
    assert its_own == ["evergrant.grant.failing", "evergrant.grant.recovered"]


async def test_an_answer_lost_on_a_strict_server_fails_the_grant_as_reply_lost_once_that_is_confirmed(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients)
    refresher = await open_refresher(clients)
    sandbox.add_fault("drop_after", times=1)

    await _drain(refresher)
    once = (await _find(registry, grant.id)).grant
    await make_due(grant.id)
    await _drain(refresher)

    assert (once.status, once.reason) == (Status.FAILING, "rejected")
    stored = await _find(registry, grant.id)
    assert (stored.grant.status, stored.grant.reason) == (Status.FAILED, "reply_lost")
    assert stored.due_at is None
    events = await told()
    assert _types(events) == ["grant.failing", "grant.failed"]
    assert events[-1]["data"]["reason"] == "reply_lost"
    assert len(list(sandbox.log(grant.id))) == 3


async def test_a_worker_that_died_before_its_answer_leaves_a_doubt_that_names_the_cause(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    end_lease: OnGrant,
    make_due: OnGrant,
    registry: RedisRegistry,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients)
    with sandbox.fault("hang", acts=True):
        dying = asyncio.create_task((await open_refresher(clients)).drain("", _never))
        await _wait_for(lambda: bool(list(sandbox.log(grant.id))))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "Refresher" in repr(task):  # the process is gone, with all that it had in flight
                task.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    await end_lease(grant.id)
    refresher = await open_refresher(clients)

    await _drain(refresher)
    await make_due(grant.id)
    await _drain(refresher)

    stored = (await _find(registry, grant.id)).grant
    assert (stored.status, stored.reason) == (Status.FAILED, "reply_lost")


# Rejections


async def test_a_revoked_grant_is_failing_then_failed_as_revoked_before_its_access_token_ends(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients)
    sandbox.revoke(grant.id)
    refresher = await open_refresher(clients)

    await _drain(refresher)
    failing = await _find(registry, grant.id)
    assert (failing.grant.status, failing.grant.reason) == (Status.FAILING, "rejected")
    assert failing.due_at is not None
    assert grant.access_expires_at is not None
    assert await registry.now() < failing.due_at < grant.access_expires_at
    await make_due(grant.id)
    await _drain(refresher)

    failed = await _find(registry, grant.id)
    assert (failed.grant.status, failed.grant.reason) == (Status.FAILED, "revoked")
    assert failed.due_at is None
    events = await told()
    assert _types(events) == ["grant.failing", "grant.failed"]
    assert [event["data"]["reason"] for event in events] == ["rejected", "revoked"]
    ends = {event["data"]["access_token_expires_at"] for event in events}
    assert len(ends) == 1
    assert None not in ends
    assert await registry.now() < grant.access_expires_at
    assert len(list(sandbox.log(grant.id))) == 2


async def test_a_revoked_grant_of_a_server_with_ambiguous_refusals_does_not_count_against_the_client(
    buddy: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(buddy.token_url, provider="buddy")
    (grant,) = await enroll(buddy, clients)
    buddy.revoke(grant.id)
    refresher = await open_refresher(clients)

    await _drain(refresher)
    await make_due(grant.id)
    await _drain(refresher)

    failed = (await _find(registry, grant.id)).grant
    assert (failed.status, failed.reason) == (Status.FAILED, "revoked")
    assert _types(await told()) == ["grant.failing", "grant.failed"]


async def test_an_ambiguous_refusal_whose_client_cannot_be_checked_is_no_rejection(
    scripted: Script,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    told: Told,
) -> None:
    url = await scripted((401, '{"errors": []}', ""), (503, "", ""))
    clients = configure(url, provider="buddy")
    (grant,) = await enroll(sandbox, clients)

    await _drain(await open_refresher(clients, chance=1.0))

    stored = (await _find(registry, grant.id)).grant
    assert (stored.status, stored.reason) == (Status.FAILING, "unavailable")
    assert _types(await told()) == ["grant.failing"]


async def test_a_rejection_that_is_not_confirmed_ends_in_a_recovery(
    scripted: Script,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(await scripted((400, '{"error": "invalid_grant"}', ""), TOKENS))
    (grant,) = await enroll(sandbox, clients)
    refresher = await open_refresher(clients)

    await _drain(refresher)
    await make_due(grant.id)
    await _drain(refresher)

    stored = (await _find(registry, grant.id)).grant
    assert (stored.status, stored.streak, stored.reason) == (Status.ACTIVE, 0, None)
    assert _types(await told()) == ["grant.failing", "grant.recovered"]


# A provider at fault


@pytest.mark.parametrize(
    "answer",
    [(503, "", "Retry-After: 15"), (429, "", "Retry-After: 15"), (500, "", "Retry-After: 15")],
    ids=["503", "429", "500"],
)
async def test_a_server_that_asks_to_be_left_alone_is_left_alone_by_the_whole_client_that_long(
    scripted: Script,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    told: Told,
    throttled_until_of: HoldOf,
    make_due: OnGrant,
    answer: tuple[int, str, str],
) -> None:
    clients = configure(await scripted(answer))
    grants = await enroll(sandbox, clients)
    refresher = await open_refresher(clients)
    before = await registry.now()

    assert await _drain(refresher) == 1
    await enroll(sandbox, clients)
    await make_due(grants[0].id)
    assert await _drain(refresher) == 0

    assert before + 14_000 < await throttled_until_of() <= await registry.now() + 15_000
    assert (await _find(registry, grants[0].id)).grant.status is Status.ACTIVE
    assert _types(await told()) == []


@pytest.mark.parametrize(
    ("asked_seconds", "waits_ms"),
    [pytest.param(600, 600_000, id="as-asked"), pytest.param(86_400, 3_600_000, id="an-hour-at-most")],
)
async def test_a_client_waits_as_long_as_the_server_asked_however_soon_that_grants_token_ends(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    throttled_until_of: HoldOf,
    asked_seconds: int,
    waits_ms: int,
) -> None:
    clients = configure(sandbox.token_url)
    await enroll(sandbox, clients, age=0.9)  # a minute is left
    refresher = await open_refresher(clients)
    before = await registry.now()

    with sandbox.fault("too_many_requests", retry_after=asked_seconds):
        await _drain(refresher)

    assert before + waits_ms <= await throttled_until_of() <= await registry.now() + waits_ms


async def test_an_outage_is_the_providers_two_events_and_no_grants(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    let_the_endpoint_probe_be_due: LetProbeBeDue,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 10)
    refresher = await open_refresher(clients, chance=1.0)

    with sandbox.fault("outage", form="503"):
        for _ in range(3):
            await _drain(refresher)
            for grant in grants:
                await make_due(grant.id)
        await let_the_endpoint_probe_be_due(sandbox.token_url)
        assert await _drain(refresher) == 1
        assert await _drain(refresher) == 0
    for grant in grants:
        await make_due(grant.id)
    await let_the_endpoint_probe_be_due(sandbox.token_url)
    for _ in range(2):  # the probe, then the rest
        await _drain(refresher)

    await _assert_alive(registry, keys, sandbox, grants)
    types = _types(await told())
    assert types[0] == "provider.unavailable"
    assert sorted(types[1:]) == ["grant.refreshed"] * 10 + ["provider.recovered"]


# What was claimed when it is learnt that nothing more is to be sent


def _requests(server: Sandbox, grants: list[Grant]) -> int:
    return sum(len(list(server.log(grant.id))) for grant in grants)


async def _assert_given_back(registry: RedisRegistry, grants: list[Grant]) -> None:
    """They may be claimed again, and none of them was presented."""
    now = await registry.now()
    for grant in grants:
        stored = await _find(registry, grant.id)
        assert (stored.grant.status, stored.grant.version, stored.grant.streak) == (Status.ACTIVE, 0, 0)
        assert (stored.lease_until, stored.grant.in_doubt) == (None, False)
        assert stored.due_at is not None
        assert stored.due_at <= now + NO_ANSWER_PAUSE_MS


async def test_a_throttled_client_sends_nothing_more_of_what_waits_for_a_slot(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    redis: Redis,
    prefix: str,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 30)
    refresher = await open_refresher(clients, in_flight=6)

    with sandbox.fault("too_many_requests", retry_after=600):
        attempted = await _drain(refresher)

    assert attempted > 6
    assert 1 <= _requests(sandbox, grants) <= 6
    await _assert_given_back(registry, grants)
    assert await _drain(refresher) == 0
    await redis.hset(f"{prefix}client:acme", "throttled_until", "1")  # it has waited
    for grant in grants:
        await make_due(grant.id)
    assert await _drain(refresher) == 30
    await _assert_alive(registry, keys, sandbox, grants)


@pytest.mark.parametrize("provider", ["oauth2", "buddy"])
async def test_a_rejected_client_sends_nothing_more_of_what_waits_for_a_slot(
    request: pytest.FixtureRequest,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    registry: RedisRegistry,
    keys: KeyRing,
    provider: str,
) -> None:
    server: Sandbox = request.getfixturevalue("buddy" if provider == "buddy" else "sandbox")
    clients = configure(server.token_url, provider=provider)
    grants = await enroll(server, clients, 30)
    refresher = await open_refresher(clients, in_flight=6)
    server.set_secret("replaced")

    attempted = await _drain(refresher)

    assert attempted > 6
    assert 1 <= _requests(server, grants) <= 6
    await _assert_given_back(registry, grants)
    configure(secret="replaced")
    await let_the_client_probe_be_due()
    assert await _drain(refresher) == 1
    assert await _drain(refresher) == 29
    await _assert_alive(registry, keys, server, grants)


async def test_an_endpoint_that_became_unavailable_gets_nothing_more_of_what_waits_for_a_slot(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 30)
    refresher = await open_refresher(clients, in_flight=6)

    with sandbox.fault("status", status=503):
        attempted = await _drain(refresher)

    assert attempted > 6
    unsent = [grant for grant in grants if not list(sandbox.log(grant.id))]
    # Each of the first four failures lets another have its turn; the fifth opens the breaker.
    assert 5 <= len(grants) - len(unsent) <= 6 + 4
    await _assert_given_back(registry, unsent)
    assert _types(await told()) == ["provider.unavailable"]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"kind": "status", "status": 503}, id="too-few-failures-for-an-outage"),
        pytest.param({"kind": "too_many_requests", "retry_after": 0}, id="a-wait-of-no-time"),
    ],
)
async def test_a_drain_goes_on_after_an_answer_that_does_not_keep_its_client_from_claiming(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    fault: dict[str, Any],
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 30)
    refresher = await open_refresher(clients, in_flight=6)
    sandbox.add_fault(**fault, times=1)

    await _drain(refresher)

    assert sum(sandbox.grant(grant.id)["rotations"] for grant in grants) >= 29


async def test_a_secret_that_was_replaced_is_not_sent_again_for_what_was_claimed_with_it(
    attended: Attended,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    redis: Redis,
    prefix: str,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(attended.url)
    grants = await enroll(sandbox, clients, 3)
    refresher = await open_refresher(clients, in_flight=1)
    draining = asyncio.create_task(_drain(refresher))
    refused = await attended.next_request()  # two more wait for a slot
    # Meanwhile another process found the client rejected, and accepted with the new secret.
    await redis.hset(f"{prefix}client:acme", "accepted_at", await registry.now())

    refused.set_result((401, '{"error": "invalid_client"}', ""))

    assert await draining == 3
    assert attended.requests.empty()
    await _assert_given_back(registry, grants)
    assert await told() == []


async def test_a_probe_is_sent_though_what_waited_for_a_slot_before_it_is_given_back(
    attended: Attended,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    redis: Redis,
    prefix: str,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(attended.url)
    grants = await enroll(sandbox, clients, 4)
    refresher = await open_refresher(clients, in_flight=1)
    draining = asyncio.create_task(_drain(refresher))
    first = await attended.next_request()  # two more wait for a slot
    of_outage: dict[Any, Any] = {"state": "unavailable", "since": 1, "probe_delay": 5_000, "probe_at": 1}
    await redis.hset(f"{prefix}endpoint:{attended.url}", mapping=of_outage)  # another process says so
    first.set_result(TOKENS)
    second = await attended.next_request()
    await _wait_for(lambda: any(lease.endpoint_probe for lease in refresher.held()))
    (let_through,) = (lease.grant.id for lease in refresher.held() if lease.endpoint_probe)

    second.set_result((503, "", ""))
    (await attended.next_request()).set_result(TOKENS)

    assert await draining == 4
    assert attended.requests.empty()
    versions = {grant.id: (await _find(registry, grant.id)).grant.version for grant in grants}
    assert (sum(versions.values()), versions[let_through]) == (2, 1)
    assert _types(await told()).count("provider.recovered") == 1


async def test_a_refresh_on_demand_is_sent_even_if_another_was_throttled(
    scripted: Script,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_store: OpenStore,
    open_refresher: OpenRefresher,
) -> None:
    clients = configure(await scripted((429, "", "Retry-After: 600"), TOKENS))
    refresher, store = await open_refresher(clients), await open_store()
    leases = [await store.lease(grant.id) for grant in await enroll(sandbox, clients, 2)]

    outcomes = [await refresher.refresh_one(lease) for lease in leases if isinstance(lease, Lease)]

    assert [type(outcome) for outcome in outcomes] == [Unavailable, Refreshed]


async def test_a_server_whose_replies_are_lost_is_unavailable_before_it_used_up_every_token(
    sandbox: Sandbox,
    scripted: Script,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    let_the_endpoint_probe_be_due: LetProbeBeDue,
    registry: RedisRegistry,
    told: Told,
) -> None:
    """It rotates and answers 500; to the second try it says that the token is dead."""
    lost, dead = (500, "", ""), (400, '{"error": "invalid_grant"}', "")
    url = await scripted(*[lost, dead] * 12)
    clients = configure(url)
    grants = await enroll(sandbox, clients, 12)
    refresher = await open_refresher(clients, chance=0.0, in_flight=1)

    for _ in range(2):
        await _drain(refresher)
    before_the_probe = _types(await told())
    await let_the_endpoint_probe_be_due(url)
    await _drain(refresher)

    assert before_the_probe.count("provider.unavailable") == 1
    used_up = before_the_probe.count("grant.failing")
    assert 5 <= used_up < 9  # those that open the breaker, and those that waited for a slot meanwhile
    assert _types((await told())[used_up + 1 :]) == ["grant.failing"]  # the probe: it recovers nothing
    stored = [(await _find(registry, grant.id)).grant for grant in grants]
    assert {grant.in_doubt for grant in stored if grant.status is Status.FAILING} == {True}
    assert [grant.status for grant in stored].count(Status.ACTIVE) == 12 - used_up - 1


async def test_nothing_is_claimed_while_an_answer_is_on_no_disk(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients = configure(sandbox.token_url)
    await enroll(sandbox, clients, 12)
    refresher = await open_refresher(clients, in_flight=1)
    real, calls = os.fdatasync, iter(range(1_000))

    def fails_at_the_first_answer(descriptor: int) -> None:
        if next(calls) == 0:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fails_at_the_first_answer)

    assert await _drain(refresher) < 12  # what was at work then, and no more


# A client at fault


@pytest.mark.parametrize("provider", ["oauth2", "buddy"])
async def test_a_wrong_secret_is_one_incident_and_the_right_one_put_back_lets_every_grant_live(
    request: pytest.FixtureRequest,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    keys: KeyRing,
    told: Told,
    provider: str,
) -> None:
    server: Sandbox = request.getfixturevalue("buddy" if provider == "buddy" else "sandbox")
    clients = configure(server.token_url, provider=provider)
    grants = await enroll(server, clients, 20)
    refresher = await open_refresher(clients)
    server.set_secret("replaced")

    await _drain(refresher)
    while_rejected = await _drain(refresher)

    assert while_rejected == 0
    assert (await fleet_state.of_client("acme")).state == "rejected"
    for grant in grants:
        stored = (await _find(registry, grant.id)).grant
        assert (stored.status, stored.streak, stored.version) == (Status.ACTIVE, 0, 0)
    assert _types(await told()) == ["client.rejected"]

    configure(secret="replaced")
    await let_the_client_probe_be_due()
    assert await _drain(refresher) == 1
    assert await _drain(refresher) == 19

    await _assert_alive(registry, keys, server, grants)
    events = _types(await told())
    assert (events.count("client.rejected"), events.count("client.recovered")) == (1, 1)
    assert events.count("grant.refreshed") == 20
    assert (await fleet_state.of_client("acme")).state == "accepted"


async def test_a_wrong_secret_met_by_many_at_once_is_checked_once(
    buddy: Sandbox, configure: Configure, enroll: Enroll, open_refresher: OpenRefresher
) -> None:
    async with HeldReplies(buddy.token_url).running() as held:
        clients = configure(held.token_url, provider="buddy")
        await enroll(buddy, clients, 20)
        refresher = await open_refresher(clients, in_flight=30, **PATIENT)
        buddy.set_secret("replaced")
        before = buddy.totals()["wrong_client"]

        draining = asyncio.create_task(_drain(refresher))
        await _wait_for(lambda: buddy.totals()["wrong_client"] == before + 20)
        held.let_pass.set()
        await draining

    assert buddy.totals()["wrong_client"] == before + 20 + 1


async def test_a_probe_with_the_secret_still_wrong_tells_nothing_and_waits_twice_as_long(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 3)
    refresher = await open_refresher(clients, first_probe_ms=60_000)
    sandbox.set_secret("replaced")
    await _drain(refresher)
    await let_the_client_probe_be_due()
    before = await registry.now()

    assert await _drain(refresher) == 1

    state = await fleet_state.of_client("acme")
    assert state.probe_at is not None
    assert before + 120_000 <= state.probe_at <= await registry.now() + 120_000
    assert _types(await told()) == ["client.rejected"]
    for grant in grants:
        assert (await _find(registry, grant.id)).grant.status is Status.ACTIVE


async def test_a_probe_that_finds_its_grant_dead_lets_the_client_work_again(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients)
    sandbox.revoke(grant.id)
    refresher = await open_refresher(clients)
    sandbox.set_secret("replaced")
    await _drain(refresher)
    configure(secret="replaced")
    await let_the_client_probe_be_due()

    await _drain(refresher)

    assert _types(await told()) == ["client.rejected", "grant.failing", "client.recovered"]
    assert (await _find(registry, grant.id)).grant.status is Status.FAILING


async def test_a_probe_does_no_harm_to_a_grant_that_cannot_be_refreshed(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    make_due: OnGrant,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    (unrefreshable,) = await enroll(sandbox, clients, age=0.1, changes={"refresh_token": None})
    await enroll(sandbox, clients)
    refresher = await open_refresher(clients)
    sandbox.set_secret("replaced")
    await _drain(refresher)
    configure(secret="replaced")
    await make_due(unrefreshable.id)  # first in line
    before = sandbox.totals()["malformed"]

    await let_the_client_probe_be_due()
    await _drain(refresher)

    stored = (await _find(registry, unrefreshable.id)).grant
    assert (stored.status, stored.streak) == (Status.ACTIVE, 0)
    assert "grant.failing" not in _types(await told())
    assert sandbox.totals()["malformed"] == before


async def test_a_client_is_probed_with_the_next_grant_where_the_first_in_line_cannot_be_refreshed(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    make_due: OnGrant,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    keys: KeyRing,
) -> None:
    clients = configure(sandbox.token_url)
    (unrefreshable,) = await enroll(sandbox, clients, age=0.1, changes={"refresh_token": None})
    grants = await enroll(sandbox, clients)
    refresher = await open_refresher(clients)
    sandbox.set_secret("replaced")
    await _drain(refresher)
    configure(secret="replaced")
    await make_due(unrefreshable.id)

    for _ in range(3):
        await let_the_client_probe_be_due()
        await _drain(refresher)

    assert (await fleet_state.of_client("acme")).state == "accepted"
    await _assert_alive(registry, keys, sandbox, grants)


async def test_a_second_process_reads_its_secret_anew_when_another_found_the_client_accepted(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    first, second = configure(sandbox.token_url), configure()
    grants = await enroll(sandbox, first, 5)
    one, other = await open_refresher(first), await open_refresher(second)
    sandbox.set_secret("replaced")
    await _drain(one)
    configure(secret="replaced")
    await let_the_client_probe_be_due()
    assert await _drain(one) == 1
    wrong = sandbox.totals()["wrong_client"]

    assert await _drain(other) == 4

    assert sandbox.totals()["wrong_client"] == wrong
    await _assert_alive(registry, keys, sandbox, grants)
    assert _types(await told()).count("client.rejected") == 1


async def test_each_clients_secret_is_read_anew_however_often_anothers_was(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    redis: Redis,
    prefix: str,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    configure(sandbox.token_url, "other")
    stale = configure(sandbox.token_url, "acme")
    await redis.hset(f"{prefix}client:other", "generation", "5")  # it was rejected and accepted five times
    refresher = await open_refresher(stale)
    await _drain(refresher)
    grants = await enroll(sandbox, stale, 3)
    sandbox.set_secret("replaced")
    configure(name="acme", secret="replaced")
    await redis.hset(f"{prefix}client:acme", "generation", "1")  # another process found it accepted

    await _drain(refresher)

    await _assert_alive(registry, keys, sandbox, grants)
    assert _types(await told()) == ["grant.refreshed"] * 3


async def test_a_secret_that_could_not_be_read_when_it_was_new_is_read_as_soon_as_it_can_be(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = configure("http://127.0.0.1:9/token")
    configure(secret="replaced")
    with monkeypatch.context() as broken:
        broken.setenv("EVERGRANT_REFRESH_AT", "being edited")
        assert clients.get("acme", 1).credentials == (ClientSecretPost("sandbox-secret"),)

    assert clients.get("acme", 1).credentials == (ClientSecretPost("replaced"),)


# Late answers


async def test_an_answer_that_comes_after_its_lease_ran_out_is_still_stored(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    delayed_replies: tuple[str, asyncio.Event],
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url)
    grants = await enroll(sandbox, clients)
    refresher = await open_refresher(clients, **PATIENT | {"lease_ms": 500}, request_ms=0)

    draining = asyncio.create_task(_drain(refresher))
    await _wait_for(lambda: bool(list(sandbox.log(grants[0].id))))
    lease_until = (await _find(registry, grants[0].id)).lease_until
    assert lease_until is not None

    async def lease_is_over() -> bool:
        return await registry.now() > lease_until

    await until(lease_is_over)
    let_pass.set()
    await draining

    await _assert_alive(registry, keys, sandbox, grants)
    assert _types(await told()) == ["grant.refreshed"]


async def test_a_late_answer_wins_over_whoever_took_the_lease_meanwhile(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    end_lease: OnGrant,
    registry: RedisRegistry,
    keys: KeyRing,
    delayed_replies: tuple[str, asyncio.Event],
) -> None:
    url, let_pass = delayed_replies
    late = await open_refresher(configure(url), **PATIENT)
    clients = configure(sandbox.token_url)
    hasty = await open_refresher(clients)
    (grant,) = await enroll(sandbox, clients)
    draining = asyncio.create_task(_drain(late))
    await _wait_for(lambda: bool(list(sandbox.log(grant.id))))
    await end_lease(grant.id)

    assert await _drain(hasty) == 1
    assert not draining.done()
    let_pass.set()
    await draining

    stored = (await _find(registry, grant.id)).grant
    (live,) = (pair for pair in sandbox.pairs() if pair["id"] == grant.id)
    assert stored.status is Status.ACTIVE
    assert keys.open(stored).refresh_token == live["refresh_token"]


async def test_an_answer_made_while_the_same_pair_was_imported_anew_is_sealed_for_its_new_place(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
    delayed_replies: tuple[str, asyncio.Event],
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url)
    grants = await enroll(sandbox, clients)
    grant = grants[0]
    refresher = await open_refresher(clients, **PATIENT)
    draining = asyncio.create_task(_drain(refresher))
    await _wait_for(lambda: bool(list(sandbox.log(grant.id))))
    moved = replace(grant, version=6)
    moved = replace(moved, sealed=keys.seal(moved, keys.open(grant)))
    result = await registry.import_grant(Change(moved, None, None, None), replaces=0)
    let_pass.set()
    await draining

    assert result.verdict is ImportVerdict.STORED
    await _assert_alive(registry, keys, sandbox, grants)
    assert (await _find(registry, grant.id)).grant.version == 7


async def test_answers_that_come_while_redis_is_away_hold_up_no_task_and_are_stored_when_it_is_back(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    behind_gate: Redis,
    redis_away: Away,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
    delayed_replies: tuple[str, asyncio.Event],
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url)
    grants = await enroll(sandbox, clients, 5)
    refresher = await open_refresher(clients, connection=behind_gate, **PATIENT)
    draining = asyncio.create_task(_drain(refresher))
    await _wait_for(lambda: all(list(sandbox.log(grant.id)) for grant in grants))

    async with redis_away():
        let_pass.set()
        with suppress(StoreUnavailableError):
            await draining
        assert await _drain(refresher) == 0  # nothing is claimed while an answer waits

    await _until_rotated(registry, grants)
    await _assert_alive(registry, keys, sandbox, grants)
    assert _types(await told()) == ["grant.refreshed"] * 5


async def test_a_drain_that_loses_redis_finishes_what_is_in_flight_before_it_ends(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    behind_gate: Redis,
    redis_away: Away,
    registry: RedisRegistry,
    delayed_replies: tuple[str, asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, let_pass = delayed_replies
    # The budget lets one grant through a claim, so that claims go on while requests are in flight.
    clients = configure(url, rate_per_second="1")
    grants = await enroll(sandbox, clients, 2)
    refresher = await open_refresher(clients, connection=behind_gate, **PATIENT)
    is_lost = asyncio.Event()
    for call in ("claim", "due_clients", "heartbeat"):
        monkeypatch.setattr(RedisStore, call, _telling_of_loss(getattr(RedisStore, call), is_lost))
    draining = asyncio.create_task(_drain(refresher))
    await _wait_for(lambda: any(list(sandbox.log(grant.id)) for grant in grants))

    async with redis_away():
        await asyncio.wait_for(is_lost.wait(), PATIENCE_SECONDS)
        sent = [grant for grant in grants if list(sandbox.log(grant.id))]
        done, _ = await asyncio.wait({draining}, timeout=0.1)
        assert not done
        let_pass.set()
        with suppress(StoreUnavailableError):
            await draining

    await _until_rotated(registry, sent)


def _telling_of_loss(call: Callable[..., Awaitable[Any]], is_lost: asyncio.Event) -> Callable[..., Any]:
    async def run(*given: Any, **options: Any) -> Any:
        try:
            return await call(*given, **options)
        except StoreUnavailableError:
            is_lost.set()
            raise

    return run


# What needs no refresh


async def test_a_grant_without_a_refresh_token_fails_when_its_access_token_has_ended(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients, age=1.5, changes={"refresh_token": None})

    await _drain(await open_refresher(clients))

    stored = (await _find(registry, grant.id)).grant
    assert (stored.status, stored.reason) == (Status.FAILED, "access_token_expired")
    assert _types(await told()) == ["grant.failed"]


async def test_the_coming_end_of_a_grant_without_a_refresh_token_is_announced_once(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients, age=0.7, changes={"refresh_token": None})
    refresher = await open_refresher(clients)

    await _drain(refresher)
    stored = await _find(registry, grant.id)
    await make_due(grant.id)
    await _drain(refresher)

    assert stored.grant.status is Status.ACTIVE
    assert stored.due_at == grant.access_expires_at
    assert [(each.grant.id, end) for each, end in await registry.needing_attention(9)] == [
        (grant.id, grant.access_expires_at)
    ]
    (event,) = await told()
    assert event["type"] == "evergrant.grant.expiring"
    assert event["data"]["reason"] == "no_refresh_token"


async def test_an_absolute_end_is_announced_though_the_grant_is_well(
    pagerduty: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    told: Told,
) -> None:
    day = 24 * 60 * 60
    clients = configure(pagerduty.token_url, provider="pagerduty")
    (grant,) = await enroll(
        pagerduty, clients, access_seconds=30 * day, age=0.01, authorized_seconds_ago=360 * day
    )

    await _drain(await open_refresher(clients))

    stored = await _find(registry, grant.id)
    assert stored.due_at is not None
    assert grant.authorized_at is not None
    ends_at = grant.authorized_at + 365 * day * 1000
    assert abs(stored.due_at - (ends_at - day * 1000)) <= 1000
    (event,) = await told()
    assert event["data"]["reason"] == "absolute_limit"
    assert event["data"]["status"] == "active"
    assert list(pagerduty.log(grant.id)) == []


async def test_clients_credentials_are_used_again_for_each_next_access_token(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    clients = configure(sandbox.token_url, grant_type="client_credentials", scopes="a b")
    (old,) = await enroll(sandbox, clients)
    (new,) = await enroll(sandbox, clients, age=0.0, changes={"access_token": None})
    before = sandbox.totals()["client_credentials"]

    assert await _drain(await open_refresher(clients)) == 2

    assert sandbox.totals()["client_credentials"] == before + 2
    for grant in (old, new):
        stored = await _find(registry, grant.id)
        assert (stored.grant.version, stored.grant.scope) == (1, "a b")
        pair = keys.open(stored.grant)
        assert (pair.access_token is not None, pair.refresh_token) == (True, None)
        assert stored.grant.access_expires_at is not None
        assert stored.due_at is not None
        assert await registry.now() < stored.due_at < stored.grant.access_expires_at


async def test_a_grant_whose_key_is_missing_loses_nothing_and_goes_on_when_the_key_is_back(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    make_due: OnGrant,
    registry: RedisRegistry,
    keys: KeyRing,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients)
    stranger = await open_refresher(clients, ring=KeyRing({"k2": b"2" * 32}), chance=1.0)
    before = sandbox.totals()["requests"]

    await _drain(stranger)
    stored = await _find(registry, grants[0].id)
    assert (stored.grant.status, stored.grant.reason) == (Status.ACTIVE, "key_missing")
    assert (stored.grant.sealed, stored.grant.in_doubt) == (grants[0].sealed, False)
    assert stored.due_at is not None
    assert grants[0].access_expires_at is not None
    assert await registry.now() < stored.due_at < grants[0].access_expires_at
    assert [each.grant.id for each, _ in await registry.needing_attention(5)] == [grants[0].id]
    assert sandbox.totals()["requests"] == before
    await make_due(grants[0].id)
    await _drain(await open_refresher(clients))

    await _assert_alive(registry, keys, sandbox, grants)
    assert await registry.needing_attention(5) == []
    assert _types(await told()) == ["grant.refreshed"]


# The end of a drain


@pytest.mark.parametrize(("rate", "claimed"), [("", 15), ("100000", 5)], ids=["ahead", "under-a-budget"])
async def test_a_stopping_drain_finishes_what_is_in_flight_and_gives_back_what_waits_for_a_slot(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    delayed_replies: tuple[str, asyncio.Event],
    rate: str,
    claimed: int,
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url, **({"rate_per_second": rate} if rate else {}))
    grants = await enroll(sandbox, clients, 20)
    refresher = await open_refresher(clients, in_flight=5, **PATIENT)
    now = await registry.now()
    stopping: list[bool] = []

    draining = asyncio.create_task(refresher.drain("", lambda: bool(stopping)))
    await _wait_for(lambda: len(refresher.held()) == claimed and _requests(sandbox, grants) == 5)
    stopping.append(True)
    let_pass.set()
    attempted = await draining

    stored = [await _find(registry, grant.id) for grant in grants]
    assert attempted == claimed
    assert sorted(each.grant.version for each in stored) == [0] * 15 + [1] * 5
    assert [each.lease_until for each in stored] == [None] * 20
    given_back = [each for each in stored if each.grant.version == 0]
    assert all(each.due_at is not None and each.due_at <= now + 60_000 for each in given_back)
    assert not any(each.grant.in_doubt for each in stored)


async def test_no_more_requests_are_in_flight_than_asked_for_and_a_free_slot_is_taken_at_once(
    attended: Attended,
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
) -> None:
    clients = configure(attended.url)
    await enroll(sandbox, clients, 24)
    refresher = await open_refresher(clients, in_flight=4, **PATIENT)

    draining = asyncio.create_task(_drain(refresher))
    unanswered = [await attended.next_request() for _ in range(4)]
    for _ in range(24 - 4):
        await asyncio.sleep(0.01)  # for one too many, if there were one
        assert attended.requests.empty()
        unanswered.pop(0).set_result(TOKENS)
        unanswered.append(await attended.next_request())
    for each in unanswered:
        each.set_result(TOKENS)

    assert await draining == 24
    assert attended.requests.empty()


async def test_answers_that_are_being_stored_keep_nobody_from_a_turn_up_to_a_number_of_their_own(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    behind_gate: Redis,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scripts, "GROUP_SECONDS", PATIENCE_SECONDS)  # else the commits are given up meanwhile
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 24)
    refresher = await open_refresher(clients, in_flight=4, connection=behind_gate)
    let_pass = asyncio.Event()

    async def hold_commits(request: bytes) -> None:
        if b"grant.refreshed" in request:
            await let_pass.wait()

    gate.watch = hold_commits
    draining = asyncio.create_task(_drain(refresher))
    # Four may be in flight, eight more wait for a slot, and eight are being stored. Room for a single grant
    # is not worth a claim, so one of the twenty may be missing.
    await _wait_for(lambda: sum(len(list(sandbox.log(grant.id))) for grant in grants) >= 19)
    assert len(refresher.held()) <= 20
    let_pass.set()

    assert await draining == 24


async def test_a_stopping_drain_does_not_wait_for_the_rate_budget(
    sandbox: Sandbox, configure: Configure, enroll: Enroll, open_refresher: OpenRefresher
) -> None:
    clients = configure(sandbox.token_url, rate_per_second="0.001")
    grants = await enroll(sandbox, clients, 2)
    refresher = await open_refresher(clients)
    stopping: list[bool] = []
    draining = asyncio.create_task(refresher.drain("", lambda: bool(stopping)))
    await _wait_for(lambda: any(sandbox.grant(grant.id)["rotations"] for grant in grants))

    stopping.append(True)

    assert await asyncio.wait_for(draining, PATIENCE_SECONDS) == 1


async def test_one_grants_surprise_does_not_stop_the_others(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    redis: Redis,
    prefix: str,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 5)
    key = f"{prefix}grant:{grants[0].id}"
    broken = replace(grants[0], sealed=grants[0].sealed[:20])
    await redis.set(key, record.pack(broken))

    await _drain(await open_refresher(clients, chance=1.0))

    await _assert_alive(registry, keys, sandbox, grants[1:])
    assert (await _find(registry, grants[0].id)).grant.status is Status.FAILING


async def test_a_client_without_settings_is_left_alone_said_once_and_keeps_no_other_waiting(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    seed: Seed,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in range(3):
        await seed(f"stranger-{place}", client=f"unknown-{place}", due_in_ms=-60_000)
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 2)
    refresher = await open_refresher(clients)
    monkeypatch.setattr(drain, "PAGE", 2)  # its first page has none but strangers

    attempted = [await _drain(refresher) for _ in range(2)]

    assert attempted == [2, 0]
    assert [(await _find(registry, grant.id)).grant.version for grant in grants] == [1, 1]
    assert (await _find(registry, "stranger-0")).lease_until is None
    assert capsys.readouterr().out.count("client_not_configured") == 3


async def test_no_token_or_secret_stands_in_an_event_or_unsealed_in_the_store(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    redis: Any,
    prefix: str,
) -> None:
    clients = configure(sandbox.token_url)
    grants = await enroll(sandbox, clients, 3)
    sandbox.revoke(grants[0].id)
    sandbox.add_fault("drop_after", times=1, grant=grants[1].id)
    before = {pair["id"]: pair for pair in sandbox.pairs()}

    await _drain(await open_refresher(clients, chance=1.0))

    after = {pair["id"]: pair for pair in sandbox.pairs()}
    tokens = [
        pairs[grant.id][kind].encode()
        for pairs in (before, after)
        for grant in grants
        for kind in ("access_token", "refresh_token")
    ]
    stored = bytearray()
    async for key in redis.scan_iter(match=prefix + "*"):
        stored += await redis.dump(key)
        if key.endswith(b":events"):
            stored += json.dumps(str(await redis.xrange(key))).encode()
    assert not [token for token in [*tokens, b"sandbox-secret"] if token in stored]
    assert uuid.UUID(hex=grants[0].id.split("-")[0]).hex.encode() in stored  # it was looked for rightly


async def test_a_lease_that_does_not_outlast_a_request_presents_nothing(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    told: Told,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients)

    await _drain(await open_refresher(clients, lease_ms=5_000, request_ms=6_000))

    assert list(sandbox.log(grant.id)) == []
    stored = await _find(registry, grant.id)
    assert (stored.grant.status, stored.lease_until) == (Status.ACTIVE, None)
    assert await told() == []
    await _drain(await open_refresher(clients))


def _visits(sandbox: Sandbox, grants: list[Grant]) -> list[dict[str, Any]]:
    ids = {grant.id for grant in grants}
    return [visit for visit in sandbox.log() if visit["grant"] in ids]


async def test_a_claim_that_fails_in_any_way_lets_what_is_in_flight_be_stored(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    keys: KeyRing,
    redis: Redis,
    prefix: str,
    delayed_replies: tuple[str, asyncio.Event],
) -> None:
    url, let_pass = delayed_replies
    clients = configure(url)
    grants = await enroll(sandbox, clients, 48, age=1.2)  # a first claim's worth
    grants += await enroll(sandbox, clients, 10, age=0.8)
    refresher = await open_refresher(clients, in_flight=16, **PATIENT)
    with sandbox.fault("latency", ms=100, jitter_ms=400):
        draining = asyncio.create_task(_drain(refresher))
        await _wait_for(lambda: len(refresher.held()) == 48)
        await redis.set(f"{prefix}fence", "no number")  # no script can lease anything
        let_pass.set()
        with pytest.raises(Exception, match=r".") as failure:
            await draining
    await redis.delete(f"{prefix}fence")

    assert not isinstance(failure.value, TimeoutError)
    rotated = [visit["grant"] for visit in _visits(sandbox, grants) if visit["acted"]]
    assert len(rotated) >= 48
    for grant_id in rotated:
        assert (await _find(registry, grant_id)).grant.version == 1
    await _drain(await open_refresher(clients))
    await _assert_alive(registry, keys, sandbox, grants)


async def _refuses_the_bad(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, status: bytes = b"401 Unauthorized"
) -> None:
    """A server that says 401 without a code of a dead refresh token, against RFC 6749 section 5.2."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    body = await reader.readexactly(length)
    answer = b"{}"
    if b"refresh_token=bad" not in body:
        status, answer = b"200 OK", b'{"access_token": "a", "expires_in": 3600}'
    start = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(answer))
    writer.write(start + answer)
    await writer.drain()
    writer.close()


async def test_one_grant_that_makes_the_server_refuse_the_client_does_not_hold_up_the_others(
    configure: Configure,
    seed_sealed: Seed,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    make_due: OnGrant,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    told: Told,
) -> None:
    server = await asyncio.start_server(_refuses_the_bad, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        refresher = await open_refresher(configure(f"http://127.0.0.1:{port}/token"))
        for name in ("bad", "good"):
            await seed_sealed(name, holds=name, status=Status.FAILING)
        await _drain(refresher)

        for _ in range(4):
            await let_the_client_probe_be_due()
            for name in ("good", "bad"):
                await make_due(name)
                await _drain(refresher)

    assert (await fleet_state.of_client("acme")).state == "accepted"
    assert (await _find(registry, "bad")).grant.status is Status.FAILED
    assert (await _find(registry, "good")).grant.status is Status.ACTIVE
    kinds = _types(await told())
    assert kinds.count("client.rejected") == 0
    assert kinds.count("grant.failed") == 1


async def test_redirects_that_meet_one_grant_alone_are_no_word_of_that_grant(
    configure: Configure,
    seed_sealed: Seed,
    open_refresher: OpenRefresher,
    let_the_client_probe_be_due: LetProbeBeDue,
    make_due: OnGrant,
    registry: RedisRegistry,
    told: Told,
) -> None:
    """Such as those of something in front of the server: the grant is tried again, and never failed."""
    redirects = partial(_refuses_the_bad, status=b"302 Found\r\nLocation: /sorry")
    async with await asyncio.start_server(redirects, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        refresher = await open_refresher(configure(f"http://127.0.0.1:{port}/token"))
        for name in ("bad", "good"):
            await seed_sealed(name, holds=name)
        await _drain(refresher)

        for _ in range(4):
            await let_the_client_probe_be_due()
            for name in ("good", "bad"):
                await make_due(name)
                await _drain(refresher)

    assert (await _find(registry, "bad")).grant.status is Status.FAILING
    assert "grant.failed" not in _types(await told())


async def test_a_check_that_is_older_than_a_request_proves_nothing_for_it(
    buddy: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    told: Told,
) -> None:
    """The client was well when one grant was found revoked; then its secret is reset."""
    clients = configure(buddy.token_url, provider="buddy")
    (revoked,) = await enroll(buddy, clients)
    buddy.revoke(revoked.id)
    refresher = await open_refresher(clients)
    await _drain(refresher)
    healthy = await enroll(buddy, clients, 5)

    buddy.set_secret("replaced")
    await _drain(refresher)

    assert _types(await told()) == ["grant.failing", "client.rejected"]
    for grant in healthy:
        assert (await _find(registry, grant.id)).grant.status is Status.ACTIVE
