"""Import lines and export lines."""

import json
from dataclasses import replace
from typing import Any

import pytest

from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.interchange import Line, LineError, read_line, write_line
from worker.core.providers import DAY_MS, Client

NOW = 1_700_000_000_000
LINE: dict[str, Any] = {
    "id": "user-42",
    "client": "oauth2",
    "access_token": "acc3ss",
    "refresh_token": "r3fresh",
}


@pytest.fixture
def clients(oauth2: Client, buddy: Client, pagerduty: Client, app: Client) -> dict[str, Client]:
    return {client.name: client for client in (oauth2, buddy, pagerduty, app)}


def _read(clients: dict[str, Client], **changes: object) -> Line:
    """Read a good line with changes; a field that is changed to `None` is left out."""
    fields = {name: value for name, value in {**LINE, **changes}.items() if value is not None}
    return read_line(json.dumps(fields), clients, NOW)


def _problem(clients: dict[str, Client], **changes: object) -> str:
    with pytest.raises(LineError) as caught:
        _read(clients, **changes)
    return str(caught.value)


def test_a_token_response_with_an_id_and_a_client_is_a_grant(clients: dict[str, Client]) -> None:
    line = read_line(
        '{"id":"user-42/buddy","client":"buddy","access_token":"acc3ss","refresh_token":"r3fresh",'
        '"expires_in":28800,"refresh_token_expires_in":158112000,"issued_at":"2023-11-14T22:13:20Z",'
        '"scope":"WORKSPACE EXECUTION_RUN","authorized_at":"2023-11-01T00:00:00Z",'
        '"labels":{"tenant":"acme"}}',
        clients,
        NOW + 5,
    )
    assert line.pair == TokenPair("acc3ss", "r3fresh")
    assert line.grant == Grant(
        id="user-42/buddy",
        client="buddy",
        status=Status.ACTIVE,
        version=0,
        lineage=lineage_of("user-42/buddy", "r3fresh"),
        sealed=b"",
        issued_at=NOW,
        access_expires_at=NOW + 28_800_000,
        refresh_issued_at=NOW,
        refresh_expires_at=NOW + 183 * DAY_MS,
        authorized_at=1_698_796_800_000,
        scope="WORKSPACE EXECUTION_RUN",
        labels={"tenant": "acme"},
    )


def test_a_line_without_lifetimes_never_expires_and_was_issued_now(clients: dict[str, Client]) -> None:
    grant = _read(clients).grant
    assert (grant.issued_at, grant.access_expires_at, grant.refresh_expires_at) == (NOW, None, None)


def test_a_line_without_a_refresh_lifetime_has_the_documented_one(clients: dict[str, Client]) -> None:
    grant = _read(clients, client="pagerduty").grant
    assert grant.refresh_expires_at == NOW + 30 * DAY_MS


def test_a_line_without_a_refresh_token_has_no_refresh_lifetime(clients: dict[str, Client]) -> None:
    grant = _read(clients, client="buddy", refresh_token=None, refresh_token_expires_in=60).grant
    assert not grant.has_refresh_token
    assert grant.refresh_expires_at is None


def test_a_line_with_only_a_refresh_token_wants_an_access_token_at_once(clients: dict[str, Client]) -> None:
    grant = _read(clients, access_token=None, expires_in=3600).grant
    assert grant.access_expires_at == NOW


def test_a_client_credentials_line_needs_no_token_and_keeps_no_refresh_token(
    clients: dict[str, Client],
) -> None:
    line = _read(clients, client="app", access_token=None)
    assert line.pair == TokenPair(None)
    assert not line.grant.has_refresh_token


@pytest.mark.parametrize("name", ["expires", "refresh_token_expires"])
@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param("2023-11-15T00:00:00Z", 1_700_006_400_000, id="utc"),
        pytest.param("2023-11-15T01:00:00+01:00", 1_700_006_400_000, id="an-offset"),
        pytest.param("2023-11-15t00:00:00.250z", 1_700_006_400_250, id="a-fraction-in-lower-case"),
        pytest.param(1_700_006_400, 1_700_006_400_000, id="unix-seconds"),
        pytest.param(1_700_006_400.5, 1_700_006_400_500, id="unix-seconds-with-a-fraction"),
    ],
)
def test_an_absolute_end_is_rfc_3339_or_unix_seconds_and_wins_over_a_span(
    clients: dict[str, Client], name: str, at: object, expected: int
) -> None:
    grant = _read(clients, **{f"{name}_at": at, f"{name}_in": 5}).grant
    ends = {"expires": grant.access_expires_at, "refresh_token_expires": grant.refresh_expires_at}
    assert ends[name] == expected


