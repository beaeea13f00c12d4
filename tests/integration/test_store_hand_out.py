"""hand_out.lua: a promise, the refresh behind it, and the audit entry in one step; who ends a promise."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

import msgpack
import pytest

from tests.support.callables import Answer, DueOf, Failure, LetProbeBeDue, OnGrant, RecordOf, Seed
from worker.adapters.clock import RedisClock
from worker.adapters.store import record
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core import promises
from worker.core.grant import ENDLESS_MS, Status, lineage_of
from worker.core.lifecycle import Change
from worker.core.outcomes import Unavailable
from worker.core.ports import Lease, Moved, Promised, RefusedLately
from worker.core.promises import Plan, Refusal, Request, Spans, Verdict
from worker.core.providers import Client
from worker.core.registry import Operation, UnreadableRecordError

MINUTE_MS = 60_000
SPANS = Spans(margin_ms=2_000, brief_ms=1_000, usual_ms=5 * MINUTE_MS, longest_ms=1_440 * MINUTE_MS)
LATER = 8 * MINUTE_MS  # the latest safe refresh of these tests; the access token lives ten minutes more
Audited = Callable[[], Awaitable[list[dict[str, Any]]]]


class HandOut(Protocol):
    """Hand a grant's token out; its pair is planned unless the test says otherwise."""

    def __call__(
        self,
        grant_id: str = ...,
        *,
        min_ttl_ms: int | None = ...,
        refused: int | None = ...,
        request_id: str = ...,
        plan: Plan | None = ...,
        is_unpromised: bool = ...,
    ) -> Awaitable[promises.Answer]: ...


@pytest.fixture
def hand_out(store: RedisStore, scripts: Scripts, registry: RedisRegistry) -> HandOut:  # noqa: ARG001 its epoch
    handing = RedisPromises(scripts, clock=RedisClock(), audit_kept=1_000, recovery_ms=MINUTE_MS, spans=SPANS)
    numbers = iter(range(1_000))

    async def run(
        grant_id: str = "one",
        *,
        min_ttl_ms: int | None = 30_000,
        refused: int | None = None,
        request_id: str = "",
        plan: Plan | None = None,
        is_unpromised: bool = False,
    ) -> promises.Answer:
        request = Request(grant_id, min_ttl_ms, "billing", "10.0.0.7", refused)
        name = request_id or f"request {next(numbers)}"
        answer = await handing.hand_out(request, name, plan=plan, is_unpromised=is_unpromised)
        if answer.verdict is Verdict.UNPLANNED and plan is None and answer.stored is not None:
            plan = Plan(answer.stored.grant.version, await registry.now() + LATER, outlives=False)
            answer = await handing.hand_out(request, name, plan=plan, is_unpromised=is_unpromised)
        return answer

    return run


@pytest.fixture
def audited(redis: Any, prefix: str) -> Audited:
    """Every entry of the audit stream, oldest first."""

    async def read() -> list[dict[str, Any]]:
        return [json.loads(fields[b"entry"]) for _, fields in await redis.xrange(f"{prefix}audit")]

    return read


# How long a promise lasts


async def test_a_promise_lasts_five_minutes_where_nothing_is_due_sooner(
    hand_out: HandOut, seed: Seed, record_of: RecordOf
) -> None:
    await seed(due_in_ms=6 * MINUTE_MS)

    answer = await hand_out()

    assert answer.verdict is Verdict.PROMISED
    assert answer.until == answer.now + 5 * MINUTE_MS
    assert answer.stored is not None
    assert answer.stored.grant.sealed == b"sealed at first"
    assert (await record_of("one"))["PROMISED_UNTIL"] == answer.until


async def test_a_promise_that_nobody_asked_to_be_longer_ends_when_the_refresh_is_due(
    hand_out: HandOut, seed: Seed, due_of: DueOf
) -> None:
    await seed(due_in_ms=2 * MINUTE_MS)
    due_at = await due_of("one")

    answer = await hand_out(min_ttl_ms=MINUTE_MS)

    assert answer.until == due_at == await due_of("one")


async def test_what_a_caller_asks_for_puts_the_refresh_off(
    hand_out: HandOut, seed: Seed, due_of: DueOf, store: RedisStore, client: Client
) -> None:
    await seed(due_in_ms=-1_000)

    answer = await hand_out(min_ttl_ms=7 * MINUTE_MS)

    assert answer.until == answer.now + 7 * MINUTE_MS == await due_of("one")
    assert list((await store.claim(client, 1, "")).leases) == []


