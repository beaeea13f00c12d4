"""Sign-ins in the store: links, states and codes for one use, consents that wait, and pairs to be revoked."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from tests.support.waiting import until
from worker.adapters.clock import RedisClock
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.sign_ins import KEPT_MS, MOST_REVOKE_TRIES, RedisSignIns
from worker.core.audit import By
from worker.core.connecting import (
    LINK_MS,
    MOST_STARTS,
    CodeProblem,
    Confirmed,
    ConnectError,
    ConnectFailure,
    Consent,
    Returned,
    Ticket,
    Wanted,
    ticket_in,
    ticket_text,
)
from worker.core.events import Event, EventType
from worker.core.grant import Grant, Status, lineage_of
from worker.core.lifecycle import Change
from worker.core.ports import Commit, Lease, LeasedElsewhere, Verdict

SHOP = By("key:shop", "10.0.0.7")
WANTED = Wanted("user-42/acme", "acme", ("read", "write"), {"tenant": "t"}, "https://app.example/done", SHOP)
BROWSER = b"the digest of a cookie"


def ticket(number: int, sign_in: str = "0" * 16) -> Ticket:
    found = ticket_in(ticket_text(sign_in, bytes([number]) * 32))
    assert found is not None
    return found


LINK, STATE, CODE = ticket(1), ticket(2), ticket(3)
Forward = Callable[..., Awaitable[None]]


@pytest.fixture
def sign_ins(
    redis: Any,
    scripts: Scripts,
    prefix: str,
    clock: RedisClock,
    store: RedisStore,  # noqa: ARG001 it has recovered
) -> RedisSignIns:
    return RedisSignIns(
        redis,
        scripts,
        prefix,
        clock=clock,
        recovery_ms=60_000,
        source="evergrant/test",
        events_kept=10_000,
        audit_kept=10_000,
    )


@pytest.fixture
def let_time_pass(redis: Any, prefix: str) -> Forward:
    """Let the end of a sign-in's link or consent be over."""

    async def forward(sign_in: str = LINK.sign_in) -> None:
        await redis.hset(f"{prefix}signin:{sign_in}", "until_at", 1)
        await redis.zadd(prefix + "consents", {sign_in: 1}, xx=True)

    return forward


@pytest.fixture
def a_consent(registry: RedisRegistry) -> Callable[..., Awaitable[Consent]]:
    """What a provider gave for a code."""

    async def make(returned: Returned, refresh: str | None = "r1", **changes: Any) -> Consent:
        now = await registry.now()
        grant = a_grant(now, refresh)
        return Consent(
            fence=returned.fence,
            sign_in=returned.sign_in,
            code=CODE.digest,
            until=now + 60_000,
            change=Change(grant, now + 1_000, None, None),
            wanted=returned.wanted,
            origin="10.0.0.8",
            **changes,
        )

    return make


def a_grant(now: int, refresh: str | None = "r1", **changes: Any) -> Grant:
    lineage = lineage_of(WANTED.grant, refresh)
    grant = Grant(
        id=WANTED.grant,
        client="acme",
        status=Status.ACTIVE,
        version=0,
        lineage=lineage,
        sealed=f"sealed {refresh}".encode(),
        issued_at=now,
        access_expires_at=now + 60_000,
        refresh_issued_at=now,
        refresh_expires_at=None,
        authorized_at=now,
        labels=WANTED.labels,
        root=lineage,
    )
    return replace(grant, **changes)


async def come_back(sign_ins: RedisSignIns) -> Returned:
    await sign_ins.open(LINK, WANTED, SHOP)
    await sign_ins.start(LINK, STATE, BROWSER)
    return await sign_ins.come_back(STATE, BROWSER, uuid4().hex)


def confirmed(consent: Consent, fence: int, *, base: Grant | None = None, revokes: bool = True) -> Confirmed:
    version = 0 if base is None else base.version + 1
    grant = replace(consent.change.grant, version=version)
    event = Event(EventType.GRANT_RECOVERED, f"{fence}-grant-recovered", grant.id, 1, {})
    return Confirmed(
        fence=fence,
        sign_in=consent.sign_in,
        base_version=None if base is None else base.version,
        base_status=None if base is None else base.status,
        change=replace(consent.change, grant=grant, event=event),
        revokes=revokes,
        by=SHOP,
    )


