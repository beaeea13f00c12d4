"""What Buddy, PagerDuty and any other server promise, and the lifetimes of grants that follow from it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import SecretStr

from config import ClientSettings
from worker.core import lifecycle, policy
from worker.core.grant import Grant, TokenPair, lineage_of
from worker.core.lifecycle import Change, refresh_lifetime_ms
from worker.core.outcomes import Refreshed, Rejected, Reply
from worker.core.policy import Rules
from worker.core.protocol import read_reply
from worker.core.providers import BUDDY, DAY_MS, OAUTH2, PAGERDUTY_CLASSIC, PAGERDUTY_SCOPED, Client, Provider
from worker.core.reasons import Reason
from worker.runtime.clients import client_of

HOUR_MS = 3_600_000
BUDDY_REPLY = (
    b'{"access_token":"732e9e20-50ba-4047-8a7b-c9b17259a2a2","expires_in":28800,'
    b'"refresh_token":"p8gUgmrXwe5CT2TMiMMkpIIRlIMlH70aB19dxwGJJkNWp4LthWUjJDmmUmBd7xLPzDq8R5PtCvx0SvAS",'
    b'"refresh_token_expires_in":158112000,"token_type":"Bearer"}'
)
PAGERDUTY_REPLY = (
    b'{"token_type":"bearer","access_token":"pdus+_0XBPWQQ_39435d07-9232-4bc2-9dc9-c4a8fccc94ad",'
    b'"refresh_token":"pdus+_1XBPWQQ_4f0dd763-8665-4fd7-aab7-d9f98e0c151b","scope":"openid write",'
    b'"expires_in":864000}'
)

Refresh = Callable[[Client, bytes], Change]


@pytest.fixture
def refresh(grant: Grant, pair: TokenPair, rules: Rules, now: int) -> Refresh:
    """Read a reply and make the successor of a grant of which no life was ever stated."""
    base = replace(grant, stated_life_ms=None)

    def make(client: Client, body: bytes) -> Change:
        answer = read_reply(Reply(200, {}, body), client, now)
        assert isinstance(answer, Refreshed)
        return lifecycle.succeed(
            base, pair, answer, client, rules, sealed=b"", attempt=7, sent_at=now, now=now + 200
        )

    return make


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        pytest.param(BUDDY, "https://api.buddy.works/oauth2/token", id="buddy"),
        pytest.param(PAGERDUTY_SCOPED, "https://identity.pagerduty.com/oauth/token", id="pagerduty-scoped"),
        pytest.param(PAGERDUTY_CLASSIC, "https://identity.pagerduty.com/oauth/token", id="pagerduty-classic"),
    ],
)
def test_a_built_in_provider_knows_its_token_endpoint(provider: Provider, url: str) -> None:
    assert f"{provider.base_url}{provider.token_path}" == url


def test_any_other_server_promises_nothing() -> None:
    assert Provider(name="oauth2") == OAUTH2


@pytest.mark.parametrize(
    ("provider", "stated_days", "believed_days"),
    [
        pytest.param(BUDDY, None, 183, id="buddy-states-nothing"),
        pytest.param(BUDDY, 1830, 183, id="buddy-states-ten-times-too-much"),
        pytest.param(BUDDY, 30, 30, id="buddy-states-less"),
        pytest.param(PAGERDUTY_SCOPED, None, 30, id="pagerduty-scoped-states-nothing"),
        pytest.param(PAGERDUTY_SCOPED, 60, 60, id="pagerduty-scoped-states-more"),
        pytest.param(PAGERDUTY_CLASSIC, None, 210, id="pagerduty-classic-states-nothing"),
        pytest.param(OAUTH2, None, None, id="any-other-states-nothing"),
        pytest.param(OAUTH2, 3650, 3650, id="any-other-is-believed"),
    ],
)
def test_a_refresh_token_lives_as_stated_below_the_cap_else_as_documented(
    oauth2: Client, provider: Provider, stated_days: int | None, believed_days: int | None
) -> None:
    stated_ms = None if stated_days is None else stated_days * DAY_MS
    believed_ms = refresh_lifetime_ms(replace(oauth2, provider=provider), stated_ms)
    assert believed_ms == (None if believed_days is None else believed_days * DAY_MS)


def test_buddy_with_refresh_token_expires_in_158112000_is_believed_for_183_days(
    refresh: Refresh, buddy: Client, now: int
) -> None:
    successor = refresh(buddy, BUDDY_REPLY)
    assert successor.grant.refresh_expires_at == now + 183 * DAY_MS


def test_buddy_with_refresh_token_expires_in_15811201_is_believed_for_183_days(
    refresh: Refresh, buddy: Client, now: int
) -> None:
    successor = refresh(buddy, BUDDY_REPLY.replace(b"158112000", b"15811201"))
    assert successor.grant.refresh_expires_at == now + 183 * DAY_MS


@pytest.mark.parametrize("seconds", [28800, 3600])
def test_buddy_lifetimes_of_an_access_token_are_obeyed_as_the_reply_states_them(
    refresh: Refresh, buddy: Client, now: int, seconds: int
) -> None:
    successor = refresh(buddy, BUDDY_REPLY.replace(b"28800", str(seconds).encode()))
    assert successor.grant.access_expires_at == now + seconds * 1000


def test_a_buddy_access_token_of_eight_hours_is_refreshed_more_than_two_hours_before_its_end(
    grant: Grant, buddy: Client, rules: Rules, now: int
) -> None:
    for number in range(1_000):
        each = replace(grant, id=f"user-{number}", access_expires_at=now + 8 * HOUR_MS)
        due_at = policy.next_due(each, buddy, rules).at
        assert due_at is not None
        assert due_at < now + 6 * HOUR_MS


def test_a_buddy_refresh_kills_both_old_tokens_so_the_new_refresh_token_replaces_the_old(
    refresh: Refresh, buddy: Client, grant: Grant, pair: TokenPair, now: int
) -> None:
    answer = read_reply(Reply(200, {}, BUDDY_REPLY), buddy, now)
    assert isinstance(answer, Refreshed)
    following = lifecycle.pair_after(pair, answer, buddy)
    assert following.access_token == "732e9e20-50ba-4047-8a7b-c9b17259a2a2"
    assert (following.refresh_token or "").startswith("p8gUgmrX")
    assert refresh(buddy, BUDDY_REPLY).grant.lineage == lineage_of(grant.id, following.refresh_token)


def test_a_buddy_reply_without_scope_keeps_the_scope_as_granted(refresh: Refresh, buddy: Client) -> None:
    assert refresh(buddy, BUDDY_REPLY).grant.scope == "read"


def test_a_buddy_reply_of_an_old_application_without_expires_in_gives_a_token_that_never_expires(
    refresh: Refresh, buddy: Client
) -> None:
    successor = refresh(buddy, BUDDY_REPLY.replace(b'"expires_in":28800,', b""))
    assert successor.grant.access_expires_at is None


def test_a_buddy_reply_without_expires_in_keeps_the_life_that_was_stated_before(
    grant: Grant, pair: TokenPair, buddy: Client, rules: Rules, now: int
) -> None:
    answer = read_reply(Reply(200, {}, BUDDY_REPLY.replace(b'"expires_in":28800,', b"")), buddy, now)
    assert isinstance(answer, Refreshed)
    after = lifecycle.succeed(
        grant, pair, answer, buddy, rules, sealed=b"", attempt=7, sent_at=now, now=now
    ).grant
    assert after.access_expires_at == now + HOUR_MS


def test_a_buddy_token_that_never_expires_is_refreshed_only_for_its_refresh_token(
    refresh: Refresh, buddy: Client, rules: Rules, now: int
) -> None:
    successor = refresh(buddy, BUDDY_REPLY.replace(b'"expires_in":28800,', b""))
    due = policy.next_due(successor.grant, buddy, rules)
    assert due.reason is Reason.REFRESH_TOKEN_SHARE
    assert due.at is not None
    assert now + 100 * DAY_MS < due.at < now + 150 * DAY_MS


@pytest.mark.parametrize(
    ("kind", "days"), [pytest.param("pagerduty", 30, id="scoped"), pytest.param("classic", 210, id="classic")]
)
def test_a_pagerduty_reply_states_no_refresh_lifetime_so_the_documented_one_counts_from_sending(
    refresh: Refresh, pagerduty: Client, pagerduty_classic: Client, now: int, kind: str, days: int
) -> None:
    client = pagerduty_classic if kind == "classic" else pagerduty
    assert refresh(client, PAGERDUTY_REPLY).grant.refresh_expires_at == now + days * DAY_MS


def test_a_pagerduty_access_token_is_believed_as_the_reply_states_it(
    refresh: Refresh, pagerduty: Client, now: int
) -> None:
    assert refresh(pagerduty, PAGERDUTY_REPLY).grant.access_expires_at == now + 10 * DAY_MS


def test_a_pagerduty_reply_sets_the_scope_that_was_granted(refresh: Refresh, pagerduty: Client) -> None:
    assert refresh(pagerduty, PAGERDUTY_REPLY).grant.scope == "openid write"


def test_a_pagerduty_refresh_never_moves_the_day_of_consent(
    refresh: Refresh, pagerduty: Client, grant: Grant
) -> None:
    assert refresh(pagerduty, PAGERDUTY_REPLY).grant.authorized_at == grant.authorized_at


@pytest.mark.parametrize(
    ("kind", "years"), [pytest.param("pagerduty", 1, id="scoped"), pytest.param("classic", 3, id="classic")]
)
def test_a_pagerduty_grant_ends_in_years_counted_from_consent_however_often_it_is_refreshed(
    refresh: Refresh,
    pagerduty: Client,
    pagerduty_classic: Client,
    rules: Rules,
    now: int,
    kind: str,
    years: int,
) -> None:
    client = pagerduty_classic if kind == "classic" else pagerduty
    end = policy.fixed_end(refresh(client, PAGERDUTY_REPLY).grant, client, rules)
    assert end is not None
    assert end.reason is Reason.ABSOLUTE_LIMIT
    assert end.at == now - DAY_MS + years * 365 * DAY_MS


def test_a_pagerduty_day_long_token_is_not_refreshed_by_a_fixed_margin_of_a_day(
    grant: Grant, pagerduty: Client, rules: Rules, now: int
) -> None:
    due = policy.next_due(replace(grant, access_expires_at=now + DAY_MS), pagerduty, rules)
    assert due.at is not None
    assert due.at > now + 14 * HOUR_MS


def test_a_pagerduty_app_token_comes_without_a_refresh_token_and_is_asked_for_again(
    grant: Grant, app: Client, rules: Rules, now: int
) -> None:
    body = b'{"access_token":"pdus+app","scope":"as_account-us.acme incidents.read","expires_in":86400}'
    answer = read_reply(Reply(200, {}, body), app, now)
    assert isinstance(answer, Refreshed)
    bare = replace(grant, lineage=b"")
    successor = lifecycle.succeed(
        bare, TokenPair("old"), answer, app, rules, sealed=b"", attempt=1, sent_at=now, now=now
    )
    assert not successor.grant.has_refresh_token
    due = policy.next_due(successor.grant, app, rules)
    assert due.action is policy.Action.REFRESH
    assert due.at is not None
    assert due.at < now + DAY_MS


@pytest.mark.parametrize("provider", [BUDDY, PAGERDUTY_SCOPED, PAGERDUTY_CLASSIC, OAUTH2])
def test_the_same_refresh_token_is_sent_once_more_after_an_unknown_reply(provider: Provider) -> None:
    assert provider.resend_after_unknown


def test_only_buddy_answers_a_bare_401_that_may_mean_the_client_or_the_grant(
    oauth2: Client, now: int
) -> None:
    providers = (BUDDY, PAGERDUTY_SCOPED, PAGERDUTY_CLASSIC, OAUTH2)
    outcomes = {
        each.name: read_reply(Reply(401, {}, b""), replace(oauth2, provider=each), now) for each in providers
    }
    assert [name for name, outcome in outcomes.items() if isinstance(outcome, Rejected)] == ["buddy"]


def test_a_client_s_own_words_for_a_dead_refresh_token_are_added_to_the_provider_s(now: int) -> None:
    settings = ClientSettings(
        provider="buddy",
        client_id="id of ours",
        client_secret=SecretStr("hunter2"),
        rejected_errors=("E-42", "unauthorized_client"),
    )
    client = client_of("buddy", settings)
    for said, code in {"e-42": "e_42", "unauthorized_client": "unauthorized_client"}.items():
        reply = Reply(400, {}, f'{{"error": "{said}"}}'.encode())
        assert read_reply(reply, client, now) == Rejected(code)
    assert client.provider.rejected_codes > BUDDY.rejected_codes


def test_the_scopes_that_a_provider_documents_are_known_and_others_are_named() -> None:
    assert len(PAGERDUTY_SCOPED.known_scopes - {"openid"}) == 15
    assert PAGERDUTY_SCOPED.unknown_among(["incidents.read", "incident.read"]) == ["incident.read"]
    assert BUDDY.unknown_among(["WORKSPACE", "EXECUTION_RUN"]) == []
    assert OAUTH2.unknown_among(["whatever"]) == []
