"""For any lifetimes, a grant is due before every deadline, and never left alone for ever."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.adapters.credentials import ClientSecretPost
from worker.core import lifecycle, policy
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.lifecycle import OUTCOMES, TABLE, Phase, Trigger
from worker.core.outcomes import NoLifetime, Refreshed, Rejected, Unavailable, Unknown
from worker.core.policy import Action, Rules
from worker.core.providers import (
    BUDDY,
    DAY_MS,
    MINUTE_MS,
    OAUTH2,
    PAGERDUTY_CLASSIC,
    PAGERDUTY_SCOPED,
    Client,
    GrantType,
)

NOW = 1_700_000_000_000
TEN_YEARS_MS = 3650 * DAY_MS

ids = st.text(min_size=1, max_size=40).filter(str.isprintable)
lifetimes = st.none() | st.integers(1, TEN_YEARS_MS)
rules = st.builds(
    Rules,
    refresh_at=st.floats(0, 1, exclude_min=True, exclude_max=True),
    min_margin_ms=st.integers(0, 2 * TEN_YEARS_MS),
)
clients = st.builds(
    Client,
    name=st.just("acme"),
    provider=st.sampled_from([BUDDY, PAGERDUTY_SCOPED, PAGERDUTY_CLASSIC, OAUTH2]),
    token_url=st.just("https://id.example.com/token"),
    client_id=st.just("id of ours"),
    credentials=st.just((ClientSecretPost("hunter2"),)),
    grant_type=st.sampled_from(GrantType),
    access_lifetime_ms=st.none() | st.just(NoLifetime.NEVER) | st.integers(1, TEN_YEARS_MS),
    refresh_at=st.none() | st.floats(0.01, 0.98),
    min_margin_ms=st.none() | st.integers(0, TEN_YEARS_MS),
)
stated_lives = st.sampled_from(NoLifetime) | st.just(0) | st.integers(1, TEN_YEARS_MS)


@st.composite
def grants(draw: st.DrawFn) -> Grant:
    """Any grant whose tokens end after they were issued."""
    grant_id = draw(ids)
    issued_at = NOW - draw(st.integers(0, TEN_YEARS_MS))
    refresh_issued_at = issued_at - draw(st.just(0) | st.integers(0, TEN_YEARS_MS))
    access_ms, refresh_ms = draw(lifetimes), draw(lifetimes)
    return Grant(
        id=grant_id,
        client="acme",
        status=draw(st.sampled_from(Status)),
        version=0,
        lineage=lineage_of(grant_id, draw(st.sampled_from([None, "refresh-1"]))),
        sealed=b"",
        issued_at=issued_at,
        access_expires_at=None if access_ms is None else issued_at + access_ms,
        refresh_issued_at=refresh_issued_at,
        refresh_expires_at=None if refresh_ms is None else refresh_issued_at + refresh_ms,
        authorized_at=draw(st.none() | st.integers(0, TEN_YEARS_MS).map(lambda ago: issued_at - ago)),
        noticed_at=draw(st.none() | st.integers(0, TEN_YEARS_MS).map(lambda ago: NOW - ago)),
    )


def _refreshable(grant: Grant, client: Client) -> bool:
    return grant.has_refresh_token or client.grant_type is GrantType.CLIENT_CREDENTIALS


@given(grants(), clients, rules)
def test_a_grant_is_due_before_the_floor_of_its_access_token(
    grant: Grant, client: Client, chosen: Rules
) -> None:
    if grant.access_expires_at is None or not _refreshable(grant, client):
        return
    due_at = policy.next_due(grant, client, chosen).at
    lifetime_ms = grant.access_expires_at - grant.issued_at
    of_client = policy.rules_for(client, chosen)
    floor_ms = int(min(of_client.min_margin_ms, lifetime_ms * policy.MARGIN_SHARE))
    assert due_at is not None
    assert due_at <= max(grant.access_expires_at - floor_ms, grant.issued_at + policy.LEAST_INTERVAL_MS)
    assert due_at < grant.access_expires_at or lifetime_ms <= policy.LEAST_INTERVAL_MS


@given(grants(), clients, rules)
def test_a_grant_is_due_before_its_refresh_token_ends_unless_that_end_stands_and_is_announced(
    grant: Grant, client: Client, chosen: Rules
) -> None:
    if grant.refresh_expires_at is None or not grant.has_refresh_token:
        return
    due_at = policy.next_due(grant, client, chosen).at
    end = policy.fixed_end(replace(grant, noticed_at=None), client, chosen)
    if due_at is not None and due_at < grant.refresh_expires_at:
        return
    if due_at == grant.issued_at + policy.LEAST_INTERVAL_MS:
        return  # the token lives no longer than the least interval
    assert grant.refresh_issued_at < grant.issued_at
    assert client.grant_type is GrantType.CLIENT_CREDENTIALS or end is not None
    assert grant.noticed_at is not None or client.grant_type is GrantType.CLIENT_CREDENTIALS


@given(grants(), clients, rules)
def test_an_end_that_no_refresh_moves_is_announced_before_it_comes(
    grant: Grant, client: Client, chosen: Rules
) -> None:
    unnoticed = replace(grant, noticed_at=None)
    end = policy.fixed_end(unnoticed, client, chosen)
    if end is None:
        return
    due_at = policy.next_due(unnoticed, client, chosen).at
    assert due_at is not None
    assert due_at < end.at


@given(grants(), clients, rules)
def test_a_grant_of_which_anything_expires_is_due_some_time(
    grant: Grant, client: Client, chosen: Rules
) -> None:
    due = policy.next_due(grant, client, chosen)
    if due.at is None:
        assert due == policy.NEVER
        assert grant.access_expires_at is None


@given(grants(), clients, rules, st.integers(0, TEN_YEARS_MS))
def test_a_grant_found_due_has_something_to_do_and_never_waits(
    grant: Grant, client: Client, chosen: Rules, late_ms: int
) -> None:
    due_at = policy.next_due(grant, client, chosen).at
    if due_at is not None:
        assert policy.decide(grant, client, chosen, due_at + late_ms).action is not Action.WAIT


@given(grants(), clients, rules, st.integers(NOW - TEN_YEARS_MS, NOW + TEN_YEARS_MS))
def test_a_grant_that_waits_waits_until_it_is_due(
    grant: Grant, client: Client, chosen: Rules, now: int
) -> None:
    found = policy.decide(grant, client, chosen, now)
    if found.action is Action.WAIT:
        assert found.at == policy.next_due(grant, client, chosen).at
        assert found.at is None or found.at > now


@given(grants(), clients, rules)
def test_the_next_due_time_is_the_same_whoever_asks(grant: Grant, client: Client, chosen: Rules) -> None:
    copy = replace(grant, labels=dict(grant.labels))
    assert policy.next_due(grant, client, chosen) == policy.next_due(copy, client, replace(chosen))


@given(grants(), clients, rules, st.integers(0, TEN_YEARS_MS))
def test_announcements_come_to_an_end(grant: Grant, client: Client, chosen: Rules, late_ms: int) -> None:
    now = NOW + late_ms
    for attempt in range(5):
        due = policy.decide(grant, client, chosen, now)
        if due.action is not Action.ANNOUNCE:
            return
        grant = lifecycle.announce(grant, due, client, chosen, attempt=attempt, now=now).grant
    pytest.fail("announced again and again at one moment")


@given(ids)
def test_the_jitter_is_between_minus_one_and_one(grant_id: str) -> None:
    assert -1 <= policy.jitter(grant_id) <= 1


@given(st.integers(1, 10**6), st.floats(0, 1), st.none() | st.integers(-TEN_YEARS_MS, TEN_YEARS_MS))
def test_the_backoff_is_bounded_by_its_cap_and_by_the_life_left(
    streak: int, chance: float, life_left_ms: int | None
) -> None:
    wait_ms = policy.backoff_ms(streak, chance, life_left_ms)
    assert 0 <= wait_ms <= policy.BACKOFF_CAP_MS
    if life_left_ms is not None and life_left_ms > 0:
        assert wait_ms <= life_left_ms // 3


@given(st.integers(3 * policy.CONFIRM_MIN_MS, TEN_YEARS_MS))
def test_a_rejection_is_confirmed_while_the_token_lives(life_left_ms: int) -> None:
    assert policy.CONFIRM_MIN_MS <= policy.confirm_ms(life_left_ms) <= policy.CONFIRM_MAX_MS
    assert policy.confirm_ms(life_left_ms) < life_left_ms


@given(st.sampled_from(Phase), st.sampled_from(OUTCOMES))
def test_no_outcome_without_tokens_makes_a_grant_active(phase: Phase, outcome: Trigger) -> None:
    if (phase, outcome) == (Phase.FAILED, Trigger.EXPIRED):
        with pytest.raises(KeyError):
            TABLE[phase, outcome]
    else:
        assert TABLE[phase, outcome].phase is not Phase.ACTIVE


@given(
    grants(),
    clients,
    rules,
    st.builds(Unavailable, st.just("http_503"), st.none() | st.integers(0, 10**12), st.booleans())
    | st.just(Unknown("timeout"))
    | st.just(Rejected("invalid_grant")),
    st.booleans(),
    st.floats(0, 1),
)
def test_a_grant_without_tokens_is_either_failed_or_due_within_an_hour(
    grant: Grant,
    client: Client,
    chosen: Rules,
    outcome: Unavailable | Unknown | Rejected,
    in_doubt: bool,  # noqa: FBT001 hypothesis draws it
    chance: float,
) -> None:
    change = lifecycle.fail(
        grant, outcome, client, chosen, in_doubt=in_doubt, with_all=False, attempt=1, now=NOW, chance=chance
    )
    if change.grant.status is Status.FAILED:
        assert change.due_at is None
    else:
        assert change.due_at is not None
        assert NOW <= change.due_at <= NOW + policy.RETRY_AFTER_CAP_MS
    assert change.grant.streak == grant.streak + 1


@given(grants(), clients, rules, lifetimes, lifetimes, st.none() | st.just("refresh-2"))
def test_an_answer_s_next_due_time_is_before_the_deadlines_it_brings(
    grant: Grant,
    client: Client,
    chosen: Rules,
    access_ms: int | None,
    refresh_ms: int | None,
    refresh_token: str | None,
) -> None:
    held = TokenPair("access-1", "refresh-1" if grant.has_refresh_token else None)
    stated = NoLifetime.NEVER if access_ms is None else access_ms
    answer = Refreshed("access-2", refresh_token, stated, refresh_ms, None)
    successor = lifecycle.succeed(
        grant, held, answer, client, chosen, sealed=b"", attempt=1, sent_at=NOW, now=NOW
    )
    cap_ms = client.provider.refresh_lifetime_cap_ms
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        assert successor.grant.refresh_expires_at is None
    elif refresh_ms is not None and cap_ms is not None:
        assert successor.grant.refresh_expires_at is not None
        assert successor.grant.refresh_expires_at <= NOW + cap_ms
    if access_ms is not None and _refreshable(successor.grant, client):
        assert successor.due_at is not None
        assert successor.due_at < NOW + max(access_ms, policy.LEAST_INTERVAL_MS + 1)
    assert successor.grant.lineage == lineage_of(
        grant.id, lifecycle.pair_after(held, answer, client).refresh_token
    )


@given(grants(), clients, rules)
def test_a_client_s_own_share_is_never_anticipated_and_leaves_time_before_the_end(
    grant: Grant, client: Client, chosen: Rules
) -> None:
    client = replace(client, refresh_at=client.refresh_at or 0.95, min_margin_ms=0)
    if grant.access_expires_at is None or not _refreshable(grant, client):
        return
    lifetime_ms = grant.access_expires_at - grant.issued_at
    alone = replace(grant, refresh_expires_at=None, noticed_at=None, authorized_at=None)
    due_at = policy.next_due(alone, client, chosen).at
    assert due_at is not None
    assert due_at >= grant.issued_at + int(lifetime_ms * (client.refresh_at or 0))
    assert due_at < grant.access_expires_at or lifetime_ms <= policy.LEAST_INTERVAL_MS


@given(clients, rules)
def test_a_client_s_rules_are_the_same_when_they_are_asked_for_again(client: Client, chosen: Rules) -> None:
    once = policy.rules_for(client, chosen)
    assert policy.rules_for(client, once) == once


@given(grants(), clients, rules, st.lists(stated_lives, min_size=1, max_size=8))
def test_whatever_replies_state_of_lifetimes_a_grant_is_due_again_after_a_while_and_in_time(
    grant: Grant, client: Client, chosen: Rules, replies: list[int | NoLifetime]
) -> None:
    if not _refreshable(grant, client):
        return
    held, now = TokenPair("access-1", "refresh-1"), NOW
    for stated in replies:
        answer = Refreshed("access-2", "refresh-2", stated, None, None)
        done = lifecycle.succeed(
            grant, held, answer, client, chosen, sealed=b"", attempt=1, sent_at=now, now=now
        )
        grant, ends_at = done.grant, done.grant.access_expires_at
        if stated is NoLifetime.NEVER:
            assert ends_at is None
        if stated is NoLifetime.UNKNOWN and grant.stated_life_ms is None and ends_at is None:
            assert NoLifetime.NEVER in {client.access_lifetime_ms, client.provider.access_lifetime_ms}
        if stated == 0:
            assert done.due_at is not None
            assert done.due_at <= now + 2 * MINUTE_MS
        due = policy.next_due(replace(grant, noticed_at=NOW + 2 * TEN_YEARS_MS), client, chosen)
        if due.at is None:
            return
        assert due.at >= now + policy.LEAST_INTERVAL_MS
        assert ends_at is None or due.at < max(ends_at, now + policy.LEAST_INTERVAL_MS + 1)
        now = due.at


def _remaining(end: int, now: int) -> int | None:
    return max(end - now, 0) // 1000 * 1000


@st.composite
def keeping_servers(draw: st.DrawFn) -> tuple[Grant, Client, Callable[[int], int | None], int | None]:
    """A server that keeps the refresh token: its grant, what it states of that token, and its true end."""
    life_ms = draw(st.integers(60, 3650 * 86_400)) * 1000
    kind = draw(st.sampled_from(["counts down", "states it anew", "documented only", "stated once"]))
    documented = replace(OAUTH2, refresh_lifetime_ms=life_ms if kind == "documented only" else None)
    client = Client("acme", documented, "https://id.example.com/token", "id", (ClientSecretPost("hunter2"),))
    grant = Grant(
        id=draw(ids),
        client="acme",
        status=Status.ACTIVE,
        version=0,
        lineage=lineage_of("g", "refresh-1"),
        sealed=b"",
        issued_at=NOW,
        access_expires_at=NOW + draw(st.integers(3, 40 * 86_400)) * 1000,
        refresh_issued_at=NOW,
        refresh_expires_at=NOW + life_ms,
        authorized_at=None,
    )
    end = NOW + life_ms
    says: dict[str, Callable[[int], int | None]] = {
        "counts down": lambda now: _remaining(end, now),
        "states it anew": lambda _: life_ms,
        "documented only": lambda _: None,
        "stated once": lambda _: None,
    }
    return grant, client, says[kind], end if kind in {"counts down", "stated once"} else None


@given(keeping_servers(), rules, st.booleans())
def test_no_person_is_asked_to_connect_again_for_an_end_that_does_not_come(
    server: tuple[Grant, Client, Callable[[int], int | None], int | None],
    chosen: Rules,
    rotates: bool,  # noqa: FBT001 hypothesis draws it
) -> None:
    grant, client, says, true_end = server
    held = TokenPair("access-1", "refresh-1")
    access_ms = (grant.access_expires_at or NOW) - NOW
    for attempt in range(40):
        due = policy.next_due(grant, client, chosen)
        assert due.at is not None
        if true_end is not None and due.at >= true_end - 1000:
            return
        if due.action is Action.ANNOUNCE:
            end = policy.fixed_end(grant, client, chosen)
            assert end is not None
            assert true_end is not None
            assert abs(end.at - true_end) <= lifecycle.SAME_END_MS
            grant = lifecycle.announce(grant, due, client, chosen, attempt=attempt, now=due.at).grant
            continue
        states = says(due.at)
        new = f"refresh-{attempt}" if rotates and states is not None else None
        answer = Refreshed("access-2", new, access_ms, states or None, None)
        grant = lifecycle.succeed(
            grant, held, answer, client, chosen, sealed=b"", attempt=attempt, sent_at=due.at, now=due.at
        ).grant
