"""What an outcome makes of a grant: the table, and everything that goes with a step."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from worker.core import lifecycle, policy
from worker.core.events import EventType
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.lifecycle import NO_END, STATUS_OF, TABLE, Change, Phase, Step, Trigger
from worker.core.outcomes import (
    ClientRejected,
    NoLifetime,
    Outcome,
    Refreshed,
    Rejected,
    Reply,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.policy import Action, Due, Rules
from worker.core.providers import DAY_MS, Client
from worker.core.reasons import Reason

FAILING, FAILED = EventType.GRANT_FAILING, EventType.GRANT_FAILED
NO_ANSWER = Unavailable("http_503")
REJECTED = Rejected("invalid_grant")
UNREAD = Unread("http_200_not_json", Reply(200, {}, b"?"))
ANSWER = Refreshed("access-2", "refresh-2", 3_600_000, None, None)

IN_PHASE: dict[Phase, dict[str, Any]] = {
    Phase.ACTIVE: {"status": Status.ACTIVE},
    Phase.RETRYING: {"status": Status.FAILING, "reason": "unavailable", "streak": 2},
    Phase.CONFIRMING: {"status": Status.FAILING, "reason": "rejected", "streak": 1, "rejected_at": 5},
    Phase.UNREAD: {"status": Status.FAILING, "reason": "reply_unread", "streak": 1, "kept_reply": 3},
    Phase.FAILED: {"status": Status.FAILED, "reason": "revoked", "streak": 4},
    Phase.PAUSED: {"status": Status.PAUSED},
}

Fail = Callable[..., Change]
Succeed = Callable[..., Change]


@pytest.fixture
def fail(oauth2: Client, rules: Rules, now: int) -> Fail:
    """Let an outcome befall a grant a minute after its issue."""

    def befall(
        grant: Grant,
        outcome: Outcome,
        *,
        client: Client = oauth2,
        in_doubt: bool = False,
        with_all: bool = False,
        later_ms: int = 60_000,
    ) -> Change:
        return lifecycle.fail(
            grant,
            outcome,
            client,
            rules,
            in_doubt=in_doubt,
            with_all=with_all,
            attempt=7,
            now=now + later_ms,
            chance=1.0,
        )

    return befall


@pytest.fixture
def succeed(grant: Grant, pair: TokenPair, oauth2: Client, rules: Rules, now: int) -> Succeed:
    """Let an answer, sent an hour after the issue, befall a grant."""

    def befall(
        answer: Refreshed = ANSWER, *, base: Grant = grant, client: Client = oauth2, held: TokenPair = pair
    ) -> Change:
        sent_at = now + 3_600_000
        return lifecycle.succeed(
            base,
            held,
            answer,
            client,
            rules,
            sealed=b"resealed",
            attempt=7,
            sent_at=sent_at,
            now=sent_at + 900,
        )

    return befall


# The table


@pytest.mark.parametrize(
    ("phase", "trigger", "next_phase", "event"),
    [
        (Phase.ACTIVE, Trigger.NO_ANSWER, Phase.RETRYING, FAILING),
        (Phase.ACTIVE, Trigger.REJECTED, Phase.CONFIRMING, FAILING),
        (Phase.ACTIVE, Trigger.REJECTED_WITH_ALL, Phase.CONFIRMING, FAILING),
        (Phase.ACTIVE, Trigger.EXPIRED, Phase.FAILED, FAILED),
        (Phase.RETRYING, Trigger.NO_ANSWER, Phase.RETRYING, None),
        (Phase.RETRYING, Trigger.REJECTED, Phase.CONFIRMING, None),
        (Phase.RETRYING, Trigger.REJECTED_WITH_ALL, Phase.CONFIRMING, None),
        (Phase.RETRYING, Trigger.EXPIRED, Phase.FAILED, FAILED),
        (Phase.CONFIRMING, Trigger.NO_ANSWER, Phase.CONFIRMING, None),
        (Phase.CONFIRMING, Trigger.REJECTED, Phase.FAILED, FAILED),
        (Phase.CONFIRMING, Trigger.REJECTED_WITH_ALL, Phase.CONFIRMING, None),
        (Phase.CONFIRMING, Trigger.EXPIRED, Phase.FAILED, FAILED),
        (Phase.ACTIVE, Trigger.UNREAD, Phase.UNREAD, FAILING),
        (Phase.RETRYING, Trigger.UNREAD, Phase.UNREAD, None),
        (Phase.CONFIRMING, Trigger.UNREAD, Phase.UNREAD, None),
        (Phase.UNREAD, Trigger.UNREAD, Phase.UNREAD, None),
        (Phase.UNREAD, Trigger.NO_ANSWER, Phase.UNREAD, None),
        (Phase.UNREAD, Trigger.REJECTED, Phase.UNREAD, None),
        (Phase.UNREAD, Trigger.REJECTED_WITH_ALL, Phase.UNREAD, None),
        (Phase.UNREAD, Trigger.EXPIRED, Phase.FAILED, FAILED),
        (Phase.FAILED, Trigger.UNREAD, Phase.FAILED, None),
        (Phase.FAILED, Trigger.NO_ANSWER, Phase.FAILED, None),
        (Phase.FAILED, Trigger.REJECTED, Phase.FAILED, None),
        (Phase.FAILED, Trigger.REJECTED_WITH_ALL, Phase.FAILED, None),
    ],
    ids=lambda each: each.name.lower() if isinstance(each, Phase | Trigger) else None,
)
def test_a_trigger_leads_to_the_phase_and_the_event_of_the_table(
    phase: Phase, trigger: Trigger, next_phase: Phase, event: EventType | None
) -> None:
    step = TABLE[phase, trigger]
    assert (step.phase, step.event) == (next_phase, event)


def test_whatever_an_attempt_brings_has_its_step_but_for_a_failed_grant_that_expires() -> None:
    operators = {Trigger.PAUSE, Trigger.RESUME, Trigger.RESUME_IN_BOUT, Trigger.DROP}
    assert set(product(Phase, set(Trigger) - operators)) - set(TABLE) == {(Phase.FAILED, Trigger.EXPIRED)}


def test_an_outcome_that_tells_nothing_leaves_the_status_as_it_was() -> None:
    for (phase, trigger), step in TABLE.items():
        if trigger in {*lifecycle.OUTCOMES, Trigger.REFRESHED} and step.event is None:
            assert STATUS_OF[step.phase] is STATUS_OF[phase], (phase, trigger)


def test_what_operators_do_has_no_event() -> None:
    assert not [
        step
        for (_, trigger), step in TABLE.items()
        if trigger in {Trigger.PAUSE, Trigger.RESUME, Trigger.RESUME_IN_BOUT, Trigger.DROP}
        and step.event is not None
    ]


def test_tokens_bring_a_failing_and_a_failed_grant_back_and_leave_a_paused_one_paused() -> None:
    refreshed, recovered = EventType.GRANT_REFRESHED, EventType.GRANT_RECOVERED
    assert {phase: TABLE[phase, Trigger.REFRESHED] for phase in Phase} == {
        Phase.ACTIVE: Step(Phase.ACTIVE, refreshed),
        Phase.RETRYING: Step(Phase.ACTIVE, recovered),
        Phase.CONFIRMING: Step(Phase.ACTIVE, recovered),
        Phase.UNREAD: Step(Phase.ACTIVE, recovered),
        Phase.FAILED: Step(Phase.ACTIVE, recovered),
        Phase.PAUSED: Step(Phase.PAUSED, refreshed),
    }


def test_an_operator_pauses_anything_and_resumes_what_is_paused_or_failed() -> None:
    paused = Status.PAUSED
    assert lifecycle.next_statuses(Trigger.PAUSE) == dict.fromkeys(set(Status) - {paused}, paused)
    assert lifecycle.next_statuses(Trigger.RESUME) == {
        Status.FAILED: Status.FAILING,
        Status.PAUSED: Status.ACTIVE,
    }
    assert lifecycle.next_statuses(Trigger.RESUME_IN_BOUT) == dict.fromkeys(
        (Status.FAILED, paused), Status.FAILING
    )


def test_a_status_whose_phases_go_apart_tells_no_next_status() -> None:
    with pytest.raises(ValueError, match="leads from failing to two statuses"):
        lifecycle.next_statuses(Trigger.REJECTED)


def test_a_paused_grant_alone_is_unmoved_by_outcomes() -> None:
    assert lifecycle.unmoved_by_outcomes() == [Status.PAUSED]


def test_asking_for_a_pair_that_cannot_happen_raises(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    dead = replace(grant, status=Status.FAILED)
    with pytest.raises(KeyError):
        lifecycle.expire(dead, oauth2, rules, attempt=7, now=now)


@pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.name.lower())
def test_a_grant_s_phase_is_read_from_its_status_whether_it_was_rejected_and_whether_a_reply_is_kept(
    grant: Grant, phase: Phase
) -> None:
    assert lifecycle.phase_of(replace(grant, **IN_PHASE[phase])) is phase


def test_a_grant_s_phase_does_not_depend_on_its_reason(grant: Grant) -> None:
    resumed = replace(grant, status=Status.FAILING, reason="rejected", streak=1)
    assert lifecycle.phase_of(resumed) is Phase.RETRYING


def test_a_reply_that_is_given_up_lets_the_old_token_be_tried_again() -> None:
    assert lifecycle.next_statuses(Trigger.DROP) == {
        Status.FAILING: Status.FAILING,
        Status.FAILED: Status.FAILING,
        Status.PAUSED: Status.PAUSED,
    }


# A reply that could not be read


def test_a_reply_that_could_not_be_read_makes_its_grant_failing_never_due_and_in_doubt(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    change = lifecycle.keep(grant, UNREAD, oauth2, rules, attempt=7, now=now)

    assert (change.grant.status, change.grant.reason, change.grant.streak) == ("failing", "reply_unread", 1)
    assert change.grant.in_doubt
    assert (change.due_at, change.attention_at) == (None, grant.access_expires_at)
    assert change.event is not None
    assert (change.event.type, change.event.id) == (FAILING, "7-grant-failing")
    assert (change.event.data["reason"], change.event.data["detail"]) == ("reply_unread", "http_200_not_json")


def test_a_failed_grant_stays_failed_for_its_reason_when_its_one_more_try_cannot_be_read(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    dead = replace(grant, **IN_PHASE[Phase.FAILED])
    kept = lifecycle.keep(dead, UNREAD, oauth2, rules, attempt=7, now=now).grant
    assert (kept.status, kept.reason) == ("failed", "revoked")


def test_a_grant_whose_token_ends_while_its_reply_is_unread_fails_for_that_reason(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    change = lifecycle.expire(
        replace(grant, **IN_PHASE[Phase.UNREAD]), oauth2, rules, attempt=7, now=now + 3_600_000
    )
    assert (change.grant.status, change.grant.reason) == ("failed", "reply_unread")
    assert change.event is not None
    assert change.event.type is FAILED


def test_the_tokens_of_a_kept_reply_end_the_bout_and_the_keeping(grant: Grant, succeed: Succeed) -> None:
    successor = succeed(base=replace(grant, **IN_PHASE[Phase.UNREAD]))
    assert (successor.grant.status, successor.grant.kept_reply) == ("active", None)
    assert successor.event is not None
    assert successor.event.type is EventType.GRANT_RECOVERED


def test_a_token_to_which_a_kept_reply_came_is_not_asked_with_again(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    kept = replace(grant, **IN_PHASE[Phase.UNREAD])
    assert not policy.is_refreshable(kept, oauth2)
    assert policy.decide(kept, oauth2, rules, now).action is Action.WAIT
    assert policy.decide(kept, oauth2, rules, now + 3_600_000).action is Action.EXPIRE


# Outcomes without tokens


@pytest.mark.parametrize(
    ("phase", "outcome", "in_doubt", "status", "reason", "event"),
    [
        (Phase.ACTIVE, NO_ANSWER, False, "failing", "unavailable", FAILING),
        (Phase.ACTIVE, Unknown("timeout"), False, "failing", "reply_unknown", FAILING),
        (Phase.ACTIVE, REJECTED, False, "failing", "rejected", FAILING),
        (Phase.ACTIVE, REJECTED, True, "failing", "rejected", FAILING),
        (Phase.RETRYING, NO_ANSWER, False, "failing", "unavailable", None),
        (Phase.RETRYING, Unknown("timeout"), True, "failing", "reply_unknown", None),
        (Phase.RETRYING, REJECTED, False, "failing", "rejected", None),
        (Phase.RETRYING, REJECTED, True, "failing", "rejected", None),
        (Phase.CONFIRMING, NO_ANSWER, False, "failing", "rejected", None),
        (Phase.CONFIRMING, Unknown("timeout"), False, "failing", "rejected", None),
        (Phase.CONFIRMING, REJECTED, False, "failed", "revoked", FAILED),
        (Phase.CONFIRMING, REJECTED, True, "failed", "reply_lost", FAILED),
        (Phase.FAILED, REJECTED, False, "failed", "revoked", None),
        (Phase.FAILED, NO_ANSWER, False, "failed", "revoked", None),
    ],
)
def test_an_outcome_without_tokens_makes_a_status_a_reason_and_at_most_one_event(
    grant: Grant,
    fail: Fail,
    *,
    phase: Phase,
    outcome: Outcome,
    in_doubt: bool,
    status: str,
    reason: str,
    event: EventType | None,
) -> None:
    change = fail(replace(grant, **IN_PHASE[phase]), outcome, in_doubt=in_doubt)
    assert (change.grant.status, change.grant.reason) == (status, reason)
    assert (change.event.type if change.event else None) == event
    assert change.grant.streak == IN_PHASE[phase].get("streak", 0) + 1


@pytest.mark.parametrize(
    "reason", ["reply_lost", "absolute_limit", "invalid_request", "refresh_token_expired"]
)
def test_a_failed_grant_whose_one_more_try_brings_no_answer_keeps_the_reason_it_failed_for(
    grant: Grant, fail: Fail, reason: str
) -> None:
    dead = replace(grant, status=Status.FAILED, reason=reason)
    assert fail(dead, NO_ANSWER).grant.reason == reason


def test_a_grant_without_an_answer_fails_and_recovers_but_never_dies_of_it(grant: Grant, fail: Fail) -> None:
    each = grant
    events = []
    for _ in range(200):
        change = fail(each, NO_ANSWER)
        events.append(change.event)
        each = change.grant
    assert each.status is Status.FAILING
    assert [event.type for event in events if event] == [FAILING]


def test_a_rejection_is_believed_only_when_a_second_one_follows(grant: Grant, fail: Fail) -> None:
    once = fail(grant, REJECTED)
    assert once.grant.status is Status.FAILING
    twice = fail(once.grant, REJECTED)
    assert twice.grant.status is Status.FAILED
    assert twice.due_at is None


def test_an_answer_missing_between_two_rejections_does_not_make_the_first_forgotten(
    grant: Grant, fail: Fail
) -> None:
    between = fail(fail(grant, REJECTED).grant, NO_ANSWER)
    assert fail(between.grant, REJECTED).grant.status is Status.FAILED


@pytest.mark.parametrize(
    ("outcome", "before", "after"),
    [
        pytest.param(Unknown("timeout"), False, True, id="nothing-came-after-it-was-sent"),
        pytest.param(Unknown("http_500"), False, True, id="a-5xx"),
        pytest.param(Unknown("http_200_not_json"), False, True, id="a-200-that-is-not-json"),
        pytest.param(Unavailable("http_500", 9, may_have_acted=True), False, True, id="throttled-by-a-fault"),
        pytest.param(Unavailable("could_not_connect"), False, False, id="could-not-connect"),
        pytest.param(Unavailable("could_not_connect"), True, True, id="could-not-connect-after-a-lost-reply"),
        pytest.param(Unavailable("http_429", 9), False, False, id="throttled"),
        pytest.param(REJECTED, False, False, id="rejected"),
    ],
)
def test_a_grant_is_in_doubt_from_a_request_that_may_have_been_acted_on_until_tokens_come(
    grant: Grant, fail: Fail, *, outcome: Outcome, before: bool, after: bool
) -> None:
    assert fail(grant, outcome, in_doubt=before).grant.in_doubt is after


@pytest.mark.parametrize("outcome", [Unknown("timeout"), NO_ANSWER, REJECTED], ids=repr)
def test_an_outcome_without_tokens_never_touches_the_stored_tokens(
    grant: Grant, fail: Fail, outcome: Outcome
) -> None:
    after = fail(grant, outcome).grant
    kept = ("sealed", "lineage", "version", "issued_at", "access_expires_at", "refresh_expires_at", "scope")
    assert [getattr(after, name) for name in kept] == [getattr(grant, name) for name in kept]


@pytest.mark.parametrize(
    ("code", "changes", "reason"),
    [
        pytest.param("invalid_grant", {}, "revoked", id="revoked"),
        pytest.param("invalid_request", {}, "invalid_request", id="invalid-request"),
        pytest.param("invalid_grant", {"refresh_expires_at": 0}, "refresh_token_expired", id="expired"),
        pytest.param("invalid_grant", {"authorized_at": 0}, "absolute_limit", id="a-year-from-consent"),
        pytest.param(
            "invalid_grant",
            {"refresh_expires_at": 0, "authorized_at": 0},
            "absolute_limit",
            id="the-limit-tells-more-than-the-expiry",
        ),
    ],
)
def test_a_failed_grant_s_reason_is_the_most_telling_cause(
    grant: Grant, fail: Fail, pagerduty: Client, code: str, changes: dict[str, Any], reason: str
) -> None:
    rejected_once = replace(grant, **IN_PHASE[Phase.CONFIRMING], **changes)
    assert fail(rejected_once, Rejected(code), client=pagerduty).grant.reason == reason


@pytest.mark.parametrize(
    "outcome", [ClientRejected("invalid_client"), ANSWER], ids=lambda each: type(each).__name__
)
def test_a_client_s_fault_and_an_answer_are_no_failure_of_a_grant_and_raise(
    grant: Grant, fail: Fail, outcome: Outcome
) -> None:
    with pytest.raises(ValueError, match="is no failure of a grant"):
        fail(grant, outcome)


def test_a_rejected_client_leaves_its_grant_as_it_was(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    assert lifecycle.leave(grant, now + 5, oauth2, rules) == Change(grant, now + 5, None, None)


def test_a_failure_s_event_says_what_the_server_said_and_until_when_the_old_token_works(
    grant: Grant, fail: Fail
) -> None:
    event = fail(grant, REJECTED).event
    assert event is not None
    assert event.id == "7-grant-failing"
    assert event.data["detail"] == "invalid_grant"
    assert event.data["reason"] == "rejected"
    assert event.data["access_token_expires_at"] == "2023-11-14T23:13:20.000Z"


# How long it waits


@pytest.mark.parametrize("life_left_ms", [3_600_000, 200_000, 1_000, -1_000])
def test_a_grant_that_is_given_back_while_it_is_confirmed_is_due_as_after_its_rejection(
    grant: Grant, fail: Fail, oauth2: Client, rules: Rules, now: int, life_left_ms: int
) -> None:
    held = replace(grant, access_expires_at=now + life_left_ms)
    rejected = fail(held, REJECTED, later_ms=0)

    given_back = lifecycle.give_back(rejected.grant, oauth2, rules, now)

    assert given_back == replace(rejected, event=None)


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.PAUSED])
def test_a_grant_out_of_work_that_is_given_back_stays_out_of_the_schedule(
    grant: Grant, oauth2: Client, rules: Rules, now: int, phase: Phase
) -> None:
    held = replace(grant, **IN_PHASE[phase])

    assert lifecycle.give_back(held, oauth2, rules, now).due_at is None


@pytest.mark.parametrize(
    ("streak", "outcome", "wait_ms"),
    [
        pytest.param(0, NO_ANSWER, 2_000, id="the-first-backoff"),
        pytest.param(3, NO_ANSWER, 16_000, id="the-fourth-backoff"),
        pytest.param(0, Unknown("timeout"), 2_000, id="unknown"),
        pytest.param(0, REJECTED, 60_000, id="confirming"),
    ],
)
def test_a_failing_grant_is_due_again_after_its_backoff_or_a_confirming_pause(
    grant: Grant, fail: Fail, now: int, streak: int, outcome: Outcome, wait_ms: int
) -> None:
    change = fail(replace(grant, streak=streak), outcome)
    assert change.due_at == now + 60_000 + wait_ms


@pytest.mark.parametrize(
    ("outcome", "throttle_ms"),
    [
        pytest.param(Unavailable("http_429", 90_000), 90_000, id="what-was-asked"),
        pytest.param(Unavailable("http_503", DAY_MS), 3_600_000, id="an-hour-at-most"),
        pytest.param(Unavailable("http_503"), None, id="nothing-was-asked"),
        pytest.param(Unknown("timeout"), None, id="no-reply"),
    ],
)
def test_a_client_waits_for_as_long_as_the_server_asked_but_an_hour_at_most(
    outcome: Outcome, throttle_ms: int | None
) -> None:
    assert lifecycle.throttle_ms(outcome) == throttle_ms


# Answers, and what follows a record that moved on


@pytest.mark.parametrize(
    ("status", "becomes", "told"),
    [
        (Status.ACTIVE, Status.ACTIVE, EventType.GRANT_REFRESHED),
        (Status.FAILING, Status.ACTIVE, EventType.GRANT_RECOVERED),
        (Status.FAILED, Status.ACTIVE, EventType.GRANT_RECOVERED),
        (Status.PAUSED, Status.PAUSED, EventType.GRANT_REFRESHED),
    ],
)
def test_an_answer_follows_a_record_that_moved_on_as_if_it_had_been_made_from_it(
    succeed: Succeed, grant: Grant, status: Status, becomes: Status, told: EventType
) -> None:
    made = succeed()
    moved = lifecycle.rebase(made, grant.version + 3, status, attempt=7)
    anew = succeed(base=replace(grant, version=grant.version + 3, status=status))
    assert moved == anew
    assert moved.grant.status is becomes
    assert moved.event is not None
    assert moved.event.type is told


def test_an_answer_makes_the_next_version_with_lifetimes_that_count_from_sending(
    succeed: Succeed, grant: Grant, now: int
) -> None:
    after = succeed(replace(ANSWER, refresh_expires_in_ms=DAY_MS, scope="read write")).grant
    assert (after.version, after.sealed) == (grant.version + 1, b"resealed")
    assert after.issued_at == now + 3_600_000
    assert after.access_expires_at == now + 7_200_000
    assert after.refresh_issued_at == now + 3_600_000
    assert after.refresh_expires_at == now + 3_600_000 + DAY_MS
    assert after.scope == "read write"
    assert after.lineage == lineage_of("user-42/buddy", "refresh-2")


def test_an_answer_clears_the_grants_failures(succeed: Succeed, grant: Grant) -> None:
    failing = replace(grant, status=Status.FAILING, reason="rejected", streak=3, in_doubt=True)
    after = succeed(base=failing).grant
    assert (after.status, after.reason, after.streak, after.in_doubt) == (Status.ACTIVE, None, 0, False)


def test_an_answer_keeps_consent_labels_and_notices(succeed: Succeed, grant: Grant, now: int) -> None:
    after = succeed(base=replace(grant, noticed_at=now)).grant
    kept = (after.authorized_at, after.labels, after.noticed_at)
    assert kept == (grant.authorized_at, {"tenant": "acme"}, now)


def test_an_answer_without_a_refresh_token_keeps_the_old_one_with_its_end(
    succeed: Succeed, grant: Grant, pair: TokenPair, oauth2: Client, now: int
) -> None:
    base = replace(grant, refresh_expires_at=now + DAY_MS)
    answer = replace(ANSWER, refresh_token=None)
    successor = succeed(answer, base=base)
    assert lifecycle.pair_after(pair, answer, oauth2) == TokenPair("access-2", "refresh-1")
    assert successor.grant.lineage == grant.lineage
    assert (successor.grant.refresh_issued_at, successor.grant.refresh_expires_at) == (now, now + DAY_MS)


def test_an_answer_that_states_a_new_end_of_the_old_refresh_token_moves_it(
    succeed: Succeed, grant: Grant, now: int
) -> None:
    base = replace(grant, refresh_expires_at=now + DAY_MS)
    sliding = replace(ANSWER, refresh_token=None, refresh_expires_in_ms=DAY_MS)
    assert succeed(sliding, base=base).grant.refresh_expires_at == now + 3_600_000 + DAY_MS


def test_an_answer_without_scope_keeps_the_scope(succeed: Succeed) -> None:
    assert succeed().grant.scope == "read"


def test_an_answer_that_states_no_life_is_taken_to_live_as_long_as_was_stated_last(
    succeed: Succeed, grant: Grant, now: int
) -> None:
    silent = replace(ANSWER, expires_in_ms=NoLifetime.UNKNOWN)
    after = succeed(silent, base=replace(grant, stated_life_ms=2 * 3_600_000)).grant
    assert (after.access_expires_at, after.stated_life_ms) == (now + 3 * 3_600_000, 2 * 3_600_000)


def test_an_assumed_life_is_not_taken_for_a_stated_one_by_the_next_answer(
    succeed: Succeed, grant: Grant, oauth2: Client, now: int
) -> None:
    silent = replace(ANSWER, expires_in_ms=NoLifetime.UNKNOWN)
    assumed = succeed(silent, base=replace(grant, stated_life_ms=None)).grant
    assert (assumed.access_expires_at, assumed.stated_life_ms) == (now + 2 * 3_600_000, None)
    told = replace(oauth2, access_lifetime_ms=60_000)
    assert succeed(silent, base=assumed, client=told).grant.access_expires_at == now + 3_600_000 + 60_000


def test_an_answer_whose_token_is_dead_already_is_tried_again_within_two_minutes_and_not_at_once(
    succeed: Succeed, grant: Grant, now: int
) -> None:
    dead = succeed(replace(ANSWER, expires_in_ms=0))
    assert dead.due_at is not None
    assert now + 3_600_000 + 30_000 < dead.due_at < now + 3_600_000 + 120_000
    assert dead.grant.stated_life_ms == grant.stated_life_ms


def test_an_answer_that_keeps_a_refresh_token_of_documented_life_begins_that_life_again(
    succeed: Succeed, grant: Grant, oauth2: Client, now: int
) -> None:
    client = replace(oauth2, provider=replace(oauth2.provider, refresh_lifetime_ms=30 * DAY_MS))
    base = replace(grant, refresh_expires_at=now + 30 * DAY_MS)
    kept = succeed(replace(ANSWER, refresh_token=None), base=base, client=client).grant
    sent_at = now + 3_600_000
    assert (kept.refresh_issued_at, kept.refresh_expires_at) == (sent_at, sent_at + 30 * DAY_MS)


def test_an_end_that_was_stated_of_a_refresh_token_stands_while_the_token_is_kept(
    succeed: Succeed, grant: Grant, oauth2: Client, now: int
) -> None:
    client = replace(oauth2, provider=replace(oauth2.provider, refresh_lifetime_ms=30 * DAY_MS))
    base = replace(grant, refresh_expires_at=now + 20 * DAY_MS)
    kept = succeed(replace(ANSWER, refresh_token=None), base=base, client=client).grant
    assert (kept.refresh_issued_at, kept.refresh_expires_at) == (now, now + 20 * DAY_MS)


def test_two_answers_within_a_second_that_state_the_whole_life_anew_do_not_make_the_end_look_fixed(
    succeed: Succeed, grant: Grant, now: int
) -> None:
    sent_at, before = now + 3_600_000, now + 3_600_000 - 1_000
    base = replace(grant, issued_at=before, refresh_issued_at=before, refresh_expires_at=before + DAY_MS)
    moved = succeed(replace(ANSWER, refresh_expires_in_ms=DAY_MS), base=base).grant
    assert moved.refresh_issued_at == sent_at


def test_an_answer_that_says_never_has_no_end(succeed: Succeed) -> None:
    successor = succeed(replace(ANSWER, expires_in_ms=NoLifetime.NEVER))
    assert successor.grant.access_expires_at is None
    assert successor.due_at is None


def test_an_answer_is_due_when_the_policy_says_so(succeed: Succeed, oauth2: Client, rules: Rules) -> None:
    successor = succeed()
    assert successor.due_at == policy.next_due(successor.grant, oauth2, rules).at


@pytest.mark.parametrize(
    ("before", "told", "after"),
    [
        (Status.ACTIVE, EventType.GRANT_REFRESHED, "active"),
        (Status.FAILING, EventType.GRANT_RECOVERED, "active"),
        (Status.FAILED, EventType.GRANT_RECOVERED, "active"),
        (Status.PAUSED, EventType.GRANT_REFRESHED, "paused"),
    ],
)
def test_an_answer_has_one_event_that_depends_on_what_the_grant_was(
    succeed: Succeed, grant: Grant, now: int, before: Status, told: EventType, after: str
) -> None:
    successor = succeed(base=replace(grant, status=before))

    assert successor.event is not None
    assert successor.event.type is told
    assert successor.event.at == now + 3_600_900
    assert successor.event.data["version"] == grant.version + 1
    assert successor.event.data["status"] == after == successor.grant.status.value
    assert successor.event.data["expires_at"] == "2023-11-15T00:13:20.000Z"


def test_no_event_of_an_answer_holds_a_token(succeed: Succeed) -> None:
    text = repr(succeed())
    for token in ("access-1", "refresh-1", "access-2", "refresh-2"):
        assert token not in text


def test_a_client_credentials_grant_keeps_no_refresh_token_that_came_unasked(
    succeed: Succeed, grant: Grant, app: Client
) -> None:
    held = TokenPair("access-1")
    successor = succeed(base=replace(grant, lineage=b""), client=app, held=held)
    assert lifecycle.pair_after(held, ANSWER, app) == TokenPair("access-2", None)
    assert not successor.grant.has_refresh_token


def test_a_client_credentials_grant_has_no_end_of_a_refresh_token_it_does_not_keep(
    succeed: Succeed, grant: Grant, app: Client
) -> None:
    answer = replace(ANSWER, refresh_expires_in_ms=60_000)
    successor = succeed(answer, base=replace(grant, lineage=b""), client=app, held=TokenPair("access-1"))
    assert successor.grant.refresh_expires_at is None


# Ends


def test_a_grant_that_cannot_be_refreshed_fails_when_its_access_token_ends(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    change = lifecycle.expire(replace(grant, lineage=b""), oauth2, rules, attempt=7, now=now + 3_600_000)
    assert (change.grant.status, change.grant.reason) == (Status.FAILED, "access_token_expired")
    assert change.due_at is None
    assert change.event is not None
    assert change.event.type is FAILED


def test_announcing_an_end_leaves_the_grant_as_it_is_but_for_the_notice(
    grant: Grant, pagerduty: Client, rules: Rules, now: int
) -> None:
    old = replace(grant, access_expires_at=None, authorized_at=now - 340 * DAY_MS)
    due = policy.decide(old, pagerduty, rules, now)
    assert due.action is Action.ANNOUNCE
    change = lifecycle.announce(old, due, pagerduty, rules, attempt=7, now=now)
    assert change.grant == replace(old, noticed_at=now)
    assert change.due_at == now + 18 * DAY_MS
    assert change.attention_at == now + 25 * DAY_MS
    assert change.event is not None
    assert change.event.type is EventType.GRANT_EXPIRING
    assert change.event.data["status"] == "active"
    assert change.event.data["reason"] == "absolute_limit"
    assert change.event.data["expires_at"] == "2023-12-09T22:13:20.000Z"


def test_announcing_without_an_end_says_never(grant: Grant, oauth2: Client, rules: Rules, now: int) -> None:
    due = Due(now, Action.ANNOUNCE, Reason.REFRESH_TOKEN_LIMIT)
    event = lifecycle.announce(grant, due, oauth2, rules, attempt=7, now=now).event
    assert event is not None
    assert event.data["expires_at"] is None


@pytest.mark.parametrize(
    ("changes", "hours"),
    [
        pytest.param({}, None, id="all-is-well"),
        pytest.param({"status": Status.PAUSED}, None, id="paused"),
        pytest.param({"status": Status.FAILING}, 1, id="failing"),
        pytest.param({"status": Status.FAILED}, 1, id="failed"),
        pytest.param({"noticed_at": 1, "authorized_at": None}, None, id="noticed-and-gone"),
    ],
)
def test_a_person_has_to_see_to_a_grant_by_the_end_of_what_does_not_heal(
    grant: Grant, pagerduty: Client, rules: Rules, now: int, changes: dict[str, Any], hours: int | None
) -> None:
    at = lifecycle.attention_at(replace(grant, **changes), pagerduty, rules)
    assert at == (None if hours is None else now + hours * 3_600_000)


@pytest.mark.parametrize("status", [Status.FAILING, Status.FAILED])
def test_a_failing_grant_whose_token_never_expires_has_no_end_but_needs_attention(
    grant: Grant, oauth2: Client, rules: Rules, status: Status
) -> None:
    undying = replace(grant, status=status, access_expires_at=None)
    assert lifecycle.attention_at(undying, oauth2, rules) == NO_END


# From outside


def test_a_grant_from_outside_is_due_as_the_policy_says_and_has_no_event(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    change = lifecycle.admit(grant, oauth2, rules, now)
    assert change == Change(grant, policy.next_due(grant, oauth2, rules).at, None, None)


def test_a_failing_grant_from_outside_is_tried_at_once(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    failing = replace(grant, status=Status.FAILING)
    assert lifecycle.admit(failing, oauth2, rules, now + 7).due_at == now + 7


def test_a_rotation_that_leaves_the_refresh_token_s_end_where_it_was_does_not_make_it_younger(
    succeed: Succeed, grant: Grant, now: int
) -> None:
    base = replace(grant, refresh_issued_at=now, refresh_expires_at=now + 30 * DAY_MS)
    same_end = Refreshed("access-2", "refresh-2", 3_600_000, 30 * DAY_MS - 3_600_000, None)

    successor = succeed(same_end, base=base).grant

    assert successor.refresh_issued_at == now
    assert successor.refresh_expires_at == now + 30 * DAY_MS


def test_a_rotation_that_moves_the_refresh_token_s_end_makes_it_young_again(
    succeed: Succeed, grant: Grant, now: int
) -> None:
    base = replace(grant, refresh_issued_at=now, refresh_expires_at=now + 30 * DAY_MS)
    moved = Refreshed("access-2", "refresh-2", 3_600_000, 30 * DAY_MS, None)

    assert succeed(moved, base=base).grant.refresh_issued_at == now + 3_600_000


def test_what_was_due_before_it_came_is_due_when_it_comes(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    later = now + 59 * 60_000

    assert lifecycle.admit(grant, oauth2, rules, later).due_at == later
    assert lifecycle.admit(grant, oauth2, rules, now).due_at == policy.next_due(grant, oauth2, rules).at