def test_a_span_counts_from_the_issue_not_from_now(clients: dict[str, Client]) -> None:
    grant = _read(clients, expires_in=3600, issued_at="2023-11-14T21:13:20Z").grant
    assert grant.access_expires_at == NOW


def test_fields_that_are_not_ours_are_ignored(clients: dict[str, Client]) -> None:
    assert _read(clients, token_type="bearer", id_token={"x": 1}) == _read(clients)


def test_a_field_that_is_null_counts_as_left_out(clients: dict[str, Client]) -> None:
    nulls = dict.fromkeys(("expires_in", "expires_at", "scope", "labels", "status", "issued_at"))
    assert read_line(json.dumps({**LINE, **nulls}), clients, NOW) == _read(clients)


def test_a_line_in_bytes_with_a_byte_order_mark_is_read(clients: dict[str, Client]) -> None:
    text = b"\xef\xbb\xbf" + json.dumps(LINE).encode()
    assert read_line(text, clients, NOW) == _read(clients)


@pytest.mark.parametrize("status", list(Status))
def test_a_line_keeps_its_status_and_version(clients: dict[str, Client], status: Status) -> None:
    grant = _read(clients, status=status.value, version=9).grant
    assert (grant.status, grant.version) == (status, 9)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"id": None}, "id is missing", id="no-id"),
        pytest.param({"id": ""}, "id takes a string of 1 to 256 characters", id="empty-id"),
        pytest.param({"id": "x" * 257}, "id takes a string of 1 to 256 characters", id="long-id"),
        pytest.param({"id": "a\nb"}, "id takes printable characters", id="id-of-two-lines"),
        pytest.param({"id": 42}, "id takes a string of 1 to 256 characters", id="id-a-number"),
        pytest.param({"client": None}, "client is missing", id="no-client"),
        pytest.param(
            {"client": "github"},
            "client is not configured; known: app, buddy, oauth2, pagerduty",
            id="a-client-unknown",
        ),
        pytest.param({"access_token": None, "refresh_token": None}, "access_token is missing", id="no-token"),
        pytest.param(
            {"access_token": ""}, "access_token takes a string of 1 to 65536 characters", id="empty-token"
        ),
        pytest.param(
            {"refresh_token": ["r3fresh"]},
            "refresh_token takes a string of 1 to 65536 characters",
            id="token-a-list",
        ),
        pytest.param(
            {"refresh_token": "\ud800r3fresh"},
            "refresh_token takes a string of 1 to 65536 characters",
            id="token-that-cannot-be-sent",
        ),
        pytest.param({"expires_in": "3600"}, "expires_in takes a number of seconds", id="span-a-string"),
        pytest.param({"expires_in": True}, "expires_in takes a number of seconds", id="span-true"),
        pytest.param(
            {"expires_in": float("inf")}, "expires_in takes a number of seconds", id="span-infinite"
        ),
        pytest.param(
            {"expires_in": -1},
            "expires_in takes 0 to 315360000 seconds; leave it out for never",
            id="span-negative",
        ),
        pytest.param(
            {"refresh_token_expires_in": 10**400},
            "refresh_token_expires_in takes 0 to 315360000 seconds; leave it out for never",
            id="span-beyond-any-double",
        ),
        pytest.param({"expires_at": "soon"}, "expires_at takes RFC 3339 or Unix seconds", id="end-a-word"),
        pytest.param({"expires_at": [1]}, "expires_at takes RFC 3339 or Unix seconds", id="end-a-list"),
        pytest.param(
            {"expires_at": "2023-11-15T00:00:00"},
            "expires_at takes RFC 3339 with a time zone, such as 2026-11-22T08:00:00Z",
            id="end-without-a-zone",
        ),
        pytest.param(
            {"expires_at": 1_700_000_000_000},
            "expires_at takes a time from 2000 to 2100",
            id="end-in-milliseconds",
        ),
        pytest.param(
            {"expires_at": float("nan")}, "expires_at takes a time from 2000 to 2100", id="end-no-number"
        ),
        pytest.param({"issued_at": 10**400}, "issued_at takes a time from 2000 to 2100", id="issue-huge"),
        pytest.param(
            {"authorized_at": True}, "authorized_at takes RFC 3339 or Unix seconds", id="consent-true"
        ),
        pytest.param({"scope": 7}, "scope takes a string of 1 to 4096 characters", id="scope-a-number"),
        pytest.param({"status": "dead"}, "status takes active, failing, failed, paused", id="status-unknown"),
        pytest.param(
            {"status": ["active"]}, "status takes active, failing, failed, paused", id="status-a-list"
        ),
        pytest.param({"version": -1}, "version takes a whole number, 0 or more", id="version-negative"),
        pytest.param({"version": 1.5}, "version takes a whole number, 0 or more", id="version-a-fraction"),
        pytest.param({"labels": ["a"]}, "labels takes an object of at most 16 strings", id="labels-a-list"),
        pytest.param(
            {"labels": {"a": 1}}, "labels takes an object of at most 16 strings", id="label-a-number"
        ),
        pytest.param(
            {"labels": {str(n): "" for n in range(17)}},
            "labels takes an object of at most 16 strings",
            id="labels-too-many",
        ),
    ],
)
def test_a_bad_field_is_one_clause_that_says_what_it_takes(
    clients: dict[str, Client], changes: dict[str, object], problem: str
) -> None:
    assert _problem(clients, **changes) == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "is not JSON", id="empty"),
        pytest.param('{"access_token":"acc3ss"', "is not JSON", id="cut-off"),
        pytest.param(b"\xff\xfe\x80acc3ss", "is not JSON", id="broken-bytes"),
        pytest.param("[" * 100_000, "is not JSON", id="nested-too-deep"),
        pytest.param('"acc3ss"', "is JSON but no object", id="a-string"),
        pytest.param("[]", "is JSON but no object", id="a-list"),
    ],
)
def test_a_line_that_is_no_json_object_says_so_and_repeats_nothing(
    clients: dict[str, Client], text: str | bytes, problem: str
) -> None:
    with pytest.raises(LineError) as caught:
        read_line(text, clients, NOW)
    assert str(caught.value) == problem
    assert caught.value.__cause__ is None


