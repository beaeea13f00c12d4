"""What the refresher expects of its store: true of the store in Redis and of the double in memory."""

from dataclasses import replace

from tests.contract.conftest import CLIENT, MINUTE_MS, Subject, a_grant
from tests.support.attempts import (
    accepted,
    answer,
    failure,
    put_back,
    recovered,
    rejected,
    unavailable,
    unread,
)
from worker.core.grant import Status
from worker.core.outcomes import Rejected
from worker.core.ports import (
    Claim,
    FailureOf,
    FailureVerdict,
    Lease,
    LeasedElsewhere,
    Paused,
    Refusal,
    RefusalWords,
    ReplyKept,
    Verdict,
)

FAILURES_TO_OPEN = 5


async def _due(subject: Subject, *ids: str) -> None:
    """Import grants, the first of them due first."""
    now = await subject.now()
    for place, grant_id in enumerate(ids):
        await subject.put(a_grant(grant_id, now), now - MINUTE_MS + place)


async def _claim(subject: Subject, limit: int = 10) -> Claim:
    return await subject.store.claim(CLIENT, limit, "runner")


async def _lease(subject: Subject, grant_id: str = "one") -> Lease:
    lease = await subject.store.lease(grant_id)
    assert isinstance(lease, Lease)
    return lease


async def _give_back(subject: Subject, lease: Lease, *, due_in_ms: int = 0) -> None:
    change = put_back(lease, CLIENT, await subject.now() + due_in_ms)
    assert await subject.store.record_outcome(lease, change) is Verdict.STORED


async def _fail(
    subject: Subject, lease: Lease, *, reason: str = "http_502", throttled: bool = False
) -> FailureVerdict:
    now = await subject.now()
    return await subject.store.record_failure(
        CLIENT,
        unavailable(CLIENT, lease, now, reason),
        lease,
        sent_at=now,
        retry_after_ms=None,
        throttled=throttled,
        chance=1.0,
    )


async def _reject(
    subject: Subject,
    lease: Lease,
    *,
    words: RefusalWords = RefusalWords.CLIENT,
    sent_at: int | None = None,
) -> Refusal:
    now = await subject.now()
    sent_at = now if sent_at is None else sent_at
    verdict = await subject.store.record_refusal(
        CLIENT,
        rejected(CLIENT, lease, now),
        lease,
        words=words,
        sent_at=sent_at,
        believe_ms=3_600_000,
    )
    return verdict.whom


# Claims and leases


async def test_what_is_due_is_claimed_in_its_order_and_no_more_than_was_asked_for(subject: Subject) -> None:
    await _due(subject, "one", "two", "three")
    now = await subject.now()
    await subject.put(a_grant("later", now), now + MINUTE_MS)

    first, second = await _claim(subject, 2), await _claim(subject, 2)

    assert [lease.grant.id for lease in first.leases] == ["one", "two"]
    assert [lease.grant.id for lease in second.leases] == ["three"]
    assert (first.drained, second.drained) == (False, True)


async def test_a_claimed_grant_is_nobody_elses_until_its_lease_ends(subject: Subject) -> None:
    await _due(subject, "one")
    (lease,) = (await _claim(subject)).leases

    assert not (await _claim(subject)).leases
    assert await subject.store.lease("one") == LeasedElsewhere(lease.until)


async def test_each_lease_has_a_greater_fence_than_all_before_it(subject: Subject) -> None:
    await _due(subject, "one", "two")
    one, two = (await _claim(subject)).leases
    await _give_back(subject, one)

    assert one.fence < two.fence < (await _lease(subject)).fence


async def test_a_lease_stores_the_intent_and_shows_the_grant_as_it_was_before(subject: Subject) -> None:
    await _due(subject, "one")

    lease = await _lease(subject)

    assert not lease.grant.in_doubt
    stored = await subject.found("one")
    assert stored.grant.in_doubt
    assert stored.lease_until == stored.due_at == lease.until


async def test_a_grant_is_leased_on_demand_whether_it_is_due_or_not(subject: Subject) -> None:
    now = await subject.now()
    await subject.put(a_grant("one", now), now + MINUTE_MS)

    assert not (await _claim(subject)).leases
    assert (await _lease(subject)).grant.id == "one"
    assert await subject.store.lease("nobody") is None


