"""When a grant is due, and why."""

from dataclasses import replace
from typing import Any

import pytest

from worker.core import policy
from worker.core.grant import Grant, Status
from worker.core.policy import NEVER, Action, Due, Rules
from worker.core.providers import DAY_MS, MINUTE_MS, SECOND_MS, Client
from worker.core.reasons import Reason

HOUR_MS = 60 * MINUTE_MS
YEAR_MS = 365 * DAY_MS


def _due_at(grant: Grant, client: Client, rules: Rules) -> int:
    due = policy.next_due(grant, client, rules)
    assert due.at is not None
    return due.at


@pytest.mark.parametrize(
    "lifetime_ms", [30 * MINUTE_MS, HOUR_MS, 8 * HOUR_MS, DAY_MS, 30 * DAY_MS], ids=lambda ms: f"{ms}ms"
)
def test_an_access_token_is_due_at_two_thirds_of_its_life_give_or_take_the_jitter(
    grant: Grant, oauth2: Client, rules: Rules, now: int, lifetime_ms: int
) -> None:
    due = policy.next_due(replace(grant, access_expires_at=now + lifetime_ms), oauth2, rules)
    assert due.action is Action.REFRESH
    assert due.reason is Reason.ACCESS_TOKEN_SHARE
    assert due.at is not None
    assert abs(due.at - now - 2 / 3 * lifetime_ms) <= policy.JITTER * lifetime_ms + 1


def test_a_share_of_the_deployment_s_own_is_obeyed(grant: Grant, oauth2: Client, now: int) -> None:
    due_at = _due_at(grant, oauth2, Rules(refresh_at=0.25))
    assert abs(due_at - now - 0.25 * HOUR_MS) <= policy.JITTER * HOUR_MS + 1


def test_a_token_is_due_no_later_than_the_floor_before_its_end(
    grant: Grant, oauth2: Client, now: int
) -> None:
    due = policy.next_due(grant, oauth2, Rules(refresh_at=0.9, min_margin_ms=10 * MINUTE_MS))
    assert due == Due(now + 50 * MINUTE_MS, Action.REFRESH, Reason.ACCESS_TOKEN_FLOOR)


def test_the_floor_takes_at_most_a_quarter_of_a_short_life(grant: Grant, oauth2: Client, now: int) -> None:
    minute_long = replace(grant, access_expires_at=now + MINUTE_MS)
    due = policy.next_due(minute_long, oauth2, Rules(refresh_at=0.9, min_margin_ms=5 * MINUTE_MS))
    assert due == Due(now + 45 * SECOND_MS, Action.REFRESH, Reason.ACCESS_TOKEN_FLOOR)