async def test_what_is_asked_for_puts_a_due_refresh_off_for_so_long(
    hand_out: HandOut, seed: Seed, due_of: DueOf
) -> None:
    await seed(due_in_ms=-1_000)

    answer = await hand_out(min_ttl_ms=5_000)

    assert answer.until == answer.now + 5_000 == await due_of("one")


@pytest.mark.parametrize(("due_in_ms", "verdict"), [(20_000, Verdict.PROMISED), (-1_000, Verdict.SHORT)])
async def test_a_caller_who_does_not_say_how_long_puts_no_refresh_off(
    hand_out: HandOut, seed: Seed, due_of: DueOf, due_in_ms: int, verdict: Verdict
) -> None:
    await seed(due_in_ms=due_in_ms)
    due_at = await due_of("one")

    answer = await hand_out(min_ttl_ms=None)

    assert answer.verdict is verdict
    assert answer.until == (due_at if verdict is Verdict.PROMISED else 0)
    assert await due_of("one") == due_at


async def test_a_promise_never_outlasts_the_latest_safe_refresh(
    hand_out: HandOut, seed: Seed, record_of: RecordOf
) -> None:
    await seed(due_in_ms=-1_000)

    short = await hand_out(min_ttl_ms=LATER + 1)
    fits = await hand_out(min_ttl_ms=LATER - 5_000)

    assert short.verdict is Verdict.SHORT
    assert fits.verdict is Verdict.PROMISED
    assert fits.until <= (await record_of("one"))["PROMISABLE_UNTIL"]


async def test_a_promise_ends_before_the_access_token_does(hand_out: HandOut, seed: Seed) -> None:
    grant = await seed(due_in_ms=None)
    plan = Plan(0, ENDLESS_MS, outlives=False)
    assert grant.access_expires_at is not None

    answer = await hand_out(min_ttl_ms=9 * MINUTE_MS + 50_000, plan=plan)

    assert answer.until <= grant.access_expires_at - SPANS.margin_ms


async def test_a_second_caller_never_shortens_what_the_first_was_promised(
    hand_out: HandOut, seed: Seed
) -> None:
    await seed(due_in_ms=-1_000)
    first = await hand_out(min_ttl_ms=4 * MINUTE_MS)

    second = await hand_out(min_ttl_ms=1_000)

    assert second.until == first.until


async def test_a_token_without_an_end_is_promised_for_five_minutes(hand_out: HandOut, seed: Seed) -> None:
    await seed(due_in_ms=None, access_expires_at=None)

    answer = await hand_out(plan=Plan(0, ENDLESS_MS, outlives=False))

    assert answer.until == answer.now + 5 * MINUTE_MS


async def test_an_access_token_that_has_ended_is_promised_to_nobody(hand_out: HandOut, seed: Seed) -> None:
    await seed(access_expires_at=1)

    assert (await hand_out()).verdict is Verdict.SHORT


# A token that outlives its refresh


async def test_a_token_that_outlives_its_refresh_is_promised_for_its_own_life_and_puts_nothing_off(
    hand_out: HandOut, seed: Seed, due_of: DueOf, store: RedisStore, client: Client
) -> None:
    grant = await seed(due_in_ms=-1_000)
    due_at = await due_of("one")
    assert grant.access_expires_at is not None

    answer = await hand_out(plan=Plan(0, grant.access_expires_at, outlives=True))

    assert answer.until == grant.access_expires_at - SPANS.margin_ms
    assert await due_of("one") == due_at
    assert len((await store.claim(client, 1, "")).leases) == 1


async def test_a_token_that_outlives_its_refresh_and_never_ends_is_promised_for_a_day(
    hand_out: HandOut, seed: Seed
) -> None:
    await seed(due_in_ms=None, access_expires_at=None)

    answer = await hand_out(plan=Plan(0, ENDLESS_MS, outlives=True))

    assert answer.until == answer.now + SPANS.longest_ms


# The plan of a pair