async def failure_of(work: Awaitable[Any]) -> ConnectFailure:
    with pytest.raises(ConnectError) as error:
        await work
    return error.value.code


async def test_a_person_leaves_by_a_link_and_comes_back_with_a_state_once(sign_ins: RedisSignIns) -> None:
    until = await sign_ins.open(LINK, WANTED, SHOP)

    assert await sign_ins.start(LINK, STATE, BROWSER) == WANTED
    returned = await sign_ins.come_back(STATE, BROWSER, uuid4().hex)

    assert until > LINK_MS
    assert (returned.sign_in, returned.wanted) == (LINK.sign_in, WANTED)
    assert await failure_of(sign_ins.come_back(STATE, BROWSER, uuid4().hex)) is ConnectFailure.UNKNOWN
    assert await failure_of(sign_ins.start(LINK, ticket(9), BROWSER)) is ConnectFailure.UNKNOWN


async def test_a_person_whose_return_was_not_answered_is_answered_when_it_is_asked_again(
    sign_ins: RedisSignIns,
) -> None:
    """The store used the state up and its answer was lost: it was frozen, or the connection broke."""
    await sign_ins.open(LINK, WANTED, SHOP)
    await sign_ins.start(LINK, STATE, BROWSER)

    first = await sign_ins.come_back(STATE, BROWSER, "attempt")

    assert await sign_ins.come_back(STATE, BROWSER, "attempt") == first
    assert await failure_of(sign_ins.come_back(STATE, BROWSER, "another")) is ConnectFailure.UNKNOWN


async def test_a_link_may_be_opened_several_times_until_somebody_is_back(sign_ins: RedisSignIns) -> None:
    await sign_ins.open(LINK, WANTED, SHOP)
    await sign_ins.start(LINK, ticket(8), b"a preview's")
    await sign_ins.start(LINK, STATE, BROWSER)

    assert (await sign_ins.come_back(STATE, BROWSER, uuid4().hex)).wanted == WANTED
    assert (
        await failure_of(sign_ins.come_back(ticket(8), b"a preview's", uuid4().hex)) is ConnectFailure.UNKNOWN
    )


async def test_a_link_is_not_opened_without_end(sign_ins: RedisSignIns) -> None:
    await sign_ins.open(LINK, WANTED, SHOP)
    for number in range(MOST_STARTS):
        await sign_ins.start(LINK, ticket(100 + number), BROWSER)

    assert await failure_of(sign_ins.start(LINK, STATE, BROWSER)) is ConnectFailure.UNKNOWN
    assert (await sign_ins.come_back(ticket(100), BROWSER, uuid4().hex)).wanted == WANTED


async def test_another_browser_cannot_use_a_state_and_does_not_use_it_up(sign_ins: RedisSignIns) -> None:
    await sign_ins.open(LINK, WANTED, SHOP)
    await sign_ins.start(LINK, STATE, BROWSER)

    assert (
        await failure_of(sign_ins.come_back(STATE, b"another's", uuid4().hex)) is ConnectFailure.OTHER_BROWSER
    )
    assert (await sign_ins.come_back(STATE, BROWSER, uuid4().hex)).wanted == WANTED


@pytest.mark.parametrize("wrong", [ticket(1, "f" * 16), ticket(7)], ids=["id", "secret"])
async def test_a_wrong_link_or_state_opens_nothing(sign_ins: RedisSignIns, wrong: Ticket) -> None:
    await sign_ins.open(LINK, WANTED, SHOP)
    await sign_ins.start(LINK, STATE, BROWSER)

    assert await failure_of(sign_ins.start(wrong, STATE, BROWSER)) is ConnectFailure.UNKNOWN
    assert await failure_of(sign_ins.come_back(wrong, BROWSER, uuid4().hex)) is ConnectFailure.UNKNOWN


async def test_a_link_and_a_state_end(sign_ins: RedisSignIns, let_time_pass: Forward) -> None:
    await sign_ins.open(LINK, WANTED, SHOP)
    await sign_ins.start(LINK, STATE, BROWSER)
    await let_time_pass()

    with pytest.raises(ConnectError) as late:
        await sign_ins.come_back(STATE, BROWSER, uuid4().hex)

    assert (late.value.code, late.value.wanted) == (ConnectFailure.EXPIRED, WANTED)
    assert await failure_of(sign_ins.start(LINK, ticket(9), BROWSER)) is ConnectFailure.EXPIRED


