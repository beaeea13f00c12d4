"""Rotation, lifetimes and the judge's counts, with the clock in the test's hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worker.sandbox.codes import Allowed
from worker.sandbox.form import ReceivedRequest
from worker.sandbox.issuer import Examination, IssuedGrant, IssueOrder, Issuer, IssuerReply, IssuerRules
from worker.sandbox.judge import Judge, RequestVerdict
from worker.sandbox.profiles import BUDDY, OAUTH2, PAGERDUTY

NOW = 1_800_000_000.0

RULES = IssuerRules(
    profile=BUDDY,
    client_id="id",
    client_secret="secret",
    access_seconds=60,
    refresh_seconds=1000,
    stated_refresh_seconds=158_112_000,
    absolute_seconds=None,
    error_style="rfc6749",
    reuse="strict",
    grace_seconds=30,
    rotation=True,
)


def issuer_with(**changes: Any) -> Issuer:
    return Issuer(replace(RULES, **changes), Judge())


def one_grant(issuer: Issuer, *, at: float = NOW, ago: float = 0) -> IssuedGrant:
    rules = issuer.rules
    order = IssueOrder(
        count=1,
        prefix="grant",
        client="buddy",
        access_seconds=rules.access_seconds,
        refresh_seconds=rules.refresh_seconds,
        stated_refresh_seconds=rules.stated_refresh_seconds,
        spread_seconds=0,
        authorized_seconds_ago=ago,
    )
    [grant] = issuer.issue(order, at)
    return grant


def present(
    issuer: Issuer, token: str, now: float, *, hears: bool = True
) -> tuple[RequestVerdict, IssuerReply]:
    """Present a refresh token; a client that `hears` also receives the answer."""
    request = ReceivedRequest("refresh_token", token, "id", "secret")
    examination: Examination = issuer.examine(request, now)
    reply = issuer.act(request, examination, now)
    if hears:
        issuer.hear_back(examination, now)
    return examination.verdict, reply


def connect(issuer: Issuer, *, hears: bool = True) -> tuple[IssuedGrant, IssuerReply]:
    """Exchange a code for a new grant; a client that `hears` also receives the answer."""
    code = issuer.codes.issue(Allowed("alice", None, states_scope=False), NOW)
    form = {"code": (code,)}
    request = ReceivedRequest("authorization_code", "", "id", "secret", parameters=form)
    examination = issuer.examine(request, NOW)
    reply = issuer.act(request, examination, NOW)
    if hears:
        issuer.hear_back(examination, NOW)
    return issuer.grants[examination.grant_id or ""], reply


def expired(issuer: Issuer, now: float) -> int:
    issuer.check_all_expiries(now)
    return issuer.judge.report()["expired"]


def test_a_refresh_replaces_both_tokens_at_once() -> None:
    issuer = issuer_with()
    grant = one_grant(issuer)
    old = grant.pair

    verdict, reply = present(issuer, old.refresh_token, NOW + 10)

    assert verdict is RequestVerdict.LIVE
    assert grant.pair.access_token not in ("", old.access_token)
    assert reply.body["access_token"] == grant.pair.access_token
    assert reply.body["refresh_token"] == grant.pair.refresh_token != old.refresh_token
    assert grant.pair.access_expires_at == NOW + 70


def test_a_strict_server_refuses_a_used_refresh_token_and_keeps_the_grant() -> None:
    issuer = issuer_with()
    grant = one_grant(issuer)
    used = grant.pair.refresh_token
    present(issuer, used, NOW)

    verdict, reply = present(issuer, used, NOW + 1)

    assert (verdict, reply.status, reply.body) == (
        RequestVerdict.SUPERSEDED,
        400,
        {"error": "invalid_grant"},
    )
    assert present(issuer, grant.pair.refresh_token, NOW + 2)[0] is RequestVerdict.LIVE


def test_revoke_family_takes_the_grant_back_when_a_used_token_is_seen() -> None:
    issuer = issuer_with(reuse="revoke-family")
    grant = one_grant(issuer)
    used = grant.pair.refresh_token
    present(issuer, used, NOW)

    present(issuer, used, NOW + 1)

    assert grant.revoked
    assert present(issuer, grant.pair.refresh_token, NOW + 2)[0] is RequestVerdict.REVOKED


def test_within_the_grace_period_the_previous_token_answers_the_same_pair_again() -> None:
    issuer = issuer_with(reuse="grace")
    grant = one_grant(issuer)
    used = grant.pair.refresh_token
    _, first = present(issuer, used, NOW)

    verdict, again = present(issuer, used, NOW + 30)

    assert verdict is RequestVerdict.WITHIN_GRACE
    assert again.body["refresh_token"] == first.body["refresh_token"]
    assert again.body["access_token"] == first.body["access_token"]
    assert again.body["expires_in"] == 30
    assert grant.rotations == 1


@pytest.mark.parametrize("case", ["too late", "one before the previous", "of a revoked grant"])
def test_a_grace_period_does_not_cover_a_token(case: str) -> None:
    issuer = issuer_with(reuse="grace")
    grant = one_grant(issuer)
    used = grant.pair.refresh_token
    present(issuer, used, NOW)
    if case == "one before the previous":
        present(issuer, grant.pair.refresh_token, NOW)
    if case == "of a revoked grant":
        issuer.revoke(grant, NOW)

    late = 31 if case == "too late" else 1
    assert present(issuer, used, NOW + late)[0] is RequestVerdict.SUPERSEDED


def test_a_refresh_token_lives_to_its_end_and_no_longer() -> None:
    issuer = issuer_with()
    first, second = one_grant(issuer), one_grant(issuer)

    assert present(issuer, first.pair.refresh_token, NOW + 1000)[0] is RequestVerdict.LIVE
    assert present(issuer, second.pair.refresh_token, NOW + 1000.5)[0] is RequestVerdict.REFRESH_EXPIRED


def test_no_refresh_moves_the_end_that_is_counted_from_consent() -> None:
    issuer = issuer_with(profile=PAGERDUTY, absolute_seconds=500)
    grant = one_grant(issuer, ago=100)
    present(issuer, grant.pair.refresh_token, NOW + 400)

    verdict, reply = present(issuer, grant.pair.refresh_token, NOW + 401)

    assert verdict is RequestVerdict.ABSOLUTE_LIMIT
    assert reply.body == {"error": "invalid_grant"}


def test_without_rotation_the_refresh_token_stays_with_its_end_and_is_not_repeated() -> None:
    issuer = issuer_with(profile=OAUTH2, rotation=False)
    grant = one_grant(issuer)
    token, end = grant.pair.refresh_token, grant.pair.refresh_expires_at

    _, reply = present(issuer, token, NOW + 10)

    assert set(reply.body) == {"access_token", "expires_in", "token_type"}
    assert (grant.pair.refresh_token, grant.pair.refresh_expires_at) == (token, end)
    assert present(issuer, token, NOW + 20)[0] is RequestVerdict.LIVE


def test_a_token_that_never_expires_states_no_end_and_is_killed_by_a_refresh_all_the_same() -> None:
    issuer = issuer_with(access_seconds=0)
    grant = one_grant(issuer)
    old = grant.pair

    _, reply = present(issuer, old.refresh_token, NOW)

    assert "expires_in" not in reply.body
    assert grant.pair.access_token != old.access_token
    assert expired(issuer, NOW + 10**9) == 0


def test_each_expired_access_token_is_counted_once_however_often_it_is_checked() -> None:
    issuer = issuer_with()
    grant = one_grant(issuer)

    assert expired(issuer, NOW + 60) == 0
    assert expired(issuer, NOW + 60.1) == 1
    assert expired(issuer, NOW + 61) == 1
    present(issuer, grant.pair.refresh_token, NOW + 62)
    assert expired(issuer, NOW + 63) == 1
    assert expired(issuer, NOW + 123) == 2


def test_a_refresh_after_the_end_counts_the_expiry_that_nobody_checked_for() -> None:
    issuer = issuer_with()
    grant = one_grant(issuer)

    present(issuer, grant.pair.refresh_token, NOW + 61)

    assert issuer.judge.report_grant(grant.id)["expired"] == 1


def test_a_token_of_a_revoked_grant_does_not_count_as_expired() -> None:
    issuer = issuer_with()
    issuer.revoke(one_grant(issuer), NOW + 59)

    assert expired(issuer, NOW + 100) == 0


def test_a_token_that_expired_before_the_revocation_counts() -> None:
    issuer = issuer_with()
    issuer.revoke(one_grant(issuer), NOW + 61)

    assert expired(issuer, NOW + 100) == 1


def test_a_client_that_was_told_of_a_dead_token_has_given_the_grant_up() -> None:
    issuer = issuer_with()
    grant = one_grant(issuer)
    lost = grant.pair.refresh_token
    present(issuer, lost, NOW, hears=False)

    present(issuer, lost, NOW + 1)

    assert grant.told_dead
    assert expired(issuer, NOW + 100) == 0


def test_a_refusal_that_the_client_never_heard_gives_nothing_up() -> None:
    issuer = issuer_with()
    grant = one_grant(issuer)
    used = grant.pair.refresh_token
    present(issuer, used, NOW)

    present(issuer, used, NOW + 1, hears=False)

    assert expired(issuer, NOW + 100) == 1


def test_a_later_refresh_takes_a_grant_up_again() -> None:
    issuer = issuer_with()
    grant = one_grant(issuer)
    used = grant.pair.refresh_token
    present(issuer, used, NOW)
    present(issuer, used, NOW + 1)

    present(issuer, grant.pair.refresh_token, NOW + 2)

    assert expired(issuer, NOW + 100) == 1


def test_a_wrong_client_learns_nothing_and_changes_nothing() -> None:
    issuer = issuer_with()
    grant = one_grant(issuer)
    request = ReceivedRequest("refresh_token", grant.pair.refresh_token, "id", "wrong")

    examination = issuer.examine(request, NOW)
    reply = issuer.act(request, examination, NOW)

    assert (reply.status, reply.body) == (401, {"error": "invalid_client"})
    assert grant.rotations == 0


def test_issue_times_are_spread_back_evenly_and_ends_with_them() -> None:
    issuer = issuer_with()
    order = IssueOrder(4, "spread", "buddy", 60, 1000, None, 40, 0)

    grants = list(issuer.issue(order, NOW))

    assert [grant.pair.issued_at for grant in grants] == [NOW, NOW - 10, NOW - 20, NOW - 30]
    assert [grant.pair.access_expires_at for grant in grants] == [
        NOW + 60,
        NOW + 50,
        NOW + 40,
        NOW + 30,
    ]


def test_the_by_product_of_a_client_credentials_request_is_nobodys_to_keep_alive() -> None:
    issuer = issuer_with()
    request = ReceivedRequest("client_credentials", "", "id", "secret")

    reply = issuer.act(request, issuer.examine(request, NOW), NOW)

    assert len(reply.body["refresh_token"]) == 80
    assert list(issuer.watched_grants()) == []
    assert expired(issuer, NOW + 100) == 0


def test_a_code_gives_a_refresh_token_even_where_refreshes_keep_it() -> None:
    issuer = issuer_with(profile=OAUTH2, rotation=False)

    grant, reply = connect(issuer)

    assert reply.body["refresh_token"] == grant.pair.refresh_token


def test_a_grant_that_a_code_gave_is_judged_as_any_other() -> None:
    issuer = issuer_with()
    grant, _ = connect(issuer)

    assert expired(issuer, NOW + 61) == 1
    present(issuer, grant.pair.refresh_token, NOW + 62)
    assert expired(issuer, NOW + 123) == 2


def test_a_grant_whose_tokens_never_reached_the_client_is_nobodys_to_keep_alive() -> None:
    issuer = issuer_with()
    connect(issuer, hears=False)

    assert list(issuer.watched_grants()) == []
    assert expired(issuer, NOW + 61) == 0
