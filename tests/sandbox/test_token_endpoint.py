"""What each profile answers at its token endpoint, over real HTTP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from worker.sandbox.client import Sandbox

    Refresh = Callable[..., httpx.Response]
    IssueOne = Callable[..., dict[str, Any]]

WRONG_DATA = {"errors": [{"message": "Wrong authentication data"}]}
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
BASIC = ("sandbox-client", "sandbox-secret")


def test_buddy_answers_what_its_page_shows(buddy: Sandbox, issue_one: IssueOne, refresh: Refresh) -> None:
    answer = refresh(buddy, issue_one(buddy)["refresh_token"])

    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert list(body) == [
        "access_token",
        "expires_in",
        "refresh_token",
        "refresh_token_expires_in",
        "token_type",
    ]
    assert re.fullmatch(UUID, body["access_token"])
    assert re.fullmatch(r"[A-Za-z0-9]{80}", body["refresh_token"])
    assert body["expires_in"] == 60
    assert body["refresh_token_expires_in"] == 158_112_000
    assert body["token_type"] == "Bearer"


def test_buddy_tells_a_wrong_secret_and_a_dead_token_in_the_same_words(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)
    wrong_secret = refresh(buddy, grant["refresh_token"], client_secret="wrong")
    refresh(buddy, grant["refresh_token"])
    dead_token = refresh(buddy, grant["refresh_token"])
    unknown_token = refresh(buddy, "never-issued")

    for answer in (wrong_secret, dead_token, unknown_token):
        assert (answer.status_code, answer.json()) == (401, WRONG_DATA)
    counts = buddy.grant(grant["id"])["counts"]
    assert (counts["wrong_client"], counts["superseded"], counts["refreshes"]) == (1, 1, 1)


def test_a_token_that_was_never_issued_counts_in_the_totals(buddy: Sandbox, refresh: Refresh) -> None:
    before = buddy.totals()

    refresh(buddy, "never-issued")

    after = buddy.totals()
    assert after["never_issued"] == before["never_issued"] + 1
    assert after["requests"] == before["requests"] + 1


@pytest.mark.parametrize("way", ["header", "body"])
def test_buddy_gives_client_credentials_both_tokens(buddy: Sandbox, http: httpx.Client, way: str) -> None:
    form = {"grant_type": "client_credentials", "scope": "WORKSPACE USER_INFO"}
    if way == "header":
        answer = http.post(buddy.token_url, data=form, auth=BASIC)
    else:
        names = {"client_id": BASIC[0], "client_secret": BASIC[1]}
        answer = http.post(buddy.token_url, data=form | names)

    assert answer.status_code == 200
    assert {"access_token", "refresh_token"} <= set(answer.json())


def test_buddy_takes_a_refresh_with_credentials_in_the_body_only(
    buddy: Sandbox, http: httpx.Client, issue_one: IssueOne
) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": issue_one(buddy)["refresh_token"]}

    assert http.post(buddy.token_url, data=form, auth=BASIC).json() == WRONG_DATA


def test_a_replaced_secret_is_dead_at_once(buddy: Sandbox, issue_one: IssueOne, refresh: Refresh) -> None:
    token = issue_one(buddy)["refresh_token"]

    buddy.set_secret("new")

    assert refresh(buddy, token).status_code == 401
    assert refresh(buddy, token, client_secret="new").status_code == 200


def test_a_revoked_grant_is_refused_and_counted(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)

    assert buddy.revoke(grant["id"])["revoked"]

    assert refresh(buddy, grant["refresh_token"]).json() == WRONG_DATA
    assert buddy.grant(grant["id"])["counts"]["revoked"] == 1


def test_buddy_states_no_end_for_a_token_that_never_expires(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy, access_seconds=0)

    assert "expires_in" not in grant
    assert "expires_in" not in refresh(buddy, grant["refresh_token"]).json()


def test_pagerduty_answers_a_scope_and_no_end_of_the_refresh_token(
    pagerduty: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    body = refresh(pagerduty, issue_one(pagerduty)["refresh_token"]).json()

    assert set(body) == {"access_token", "expires_in", "refresh_token", "token_type", "scope"}
    assert re.fullmatch(r"pdus\+_0XBPWQQ_" + UUID, body["access_token"])
    assert re.fullmatch(r"pdus\+_1XBPWQQ_" + UUID, body["refresh_token"])
    assert pagerduty.token_url.endswith("/oauth/token")


def test_pagerduty_ends_a_grant_a_year_after_consent(
    pagerduty: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(pagerduty, authorized_seconds_ago=366 * 86_400)

    answer = refresh(pagerduty, grant["refresh_token"])

    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})
    assert pagerduty.grant(grant["id"])["counts"]["absolute_limit"] == 1


def test_pagerduty_gives_client_credentials_an_access_token_only(
    pagerduty: Sandbox, refresh: Refresh
) -> None:
    body = refresh(pagerduty, "", grant_type="client_credentials", scope="incidents.read").json()

    assert set(body) == {"access_token", "expires_in", "token_type", "scope"}


@pytest.mark.parametrize("way", ["header", "body"])
def test_a_plain_server_takes_credentials_either_way(
    oauth2: Sandbox, http: httpx.Client, issue_one: IssueOne, refresh: Refresh, way: str
) -> None:
    token = issue_one(oauth2)["refresh_token"]
    if way == "body":
        answer = refresh(oauth2, token)
    else:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        answer = http.post(oauth2.token_url, data=form, auth=BASIC)

    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "expires_in", "refresh_token", "token_type"}


def test_a_plain_server_challenges_a_client_that_used_basic(oauth2: Sandbox, http: httpx.Client) -> None:
    form = {"grant_type": "client_credentials"}

    answer = http.post(oauth2.token_url, data=form, auth=("sandbox-client", "wrong"))

    assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})
    assert answer.headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"grant_type": "password"}, {"error": "unsupported_grant_type"}),
        (
            {"grant_type": ""},
            {"error": "invalid_request", "error_description": "grant_type is missing"},
        ),
        (
            {"refresh_token": ""},
            {"error": "invalid_request", "error_description": "refresh_token is missing"},
        ),
    ],
)
@pytest.mark.parametrize("server", ["buddy", "pagerduty", "oauth2"])
def test_every_profile_answers_a_wrong_form_by_the_rfc(
    request: pytest.FixtureRequest,
    refresh: Refresh,
    server: str,
    fields: dict[str, str],
    answer: dict[str, str],
) -> None:
    reply = refresh(request.getfixturevalue(server), "a-token", **fields)

    assert (reply.status_code, reply.json()) == (400, answer)


def test_a_used_token_revokes_the_family_where_that_is_the_rule(
    oauth2: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(oauth2)
    renewed = refresh(oauth2, grant["refresh_token"]).json()

    assert refresh(oauth2, grant["refresh_token"]).json() == {"error": "invalid_grant"}
    assert refresh(oauth2, renewed["refresh_token"]).json() == {"error": "invalid_grant"}
    assert oauth2.grant(grant["id"])["revoked"]


def test_only_post_reaches_the_token_endpoint(buddy: Sandbox, http: httpx.Client) -> None:
    assert http.get(buddy.token_url).status_code == 405


@pytest.mark.parametrize(
    ("states", "fields"),
    [
        ("expires_in_text", {"expires_in"}),
        ("expires_at", {"expires_at"}),
        ("expiry_date_ms", {"expiry_date"}),
        ("nothing", set()),
    ],
)
def test_the_end_of_an_access_token_is_stated_in_the_words_that_a_grant_was_issued_with(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh, states: str, fields: set[str]
) -> None:
    grant = issue_one(buddy, states=states)
    body = refresh(buddy, grant["refresh_token"]).json()
    plain = {"access_token", "refresh_token", "refresh_token_expires_in", "token_type"}
    assert set(body) - plain == fields