async def test_what_failed_is_over_and_in_the_audit_stream(
    sign_ins: RedisSignIns, redis: Any, prefix: str
) -> None:
    returned = await come_back(sign_ins)

    await sign_ins.fail(returned.sign_in, By("browser", "10.0.0.8"))
    await sign_ins.fail(returned.sign_in, By("browser", "10.0.0.8"))

    assert await failure_of(sign_ins.start(LINK, ticket(9), BROWSER)) is ConnectFailure.UNKNOWN
    entries = [fields[b"entry"] for _, fields in await redis.xrange(prefix + "audit")]
    assert [b'"connect_failed"' in entry for entry in entries] == [False, True]


async def test_a_consent_waits_for_its_code(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry
) -> None:
    consent = await a_consent(await come_back(sign_ins))

    assert await sign_ins.keep(consent) is Verdict.STORED
    assert await sign_ins.keep(consent) is Verdict.KNOWN
    assert await sign_ins.find(ticket(9)) is CodeProblem.UNKNOWN
    found = await sign_ins.find(CODE)

    assert not isinstance(found, CodeProblem)
    assert (found.grant, found.wanted) == (consent.change.grant, WANTED)
    assert found.fence > consent.fence
    assert await registry.find(WANTED.grant) is None


async def test_a_confirmed_consent_is_a_grant_and_its_code_is_used(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry
) -> None:
    consent = await a_consent(await come_back(sign_ins))
    await sign_ins.keep(consent)

    answer = await sign_ins.confirm(confirmed(consent, 7))

    assert (answer.verdict, answer.version, answer.status) == (Verdict.STORED, 0, Status.ACTIVE)
    stored = await registry.find(WANTED.grant)
    assert stored is not None
    assert (stored.grant, stored.due_at) == (consent.change.grant, consent.change.due_at)
    assert await sign_ins.find(CODE) is CodeProblem.USED
    assert await sign_ins.keep(consent) is Verdict.SUPERSEDED
    assert (await sign_ins.confirm(confirmed(consent, 7))).verdict is Verdict.KNOWN
    assert not await sign_ins.any_to_revoke()


async def test_what_nobody_confirms_in_time_is_given_to_be_revoked_and_confirms_nothing(
    sign_ins: RedisSignIns, a_consent: Any, let_time_pass: Forward, registry: RedisRegistry
) -> None:
    consent = await a_consent(await come_back(sign_ins))
    await sign_ins.keep(consent)
    assert not await sign_ins.any_to_revoke()
    await let_time_pass()

    assert await sign_ins.any_to_revoke()
    (pair,) = await sign_ins.to_revoke(10)

    assert (pair.grant.sealed, pair.is_last) == (consent.change.grant.sealed, False)
    assert await sign_ins.find(CODE) is CodeProblem.UNKNOWN
    assert (await sign_ins.confirm(confirmed(consent, 7))).verdict is Verdict.SUPERSEDED
    assert await sign_ins.keep(consent) is Verdict.SUPERSEDED
    assert await registry.find(WANTED.grant) is None


async def test_nothing_is_given_to_be_revoked_while_the_store_recovers(
    sign_ins: RedisSignIns, a_consent: Any, let_time_pass: Forward, redis: Any, prefix: str, store: RedisStore
) -> None:
    """A confirmation that the store forgot may be on its way back from a journal."""
    await sign_ins.keep(await a_consent(await come_back(sign_ins)))
    await let_time_pass()
    await redis.hset(prefix + "epoch", "run_id", "the server before it restarted")

    assert await sign_ins.to_revoke(10) == []
    await until_recovered(store)

    assert len(await sign_ins.to_revoke(10)) == 1


async def until_recovered(store: RedisStore) -> None:
    """Let the only process finish its recovery, and wait for the time that every recovery takes."""

    async def is_recovered() -> bool:
        epoch = await store.heartbeat("")
        return not (await store.finish_recovery(epoch)).recovering

    await until(is_recovered)