async def test_a_pair_is_planned_once(hand_out: HandOut, seed: Seed, record_of: RecordOf) -> None:
    await seed(due_in_ms=MINUTE_MS)
    await hand_out()
    planned = (await record_of("one"))["PROMISABLE_UNTIL"]

    again = await hand_out(plan=Plan(0, 1, outlives=True))

    assert again.verdict is Verdict.PROMISED
    assert (await record_of("one"))["PROMISABLE_UNTIL"] == planned


async def test_a_plan_for_another_version_is_not_taken(hand_out: HandOut, seed: Seed) -> None:
    await seed(version=3)

    assert (await hand_out(plan=Plan(2, ENDLESS_MS, outlives=False))).verdict is Verdict.UNPLANNED


async def test_a_success_ends_the_plan_and_the_promise_of_the_former_pair(
    hand_out: HandOut, seed: Seed, store: RedisStore, answer: Answer, record_of: RecordOf
) -> None:
    await seed()
    await hand_out()
    lease = await store.lease("one", ends_promise=True)
    assert isinstance(lease, Lease)

    await store.commit(answer(lease))

    stored = await record_of("one")
    assert [stored[name] for name in ("PROMISABLE_UNTIL", "OUTLIVES", "PROMISED_UNTIL")] == [False] * 3


async def test_the_record_of_an_earlier_release_takes_a_promise(
    hand_out: HandOut, seed: Seed, redis: Any, prefix: str, registry: RedisRegistry, record_of: RecordOf
) -> None:
    await seed()
    key = f"{prefix}grant:one"
    values = msgpack.unpackb(await redis.get(key), raw=True)
    earliest = [each.name for each in record.SCHEMA if not each.is_later]
    await redis.set(key, msgpack.packb(values[: len(earliest)], use_bin_type=False))

    answer = await hand_out()

    stored = await registry.find("one")
    assert answer.verdict is Verdict.PROMISED
    assert stored is not None
    assert (stored.grant.lineage, stored.grant.kept_reply) == (lineage_of("one", "r0"), None)
    assert (await record_of("one"))["PROMISED_UNTIL"] == answer.until


# When nothing is promised


async def test_nothing_is_promised_under_a_lease(
    hand_out: HandOut, seed: Seed, store: RedisStore, audited: Audited
) -> None:
    await seed()
    lease = await store.lease("one")
    assert isinstance(lease, Lease)

    answer = await hand_out()

    assert (answer.verdict, answer.until) == (Verdict.LEASED, lease.until)
    assert await audited() == []


async def test_nothing_is_promised_while_the_holder_of_an_ended_lease_is_waited_for(
    hand_out: HandOut, seed: Seed, store: RedisStore, redis: Any, prefix: str
) -> None:
    await seed()
    lease = await store.lease("one")
    assert isinstance(lease, Lease)
    key = f"{prefix}grant:one"
    values = msgpack.unpackb(await redis.get(key), raw=True)
    values[record.FIELDS.index("LEASE_UNTIL")] = lease.until - MINUTE_MS
    await redis.set(key, msgpack.packb(values, use_bin_type=False))

    answer = await hand_out()

    assert answer.verdict is Verdict.LEASED
    assert answer.until > answer.now


async def test_nothing_is_promised_where_a_reply_is_unknown(
    hand_out: HandOut, seed: Seed, store: RedisStore, end_lease: OnGrant
) -> None:
    await seed()
    await store.lease("one")
    await end_lease("one")
    await store.leave()

    assert (await hand_out()).verdict is Verdict.IN_DOUBT


async def test_nothing_is_promised_while_the_store_recovers(
    hand_out: HandOut, seed: Seed, redis: Any, prefix: str, audited: Audited
) -> None:
    await seed()
    await redis.hincrby(f"{prefix}epoch", "heartbeat_at", -3_001)

    answer = await hand_out()

    assert (answer.verdict, answer.stored) == (Verdict.RECOVERING, None)
    assert await audited() == []


async def test_there_is_no_token_of_a_grant_that_is_not_there(hand_out: HandOut) -> None:
    assert (await hand_out("nobody")).verdict is Verdict.GONE


async def test_a_refused_version_is_not_handed_out_again(hand_out: HandOut, seed: Seed) -> None:
    await seed(version=3)
    promised = await hand_out()

    refused = await hand_out(refused=3)
    other = await hand_out(refused=2)

    assert (refused.verdict, refused.until) == (Verdict.REFUSED, promised.until)
    assert other.verdict is Verdict.PROMISED