def test_a_grant_without_an_access_token_is_due_at_once(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    due = policy.next_due(replace(grant, access_expires_at=now), oauth2, rules)
    assert due == Due(now, Action.REFRESH, Reason.NO_ACCESS_TOKEN)


def test_a_token_that_ended_before_it_was_issued_is_due_by_its_end(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    assert _due_at(replace(grant, access_expires_at=now - DAY_MS), oauth2, rules) <= now - DAY_MS


def test_the_refresh_token_is_refreshed_for_its_own_sake_where_the_access_token_never_expires(
    grant: Grant, buddy: Client, rules: Rules, now: int
) -> None:
    undying = replace(grant, access_expires_at=None, refresh_expires_at=now + 183 * DAY_MS)
    due = policy.next_due(undying, buddy, rules)
    assert (due.action, due.reason) == (Action.REFRESH, Reason.REFRESH_TOKEN_SHARE)
    assert due.at is not None
    assert abs(due.at - now - 122 * DAY_MS) <= policy.JITTER * 183 * DAY_MS + 1


def test_the_earlier_of_both_tokens_decides(grant: Grant, oauth2: Client, rules: Rules, now: int) -> None:
    brief_refresh_token = replace(grant, refresh_expires_at=now + 10 * MINUTE_MS)
    assert policy.next_due(brief_refresh_token, oauth2, rules).reason is Reason.REFRESH_TOKEN_SHARE
    lasting_refresh_token = replace(grant, refresh_expires_at=now + 30 * DAY_MS)
    assert policy.next_due(lasting_refresh_token, oauth2, rules).reason is Reason.ACCESS_TOKEN_SHARE


def test_a_grant_of_which_nothing_expires_is_never_due(grant: Grant, oauth2: Client, rules: Rules) -> None:
    undying = replace(grant, access_expires_at=None)
    assert policy.next_due(undying, oauth2, rules) == NEVER


def test_a_grant_without_a_refresh_token_is_announced_and_then_expires_at_its_end(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    fixed = replace(grant, lineage=b"")
    end = now + HOUR_MS
    notice = policy.next_due(fixed, oauth2, rules)
    assert notice == Due(now + int(HOUR_MS * rules.refresh_at), Action.ANNOUNCE, Reason.NO_REFRESH_TOKEN)
    noticed = replace(fixed, noticed_at=notice.at)
    assert policy.next_due(noticed, oauth2, rules) == Due(end, Action.EXPIRE, Reason.ACCESS_TOKEN_END)


def test_a_client_credentials_grant_is_asked_for_again_without_a_refresh_token(
    grant: Grant, app: Client, rules: Rules
) -> None:
    due = policy.next_due(replace(grant, lineage=b""), app, rules)
    assert (due.action, due.reason) == (Action.REFRESH, Reason.ACCESS_TOKEN_SHARE)


def test_a_client_credentials_grant_has_no_end_that_needs_a_person(
    grant: Grant, app: Client, rules: Rules
) -> None:
    assert policy.fixed_end(replace(grant, lineage=b""), app, rules) is None


@pytest.mark.parametrize(
    ("noticed_days_before", "next_days_before"),
    [
        pytest.param(None, 30, id="none-yet"),
        pytest.param(30, 7, id="after-the-first"),
        pytest.param(10, 7, id="late-for-the-first"),
        pytest.param(7, 1, id="after-the-second"),
        pytest.param(1, None, id="after-the-last"),
    ],
)
def test_an_absolute_limit_is_announced_30_7_and_1_days_ahead(
    grant: Grant,
    pagerduty: Client,
    rules: Rules,
    now: int,
    noticed_days_before: int | None,
    next_days_before: int | None,
) -> None:
    end = now + YEAR_MS
    noticed_at = None if noticed_days_before is None else end - noticed_days_before * DAY_MS
    undying = replace(grant, access_expires_at=None, authorized_at=now, noticed_at=noticed_at)
    due = policy.next_due(undying, pagerduty, rules)
    if next_days_before is None:
        assert due == NEVER
    else:
        at = end - next_days_before * DAY_MS
        assert due == Due(at, Action.ANNOUNCE, Reason.ABSOLUTE_LIMIT)


def test_a_grant_imported_days_before_its_limit_is_announced_once_not_for_each_step_it_missed(
    grant: Grant, pagerduty: Client, rules: Rules, now: int
) -> None:
    late = replace(grant, access_expires_at=None, authorized_at=now - YEAR_MS + 5 * DAY_MS)
    assert policy.decide(late, pagerduty, rules, now).action is Action.ANNOUNCE
    noticed = replace(late, noticed_at=now)
    assert policy.decide(noticed, pagerduty, rules, now) == Due(
        now + 4 * DAY_MS, Action.WAIT, Reason.ABSOLUTE_LIMIT
    )


def test_a_grant_whose_consent_has_no_date_has_no_absolute_limit(
    grant: Grant, pagerduty: Client, rules: Rules
) -> None:
    assert policy.fixed_end(replace(grant, authorized_at=None), pagerduty, rules) is None


def test_a_refresh_token_whose_end_no_refresh_moves_is_announced_and_not_asked_for_again_and_again(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    start = now - 25 * DAY_MS
    standing = replace(grant, refresh_issued_at=start, refresh_expires_at=start + 30 * DAY_MS)
    end = policy.fixed_end(standing, oauth2, rules)
    assert end is not None
    assert (end.at, end.reason) == (start + 30 * DAY_MS, Reason.REFRESH_TOKEN_LIMIT)
    due = policy.next_due(replace(standing, access_expires_at=None), oauth2, rules)
    assert (due.action, due.reason) == (Action.ANNOUNCE, Reason.REFRESH_TOKEN_LIMIT)


def test_a_refresh_token_refreshed_before_its_share_is_not_yet_known_to_have_a_fixed_end(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    start = now - 2 * DAY_MS
    early = replace(grant, refresh_issued_at=start, refresh_expires_at=start + 30 * DAY_MS)
    assert policy.fixed_end(early, oauth2, rules) is None


def test_the_first_of_two_fixed_ends_is_the_one_that_counts(
    grant: Grant, pagerduty: Client, rules: Rules, now: int
) -> None:
    start = now - 25 * DAY_MS
    both = replace(grant, refresh_issued_at=start, refresh_expires_at=start + 30 * DAY_MS)
    end = policy.fixed_end(both, pagerduty, rules)
    assert end is not None
    assert end.reason is Reason.REFRESH_TOKEN_LIMIT


@pytest.mark.parametrize(
    ("changes", "action", "reason"),
    [
        pytest.param({}, Action.REFRESH, Reason.ACCESS_TOKEN_SHARE, id="refresh"),
        pytest.param({"lineage": b""}, Action.EXPIRE, Reason.ACCESS_TOKEN_END, id="expire-before-announce"),
        pytest.param(
            {"access_expires_at": None}, Action.ANNOUNCE, Reason.ABSOLUTE_LIMIT, id="announce-when-alone"
        ),
        pytest.param({"status": Status.FAILING}, Action.REFRESH, Reason.RETRY, id="retry"),
    ],
)
def test_what_is_overdue_is_done_most_final_first(
    grant: Grant,
    pagerduty: Client,
    rules: Rules,
    now: int,
    changes: dict[str, Any],
    action: Action,
    reason: str,
) -> None:
    year_old = replace(grant, authorized_at=now - YEAR_MS, **changes)
    due = policy.decide(year_old, pagerduty, rules, now + 2 * HOUR_MS)
    assert (due.action, due.reason) == (action, reason)


def test_a_grant_that_is_not_due_yet_waits_until_it_is(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    due = policy.decide(grant, oauth2, rules, now)
    assert due.action is Action.WAIT
    assert due.at == _due_at(grant, oauth2, rules)


def test_a_failing_grant_is_retried_whenever_it_is_found_due(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    failing = replace(grant, status=Status.FAILING)
    assert policy.decide(failing, oauth2, rules, now) == Due(now, Action.REFRESH, Reason.RETRY)


def test_a_failing_grant_without_a_refresh_token_is_not_retried(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    failing = replace(grant, status=Status.FAILING, lineage=b"")
    assert policy.decide(failing, oauth2, rules, now).action is Action.WAIT


def test_the_jitter_of_a_grant_never_changes_between_releases() -> None:
    assert policy.jitter("user-42/buddy") == pytest.approx(-0.358626, abs=1e-6)


def test_a_fleet_imported_at_once_spreads_evenly_over_the_jitter() -> None:
    spread = [policy.jitter(f"user-{number}") for number in range(4_000)]
    quarters = [sum(low <= each < low + 0.5 for each in spread) for low in (-1.0, -0.5, 0.0, 0.5)]
    assert all(900 < quarter < 1_100 for quarter in quarters)


@pytest.mark.parametrize(
    ("streak", "seconds"), [(1, 2), (2, 4), (3, 8), (6, 64), (9, 512), (10, 900), (10_000, 900)]
)
def test_the_backoff_doubles_from_two_seconds_up_to_a_quarter_of_an_hour(streak: int, seconds: int) -> None:
    assert policy.backoff_ms(streak, 1.0, None) == seconds * SECOND_MS


def test_the_backoff_has_full_jitter() -> None:
    assert [policy.backoff_ms(6, chance, None) for chance in (0.0, 0.25, 0.5)] == [0, 16_000, 32_000]


@pytest.mark.parametrize(
    ("life_left_ms", "most_ms"),
    [
        pytest.param(HOUR_MS, 900_000, id="an-hour-left"),
        pytest.param(30 * SECOND_MS, 10_000, id="half-a-minute-left"),
        pytest.param(1, 0, id="a-millisecond-left"),
        pytest.param(0, 900_000, id="just-dead"),
        pytest.param(-1, 900_000, id="dead"),
        pytest.param(None, 900_000, id="never-dies"),
    ],
)
def test_the_backoff_takes_at_most_a_third_of_the_life_left(life_left_ms: int | None, most_ms: int) -> None:
    assert policy.backoff_ms(20, 1.0, life_left_ms) == most_ms


@pytest.mark.parametrize(
    ("asked_ms", "granted_ms"),
    [
        pytest.param(30_000, 30_000, id="as-asked"),
        pytest.param(DAY_MS, HOUR_MS, id="an-hour-at-most"),
        pytest.param(0, 0, id="nothing"),
        pytest.param(-7, 0, id="never-negative"),
    ],
)
def test_a_server_s_retry_after_is_granted_within_an_hour(asked_ms: int, granted_ms: int) -> None:
    assert policy.retry_after_ms(asked_ms) == granted_ms


@pytest.mark.parametrize(
    ("life_left_ms", "spaced_ms"),
    [
        pytest.param(None, 60_000, id="never-dies"),
        pytest.param(-1, 60_000, id="dead"),
        pytest.param(5_000, 1_000, id="at-least-a-second"),
        pytest.param(100_000, 10_000, id="a-tenth"),
        pytest.param(DAY_MS, 60_000, id="at-most-a-minute"),
    ],
)
def test_the_try_that_confirms_a_rejection_is_spaced_by_a_tenth_of_the_life_left(
    life_left_ms: int | None, spaced_ms: int
) -> None:
    assert policy.confirm_ms(life_left_ms) == spaced_ms


# Of one client


def test_a_client_s_own_share_and_margin_take_the_place_of_the_deployment_s(
    oauth2: Client, rules: Rules
) -> None:
    assert policy.rules_for(oauth2, rules) == rules
    margin = policy.rules_for(replace(oauth2, min_margin_ms=7), rules)
    assert (margin.refresh_at, margin.min_margin_ms) == (rules.refresh_at, 7)
    share = policy.rules_for(replace(oauth2, refresh_at=0.96), rules)
    assert (share.refresh_at, share.min_margin_ms, share.never_earlier) == (0.96, 0, True)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.96, 0.98])
def test_a_server_that_refuses_an_early_refresh_is_not_asked_before_the_client_s_share(
    grant: Grant, oauth2: Client, rules: Rules, now: int, share: float
) -> None:
    client = replace(oauth2, refresh_at=share)
    for number in range(200):
        due = policy.next_due(replace(grant, id=f"user-{number}"), client, rules)
        assert due.reason is Reason.ACCESS_TOKEN_SHARE
        assert due.at is not None
        assert now + share * HOUR_MS <= due.at <= now + min(share + 0.1, (1 + share) / 2) * HOUR_MS


def test_a_fleet_with_a_late_share_still_spreads(grant: Grant, oauth2: Client, rules: Rules) -> None:
    client = replace(oauth2, refresh_at=0.95)
    dues = [_due_at(replace(grant, id=f"user-{number}"), client, rules) for number in range(200)]
    assert max(dues) - min(dues) > 0.02 * HOUR_MS


def test_a_client_s_own_margin_still_wins_over_its_share(grant: Grant, oauth2: Client, now: int) -> None:
    client = replace(oauth2, refresh_at=0.98, min_margin_ms=5 * MINUTE_MS)
    due = policy.next_due(grant, client, Rules(min_margin_ms=0))
    assert due == Due(now + 55 * MINUTE_MS, Action.REFRESH, Reason.ACCESS_TOKEN_FLOOR)


# Very short lives


def test_two_refreshes_of_one_grant_are_two_seconds_apart_however_short_its_tokens_live(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    brief = replace(grant, access_expires_at=now + 1)
    assert _due_at(brief, oauth2, rules) == now + policy.LEAST_INTERVAL_MS
    brief_refresh_token = replace(grant, access_expires_at=None, refresh_expires_at=now + 1)
    assert _due_at(brief_refresh_token, oauth2, rules) == now + policy.LEAST_INTERVAL_MS
    assert policy.decide(brief, oauth2, rules, now + 1).action is Action.WAIT


# Promises


@pytest.mark.parametrize(
    ("lifetime_ms", "margin_ms"),
    [(MINUTE_MS, 15 * SECOND_MS), (HOUR_MS, 6 * MINUTE_MS), (8 * HOUR_MS, 48 * MINUTE_MS)],
)
def test_a_promise_puts_a_refresh_off_no_further_than_the_last_tenth_of_the_life_or_the_floor(
    grant: Grant, buddy: Client, rules: Rules, now: int, lifetime_ms: int, margin_ms: int
) -> None:
    lasting = replace(grant, access_expires_at=now + lifetime_ms)
    assert policy.promisable_until(lasting, buddy, rules) == now + lifetime_ms - margin_ms


def test_a_promise_reaches_at_least_to_the_planned_refresh(grant: Grant, oauth2: Client, now: int) -> None:
    late = replace(oauth2, refresh_at=0.97)
    until = policy.promisable_until(grant, late, Rules())
    assert until is not None
    assert _due_at(grant, late, Rules()) <= until <= now + HOUR_MS


def test_a_promise_leaves_half_of_what_a_refresh_token_has_left_when_it_is_due(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    endless = replace(grant, access_expires_at=None, refresh_expires_at=now + 30 * DAY_MS)
    due_at = _due_at(endless, oauth2, rules)
    assert policy.promisable_until(endless, oauth2, rules) == due_at + (now + 30 * DAY_MS - due_at) // 2


def test_a_pair_that_nothing_ends_is_promised_without_an_end(
    grant: Grant, oauth2: Client, rules: Rules
) -> None:
    assert policy.promisable_until(replace(grant, access_expires_at=None), oauth2, rules) is None


@pytest.mark.parametrize("why", ["no refresh token", "the client's tokens outlive their refresh"])
def test_a_pair_that_no_refresh_of_ours_ends_is_promised_for_its_own_life(
    grant: Grant, oauth2: Client, rules: Rules, why: str
) -> None:
    if why == "no refresh token":
        grant = replace(grant, lineage=b"")
    else:
        oauth2 = replace(oauth2, refresh_kills_access_token=False)
    assert policy.promisable_until(grant, oauth2, rules) == grant.access_expires_at


def test_a_grant_without_an_access_token_is_promised_nothing(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    assert policy.promisable_until(replace(grant, access_expires_at=now), oauth2, rules) == now