async def test_a_pair_is_given_to_be_revoked_again_but_not_for_ever(
    sign_ins: RedisSignIns, a_consent: Any, let_time_pass: Forward
) -> None:
    await sign_ins.keep(await a_consent(await come_back(sign_ins)))
    given = []
    for _ in range(MOST_REVOKE_TRIES):
        await let_time_pass()
        given += await sign_ins.to_revoke(10)
        assert not await sign_ins.any_to_revoke()  # not again at once

    assert [pair.is_last for pair in given] == [False] * (MOST_REVOKE_TRIES - 1) + [True]
    await sign_ins.forget(LINK.sign_in)
    await let_time_pass()
    assert await sign_ins.to_revoke(10) == []


async def test_a_replaced_pair_is_given_to_be_revoked(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry
) -> None:
    now = await registry.now()
    old = a_grant(now - 60_000, "r0", version=4, status=Status.FAILED)
    await registry.import_grant(Change(old, None, None, None), replaces=None)
    consent = await a_consent(await come_back(sign_ins))
    await sign_ins.keep(consent)

    answer = await sign_ins.confirm(confirmed(consent, 7, base=old))

    assert (answer.verdict, answer.version) == (Verdict.STORED, 5)
    (pair,) = await sign_ins.to_revoke(10)
    assert (pair.grant.sealed, pair.grant.version) == (old.sealed, 4)
    await sign_ins.forget(pair.sign_in)
    assert not await sign_ins.any_to_revoke()


async def test_a_replaced_pair_is_left_alone_where_that_would_end_the_new_one(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry
) -> None:
    old = a_grant(await registry.now() - 60_000, "r0")
    await registry.import_grant(Change(old, None, None, None), replaces=None)
    consent = await a_consent(await come_back(sign_ins))
    await sign_ins.keep(consent)

    await sign_ins.confirm(confirmed(consent, 7, base=old, revokes=False))

    assert not await sign_ins.any_to_revoke()


@pytest.mark.parametrize("is_confirmed", [True, False])
async def test_a_refresh_token_that_a_server_gave_again_is_taken_and_never_revoked(
    sign_ins: RedisSignIns,
    a_consent: Any,
    registry: RedisRegistry,
    let_time_pass: Forward,
    is_confirmed: bool,  # noqa: FBT001 pytest passes it
) -> None:
    old = a_grant(await registry.now() - 60_000, "r1")
    await registry.import_grant(Change(old, None, None, None), replaces=None)
    consent = await a_consent(await come_back(sign_ins), "r1")

    assert await sign_ins.keep(consent) is Verdict.STORED
    if is_confirmed:
        assert (await sign_ins.confirm(confirmed(consent, 7, base=old))).verdict is Verdict.STORED
    await let_time_pass()

    assert await sign_ins.to_revoke(10) == []
    stored = await registry.find(WANTED.grant)
    assert stored is not None
    assert stored.grant.issued_at == (consent.change.grant if is_confirmed else old).issued_at


async def test_a_grant_of_another_version_or_status_is_not_replaced_unseen(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry
) -> None:
    old = a_grant(await registry.now() - 60_000, "r0", version=4)
    await registry.import_grant(Change(old, None, None, None), replaces=None)
    consent = await a_consent(await come_back(sign_ins))
    await sign_ins.keep(consent)

    for base in (None, replace(old, version=3), replace(old, status=Status.FAILED)):
        answer = await sign_ins.confirm(confirmed(consent, 7, base=base))
        assert (answer.verdict, answer.version, answer.status) == (Verdict.REBASE, 4, Status.ACTIVE)
    assert (await sign_ins.confirm(confirmed(consent, 7, base=old))).verdict is Verdict.STORED


async def test_a_grant_that_is_gone_by_now_is_no_base(sign_ins: RedisSignIns, a_consent: Any) -> None:
    consent = await a_consent(await come_back(sign_ins))
    await sign_ins.keep(consent)

    answer = await sign_ins.confirm(confirmed(consent, 7, base=a_grant(1, "r0")))

    assert (answer.verdict, answer.status) == (Verdict.REBASE, None)


