"""The provider's API: it serves a token as long as the token lives, and no longer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from worker.sandbox.client import Sandbox

    Refresh = Callable[..., httpx.Response]
    IssueOne = Callable[..., dict[str, Any]]


@pytest.fixture
def call(buddy: Sandbox, http: httpx.Client) -> Callable[[str], int]:
    """Calls the API with a token; gives the status of the answer."""
    return lambda token: http.get(buddy.api_url, headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_refresh_ends_the_old_access_token_at_once(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh, call: Callable[[str], int]
) -> None:
    grant = issue_one(buddy)
    before = call(grant["access_token"])
    renewed = refresh(buddy, grant["refresh_token"]).json()

    after = call(grant["access_token"])

    assert (before, after, call(renewed["access_token"])) == (200, 401, 200)
    counts = buddy.grant(grant["id"])["counts"]
    assert (counts["api_calls"], counts["api_refusals"]) == (2, 1)


def test_a_token_that_is_over_revoked_or_unknown_is_refused(
    buddy: Sandbox, issue_one: IssueOne, call: Callable[[str], int]
) -> None:
    _, line = buddy.issue_lines(2, access_seconds=1, spread_seconds=10)
    over, revoked = json.loads(line), issue_one(buddy)
    buddy.revoke(revoked["id"])

    assert [call(token) for token in (over["access_token"], revoked["access_token"], "unknown")] == [401] * 3
