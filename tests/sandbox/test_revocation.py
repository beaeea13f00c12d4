"""The revocation endpoint of each profile (RFC 7009), over real HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.servers import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from worker.sandbox.client import Sandbox

    Refresh = Callable[..., httpx.Response]
    IssueOne = Callable[..., dict[str, Any]]

CREDENTIALS = {"client_id": "sandbox-client", "client_secret": SECRET}


@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
def test_a_revoked_token_ends_its_grant_and_again_is_no_error(
    server: Sandbox, http: httpx.Client, issue_one: IssueOne, refresh: Refresh, kind: str
) -> None:
    grant = issue_one(server)
    form = {"token": grant[kind], "token_type_hint": kind} | CREDENTIALS

    answers = [http.post(server.revoke_url, data=form).status_code for _ in range(2)]

    known = server.grant(grant["id"])
    assert answers == [200, 200]
    assert known["revoked"] is True
    assert (known["counts"]["revocations"], known["counts"]["revocations_of_dead_tokens"]) == (1, 1)
    assert refresh(server, grant["refresh_token"]).status_code in {400, 401}


def test_a_token_that_was_never_issued_is_no_error(server: Sandbox, http: httpx.Client) -> None:
    before = server.totals()

    answer = http.post(server.revoke_url, data={"token": "never-issued"} | CREDENTIALS)

    assert answer.status_code == 200
    assert server.totals()["revocations_of_dead_tokens"] == before["revocations_of_dead_tokens"] + 1
    assert server.totals()["revocations"] == before["revocations"]


def test_a_superseded_refresh_token_ends_what_came_of_it(
    server: Sandbox, http: httpx.Client, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(server)
    refresh(server, grant["refresh_token"])

    http.post(server.revoke_url, data={"token": grant["refresh_token"]} | CREDENTIALS)

    assert server.grant(grant["id"])["revoked"] is True


@pytest.mark.parametrize(
    ("form", "status"), [({"token": "any", "client_secret": "wrong"}, 401), ({"token": ""}, 400), ({}, 400)]
)
def test_a_wrong_secret_and_a_missing_token_are_refused(
    server: Sandbox, http: httpx.Client, form: dict[str, str], status: int
) -> None:
    assert http.post(server.revoke_url, data=CREDENTIALS | form).status_code == status


def test_a_token_of_the_client_itself_dies_too(oauth2: Sandbox, http: httpx.Client) -> None:
    issued = http.post(oauth2.token_url, data={"grant_type": "client_credentials"} | CREDENTIALS).json()
    before = oauth2.totals()["revocations"]

    for _ in range(2):
        http.post(oauth2.revoke_url, data={"token": issued["access_token"]} | CREDENTIALS)

    assert oauth2.totals()["revocations"] == before + 1
