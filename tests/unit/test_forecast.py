"""What is ahead of a client: grants come up again and again, and queue before its budget."""

from dataclasses import replace

import pytest

from worker.core.forecast import HOUR_MS, Course, Rhythm, ends_of, foresee, rhythms_of, summed
from worker.core.grant import Grant, Status
from worker.core.policy import Rules, next_due
from worker.core.providers import DAY_MS, Client
from worker.core.registry import StoredGrant

PLENTY = 10**9


def course(
    rhythms: list[Rhythm],
    start: int,
    *,
    hours: int = 24,
    rate: float | None = None,
    opens_at: int | None = None,
    each_is: float = 1.0,
) -> Course:
    return foresee(
        rhythms,
        each_is=each_is,
        start=start,
        hours=hours,
        rate_per_second=rate,
        opens_at=start if opens_at is None else opens_at,
    )


def once(at: int, *, token_ends_at: int | None = None) -> Rhythm:
    return Rhythm(at, None, token_ends_at, None, None)


def stored(grant: Grant, client: Client, rules: Rules) -> StoredGrant:
    return StoredGrant(grant, next_due(grant, client, rules).at, None)


@pytest.fixture
def of_8_hours(grant: Grant, now: int) -> Grant:
    return replace(grant, access_expires_at=now + 8 * HOUR_MS, stated_life_ms=8 * HOUR_MS)