async def test_a_paused_grant_is_neither_claimed_nor_leased(subject: Subject) -> None:
    await _due(subject, "one")
    await subject.pause("one")

    assert not (await _claim(subject)).leases
    assert await subject.store.lease("one") == Paused()


async def test_a_paused_grant_is_leased_to_whoever_says_so_and_stays_paused(subject: Subject) -> None:
    await _due(subject, "one")
    await subject.pause("one")

    lease = await subject.store.lease("one", even_paused=True)

    assert isinstance(lease, Lease)
    assert (await subject.found("one")).grant.status is Status.PAUSED
    await _give_back(subject, lease)
    assert (await subject.found("one")).grant.status is Status.PAUSED


# Answers


async def test_an_answer_is_stored_with_its_due_time_its_event_and_the_end_of_its_lease(
    subject: Subject,
) -> None:
    await _due(subject, "one")
    lease = await _lease(subject)
    commit = answer(lease, CLIENT, await subject.now())

    committed = await subject.store.commit(commit)

    assert (committed.verdict, committed.version, committed.status) == (Verdict.STORED, 1, Status.ACTIVE)
    stored = await subject.found("one")
    assert stored.grant.sealed == commit.change.grant.sealed
    assert not stored.grant.in_doubt
    assert (stored.due_at, stored.lease_until) == (commit.change.due_at, None)
    assert await subject.events() == ["evergrant.grant.refreshed"]


async def test_an_answer_that_comes_twice_is_known_and_tells_nothing_more(subject: Subject) -> None:
    await _due(subject, "one")
    commit = answer(await _lease(subject), CLIENT, await subject.now())

    verdicts = [(await subject.store.commit(commit)).verdict for _ in range(2)]

    assert verdicts == [Verdict.STORED, Verdict.KNOWN]
    assert len(await subject.events()) == 1


async def test_an_answer_made_from_a_token_that_was_rotated_since_is_superseded(subject: Subject) -> None:
    await _due(subject, "one")
    lease = await _lease(subject)
    await subject.store.commit(answer(lease, CLIENT, await subject.now()))
    late = replace(answer(lease, CLIENT, await subject.now(), "r2"), fence=lease.fence - 1)

    committed = await subject.store.commit(late)

    assert (committed.verdict, committed.version) == (Verdict.SUPERSEDED, 1)
    assert (await subject.found("one")).grant.version == 1


async def test_a_late_answer_is_stored_whoever_has_the_lease_and_leaves_that_lease_alone(
    subject: Subject,
) -> None:
    await _due(subject, "one")
    late = await _lease(subject)
    await _give_back(subject, late)
    present = await _lease(subject)

    committed = await subject.store.commit(
        replace(answer(late, CLIENT, await subject.now()), fence=late.fence - 1)
    )

    assert committed.verdict is Verdict.STORED
    stored = await subject.found("one")
    assert stored.lease_until == present.until
    assert stored.grant.in_doubt


async def test_an_answer_follows_a_record_whose_status_changed_meanwhile(subject: Subject) -> None:
    await _due(subject, "one")
    lease = await _lease(subject)
    await subject.pause("one")

    first = await subject.store.commit(answer(lease, CLIENT, await subject.now()))
    second = await subject.store.commit(answer(lease, CLIENT, await subject.now(), onto=first))

    assert (first.verdict, first.version, first.status) == (Verdict.REBASE, 0, Status.PAUSED)
    assert (second.verdict, second.status) == (Verdict.STORED, Status.PAUSED)
    assert (await subject.found("one")).due_at is None


async def test_an_answer_for_a_deleted_grant_is_gone(subject: Subject) -> None:
    await _due(subject, "one")
    lease = await _lease(subject)
    elsewhere = replace(lease, grant=replace(lease.grant, id="gone"))

    committed = await subject.store.commit(answer(elsewhere, CLIENT, await subject.now()))

    assert (committed.verdict, committed.status) == (Verdict.GONE, None)


# Outcomes without tokens


async def test_a_rejection_that_comes_twice_takes_its_grant_out_of_work_and_tells(subject: Subject) -> None:
    await _due(subject, "one")
    for _ in range(2):
        lease, now = await _lease(subject), await subject.now()
        change = failure(lease, CLIENT, Rejected("invalid_grant"), now)
        assert await subject.store.record_outcome(lease, change, answered_at=now) is Verdict.STORED

    stored = await subject.found("one")
    assert stored.grant.status is Status.FAILED
    assert (stored.due_at, stored.lease_until) == (None, None)
    assert await subject.events() == ["evergrant.grant.failing", "evergrant.grant.failed"]


