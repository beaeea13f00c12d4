"""Handing out tokens: what callers get, and which refresh serves them, on the real store and server."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.callables import Configure, Enroll, OpenMember
from tests.support.member import Member
from tests.support.waiting import until
from worker.adapters.clock import RedisClock
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.grant import Grant
from worker.core.ports import JournalError, Lease
from worker.core.promises import HandedOut, Plan, Refusal, Request, Spans, Verdict
from worker.core.registry import Operation
from worker.fleet.handing_out import HandOutError
from worker.fleet.tokens import TokenFailure
from worker.runtime.assembly import Runtime
from worker.sandbox.client import Sandbox

HOUR_SECONDS = 3_600
FRESH, OLD = 0.1, 0.9  # shares of a token's life


@pytest.fixture
def clients(configure: Configure, sandbox: Sandbox) -> Any:
    return configure(sandbox.token_url)


@pytest.fixture
async def service(runtime: Runtime) -> AsyncIterator[Runtime]:
    """A process that hands tokens out, and keeps its heartbeat meanwhile."""
    async with runtime.membership.kept():
        yield runtime


def _request(grant: Grant, min_ttl: float = 0, refused: int | None = None) -> Request:
    return Request(grant.id, int(min_ttl * 1000), "billing", "10.0.0.7", refused)


async def _refused(service: Runtime, request: Request) -> HandOutError:
    with pytest.raises(HandOutError) as caught:
        await service.handing_out.hand_out(request)
    return caught.value


async def _worker(open_member: OpenMember, clients: Any) -> Member:
    worker = await open_member(clients)
    await worker.membership.beat()
    await worker.membership.recover()
    return worker


# What a caller gets


async def test_a_token_is_handed_out_with_the_time_for_which_it_is_promised(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=FRESH, access_seconds=HOUR_SECONDS)

    handed_out = await service.handing_out.hand_out(_request(grant))

    assert handed_out.document() == {
        "access_token": sandbox.grant(grant.id)["access_token"],
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": grant.scope,
        "grant": grant.id,
        "version": 0,
    }
    assert handed_out.access_token not in repr(handed_out)
    assert list(sandbox.log(grant.id)) == []


async def test_a_token_at_hand_needs_no_heartbeat(
    runtime: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, redis: Any, prefix: str
) -> None:
    (grant,) = await enroll(sandbox, clients, age=FRESH, access_seconds=HOUR_SECONDS)

    assert isinstance(await runtime.handing_out.at_hand(_request(grant)), HandedOut)
    assert await redis.exists(f"{prefix}processes") == 0


async def test_a_token_that_ends_too_soon_is_refreshed_and_the_new_one_is_promised_as_long_as_was_asked(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=OLD, access_seconds=HOUR_SECONDS)

    handed_out = await service.handing_out.hand_out(_request(grant, 3_000))

    assert (handed_out.grant.version, handed_out.expires_in >= 3_000) == (1, True)
    assert handed_out.access_token == sandbox.grant(grant.id)["access_token"]


async def test_one_refresh_serves_all_callers_of_every_process(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, open_member: OpenMember
) -> None:
    (grant,) = await enroll(sandbox, clients, age=OLD, access_seconds=HOUR_SECONDS)
    both = [service.handing_out, (await _worker(open_member, clients)).handing_out]

    with sandbox.fault("latency", ms=300):
        tokens = await asyncio.gather(*(each.hand_out(_request(grant, 3_000)) for each in both * 10))

    assert {each.grant.version for each in tokens} == {1}
    assert len(list(sandbox.log(grant.id))) == 1


async def test_a_promised_token_is_not_rotated_by_a_worker_though_it_is_due(
    service: Runtime,
    clients: Any,
    sandbox: Sandbox,
    enroll: Enroll,
    open_member: OpenMember,
    registry: RedisRegistry,
) -> None:
    (grant,) = await enroll(sandbox, clients, age=0.75, access_seconds=HOUR_SECONDS)
    worker = await _worker(open_member, clients)

    handed_out = await service.handing_out.hand_out(_request(grant, 60))
    await worker.refresher.drain("", lambda: False)

    assert list(sandbox.log(grant.id)) == []
    stored = await registry.find(grant.id)
    assert stored is not None
    assert stored.due_at == handed_out.until


async def test_a_refresh_for_a_caller_comes_after_the_promise_of_another(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, scripts: Scripts
) -> None:
    (grant,) = await enroll(sandbox, clients, age=0.5, access_seconds=HOUR_SECONDS)
    briefly = RedisPromises(
        scripts,
        clock=RedisClock(),
        audit_kept=1_000,
        recovery_ms=60_000,
        spans=Spans(usual_ms=500),
    )
    plan = Plan(0, grant.issued_at + 3_240_000, outlives=False)
    first = await briefly.hand_out(_request(grant), "of another process", plan=plan)

    second = await service.handing_out.hand_out(_request(grant, 3_000))

    assert first.verdict is Verdict.PROMISED
    assert second.grant.version == 1
    assert second.grant.issued_at >= first.until
    assert len(list(sandbox.log(grant.id))) == 1


async def test_where_a_promise_lasts_longer_than_a_caller_waits_a_code_says_when_to_come_back(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=0.5, access_seconds=HOUR_SECONDS)
    await service.handing_out.hand_out(_request(grant, 600))

    refused = await _refused(service, _request(grant, 3_000))

    assert refused.refusal is Refusal.PROMISED
    assert refused.retry_after is not None
    assert 1 <= refused.retry_after <= 600
    assert list(sandbox.log(grant.id)) == []


async def test_a_persons_order_is_carried_out_whatever_was_promised(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=FRESH, access_seconds=HOUR_SECONDS)
    await service.handing_out.hand_out(_request(grant, 600))

    assert (await service.tokens.refresh(grant.id)).grant.version == 1


async def test_who_waits_for_anothers_refresh_gets_the_new_token(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, open_member: OpenMember
) -> None:
    (grant,) = await enroll(sandbox, clients, age=FRESH, access_seconds=HOUR_SECONDS)
    worker = await _worker(open_member, clients)
    lease = await worker.store.lease(grant.id)
    assert isinstance(lease, Lease)

    asking = asyncio.create_task(service.handing_out.hand_out(_request(grant)))
    done, _ = await asyncio.wait({asking}, timeout=0.3)
    assert not done
    await worker.refresher.refresh_one(lease)

    assert (await asking).grant.version == 1


# A refused token


async def test_a_refused_token_is_refreshed_once_for_all_callers_though_it_is_promised(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=FRESH, access_seconds=HOUR_SECONDS)
    await service.handing_out.hand_out(_request(grant, 600))

    tokens = await asyncio.gather(
        *(service.handing_out.hand_out(_request(grant, refused=0)) for _ in range(10))
    )

    assert {each.grant.version for each in tokens} == {1}
    assert len(list(sandbox.log(grant.id))) == 1


async def test_a_refused_version_that_was_replaced_since_costs_no_refresh(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=FRESH, access_seconds=HOUR_SECONDS)
    await service.tokens.refresh(grant.id)

    assert (await service.handing_out.hand_out(_request(grant, refused=0))).grant.version == 1
    assert len(list(sandbox.log(grant.id))) == 1


async def test_the_next_refused_token_within_a_minute_is_not_refreshed(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=FRESH, access_seconds=HOUR_SECONDS)
    await service.handing_out.hand_out(_request(grant, refused=0))

    refused = await _refused(service, _request(grant, refused=1))

    assert refused.refusal is Refusal.TOO_MANY_REQUESTS
    assert refused.retry_after is not None
    assert 1 <= refused.retry_after <= 60
    assert len(list(sandbox.log(grant.id))) == 1


# Where there is no token


async def test_a_grant_that_is_not_there_is_named(service: Runtime, clients: Any) -> None:
    assert clients
    refused = await _refused(service, Request("nobody", 0, "billing", "10.0.0.7"))

    assert (refused.refusal, refused.retry_after) == (Refusal.NO_SUCH_GRANT, None)


async def test_a_life_that_no_token_can_be_promised_is_said_without_a_second_refresh(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=FRESH, access_seconds=HOUR_SECONDS)

    first = await _refused(service, _request(grant, 2 * HOUR_SECONDS))  # nobody knew before
    second = await _refused(service, _request(grant, 2 * HOUR_SECONDS))

    assert first.refusal is second.refusal is Refusal.TTL_UNREACHABLE
    assert second.reach_ms is not None
    assert second.reach_ms < HOUR_SECONDS * 1000
    assert len(list(sandbox.log(grant.id))) == 1


@pytest.mark.parametrize("age", [FRESH, 1.5], ids=["its-token-works", "its-token-has-ended"])
async def test_a_paused_grant_has_its_token_as_long_as_it_works(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, registry: RedisRegistry, age: float
) -> None:
    (grant,) = await enroll(sandbox, clients, age=age, access_seconds=HOUR_SECONDS)
    await registry.operate(grant.id, Operation.PAUSE)

    if age < 1:
        assert (await service.handing_out.hand_out(_request(grant, 60))).expires_in >= 60
    else:
        assert (await _refused(service, _request(grant, 60))).refusal is Refusal.GRANT_PAUSED
    assert list(sandbox.log(grant.id)) == []


async def test_a_grant_whose_provider_fails_is_not_asked_again_before_its_time(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll
) -> None:
    (grant,) = await enroll(sandbox, clients, age=1.5, access_seconds=HOUR_SECONDS)
    sandbox.revoke(grant.id)

    first = await _refused(service, _request(grant, 60))
    second = await _refused(service, _request(grant, 60))

    assert first.cause is not None
    assert first.cause.code is TokenFailure.PROVIDER_REJECTED
    assert first.refusal is second.refusal is Refusal.PROVIDER_UNAVAILABLE
    assert second.retry_after is not None
    assert len(list(sandbox.log(grant.id))) == 1


async def test_where_no_refresh_can_be_had_a_token_that_works_is_handed_out_without_a_promise(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, redis: Any, prefix: str
) -> None:
    (grant,) = await enroll(sandbox, clients, age=0.95, access_seconds=HOUR_SECONDS)
    closed_until = 4_000_000_000_000
    rejected = {"state": "rejected", "rejected_at": 1, "reason": "invalid_client", "probe_delay": 1}
    await redis.hset(f"{prefix}client:acme", mapping=rejected | {"probe_at": closed_until})

    works = await service.handing_out.hand_out(_request(grant, 60))
    refused = await _refused(service, _request(grant, 600))

    assert (works.unpromised, works.opens_at) == (Refusal.CLIENT_REJECTED, closed_until)
    assert works.document()["expires_in"] == 0
    assert refused.refusal is Refusal.CLIENT_REJECTED
    assert list(sandbox.log(grant.id)) == []
    entries = await redis.xrange(f"{prefix}audit")
    assert ["promised_until" in json.loads(fields[b"entry"]) for _, fields in entries] == [False]


async def test_a_disk_without_room_for_the_answer_lets_nothing_be_sent(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, monkeypatch: pytest.MonkeyPatch
) -> None:
    (grant,) = await enroll(sandbox, clients, age=OLD, access_seconds=HOUR_SECONDS)

    async def refuse(_: int) -> None:
        raise JournalError("journal: full")

    monkeypatch.setattr(service.journal, "reserve", refuse)
    refused = await _refused(service, _request(grant, 3_000))

    assert refused.refusal is Refusal.STORE_UNAVAILABLE
    assert list(sandbox.log(grant.id)) == []


async def test_a_caller_who_leaves_does_not_stop_the_refresh_for_others_and_the_last_one_waits_for_its_end(
    service: Runtime, clients: Any, sandbox: Sandbox, enroll: Enroll, registry: RedisRegistry
) -> None:
    (grant, alone) = await enroll(sandbox, clients, count=2, age=OLD, access_seconds=HOUR_SECONDS)
    before = sandbox.totals()["requests"]
    with sandbox.fault("latency", ms=1_000):
        leaves, stays, last = (
            asyncio.create_task(service.handing_out.hand_out(_request(each, 3_000)))
            for each in (grant, grant, alone)
        )
        await until(lambda: asyncio.to_thread(lambda: sandbox.totals()["requests"] >= before + 2))
        leaves.cancel()
        last.cancel()
        with pytest.raises(asyncio.CancelledError):
            await last

    stored = await registry.find(alone.id)
    assert stored is not None
    assert (stored.grant.version, stored.lease_until) == (1, None)
    assert (await stays).grant.version == 1


# A client whose tokens outlive their refresh


async def test_where_a_refresh_leaves_the_old_token_alive_the_promise_is_its_own_life(
    configure: Configure, sandbox: Sandbox, enroll: Enroll, open_member: OpenMember
) -> None:
    clients = configure(sandbox.token_url, refresh_kills_access_token="false")
    (grant,) = await enroll(sandbox, clients, age=0.75, access_seconds=HOUR_SECONDS)
    worker = await _worker(open_member, clients)

    handed_out = await worker.handing_out.hand_out(_request(grant, 60))
    await worker.refresher.drain("", lambda: False)

    assert grant.access_expires_at is not None
    assert 0 <= grant.access_expires_at - handed_out.until <= 2_000
    assert len(list(sandbox.log(grant.id))) == 1