async def test_what_was_promised_while_a_grant_was_paused_holds_when_it_is_back_at_work(
    hand_out: HandOut, seed: Seed, registry: RedisRegistry, record_of: RecordOf, due_of: DueOf
) -> None:
    await seed()
    await hand_out(min_ttl_ms=1_000)
    await registry.operate("one", Operation.PAUSE)
    longer = await hand_out(min_ttl_ms=LATER + 60_000)
    await registry.operate("one", Operation.RESUME)

    again = await hand_out(min_ttl_ms=1_000)

    assert longer.verdict is again.verdict is Verdict.PROMISED
    assert longer.until > longer.now + LATER
    assert (await record_of("one"))["PROMISED_UNTIL"] == again.until == longer.until
    assert (await due_of("one") or 0) >= longer.until


async def test_who_asks_for_more_than_is_promised_lets_the_refresh_come_right_after_the_promise(
    hand_out: HandOut, seed: Seed, due_of: DueOf
) -> None:
    grant = await seed(due_in_ms=9 * MINUTE_MS)
    promised = await hand_out(min_ttl_ms=MINUTE_MS)

    short = await hand_out(min_ttl_ms=LATER + MINUTE_MS)

    assert grant.version == 0
    assert (short.verdict, short.until) == (Verdict.SHORT, promised.until)
    assert await due_of("one") == promised.until


async def test_who_asks_for_more_than_any_token_can_be_promised_moves_no_refresh(
    hand_out: HandOut, seed: Seed, due_of: DueOf
) -> None:
    await seed(due_in_ms=9 * MINUTE_MS)
    await hand_out(min_ttl_ms=MINUTE_MS)
    due_at = await due_of("one")

    assert (await hand_out(min_ttl_ms=100 * MINUTE_MS)).verdict is Verdict.SHORT

    assert await due_of("one") == due_at


@pytest.mark.parametrize("status", [Status.FAILED, Status.PAUSED])
async def test_the_token_of_a_grant_out_of_work_is_promised_as_long_as_it_lives(
    hand_out: HandOut, seed: Seed, due_of: DueOf, status: Status
) -> None:
    await seed(status=status)

    answer = await hand_out(min_ttl_ms=9 * MINUTE_MS)

    assert answer.until == answer.now + 9 * MINUTE_MS
    assert await due_of("one") == float("inf")


@pytest.mark.parametrize(
    ("key", "state", "obstacle"),
    [
        ("client:acme", "rejected", Refusal.CLIENT_REJECTED),
        ("endpoint:http://127.0.0.1:9/token", "unavailable", Refusal.PROVIDER_UNAVAILABLE),
    ],
)
async def test_what_keeps_anybody_from_refreshing_is_said(
    hand_out: HandOut, seed: Seed, redis: Any, prefix: str, key: str, state: str, obstacle: Refusal
) -> None:
    await seed(access_expires_at=1)
    await redis.hset(f"{prefix}client:acme", "endpoint", "http://127.0.0.1:9/token")
    mapping = {"state": state, "probe_at": 4_000_000_000_000}
    if state == "unavailable":
        mapping |= {"since": 1, "reason": "http_503", "probe_delay": 1}
    await redis.hset(prefix + key, mapping=mapping)

    answer = await hand_out()

    assert (answer.verdict, answer.obstacle, answer.opens_at) == (Verdict.SHORT, obstacle, 4_000_000_000_000)


# The audit stream


async def test_each_hand_out_is_audited_with_who_what_when_from_where_and_until_when(
    hand_out: HandOut, seed: Seed, audited: Audited
) -> None:
    await seed(version=3)

    answer = await hand_out()

    assert await audited() == [
        {
            "what": "token",
            "actor": "billing",
            "from": "10.0.0.7",
            "grant": "one",
            "version": 3,
            "at": answer.now,
            "promised_until": answer.until,
        }
    ]


async def test_a_token_handed_out_as_it_is_is_audited_without_a_promise(
    hand_out: HandOut, seed: Seed, audited: Audited, record_of: RecordOf, due_of: DueOf
) -> None:
    await seed()
    due_at = await due_of("one")

    answer = await hand_out(min_ttl_ms=9 * MINUTE_MS, is_unpromised=True)

    assert answer.verdict is Verdict.UNPROMISED
    assert ["promised_until" in entry for entry in await audited()] == [False]
    assert (await record_of("one"))["PROMISED_UNTIL"] is False
    assert await due_of("one") == due_at