async def test_a_grant_that_is_put_back_is_due_as_asked_and_has_no_event(
    subject: Subject,
) -> None:
    await _due(subject, "one")
    lease = await _lease(subject)
    change = put_back(lease, CLIENT, await subject.now() + MINUTE_MS)

    assert await subject.store.record_outcome(lease, change) is Verdict.STORED

    stored = await subject.found("one")
    assert (stored.due_at, stored.lease_until, stored.grant.in_doubt) == (change.due_at, None, False)
    assert await subject.events() == []


async def test_an_outcome_counts_once_and_only_under_the_last_lease(subject: Subject) -> None:
    await _due(subject, "one")
    first = await _lease(subject)
    change = failure(first, CLIENT, Rejected("invalid_grant"), await subject.now())
    await subject.store.record_outcome(first, change)

    assert await subject.store.record_outcome(first, change) is Verdict.STORED
    assert len(await subject.events()) == 1

    second = await _lease(subject)
    late = replace(first, fence=first.fence - 1)
    assert await subject.store.record_outcome(late, change) is Verdict.STALE
    assert (await subject.found("one")).lease_until == second.until


async def test_an_outcome_of_a_token_that_was_rotated_meanwhile_says_nothing(subject: Subject) -> None:
    await _due(subject, "one")
    first = await _lease(subject)
    await subject.store.commit(answer(first, CLIENT, await subject.now()))
    second = await _lease(subject)
    change = failure(first, CLIENT, Rejected("invalid_grant"), await subject.now())

    assert await subject.store.record_outcome(second, change) is Verdict.SUPERSEDED
    assert (await subject.found("one")).grant.status is Status.ACTIVE


# Clients


async def test_a_rejected_client_lets_one_grant_at_a_time_through_as_its_probe(subject: Subject) -> None:
    await _due(subject, "one", "two", "three")
    (lease,) = (await _claim(subject, 1)).leases

    assert await _reject(subject, lease) is Refusal.CHANGED
    await _give_back(subject, lease)
    assert not (await _claim(subject)).leases
    await subject.make_probes_due()
    (probe,) = (await _claim(subject)).leases

    assert probe.client_probe
    assert not probe.endpoint_probe
    assert not (await _claim(subject)).leases
    assert await subject.events() == ["evergrant.client.rejected"]


async def test_a_refused_probe_changes_nothing_and_puts_the_next_one_off(subject: Subject) -> None:
    await _due(subject, "one", "two")
    (lease,) = (await _claim(subject, 1)).leases
    await _reject(subject, lease)
    await subject.make_probes_due()
    (probe,) = (await _claim(subject)).leases

    assert await _reject(subject, probe) is Refusal.UNCHANGED

    await _give_back(subject, probe)
    assert not (await _claim(subject)).leases
    assert len(await subject.events()) == 1


async def test_an_accepted_client_is_claimed_for_again_in_a_new_generation(subject: Subject) -> None:
    await _due(subject, "one", "two", "three")
    (lease,) = (await _claim(subject, 1)).leases
    before = (await _claim(subject, 1)).generation
    await _reject(subject, lease)
    event = accepted(CLIENT, lease, await subject.now())

    assert await subject.store.accept_client(CLIENT, event, lease, is_refreshed=True)
    assert (await _claim(subject)).generation == before + 1
    assert await subject.events() == ["evergrant.client.rejected", "evergrant.client.recovered"]


async def test_a_client_that_is_not_rejected_cannot_be_accepted(subject: Subject) -> None:
    await _due(subject, "one")
    lease = await _lease(subject)

    assert not await subject.store.accept_client(
        CLIENT, accepted(CLIENT, lease, await subject.now()), lease, is_refreshed=True
    )
    assert await subject.events() == []


async def test_a_refusal_of_a_request_that_left_before_the_acceptance_is_out_of_date(
    subject: Subject,
) -> None:
    await _due(subject, "one", "two")
    one, two = (await _claim(subject)).leases
    sent_at = await subject.now()
    await _reject(subject, one)
    await subject.store.accept_client(
        CLIENT, accepted(CLIENT, two, await subject.now()), two, is_refreshed=True
    )

    assert await _reject(subject, two, sent_at=sent_at) is Refusal.UNCHANGED