async def test_newer_tokens_are_not_replaced_by_an_older_consent(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry
) -> None:
    consent = await a_consent(await come_back(sign_ins))
    await sign_ins.keep(consent)
    newer = a_grant(await registry.now() + 60_000, "r9")
    await registry.import_grant(Change(newer, None, None, None), replaces=None)

    answer = await sign_ins.confirm(confirmed(consent, 7, base=newer))

    assert answer.verdict is Verdict.SUPERSEDED


@pytest.mark.parametrize("refresh_token", ["r1", None])
async def test_a_journal_that_offers_a_consent_after_everything_else_was_forgotten_ends_no_grant(
    sign_ins: RedisSignIns,
    a_consent: Any,
    registry: RedisRegistry,
    redis: Any,
    prefix: str,
    let_time_pass: Forward,
    refresh_token: str | None,
) -> None:
    """Its pair is a living grant's: revoked, that grant would be lost."""
    consent = await a_consent(await come_back(sign_ins), refresh_token)
    await sign_ins.keep(consent)
    await sign_ins.confirm(confirmed(consent, 7))
    await redis.delete(f"{prefix}signin:{LINK.sign_in}")

    assert await sign_ins.keep(consent) is Verdict.SUPERSEDED
    await let_time_pass()

    assert await sign_ins.to_revoke(10) == []
    assert await registry.find(WANTED.grant) is not None


async def test_a_store_that_forgot_a_confirmation_is_given_it_back(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry, redis: Any, prefix: str
) -> None:
    consent = await a_consent(await come_back(sign_ins))
    await redis.delete(f"{prefix}signin:{LINK.sign_in}")

    assert await sign_ins.keep(consent) is Verdict.STORED
    assert (await sign_ins.confirm(confirmed(consent, 7))).verdict is Verdict.STORED
    assert await registry.find(WANTED.grant) is not None


async def test_a_confirmation_that_a_journal_offers_after_days_brings_no_deleted_grant_back(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry
) -> None:
    consent = await a_consent(Returned(LINK.sign_in, WANTED, 1))
    days_ago = replace(consent.change.grant, issued_at=await registry.now() - KEPT_MS - 60_000)

    answer = await sign_ins.confirm(confirmed(replace(consent, change=Change(days_ago, None, None, None)), 7))

    assert answer.verdict is Verdict.SUPERSEDED
    assert await registry.find(WANTED.grant) is None


async def test_a_refresh_that_is_under_way_keeps_its_lease_and_changes_nothing(
    sign_ins: RedisSignIns, a_consent: Any, registry: RedisRegistry, store: RedisStore
) -> None:
    old = a_grant(await registry.now() - 60_000, "r0")
    await registry.import_grant(Change(old, None, None, None), replaces=None)
    lease = await store.lease(WANTED.grant)
    assert isinstance(lease, Lease)
    consent = await a_consent(await come_back(sign_ins))
    await sign_ins.keep(consent)

    await sign_ins.confirm(confirmed(consent, 7, base=old))

    assert isinstance(await store.lease(WANTED.grant), LeasedElsewhere)
    rotated = replace(old, version=1, lineage=lineage_of(old.id, "r0.1"), sealed=b"of the old line")
    answer = await store.commit(
        Commit(lease.fence, old.lineage, 0, Status.ACTIVE, Change(rotated, None, None, None))
    )
    assert answer.verdict is Verdict.SUPERSEDED
    stored = await registry.find(WANTED.grant)
    assert stored is not None
    assert stored.grant.sealed == consent.change.grant.sealed


async def test_nothing_secret_is_in_the_store(sign_ins: RedisSignIns, redis: Any, prefix: str) -> None:
    await come_back(sign_ins)

    fields = await redis.hgetall(f"{prefix}signin:{LINK.sign_in}")

    held = b"".join([*fields, *fields.values()])
    for number in (1, 2):
        text = ticket_text(LINK.sign_in, bytes([number]) * 32)
        assert text.encode() not in held
        assert text.partition(".")[2].encode() not in held


async def test_a_sign_in_is_forgotten_after_a_while(sign_ins: RedisSignIns, redis: Any, prefix: str) -> None:
    await sign_ins.open(LINK, WANTED, SHOP)

    assert 0 < await redis.pttl(f"{prefix}signin:{LINK.sign_in}") <= 2 * 86_400_000