def test_a_deployment_without_clients_says_that_none_is_configured() -> None:
    assert _problem({}) == "client is not configured; known: none is configured"


def test_a_line_does_not_show_its_tokens_in_its_repr(clients: dict[str, Client]) -> None:
    text = repr(_read(clients))
    assert "acc3ss" not in text
    assert "r3fresh" not in text


def test_an_export_line_has_absolute_times_and_leaves_out_what_is_not_known(grant: Grant) -> None:
    assert write_line(replace(grant, authorized_at=None), None) == {
        "id": "user-42/buddy",
        "client": "oauth2",
        "expires_at": "2023-11-14T23:13:20.000Z",
        "issued_at": "2023-11-14T22:13:20.000Z",
        "scope": "read",
        "labels": {"tenant": "acme"},
        "status": "active",
        "version": 3,
    }


def test_an_export_line_has_tokens_only_where_they_were_asked_for(grant: Grant, pair: TokenPair) -> None:
    assert "access-1" not in json.dumps(write_line(grant, None))
    line = write_line(grant, pair)
    assert (line["access_token"], line["refresh_token"]) == ("access-1", "refresh-1")


def test_an_export_line_is_an_import_line(clients: dict[str, Client], grant: Grant, pair: TokenPair) -> None:
    line = read_line(json.dumps(write_line(grant, pair)), clients, NOW + DAY_MS)
    assert line == Line(replace(grant, sealed=b""), pair)


def test_a_time_of_issue_that_is_still_to_come_counts_as_now(clients: dict[str, Client], now: int) -> None:
    line = {
        "id": "a",
        "client": "buddy",
        "access_token": "t",
        "expires_in": 60,
        "issued_at": now / 1000 + 3600,
    }

    grant = read_line(json.dumps(line), clients, now).grant

    assert (grant.issued_at, grant.access_expires_at) == (now, now + 60_000)