async def test_a_grant_that_is_refused_again_after_another_showed_the_client_well_is_its_own_trouble(
    subject: Subject,
) -> None:
    await _due(subject, "one", "two")
    one, two = (await _claim(subject)).leases
    await _reject(subject, one)
    await subject.store.accept_client(
        CLIENT, accepted(CLIENT, two, await subject.now()), two, is_refreshed=True
    )
    at = await subject.now()
    while await subject.now() <= at:  # the next request leaves later than the acceptance
        pass

    assert await _reject(subject, one) is Refusal.GRANT
    assert (await _claim(subject)).drained


# Endpoints


async def test_failures_in_a_row_make_an_endpoint_unavailable(subject: Subject) -> None:
    ids = [f"grant {number}" for number in range(FAILURES_TO_OPEN)]
    await _due(subject, *ids, "last")
    leases = (await _claim(subject, FAILURES_TO_OPEN)).leases

    verdicts = [await _fail(subject, lease) for lease in leases]

    assert {verdict.whose for verdict in verdicts} == {FailureOf.PROVIDER}
    assert [verdict.claims_stop for verdict in verdicts] == [False] * 4 + [True]
    assert await subject.events() == ["evergrant.provider.unavailable"]
    assert not (await _claim(subject)).leases
    await subject.make_probes_due()
    (probe,) = (await _claim(subject)).leases
    assert probe.endpoint_probe
    assert not probe.client_probe


async def test_a_failure_while_the_endpoint_answers_others_is_its_grants(subject: Subject) -> None:
    await _due(subject, "one", "two")
    one, two = (await _claim(subject)).leases
    assert (await _fail(subject, one)).whose is FailureOf.PROVIDER
    at = await subject.now()
    while (answered_at := await subject.now()) <= at:
        pass
    await subject.store.commit(answer(two, CLIENT, answered_at))

    assert await _fail(subject, one) == FailureVerdict(FailureOf.GRANT, claims_stop=False)


async def test_an_endpoint_that_recovered_is_claimed_for_again_and_its_failures_are_forgotten(
    subject: Subject,
) -> None:
    ids = [f"grant {number}" for number in range(FAILURES_TO_OPEN)]
    await _due(subject, *ids)
    leases = (await _claim(subject)).leases
    for lease in leases:
        await _fail(subject, lease)
        await _give_back(subject, lease)
    event = recovered(CLIENT, leases[0], await subject.now())

    assert await subject.store.record_recovery(CLIENT, event, leases[0])

    assert (await _claim(subject, 1)).leases
    assert await subject.events() == ["evergrant.provider.unavailable", "evergrant.provider.recovered"]


async def test_a_probe_that_fails_puts_the_next_one_off(subject: Subject) -> None:
    ids = [f"grant {number}" for number in range(FAILURES_TO_OPEN)]
    await _due(subject, *ids)
    for lease in (await _claim(subject)).leases:
        await _fail(subject, lease)
        await _give_back(subject, lease)
    await subject.make_probes_due()
    (probe,) = (await _claim(subject)).leases

    verdict = await _fail(subject, probe)

    assert verdict == FailureVerdict(FailureOf.PROVIDER, claims_stop=True)
    await _give_back(subject, probe)
    assert not (await _claim(subject)).leases
    assert len(await subject.events()) == 1


async def test_a_throttled_client_waits_and_its_endpoint_stays_available(
    subject: Subject,
) -> None:
    await _due(subject, "one", "two")
    (lease,) = (await _claim(subject, 1)).leases

    verdict = await _fail(subject, lease, reason="http_429", throttled=True)

    assert verdict == FailureVerdict(FailureOf.PROVIDER, claims_stop=True)
    assert not (await _claim(subject)).leases
    assert await subject.events() == []


# Replies that could not be read


async def test_a_reply_that_could_not_be_read_takes_its_grant_out_of_the_schedule_and_stops_the_endpoint(
    subject: Subject,
) -> None:
    await _due(subject, "one", "two")
    lease = await _lease(subject)

    verdict = await subject.store.keep_reply(unread(lease, CLIENT, await subject.now()))

    assert verdict is Verdict.STORED
    stored = await subject.found("one")
    assert (stored.grant.status, stored.grant.reason) == (Status.FAILING, "reply_unread")
    assert (stored.due_at, stored.lease_until) == (None, None)
    assert stored.grant.kept_reply == 1
    assert await subject.events() == ["evergrant.grant.failing", "evergrant.provider.unavailable"]
    assert not (await _claim(subject)).leases