async def test_a_token_that_does_not_work_so_long_is_not_handed_out_as_it_is(
    hand_out: HandOut, seed: Seed, audited: Audited
) -> None:
    await seed()

    assert (await hand_out(min_ttl_ms=11 * MINUTE_MS, is_unpromised=True)).verdict is Verdict.SHORT
    assert await audited() == []


@pytest.mark.parametrize("is_unpromised", [False, True])
async def test_one_request_made_twice_is_promised_the_same_and_audited_once(
    hand_out: HandOut, seed: Seed, audited: Audited, *, is_unpromised: bool
) -> None:
    await seed()

    first = await hand_out(request_id="the request", is_unpromised=is_unpromised)
    again = await hand_out(request_id="the request", is_unpromised=is_unpromised, min_ttl_ms=4 * MINUTE_MS)

    assert (again.verdict, again.until) == (first.verdict, first.until)
    assert len(await audited()) == 1


async def test_a_request_made_again_after_a_rotation_gets_the_new_token(
    hand_out: HandOut, seed: Seed, store: RedisStore, answer: Answer, audited: Audited
) -> None:
    await seed()
    await hand_out(request_id="the request")
    lease = await store.lease("one", ends_promise=True)
    assert isinstance(lease, Lease)
    await store.commit(answer(lease))

    again = await hand_out(request_id="the request")

    assert again.stored is not None
    assert again.stored.grant.version == 1
    assert [entry["version"] for entry in await audited()] == [0, 1]


async def test_no_token_is_in_the_audit_stream(
    hand_out: HandOut, seed: Seed, redis: Any, prefix: str
) -> None:
    await seed(sealed=b"sealed canary")

    await hand_out()

    assert b"canary" not in repr(await redis.xrange(f"{prefix}audit")).encode()


# Who may end a promise


async def test_a_promised_grant_is_not_leased_for_anybody(
    hand_out: HandOut, seed: Seed, store: RedisStore
) -> None:
    await seed()
    answer = await hand_out()

    assert await store.lease("one") == Promised(answer.until)


@pytest.mark.parametrize("order", [{"ends_promise": True}, {"even_paused": True}, {"refused_version": 0}])
async def test_a_persons_order_and_a_refused_token_end_a_promise(
    hand_out: HandOut,
    seed: Seed,
    store: RedisStore,
    record_of: RecordOf,
    due_of: DueOf,
    order: dict[str, Any],
) -> None:
    await seed()
    await hand_out(min_ttl_ms=5 * MINUTE_MS)

    lease = await store.lease("one", **order)

    assert isinstance(lease, Lease)
    assert (await record_of("one"))["PROMISED_UNTIL"] is False
    assert await due_of("one") == lease.until


async def test_a_refused_version_is_leased_once_a_minute(
    seed: Seed, store: RedisStore, failure: Failure, redis: Any, prefix: str
) -> None:
    await seed()
    lease = await store.lease("one", refused_version=0)
    assert isinstance(lease, Lease)
    await store.record_outcome(lease, failure(lease, Unavailable("could_not_connect")))

    again = await store.lease("one", refused_version=0)
    await redis.set(f"{prefix}refused:one", int(await redis.get(f"{prefix}refused:one")) - MINUTE_MS)
    later = await store.lease("one", refused_version=0)

    assert isinstance(again, RefusedLately)
    assert isinstance(later, Lease)


async def test_a_version_that_is_not_stored_any_more_is_leased_for_nobody(
    seed: Seed, store: RedisStore
) -> None:
    await seed(version=3)

    assert await store.lease("one", refused_version=2) == Moved()


async def test_a_promised_grant_that_is_resumed_is_due_after_its_promise(
    hand_out: HandOut, seed: Seed, registry: RedisRegistry, due_of: DueOf
) -> None:
    await seed()
    answer = await hand_out(min_ttl_ms=4 * MINUTE_MS)

    await registry.operate("one", Operation.PAUSE)
    await registry.operate("one", Operation.RESUME)

    assert await due_of("one") == answer.until


