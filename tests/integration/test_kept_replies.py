"""A reply that nobody could read: kept on disk and in the store, presented to nobody again, and adopted."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.support.callables import (
    Away,
    Configure,
    Enroll,
    LetProbeBeDue,
    LoseReplies,
    OnGrant,
    OpenMember,
    OpenRefresher,
    Remember,
    Told,
)
from tests.support.member import Member
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.journal.format import read_file
from worker.adapters.sealing import KeyRing
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.core.grant import Grant, Status
from worker.core.outcomes import Unread
from worker.core.policy import Rules
from worker.core.ports import KeptReply, Lease, StoreUnavailableError
from worker.core.salvage import Directions
from worker.fleet.kept_replies import KeptReplies, KeptReplyError
from worker.recovery.membership import Membership
from worker.runtime.clients import ConfiguredClients
from worker.sandbox.client import Sandbox

TOLD_NOTHING = Directions()
KeptBy = Callable[[Member, ConfiguredClients], KeptReplies]


@pytest.fixture
def clients(configure: Configure, sandbox: Sandbox) -> ConfiguredClients:
    return configure(sandbox.token_url)


@pytest.fixture
async def member(open_member: OpenMember, clients: ConfiguredClients) -> Member:
    """A process that may claim; its requests leave one after the other."""
    process = await open_member(clients, in_flight=1)
    await _join(process)
    return process


@pytest.fixture
def kept_by(replies: RedisReplies, registry: RedisRegistry, keys: KeyRing) -> KeptBy:
    """What `evergrant answers` does, in one process."""

    def build(process: Member, clients: ConfiguredClients) -> KeptReplies:
        return KeptReplies(
            replies=replies,
            registry=registry,
            store=process.store,
            answers=process.answers,
            clients=clients,
            sealer=keys,
            rules=Rules(),
        )

    return build


async def _join(process: Member) -> None:
    await process.membership.beat()
    assert await process.membership.recover()


async def _drain(process: Member) -> None:
    await process.refresher.drain("", lambda: False)


async def _find(registry: RedisRegistry, grant: Grant) -> Grant:
    stored = await registry.find(grant.id)
    assert stored is not None
    return stored.grant


async def _keep_one(process: Member, sandbox: Sandbox, grant: Grant) -> None:
    """Refresh one grant whose reply cannot be read."""
    lease = await process.store.lease(grant.id)
    assert isinstance(lease, Lease)
    with sandbox.fault("unreadable"):
        assert isinstance(await process.refresher.refresh_one(lease), Unread)


def _types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("evergrant.") for event in events]


def _presented(sandbox: Sandbox, grant: Grant) -> int:
    return len(list(sandbox.log(grant.id)))


# Keeping


async def test_the_first_unreadable_reply_stops_the_endpoint_and_costs_no_other_grant_a_request(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    registry: RedisRegistry,
    replies: RedisReplies,
    told: Told,
) -> None:
    grants = await enroll(sandbox, clients, 5)

    with sandbox.fault("unreadable"):
        await _drain(member)
        await _drain(member)

    (reply,) = await replies.all()
    stored = {grant.id: await _find(registry, grant) for grant in grants}
    assert [grant.status for grant in stored.values()].count(Status.ACTIVE) == 4
    assert (stored[reply.grant].status, stored[reply.grant].reason) == (Status.FAILING, "reply_unread")
    assert sum(_presented(sandbox, grant) for grant in grants) == 1
    assert _types(await told()) == ["grant.failing", "provider.unavailable"]


async def test_30_grants_due_together_at_a_new_client_risk_one_which_is_adopted_and_the_others_follow(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    open_member: OpenMember,
    kept_by: KeptBy,
    registry: RedisRegistry,
    keys: KeyRing,
    redis: Any,
    prefix: str,
    let_the_endpoint_probe_be_due: LetProbeBeDue,
) -> None:
    grants = await enroll(sandbox, clients, 30)
    await redis.hdel(f"{prefix}client:acme", "proved")
    processes = [await open_member(clients, in_flight=30) for _ in range(2)]
    for process in processes:
        await _join(process)

    with sandbox.fault("unreadable"):
        for _ in range(3):
            await asyncio.gather(*map(_drain, processes))
            await let_the_endpoint_probe_be_due(sandbox.token_url)
    while_unread = [await _find(registry, grant) for grant in grants]
    await kept_by(processes[0], clients).adopt(1, TOLD_NOTHING)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not all([(await _find(registry, grant)).version for grant in grants]):
            await asyncio.gather(*map(_drain, processes))

    assert [grant.status for grant in while_unread].count(Status.ACTIVE) == 29
    assert [_presented(sandbox, grant) for grant in grants] == [1] * 30
    live = {pair["id"]: pair["refresh_token"] for pair in sandbox.pairs()}
    for grant in grants:
        assert keys.open(await _find(registry, grant)).refresh_token == live[grant.id]


async def test_the_same_token_is_never_presented_again_neither_due_nor_as_a_probe_nor_after_a_restart(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    open_refresher: OpenRefresher,
    let_the_endpoint_probe_be_due: LetProbeBeDue,
    registry: RedisRegistry,
    told: Told,
) -> None:
    kept, other = await enroll(sandbox, clients, 2)
    await _keep_one(member, sandbox, kept)

    for _ in range(3):
        await let_the_endpoint_probe_be_due(sandbox.token_url)
        await _drain(member)
    await (await open_refresher(clients)).drain("", lambda: False)

    assert (_presented(sandbox, kept), (await _find(registry, kept)).version) == (1, 0)
    assert (await _find(registry, other)).version == 1
    assert _types(await told()).count("provider.recovered") == 1  # the server answers readably again


async def test_each_probe_whose_reply_is_unread_too_is_kept_too(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    replies: RedisReplies,
    let_the_endpoint_probe_be_due: LetProbeBeDue,
) -> None:
    grants = await enroll(sandbox, clients, 3)

    with sandbox.fault("unreadable"):
        await _drain(member)
        await let_the_endpoint_probe_be_due(sandbox.token_url)
        await _drain(member)

    kept = [reply.grant for reply in await replies.all()]
    assert len(set(kept)) == 2
    assert [_presented(sandbox, grant) for grant in grants if grant.id in kept] == [1, 1]


async def test_a_reply_is_on_the_disk_and_in_the_store_whole_and_sealed(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    replies: RedisReplies,
    journals: Path,
    keys: KeyRing,
    redis: Any,
    prefix: str,
) -> None:
    (grant,) = await enroll(sandbox, clients)

    with capture_logs() as logs:
        await _keep_one(member, sandbox, grant)

    secrets = [sandbox.grant(grant.id)[name] for name in ("access_token", "refresh_token")]
    (segment,) = (journals / member.owner).glob("*.segment")
    (kept,) = read_file(segment).entries
    assert isinstance(kept, KeptReply)
    sealed = await replies.sealed(1)
    assert sealed == kept.sealed
    reply = keys.open_reply(grant.client, grant.id, grant.version, kept.sealed)
    assert reply.status == 200
    assert all(secret in reply.body.decode() for secret in secrets)
    dumped = [await redis.dump(key) async for key in redis.scan_iter(match=prefix + "*")]
    written = segment.read_bytes() + b"".join(filter(None, dumped)) + repr((logs, kept)).encode()
    assert not [secret for secret in secrets if secret.encode() in written]


async def test_a_reply_waits_for_a_store_that_is_away_and_is_kept_once_when_it_is_back(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    open_member: OpenMember,
    behind_gate: Redis,
    redis_away: Away,
    replies: RedisReplies,
    registry: RedisRegistry,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    process = await open_member(clients, connection=behind_gate)
    await _join(process)
    lease = await process.store.lease(grant.id)
    assert isinstance(lease, Lease)

    async with redis_away():
        with sandbox.fault("unreadable"):
            await process.refresher.refresh_one(lease)
        assert process.answers.waiting == 1
        assert await replies.all() == []
        with pytest.raises(StoreUnavailableError):
            await process.answers.offer_waiting()
    await process.answers.offer_waiting()
    await process.answers.offer_waiting()

    assert process.answers.waiting == 0
    assert [reply.grant for reply in await replies.all()] == [grant.id]
    assert (await _find(registry, grant)).kept_reply == 1


async def test_a_store_whose_reply_is_lost_on_the_way_keeps_a_reply_once(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    open_member: OpenMember,
    behind_gate: Redis,
    lose_replies: LoseReplies,
    replies: RedisReplies,
    told: Told,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    process = await open_member(clients, connection=behind_gate)
    await _join(process)
    lease = await process.store.lease(grant.id)
    assert isinstance(lease, Lease)

    lost = lose_replies(1)
    with sandbox.fault("unreadable"):
        await process.refresher.refresh_one(lease)

    assert lost.is_set()
    assert len(await replies.all()) == 1
    assert _types(await told()) == ["grant.failing", "provider.unavailable"]


async def test_a_process_that_dies_before_the_store_has_the_reply_leaves_it_to_the_next_one(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    open_member: OpenMember,
    behind_gate: Redis,
    redis_away: Away,
    replies: RedisReplies,
    registry: RedisRegistry,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    doomed = await open_member(clients, connection=behind_gate)
    await _join(doomed)
    lease = await doomed.store.lease(grant.id)
    assert isinstance(lease, Lease)
    async with redis_away():
        with sandbox.fault("unreadable"):
            await doomed.refresher.refresh_one(lease)
        await doomed.die()

    heir = await open_member(clients)
    await heir.membership.beat()
    await heir.membership.recover()

    assert [reply.grant for reply in await replies.all()] == [grant.id]
    assert (await _find(registry, grant)).kept_reply == 1


async def test_a_store_that_lost_its_last_second_gets_pair_and_reply_back_from_the_journal(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    remember: Remember,
    registry: RedisRegistry,
    replies: RedisReplies,
    kept_by: KeptBy,
) -> None:
    """It forgets both a rotation and the unreadable reply to the rotated token."""
    (grant,) = await enroll(sandbox, clients)
    go_back = await remember()
    await _drain(member)
    assert (await _find(registry, grant)).version == 1
    await _keep_one(member, sandbox, grant)
    before = await _find(registry, grant)
    await go_back()
    assert (await _find(registry, grant)).version == 0

    await _recover_until_it_may_claim(member.membership)

    assert await _find(registry, grant) == before
    assert len(await replies.all()) == 1
    adopted = await kept_by(member, clients).adopt(1, TOLD_NOTHING)
    assert adopted.grant.version == 2


async def _recover_until_it_may_claim(membership: Membership) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await membership.beat()
        while not await membership.recover():
            await asyncio.sleep(0.05)
            await membership.beat()


# Adopting


async def test_an_adopted_reply_brings_its_grant_back_with_lifetimes_that_count_from_the_request(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    kept_by: KeptBy,
    replies: RedisReplies,
    keys: KeyRing,
    told: Told,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    await _keep_one(member, sandbox, grant)
    (reply,) = await replies.all()

    adopted = (await kept_by(member, clients).adopt(reply.number, TOLD_NOTHING)).grant

    assert (adopted.status, adopted.version, adopted.kept_reply, adopted.in_doubt) == (
        "active",
        1,
        None,
        False,
    )
    pair, issued = keys.open(adopted), sandbox.grant(grant.id)
    assert (pair.access_token, pair.refresh_token) == (issued["access_token"], issued["refresh_token"])
    assert adopted.issued_at == reply.sent_at
    assert adopted.access_expires_at is not None
    assert abs(adopted.access_expires_at - reply.sent_at - 600_000) < 2_000
    assert await replies.all() == []
    assert _types(await told())[-2:] == ["grant.recovered", "provider.recovered"]


async def test_the_adopted_refresh_token_is_the_living_one(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    kept_by: KeptBy,
    registry: RedisRegistry,
) -> None:
    superseded = sandbox.totals()["superseded"]
    (grant,) = await enroll(sandbox, clients)
    await _keep_one(member, sandbox, grant)
    await kept_by(member, clients).adopt(1, TOLD_NOTHING)

    lease = await member.store.lease(grant.id)
    assert isinstance(lease, Lease)
    await member.refresher.refresh_one(lease)

    assert (await _find(registry, grant)).version == 2
    assert sandbox.totals()["superseded"] == superseded


async def test_the_endpoint_stays_stopped_until_the_last_of_its_replies_is_adopted(
    sandbox: Sandbox, clients: ConfiguredClients, enroll: Enroll, member: Member, kept_by: KeptBy, told: Told
) -> None:
    for grant in await enroll(sandbox, clients, 2):
        await _keep_one(member, sandbox, grant)
    adopting = kept_by(member, clients)

    await adopting.adopt(1, TOLD_NOTHING)
    after_one = _types(await told())
    await adopting.adopt(2, TOLD_NOTHING)

    assert "provider.recovered" not in after_one
    assert _types(await told())[-1] == "provider.recovered"


async def test_a_reply_that_is_adopted_twice_says_that_it_is_gone(
    sandbox: Sandbox, clients: ConfiguredClients, enroll: Enroll, member: Member, kept_by: KeptBy
) -> None:
    (grant,) = await enroll(sandbox, clients)
    await _keep_one(member, sandbox, grant)
    adopting = kept_by(member, clients)
    await adopting.adopt(1, TOLD_NOTHING)

    with pytest.raises(KeptReplyError, match="no reply is kept under the number 1"):
        await adopting.adopt(1, TOLD_NOTHING)


async def test_a_failed_grant_whose_token_has_ended_comes_back_by_adoption(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    kept_by: KeptBy,
    registry: RedisRegistry,
    told: Told,
) -> None:
    (grant,) = await enroll(sandbox, clients, age=1.5)  # its access token has ended
    await _keep_one(member, sandbox, grant)
    adopting = kept_by(member, clients)

    await adopting.expire_overdue()
    await adopting.expire_overdue()
    failed = await _find(registry, grant)
    adopted = (await adopting.adopt(1, TOLD_NOTHING)).grant

    assert (failed.status, failed.reason) == (Status.FAILED, "reply_unread")
    assert adopted.status is Status.ACTIVE
    assert [each for each in _types(await told()) if each.startswith("grant.")] == [
        "grant.failing",
        "grant.failed",
        "grant.recovered",
    ]


async def test_a_key_that_is_missing_is_named_and_the_reply_stays(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    registry: RedisRegistry,
    replies: RedisReplies,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    await _keep_one(member, sandbox, grant)
    without = KeptReplies(
        replies=replies,
        registry=registry,
        store=member.store,
        answers=member.answers,
        clients=clients,
        sealer=KeyRing({"k2": b"2" * 32}),
        rules=Rules(),
    )

    with pytest.raises(KeptReplyError, match="sealed with the key 'k1', which is not in EVERGRANT_KEYS"):
        await without.adopt(1, TOLD_NOTHING)
    assert len(await replies.all()) == 1


async def test_a_dropped_reply_gives_the_old_token_one_more_try_which_says_what_became_of_it(
    sandbox: Sandbox,
    clients: ConfiguredClients,
    enroll: Enroll,
    member: Member,
    kept_by: KeptBy,
    registry: RedisRegistry,
    let_the_endpoint_probe_be_due: LetProbeBeDue,
    make_due: OnGrant,
) -> None:
    (grant,) = await enroll(sandbox, clients)
    await _keep_one(member, sandbox, grant)

    assert (await kept_by(member, clients).drop(1)).grant == grant.id
    for _ in range(2):  # a rejection is confirmed
        await let_the_endpoint_probe_be_due(sandbox.token_url)
        await make_due(grant.id)
        await _drain(member)

    stored = await _find(registry, grant)
    assert (stored.status, stored.reason) == (Status.FAILED, "reply_lost")
    assert _presented(sandbox, grant) == 3


async def test_a_client_credentials_reply_that_cannot_be_read_uses_nothing_up_and_is_asked_for_again(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_member: OpenMember,
    registry: RedisRegistry,
    replies: RedisReplies,
) -> None:
    clients = configure(sandbox.token_url, grant_type="client_credentials")
    (grant,) = await enroll(sandbox, clients)
    process = await open_member(clients)
    await _join(process)
    lease = await process.store.lease(grant.id)
    assert isinstance(lease, Lease)

    with sandbox.fault("unreadable", times=1):
        await process.refresher.refresh_one(lease)

    assert await replies.all() == []
    assert (await _find(registry, grant)).version == 1