async def test_the_token_of_a_kept_reply_is_neither_claimed_nor_leased_nor_probed_with(
    subject: Subject,
) -> None:
    await _due(subject, "one", "two")
    await subject.store.keep_reply(unread(await _lease(subject), CLIENT, await subject.now()))
    await subject.make_probes_due()

    (probe,) = (await _claim(subject)).leases

    assert (probe.grant.id, probe.endpoint_probe) == ("two", True)
    assert await subject.store.lease("one") == ReplyKept(1)


async def test_a_reply_is_kept_once_however_often_it_is_offered(subject: Subject) -> None:
    await _due(subject, "one")
    kept = unread(await _lease(subject), CLIENT, await subject.now())

    verdicts = [await subject.store.keep_reply(kept) for _ in range(3)]

    assert verdicts == [Verdict.STORED, Verdict.KNOWN, Verdict.KNOWN]
    assert len(await subject.events()) == 2


async def test_the_reply_to_a_token_that_was_replaced_since_is_not_kept(subject: Subject) -> None:
    await _due(subject, "one")
    lease = await _lease(subject)
    kept = unread(lease, CLIENT, await subject.now())
    await subject.store.commit(answer(lease, CLIENT, await subject.now()))

    assert await subject.store.keep_reply(kept) is Verdict.SUPERSEDED
    assert (await subject.found("one")).grant.status is Status.ACTIVE


async def test_a_lease_for_a_kept_reply_adopts_it_and_the_commit_ends_the_keeping(subject: Subject) -> None:
    await _due(subject, "one")
    kept = unread(await _lease(subject), CLIENT, await subject.now())
    await subject.store.keep_reply(kept)

    lease = await subject.store.lease("one", reply=1)

    assert isinstance(lease, Lease)
    assert await subject.store.lease("one", reply=2) is None
    await subject.store.commit(answer(lease, CLIENT, await subject.now()))
    stored = (await subject.found("one")).grant
    assert (stored.status, stored.kept_reply, stored.version) == (Status.ACTIVE, None, 1)
    assert (await subject.events())[-1] == "evergrant.grant.recovered"


async def test_no_other_outcome_moves_a_grant_whose_reply_is_kept(subject: Subject) -> None:
    await _due(subject, "one")
    await subject.store.keep_reply(unread(await _lease(subject), CLIENT, await subject.now()))
    late = await subject.store.lease("one", reply=1)
    assert isinstance(late, Lease)

    change = failure(late, CLIENT, Rejected("invalid_grant"), await subject.now())
    assert await subject.store.record_outcome(late, change) is Verdict.STORED

    stored = await subject.found("one")
    assert (stored.grant.status, stored.grant.reason) == (Status.FAILING, "reply_unread")
    assert stored.due_at is None
    assert await subject.events() == ["evergrant.grant.failing", "evergrant.provider.unavailable"]


async def test_a_half_open_probe_whose_reply_cannot_be_read_either_puts_the_next_one_off(
    subject: Subject,
) -> None:
    await _due(subject, "one", "two", "three")
    await subject.store.keep_reply(unread(await _lease(subject), CLIENT, await subject.now()))
    await subject.make_probes_due()
    (probe,) = (await _claim(subject)).leases

    await subject.store.keep_reply(unread(probe, CLIENT, await subject.now()))

    assert not (await _claim(subject)).leases
    assert (await subject.events()).count("evergrant.provider.unavailable") == 1


async def test_the_clients_that_something_may_be_claimed_of_are_named(subject: Subject) -> None:
    assert list((await subject.store.due_clients(0, 10)).names) == []

    await _due(subject, "one")
    page = await subject.store.due_clients(0, 10)
    assert (list(page.names), page.has_more) == ([CLIENT.name], False)
    assert list((await subject.store.due_clients(1, 10)).names) == []

    (lease,) = (await _claim(subject)).leases
    assert list((await subject.store.due_clients(0, 10)).names) == []
    await _give_back(subject, lease)
    assert list((await subject.store.due_clients(0, 10)).names) == [CLIENT.name]