def test_a_grant_of_8_hour_tokens_comes_up_four_or_five_times_a_day(
    of_8_hours: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    fleet = [stored(replace(of_8_hours, id=f"grant-{n}"), oauth2, rules) for n in range(100)]

    rhythms, each_is = rhythms_of(fleet, oauth2, rules, until=now + DAY_MS, most_refreshes=PLENTY)

    assert each_is == 1.0
    for rhythm in rhythms:
        assert 4 <= sum(hour.refreshes for hour in course([rhythm], now).hours) <= 5
        assert rhythm.every_ms == pytest.approx(8 * HOUR_MS * 2 / 3, rel=0.08)


def test_the_rhythm_is_the_policys_own_at_each_of_its_steps(
    of_8_hours: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    (rhythm,), _ = rhythms_of(
        [stored(of_8_hours, oauth2, rules)], oauth2, rules, until=now + 30 * DAY_MS, most_refreshes=PLENTY
    )

    at = next_due(of_8_hours, oauth2, rules).at
    for step in range(10):
        assert rhythm.every_ms is not None
        assert at == rhythm.first_at + step * rhythm.every_ms
        refreshed = replace(of_8_hours, issued_at=at, access_expires_at=at + 8 * HOUR_MS)
        at = next_due(refreshed, oauth2, rules).at


def test_a_grant_that_is_out_of_work_or_has_nothing_to_refresh_with_does_not_come_up(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    idle = [
        replace(grant, status=Status.FAILED),
        replace(grant, status=Status.PAUSED),
        replace(grant, kept_reply=1),
        replace(grant, lineage=b""),
    ]

    found = rhythms_of(
        [StoredGrant(each, now, None) for each in idle], oauth2, rules, until=now + DAY_MS, most_refreshes=9
    )

    assert found == ([], 1.0)


def test_an_announcement_is_no_refresh(grant: Grant, pagerduty: Client, rules: Rules, now: int) -> None:
    near_its_limit = replace(
        grant,
        client="pagerduty",
        authorized_at=now - 336 * DAY_MS,
        access_expires_at=now + DAY_MS,
        stated_life_ms=DAY_MS,
    )
    to_announce = StoredGrant(near_its_limit, now, None)

    (rhythm,), _ = rhythms_of([to_announce], pagerduty, rules, until=now + 40 * DAY_MS, most_refreshes=PLENTY)

    assert rhythm.first_at == pytest.approx(now + 16 * HOUR_MS, abs=2 * HOUR_MS)
    assert rhythm.ends_at == now + 29 * DAY_MS
    hours = course([rhythm], now, hours=40 * 24).hours
    assert sum(hour.refreshes for hour in hours[: 29 * 24]) == pytest.approx(43, abs=5)
    assert sum(hour.refreshes for hour in hours[29 * 24 :]) == 0  # it has ended


def test_where_no_life_was_stated_a_grant_lives_as_long_as_the_others(
    of_8_hours: Grant, buddy: Client, rules: Rules, now: int
) -> None:
    silent = replace(of_8_hours, id="silent", stated_life_ms=None)
    fleet = [StoredGrant(each, now, None) for each in (of_8_hours, silent)]

    rhythms, _ = rhythms_of(fleet, buddy, rules, until=now + DAY_MS, most_refreshes=PLENTY)

    assert [rhythm.life_ms for rhythm in rhythms] == [8 * HOUR_MS] * 2


def test_grants_with_too_many_refreshes_to_foresee_stand_for_each_other(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    short = replace(grant, access_expires_at=now + 60_000, stated_life_ms=60_000)
    fleet = [stored(replace(short, id=f"grant-{n}"), oauth2, rules) for n in range(100)]

    all_of_them, _ = rhythms_of(fleet, oauth2, rules, until=now + DAY_MS, most_refreshes=PLENTY)
    some, each_is = rhythms_of(fleet, oauth2, rules, until=now + DAY_MS, most_refreshes=25_000)

    assert len(some) * each_is == pytest.approx(len(all_of_them))
    assert len(some) <= 12
    exact = course(all_of_them, now).hours[20].refreshes
    assert course(some, now, each_is=each_is).hours[20].refreshes == pytest.approx(exact, rel=0.05)


def test_what_waits_for_the_budget_is_told_hour_by_hour(now: int) -> None:
    backlog = [once(now - 1_000) for _ in range(3_600)]

    ahead = course(backlog, now, hours=4, rate=0.5)

    assert [hour.due for hour in ahead.hours] == [3_600, 0, 0, 0]
    assert [hour.refreshes for hour in ahead.hours] == [1_800, 1_800, 0, 0]
    assert [hour.waiting for hour in ahead.hours] == [1_800, 0, 0, 0]
    assert {hour.budget for hour in ahead.hours} == {1_800}
    assert ahead.hours[1].longest_wait_ms == pytest.approx(2 * HOUR_MS, rel=0.01)
    assert ahead.backlog_through_at == now + 2 * HOUR_MS


def test_a_backlog_that_outlasts_the_hours_is_through_at_no_time(now: int) -> None:
    ahead = course([once(now) for _ in range(3_601)], now, hours=1, rate=0.5)

    assert (ahead.hours[0].waiting, ahead.backlog_through_at) == (1_801, None)


def test_a_backlog_is_through_when_nothing_waits_not_when_nothing_is_left(now: int) -> None:
    later = once(now + 3 * HOUR_MS)

    ahead = course([*(once(now) for _ in range(600)), later], now, rate=1)

    assert ahead.backlog_through_at == now + 600_000
    assert course([later], now).backlog_through_at is None


def test_after_an_outage_refreshes_begin_when_the_client_is_tried_again(now: int) -> None:
    ahead = course([once(now) for _ in range(60)], now, rate=1, opens_at=now + HOUR_MS)

    assert [hour.refreshes for hour in ahead.hours[:2]] == [0, 60]
    assert ahead.backlog_through_at == now + HOUR_MS + 60_000


def test_a_token_that_ends_before_its_refresh_is_late_in_the_hour_of_its_end(now: int) -> None:
    ends_at = now + 90 * 60_000
    queue = [once(now, token_ends_at=ends_at) for _ in range(4)]

    ahead = course(queue, now, hours=4, rate=1 / 3_600)

    assert [hour.late for hour in ahead.hours] == [0, 2, 0, 0]
    assert ahead.hours[1].longest_late_ms == 3 * HOUR_MS - 90 * 60_000


def test_what_is_not_refreshed_within_the_hours_is_late_too(now: int) -> None:
    queue = [once(now, token_ends_at=now + HOUR_MS // 2) for _ in range(3)]

    ahead = course(queue, now, hours=1, opens_at=now + 9 * HOUR_MS)

    assert (ahead.hours[0].refreshes, ahead.hours[0].waiting, ahead.hours[0].late) == (0, 3, 3)
    assert ahead.hours[0].longest_late_ms == HOUR_MS // 2


def test_who_is_refreshed_late_comes_up_later_the_next_time(now: int) -> None:
    hourly = [Rhythm(now, HOUR_MS, None, None, None) for _ in range(7_200)]

    hours = course(hourly, now, rate=1).hours

    assert {hour.refreshes for hour in hours} == {3_600}
    assert hours[-1].waiting < 7_200


def test_a_grant_of_a_sample_stands_for_as_many_as_are_told(now: int) -> None:
    ahead = course([once(now), once(now + HOUR_MS)], now, hours=2, rate=1, each_is=600.0)

    assert [hour.refreshes for hour in ahead.hours] == [600, 600]
    assert ahead.backlog_through_at == now + 600_000


def test_the_sum_has_a_budget_only_where_every_client_has_one(now: int) -> None:
    limited, free = course([once(now)], now, rate=1), course([once(now)], now)

    assert summed([limited, limited], start=now, hours=24)[0].budget == 7_200
    both = summed([limited, free], start=now, hours=24)
    assert (both[0].refreshes, both[0].budget) == (2, None)
    assert [hour.start for hour in summed([], start=now, hours=2)] == [now, now + HOUR_MS]


def test_ends_that_are_announced_later_are_known_already(
    grant: Grant, oauth2: Client, rules: Rules, now: int
) -> None:
    bare = replace(grant, lineage=b"", access_expires_at=now + 10 * DAY_MS)
    fleet = [bare, replace(bare, noticed_at=now), replace(bare, access_expires_at=now + 31 * DAY_MS), grant]

    found = ends_of(
        [StoredGrant(each, now, None) for each in fleet], oauth2, rules, start=now, until=now + 30 * DAY_MS
    )

    assert list(found) == [(bare, now + 10 * DAY_MS)]
