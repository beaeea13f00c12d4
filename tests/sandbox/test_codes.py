"""Code exchanges: what a code gives, once, and to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.sandbox.links import CHALLENGE, VERIFIER
from tests.support.servers import CALLBACK
from worker.sandbox.client import Sandbox
from worker.sandbox.codes import Allowed, Codes
from worker.sandbox.form import ReceivedRequest
from worker.sandbox.judge import RequestVerdict

if TYPE_CHECKING:
    from collections.abc import Callable

    ComeBack = Callable[..., dict[str, str]]
    Exchange = Callable[..., httpx.Response]
    Refresh = Callable[..., httpx.Response]

NOW = 1_800_000_000.0
WITHOUT_PKCE = {"code_challenge": "", "code_challenge_method": ""}


@pytest.fixture
def consented(come_back: ComeBack) -> Callable[..., str]:
    """Let a person allow what a link asks for; returns the code."""

    def allow(sandbox: Sandbox, *, link: dict[str, str] | None = None, **consent: str) -> str:
        sandbox.consent(decision="allow", **consent)
        return come_back(sandbox, **(link or {}))["code"]

    return allow


def is_dead(answer: httpx.Response) -> bool:
    """Whether an answer refuses a code, in the words of its profile."""
    by_the_rfc = answer.status_code == 400 and answer.json() == {"error": "invalid_grant"}
    said = {"errors": [{"message": "Wrong authentication data"}]}
    return by_the_rfc or (answer.status_code == 401 and answer.json() == said)


def grant_of(sandbox: Sandbox, answer: httpx.Response) -> dict[str, Any]:
    """The grant whose access token an answer gives."""
    token = answer.json()["access_token"]
    [pair] = [pair for pair in sandbox.pairs() if pair["access_token"] == token]
    return sandbox.grant(pair["id"])


def test_a_code_gives_a_pair_that_is_refreshed_as_any_other(
    server: Sandbox, consented: Callable[..., str], exchange: Exchange, refresh: Refresh
) -> None:
    before = server.totals()["connected"]

    given = exchange(server, consented(server))
    refreshed = refresh(server, given.json()["refresh_token"])

    assert (given.status_code, refreshed.status_code) == (200, 200)
    assert given.headers["cache-control"] == "no-store"
    assert list(given.json()) == list(refreshed.json())
    known = grant_of(server, refreshed)
    assert (known["rotations"], known["counts"]["connected"]) == (1, 1)
    assert server.totals()["connected"] == before + 1
    assert [visit["verdict"] for visit in server.log(known["id"])] == ["live_code", "live"]


def test_a_code_that_comes_again_is_refused_and_takes_back_what_it_gave(
    server: Sandbox, consented: Callable[..., str], exchange: Exchange, refresh: Refresh
) -> None:
    code = consented(server)
    given = exchange(server, code)
    grant = grant_of(server, given)

    again = exchange(server, code)

    assert is_dead(again)
    known = server.grant(grant["id"])
    assert (known["revoked"], known["counts"]["code_replayed"]) == (True, 1)
    assert refresh(server, given.json()["refresh_token"]).status_code in {400, 401}


@pytest.mark.parametrize(
    ("link", "fields", "count"),
    [
        ({}, {"code_verifier": "x" * 43}, "wrong_verifier"),
        ({}, {"code_verifier": CHALLENGE}, "wrong_verifier"),
        ({}, {"code_verifier": ""}, "wrong_verifier"),
        (WITHOUT_PKCE, {}, "wrong_verifier"),
        ({}, {"redirect_uri": f"{CALLBACK}/"}, "wrong_redirect_uri"),
        ({}, {"redirect_uri": ""}, "wrong_redirect_uri"),
        ({"redirect_uri": ""}, {}, "wrong_redirect_uri"),
    ],
)
def test_an_exchange_that_does_not_fit_its_request_is_refused_and_spends_the_code(
    oauth2: Sandbox,
    consented: Callable[..., str],
    exchange: Exchange,
    link: dict[str, str],
    fields: dict[str, str],
    count: str,
) -> None:
    code = consented(oauth2, link=link)
    before = oauth2.totals()

    answers = [exchange(oauth2, code, **fields) for _ in range(2)]

    assert all(map(is_dead, answers))
    after = oauth2.totals()
    assert after[count] == before[count] + 1
    assert after["code_replayed"] == before["code_replayed"] + 1
    assert after["connected"] == before["connected"]


@pytest.mark.parametrize(
    ("link", "fields"),
    [(WITHOUT_PKCE, {"code_verifier": ""}), ({"redirect_uri": ""}, {"redirect_uri": ""})],
    ids=["no PKCE", "no redirect URI"],
)
def test_what_the_request_left_out_the_exchange_leaves_out(
    oauth2: Sandbox,
    consented: Callable[..., str],
    exchange: Exchange,
    link: dict[str, str],
    fields: dict[str, str],
) -> None:
    assert exchange(oauth2, consented(oauth2, link=link), **fields).status_code == 200


def test_a_code_that_was_never_issued_is_refused_and_counted(server: Sandbox, exchange: Exchange) -> None:
    before = server.totals()["code_never_issued"]

    assert is_dead(exchange(server, "never-issued"))
    assert server.totals()["code_never_issued"] == before + 1


def test_an_exchange_needs_a_code(server: Sandbox, exchange: Exchange) -> None:
    answer = exchange(server, "")

    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "invalid_request", "error_description": "code is missing"},
    )


def test_somebody_who_is_not_the_client_does_not_spend_a_code(
    server: Sandbox, consented: Callable[..., str], exchange: Exchange
) -> None:
    code = consented(server)

    assert exchange(server, code, client_secret="wrong").status_code == 401
    assert exchange(server, code).status_code == 200


@pytest.mark.parametrize(("profile", "status"), [("buddy", 401), ("pagerduty", 401), ("oauth2", 200)])
def test_basic_is_taken_by_plain_servers_only(
    request: pytest.FixtureRequest,
    http: httpx.Client,
    consented: Callable[..., str],
    profile: str,
    status: int,
) -> None:
    sandbox = request.getfixturevalue(profile)
    form = {"grant_type": "authorization_code", "code": consented(sandbox), "code_verifier": VERIFIER}

    answer = http.post(
        sandbox.token_url,
        data=form | {"redirect_uri": CALLBACK},
        auth=("sandbox-client", "sandbox-secret"),
    )

    assert answer.status_code == status


def test_a_code_lives_a_minute() -> None:
    codes = Codes()
    code = codes.issue(Allowed("alice", None, states_scope=False), NOW)
    request = ReceivedRequest("authorization_code", parameters={"code": (code,)})

    assert codes.examine(request, NOW + 60)[0] is RequestVerdict.LIVE_CODE
    assert codes.examine(request, NOW + 60.1)[0] is RequestVerdict.CODE_EXPIRED


def test_the_api_says_whose_token_it_is(
    server: Sandbox, http: httpx.Client, consented: Callable[..., str], exchange: Exchange
) -> None:
    given = exchange(server, consented(server, person="bob")).json()["access_token"]
    usual = exchange(server, consented(server)).json()["access_token"]

    people = [
        http.get(server.api_url, headers={"Authorization": f"Bearer {token}"}).json()
        for token in (given, usual, "unknown")
    ]

    assert people == [{"ok": True, "person": "bob"}, {"ok": True, "person": "alice"}, {"ok": False}]


@pytest.mark.parametrize(
    ("profile", "scope", "stated"),
    [
        ("buddy", "WORKSPACE USER_INFO", None),
        ("buddy", "USER_INFO", "USER_INFO"),
        ("oauth2", "WORKSPACE USER_INFO", None),
        ("oauth2", "USER_INFO", "USER_INFO"),
        ("pagerduty", "WORKSPACE USER_INFO", "openid WORKSPACE USER_INFO"),
        ("pagerduty", "USER_INFO", "openid USER_INFO"),
    ],
)
def test_a_scope_that_is_not_what_was_asked_for_is_stated_from_then_on(
    request: pytest.FixtureRequest,
    consented: Callable[..., str],
    exchange: Exchange,
    refresh: Refresh,
    profile: str,
    scope: str,
    stated: str | None,
) -> None:
    sandbox = request.getfixturevalue(profile)

    given = exchange(sandbox, consented(sandbox, scope=scope)).json()
    refreshed = refresh(sandbox, given["refresh_token"])

    assert given.get("scope") == refreshed.json().get("scope") == stated
    assert grant_of(sandbox, refreshed)["scope"] == (stated or scope)


def test_where_scopes_are_configured_pagerduty_drops_what_does_not_exist_in_silence(
    consented: Callable[..., str], exchange: Exchange
) -> None:
    with Sandbox.start("pagerduty", scope="USER_INFO", redirect_uri=CALLBACK) as sandbox:
        assert exchange(sandbox, consented(sandbox)).json()["scope"] == "openid USER_INFO"


def test_an_exchange_whose_reply_is_lost_leaves_a_grant_that_nobody_can_keep_alive(
    server: Sandbox, consented: Callable[..., str], exchange: Exchange
) -> None:
    code = consented(server)
    server.add_fault("drop_after", times=1, grant_type="authorization_code")

    with pytest.raises(httpx.TransportError):
        exchange(server, code)

    *_, visit = server.log()
    assert (visit["verdict"], visit["acted"], visit["delivered"]) == ("live_code", True, False)
    known = server.grant(visit["grant"])
    assert (known["counts"]["connected"], known["counts"]["undelivered"]) == (1, 1)
    assert known["id"] not in {pair["id"] for pair in server.pairs()}
    assert is_dead(exchange(server, code))
    assert server.grant(known["id"])["revoked"]


@pytest.mark.parametrize("fault", ["drop_before", "refuse", "status"])
def test_a_fault_before_the_server_acts_spends_no_code(
    server: Sandbox, consented: Callable[..., str], exchange: Exchange, fault: str
) -> None:
    code = consented(server)
    server.add_fault(fault, times=1, grant_type="authorization_code")

    try:
        struck = exchange(server, code).status_code
    except httpx.TransportError:
        struck = 0

    assert struck == {"drop_before": 0, "refuse": 400, "status": 503}[fault]
    assert exchange(server, code).status_code == 200


def test_the_next_exchange_fails_with_an_error_of_choice(
    oauth2: Sandbox, consented: Callable[..., str], exchange: Exchange
) -> None:
    code = consented(oauth2)
    oauth2.add_fault("refuse", status=400, code="invalid_grant", times=1, grant_type="authorization_code")

    answer = exchange(oauth2, code)

    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})
    assert oauth2.report()["faults"] == []


def test_a_fault_for_exchanges_spares_refreshes_and_the_other_way_round(
    server: Sandbox, consented: Callable[..., str], exchange: Exchange, refresh: Refresh
) -> None:
    [grant] = server.issue(1, prefix="spared")

    with server.fault("status", grant_type="authorization_code"):
        assert refresh(server, grant["refresh_token"]).status_code == 200
        assert exchange(server, consented(server)).status_code == 503
    with server.fault("status", grant_type="refresh_token"):
        assert exchange(server, consented(server)).status_code == 200
    with server.fault("status"):
        assert exchange(server, consented(server)).status_code == 503