async def test_the_same_pair_imported_anew_keeps_its_promise_and_another_pair_does_not(
    hand_out: HandOut, seed: Seed, registry: RedisRegistry, record_of: RecordOf
) -> None:
    grant = await seed()
    answer = await hand_out()

    await registry.import_grant(Change(replace(grant, sealed=b"anew"), 1, None, None), replaces=0)
    kept = (await record_of("one"))["PROMISED_UNTIL"]
    another = replace(grant, sealed=b"another", lineage=lineage_of("one", "r9"), issued_at=answer.now)
    await registry.import_grant(Change(another, 1, None, None), replaces=0)

    assert kept == answer.until
    assert (await record_of("one"))["PROMISED_UNTIL"] is False


# Claims out of turn


@pytest.fixture
async def rejected(
    redis: Any, prefix: str, client: Client, let_the_client_probe_be_due: LetProbeBeDue
) -> Callable[[], Awaitable[None]]:
    """The client is rejected, and its probe is due."""

    async def reject() -> None:
        await redis.hset(
            f"{prefix}client:{client.name}",
            mapping={"state": "rejected", "rejected_at": 1, "reason": "invalid_client", "probe_delay": 1},
        )
        await let_the_client_probe_be_due()

    return reject


async def test_a_probe_takes_a_grant_whose_token_is_promised_to_nobody(
    hand_out: HandOut, seed: Seed, store: RedisStore, client: Client, rejected: Callable[[], Awaitable[None]]
) -> None:
    await seed("promised", due_in_ms=1_000)
    await seed("free", due_in_ms=5 * MINUTE_MS)
    await hand_out("promised", min_ttl_ms=MINUTE_MS)
    await rejected()

    (lease,) = (await store.claim(client, 1, "")).leases

    assert (lease.grant.id, lease.client_probe) == ("free", True)


async def test_no_probe_is_made_while_every_token_is_promised(
    hand_out: HandOut, seed: Seed, store: RedisStore, client: Client, rejected: Callable[[], Awaitable[None]]
) -> None:
    await seed("promised", due_in_ms=1_000)
    await hand_out("promised", min_ttl_ms=MINUTE_MS)
    await rejected()

    assert list((await store.claim(client, 1, "")).leases) == []


async def test_refusals_are_compared_with_a_grant_whose_token_is_promised_to_nobody(
    hand_out: HandOut,
    seed: Seed,
    store: RedisStore,
    client: Client,
    redis: Any,
    prefix: str,
    clock: RedisClock,
) -> None:
    await seed("refused", due_in_ms=-1_000)
    await seed("free", due_in_ms=5 * MINUTE_MS)
    await seed("healthiest", due_in_ms=9 * MINUTE_MS)
    await hand_out("healthiest", min_ttl_ms=MINUTE_MS)
    refusals = msgpack.packb([["refused", clock.now(), clock.now(), "x", 1]], use_bin_type=False)
    await redis.hset(f"{prefix}client:acme", mapping={"wary_at": clock.now(), "refusals": refusals})

    (lease,) = (await store.claim(client, 1, "")).leases

    assert (lease.grant.id, lease.comparison) == ("free", True)


async def test_a_believed_rejection_waits_for_the_end_of_a_promise(
    hand_out: HandOut,
    seed: Seed,
    store: RedisStore,
    client: Client,
    redis: Any,
    prefix: str,
    rejected: Callable[[], Awaitable[None]],
) -> None:
    await seed("one", status=Status.FAILING, streak=1, reason="rejected", rejected_at=1, due_in_ms=1_000)
    answer = await hand_out("one", min_ttl_ms=MINUTE_MS)
    await rejected()
    await redis.hset(f"{prefix}client:acme", "believed_at", 4_000_000_000_000)
    await redis.zadd(f"{prefix}rejections:acme", {"one": 1})

    assert list((await store.claim(client, 1, "")).leases) == []
    assert await redis.zscore(f"{prefix}rejections:acme", "one") == answer.until


@pytest.mark.parametrize("record", [b"rubbish", b"\xc1\xffof a newer release", b"\xdc\x00\x02\x01\x02"])
async def test_a_record_that_cannot_be_read_is_named_and_nothing_is_handed_out(
    hand_out: HandOut, seed: Seed, redis: Any, prefix: str, audited: Audited, record: bytes
) -> None:
    await seed()
    kept = await redis.getset(f"{prefix}grant:one", record)

    with pytest.raises(UnreadableRecordError):
        await hand_out()

    assert await audited() == []
    assert await redis.getset(f"{prefix}grant:one", kept) == record
