"""The routes that set the server up and read its judgement."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from worker.sandbox.client import Sandbox, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    Refresh = Callable[..., httpx.Response]
    IssueOne = Callable[..., dict[str, Any]]


def test_issued_grants_come_as_import_lines(buddy: Sandbox) -> None:
    [line] = buddy.issue_lines(1, prefix="user/buddy", client="mine", authorized_seconds_ago=60)

    grant = json.loads(line)
    assert set(grant) == {
        "id",
        "client",
        "access_token",
        "refresh_token",
        "expires_in",
        "refresh_token_expires_in",
        "issued_at",
        "authorized_at",
    }
    assert (grant["id"], grant["client"], grant["expires_in"]) == ("user/buddy-1", "mine", 60)
    assert grant["issued_at"].endswith("Z")
    issued, authorized = (datetime.fromisoformat(grant[name]) for name in ("issued_at", "authorized_at"))
    assert (issued - authorized).total_seconds() == pytest.approx(60, abs=0.002)


def test_pagerdutys_import_lines_carry_the_scope(pagerduty: Sandbox, issue_one: IssueOne) -> None:
    grant = issue_one(pagerduty)

    assert "incidents.read" in grant["scope"]
    assert "refresh_token_expires_in" not in grant


def test_grants_of_one_prefix_are_numbered_on(buddy: Sandbox) -> None:
    first = buddy.issue(2, prefix="numbered")
    second = buddy.issue(1, prefix="numbered")

    assert [grant["id"] for grant in first + second] == ["numbered-1", "numbered-2", "numbered-3"]


def test_a_spread_moves_issue_times_back_and_the_true_ends_with_them(buddy: Sandbox) -> None:
    grants = buddy.issue(3, prefix="spread", spread_seconds=30)

    ends = [buddy.grant(grant["id"])["access_expires_at"] for grant in grants]
    issued = [datetime.fromisoformat(grant["issued_at"]).timestamp() for grant in grants]
    assert ends[0] - ends[1] == pytest.approx(10, abs=0.01)
    for end, start in zip(ends, issued, strict=True):
        assert 60 <= end - start < 60.002


def test_pairs_are_those_that_live_now(buddy: Sandbox, issue_one: IssueOne, refresh: Refresh) -> None:
    grant = issue_one(buddy)
    renewed = refresh(buddy, grant["refresh_token"]).json()

    [pair] = [pair for pair in buddy.pairs() if pair["id"] == grant["id"]]

    assert pair["access_token"] == renewed["access_token"]
    assert pair["refresh_token"] == renewed["refresh_token"]
    assert pair["revoked"] is False
    assert pair["access_expires_at"] == buddy.grant(grant["id"])["access_expires_at"]


def test_tokens_that_nobody_refreshed_in_time_are_in_the_report(buddy: Sandbox) -> None:
    before = buddy.totals()["expired"]

    buddy.issue(3, prefix="late", access_seconds=1, spread_seconds=1000)

    # The first of a spread is issued now and lives for another second.
    assert buddy.totals()["expired"] >= before + 2
    assert buddy.grant("late-3")["counts"]["expired"] == 1


def test_the_report_tells_the_rules_but_not_the_secret(buddy: Sandbox) -> None:
    report = buddy.report()

    assert report["rules"]["profile"] == "buddy"
    assert report["rules"]["reuse"] == "strict"
    assert report["grants"] > report["grants_revoked"]
    assert "sandbox-secret" not in json.dumps(report)


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        ("issue", {}, "count is missing"),
        ("issue", {"count": 0}, "count must be a whole number, at least 1"),
        ("issue", {"count": True}, "count must be a whole number, at least 1"),
        ("issue", {"count": 1, "spread": 5}, "unknown here: spread"),
        ("issue", {"count": 1, "prefix": 5}, "prefix must be a text that is not empty"),
        ("issue", {"count": 1, "spread_seconds": -1}, "spread_seconds must be a number, at least 0"),
        ("issue", [], "the body must be a JSON object"),
        ("revoke", {}, "id is missing"),
        ("secret", {"secret": ""}, "secret must be a text that is not empty"),
        ("faults", {"kind": "hang", "acts": 1}, "acts must be true or false"),
        ("faults", {"kind": "hang", "ms": 1}, "unknown here: ms"),
        ("faults", {"kind": "status", "status": 200}, "status must be a whole number, at least 500"),
        ("faults", {"kind": "status", "status": 600}, "status must be from 500 to 599"),
        ("faults", {"kind": "hang", "times": 0}, "times must be a whole number, at least 1"),
        (
            "faults",
            {"kind": "hang", "probability": 2},
            "probability must be a number, at least 0, at most 1",
        ),
        ("faults", {"kind": "outage", "form": "x"}, "form must be one of: close, 503"),
        (
            "faults",
            {"kind": "outage", "grant": "a"},
            "an outage does not read requests, so it cannot tell grants apart",
        ),
        (
            "faults",
            {"kind": "outage", "grant_type": "authorization_code"},
            "an outage does not read requests, so it cannot tell grant types apart",
        ),
        (
            "faults",
            {"kind": "hang", "grant_type": "code"},
            "grant_type must be one of: authorization_code, refresh_token, client_credentials",
        ),
        ("consent", {"person": ""}, "person must be a text that is not empty"),
        ("consent", {"scopes": "a"}, "unknown here: scopes"),
        ("consent", {"decision": "yes"}, "decision must be one of: ask, allow, deny"),
    ],
)
def test_bad_control_input_is_refused_with_one_clear_line(
    buddy: Sandbox, http: httpx.Client, path: str, body: Any, line: str
) -> None:
    answer = http.post(f"{buddy.url}/control/{path}", json=body)

    assert (answer.status_code, answer.json()) == (400, {"error": line})


def test_an_unknown_kind_of_fault_is_answered_with_the_kinds_there_are(buddy: Sandbox) -> None:
    with pytest.raises(SandboxError, match="kind must be one of: latency, status"):
        buddy.add_fault("gremlins")


def test_a_body_that_is_not_json_is_refused(buddy: Sandbox, http: httpx.Client) -> None:
    answer = http.post(f"{buddy.url}/control/issue", content=b"{")

    assert (answer.status_code, answer.json()) == (400, {"error": "the body is not JSON"})


def test_an_unknown_grant_is_not_found(buddy: Sandbox) -> None:
    with pytest.raises(SandboxError, match=r"404 .*no grant was issued as nobody"):
        buddy.grant("nobody")
    with pytest.raises(SandboxError, match="no grant was issued as nobody"):
        buddy.revoke("nobody")
