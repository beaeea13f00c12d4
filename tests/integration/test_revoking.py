"""Revocation of one grant, on the real store and at a server that judges."""

import asyncio
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.callables import Configure, Enroll, OnGrant, OpenMember
from tests.support.gate import Gate
from worker.adapters.sealing import KeyRing
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.sources import source
from worker.core import lifecycle
from worker.core.grant import Grant, Status
from worker.core.interchange import read_line
from worker.core.policy import Rules
from worker.core.ports import Lease, StoreUnavailableError
from worker.core.registry import ImportVerdict, StoredGrant
from worker.core.revocation import Revocation
from worker.fleet.revoking import RevocationError, RevocationFailure
from worker.runtime.assembly import Runtime
from worker.sandbox.client import Sandbox

TO_FORGET = hashlib.sha1(source("forget_revoked").encode(), usedforsecurity=False).hexdigest().encode()


@pytest.fixture
def clients(configure: Configure, buddy: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One at Buddy's token endpoint, and so at its revocation endpoint."""
    monkeypatch.setenv("EVERGRANT_CLIENTS__ACME__PROVIDER", "buddy")
    monkeypatch.setenv("EVERGRANT_CLIENTS__ACME__CLIENT_ID", "sandbox-client")
    monkeypatch.setenv("EVERGRANT_CLIENTS__ACME__BASE_URL", buddy.url)
    return configure()


async def _revoke(runtime: Runtime, grant_id: str) -> Grant:
    async with runtime.membership.kept():
        return await runtime.revoking.revoke(grant_id)


async def _refused(runtime: Runtime, grant_id: str) -> RevocationError:
    with pytest.raises(RevocationError) as refused:
        await _revoke(runtime, grant_id)
    return refused.value


async def _found(registry: RedisRegistry, grant_id: str) -> StoredGrant:
    stored = await registry.find(grant_id)
    assert stored is not None
    return stored


@pytest.mark.parametrize("status", list(Status))
async def test_a_grant_is_revoked_at_the_provider_and_then_forgotten_whatever_its_status(
    runtime: Runtime, clients: Any, buddy: Sandbox, enroll: Enroll, registry: RedisRegistry, status: Status
) -> None:
    grant, other = await enroll(buddy, clients, count=2, changes={"status": status.value})

    revoked = await _revoke(runtime, grant.id)

    assert (revoked.id, revoked.in_doubt) == (grant.id, False)
    assert buddy.grant(grant.id)["revoked"] is True
    assert await registry.find(grant.id) is None
    assert buddy.grant(other.id)["revoked"] is False
    assert await registry.find(other.id) is not None
    assert list(buddy.log(grant.id)) == []  # nobody refreshed it


async def test_a_grant_without_a_refresh_token_is_revoked_by_its_access_token(
    runtime: Runtime, clients: Any, buddy: Sandbox, enroll: Enroll, registry: RedisRegistry
) -> None:
    (grant,) = await enroll(buddy, clients, changes={"refresh_token": None})

    await _revoke(runtime, grant.id)

    assert buddy.grant(grant.id)["revoked"] is True
    assert await registry.find(grant.id) is None


@pytest.mark.parametrize("status", list(Status))
async def test_where_the_provider_refuses_the_grant_stays_as_it_was(
    runtime: Runtime,
    clients: Any,
    configure: Configure,
    buddy: Sandbox,
    enroll: Enroll,
    registry: RedisRegistry,
    status: Status,
) -> None:
    (grant,) = await enroll(buddy, clients, age=0.1, changes={"status": status.value})
    before = await registry.find(grant.id)
    configure(secret="wrong")

    refused = await _refused(runtime, grant.id)

    assert (refused.code, refused.detail) == (RevocationFailure.REFUSED, "http_401")
    assert await registry.find(grant.id) == before
    assert buddy.grant(grant.id)["revoked"] is False


async def test_where_the_provider_is_away_the_grant_stays_as_it_was(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    enroll: Enroll,
    registry: RedisRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (grant,) = await enroll(buddy, clients, age=0.1)
    before = await registry.find(grant.id)
    monkeypatch.setenv("EVERGRANT_CLIENTS__ACME__BASE_URL", "http://127.0.0.1:9")

    refused = await _refused(runtime, grant.id)

    assert (refused.code, refused.detail) == (RevocationFailure.NO_ANSWER, "could_not_connect")
    assert await registry.find(grant.id) == before


async def test_broken_off_after_the_provider_s_yes_the_next_try_finds_it_dead_and_forgets_it(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    enroll: Enroll,
    gate: Gate,
    registry: RedisRegistry,
    end_lease: OnGrant,
) -> None:
    (grant,) = await enroll(buddy, clients)

    async def go_away(request: bytes) -> None:
        if TO_FORGET in request:
            gate.watch = None
            closing.append(asyncio.create_task(gate.shut()))
            await asyncio.Event().wait()

    closing: list[asyncio.Task[None]] = []
    gate.watch = go_away
    with pytest.raises(StoreUnavailableError):
        await _revoke(runtime, grant.id)
    await gate.open()
    await end_lease(grant.id)
    assert (await _found(registry, grant.id)).grant.sealed == grant.sealed

    await _revoke(runtime, grant.id)

    assert await registry.find(grant.id) is None
    counts = buddy.grant(grant.id)["counts"]
    assert (counts["revocations"], counts["revocations_of_dead_tokens"]) == (1, 1)


async def test_a_person_who_connected_again_meanwhile_keeps_the_new_consent(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    enroll: Enroll,
    gate: Gate,
    registry: RedisRegistry,
) -> None:
    (grant,) = await enroll(buddy, clients)
    ring = KeyRing({"k1": bytes(32)})

    async def connect_again(request: bytes) -> None:
        """Just before the revoked grant is forgotten."""
        if TO_FORGET not in request:
            return
        gate.watch = None
        (line,) = buddy.issue(1, prefix="again", client="acme")
        now = await registry.now()
        read = read_line(json.dumps(line | {"id": grant.id}), {"acme": next(iter(clients))}, now)
        sealed = ring.seal(read.grant, read.pair)
        change = lifecycle.admit(replace(read.grant, sealed=sealed), next(iter(clients)), Rules(), now)
        result = await registry.import_grant(change, replaces=grant.version)
        assert result.verdict is ImportVerdict.STORED

    gate.watch = connect_again
    refused = await _refused(runtime, grant.id)

    stored = await _found(registry, grant.id)
    assert refused.code is RevocationFailure.REPLACED
    assert stored.grant.sealed != grant.sealed
    assert stored.lease_until is None
    assert (await _refreshed(runtime, grant.id)).grant.version == stored.grant.version + 1


async def test_it_waits_for_a_refresh_and_revokes_the_pair_that_this_one_brought(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    enroll: Enroll,
    open_member: OpenMember,
    registry: RedisRegistry,
) -> None:
    (grant,) = await enroll(buddy, clients)
    worker = await open_member(clients)
    await worker.membership.beat()
    await worker.membership.recover()
    lease = await worker.store.lease(grant.id)
    assert isinstance(lease, Lease)

    revoking = asyncio.create_task(_revoke(runtime, grant.id))
    done, _ = await asyncio.wait({revoking}, timeout=0.3)
    assert not done
    assert buddy.grant(grant.id)["revoked"] is False
    await worker.refresher.refresh_one(lease)
    revoked = await revoking

    assert revoked.version == 1
    assert buddy.grant(grant.id)["revoked"] is True
    assert await registry.find(grant.id) is None


async def test_an_interrupt_waits_until_the_revoked_grant_is_forgotten(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    enroll: Enroll,
    registry: RedisRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (grant,) = await enroll(buddy, clients)
    revoke = runtime.endpoint.revoke

    async def revoke_and_be_interrupted(*asked: Any) -> Revocation:
        said = await revoke(*asked)
        revoking.cancel()
        await asyncio.sleep(0)
        return said

    monkeypatch.setattr(runtime.endpoint, "revoke", revoke_and_be_interrupted)
    revoking = asyncio.create_task(_revoke(runtime, grant.id))
    with pytest.raises(asyncio.CancelledError):
        await revoking

    assert buddy.grant(grant.id)["revoked"] is True
    assert await registry.find(grant.id) is None


async def test_nothing_is_sent_under_a_lease_that_is_about_to_end(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    enroll: Enroll,
    registry: RedisRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (grant,) = await enroll(buddy, clients, age=0.1)
    before = await registry.find(grant.id)
    monkeypatch.setattr(runtime.revoking, "_request_ms", 10**9)

    assert (await _refused(runtime, grant.id)).code is RevocationFailure.LEASE_TOO_SHORT
    assert buddy.grant(grant.id)["counts"]["revocations"] == 0
    assert await registry.find(grant.id) == before


async def test_a_pair_that_no_key_opens_is_not_revoked(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    registry: RedisRegistry,
    enroll: Enroll,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (grant,) = await enroll(buddy, clients)
    before = await registry.find(grant.id)
    monkeypatch.setattr(runtime.revoking, "_sealer", KeyRing({"k9": bytes(range(32))}))

    refused = await _refused(runtime, grant.id)

    assert refused.code is RevocationFailure.CANNOT_UNSEAL
    assert "'k1'" in (refused.detail or "")
    assert buddy.grant(grant.id)["revoked"] is False
    assert await registry.find(grant.id) == before


async def test_without_a_known_endpoint_nothing_is_tried(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    enroll: Enroll,
    configure: Configure,
    registry: RedisRegistry,
) -> None:
    """A token URL that was set may be of another server than the provider's own endpoints."""
    (grant,) = await enroll(buddy, clients, age=0.1)
    before = await registry.find(grant.id)
    configure(buddy.token_url)

    refused = await _refused(runtime, grant.id)  # it was known until the settings were read anew
    with pytest.raises(RevocationError) as found_out_before:
        await runtime.revoking.check(grant.id)

    for problem in (refused, found_out_before.value):
        assert (problem.code, problem.detail) == (RevocationFailure.NO_ENDPOINT, "acme")
    assert await registry.find(grant.id) == before


async def test_a_grant_by_client_credentials_is_revoked_by_its_access_token_and_before_its_first_by_nothing(
    runtime: Runtime,
    clients: Any,
    buddy: Sandbox,
    registry: RedisRegistry,
    monkeypatch: pytest.MonkeyPatch,
    keys: KeyRing,
) -> None:
    monkeypatch.setenv("EVERGRANT_CLIENTS__ACME__GRANT_TYPE", "client_credentials")
    client = runtime.clients.reread("acme")
    assert clients
    now = await registry.now()
    for grant_id in ("asked", "new"):
        read = read_line(json.dumps({"id": grant_id, "client": "acme"}), {"acme": client}, now)
        sealed = replace(read.grant, sealed=keys.seal(read.grant, read.pair))
        await registry.import_grant(lifecycle.admit(sealed, client, Rules(), now), replaces=None)
    await _refreshed(runtime, "asked")
    before = buddy.totals()

    for grant_id in ("asked", "new"):
        await _revoke(runtime, grant_id)
        assert await registry.find(grant_id) is None

    after = buddy.totals()
    assert after["revocations"] == before["revocations"] + 1
    assert after["revocations_of_dead_tokens"] == before["revocations_of_dead_tokens"]


async def _refreshed(runtime: Runtime, grant_id: str) -> StoredGrant:
    async with runtime.membership.kept():
        return await runtime.tokens.refresh(grant_id)
