"""Import lines and export lines."""

import json
from dataclasses import replace
from typing import Any

import pytest

from worker.core.grant import ENDLESS_MS, Grant, Status, TokenPair, lineage_of
from worker.core.interchange import Line, LineError, read_line, write_line
from worker.core.lifetimes import SOON_MS
from worker.core.outcomes import NoLifetime
from worker.core.providers import DAY_MS, MINUTE_MS, Client

NOW = 1_700_000_000_000
HOUR_MS = 60 * MINUTE_MS
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
        stated_life_ms=28_800_000,
    )


def test_a_line_without_an_end_ends_so_soon_that_a_refresh_tells(clients: dict[str, Client]) -> None:
    line = _read(clients)
    ends = (line.grant.access_expires_at, line.grant.refresh_expires_at)
    assert (line.grant.issued_at, ends) == (NOW, (NOW + SOON_MS, None))
    assert line.grant.stated_life_ms is None
    assert not line.states_end


@pytest.mark.parametrize(
    ("changes", "ends_at"),
    [
        pytest.param({"client": "buddy"}, None, id="buddy-s-old-applications-never"),
        pytest.param({"client": "pagerduty"}, NOW + SOON_MS, id="a-known-life-of-unknown-age"),
        pytest.param(
            {"client": "pagerduty", "issued_at": NOW // 1000 - 3600}, NOW + 23 * HOUR_MS, id="documented"
        ),
        pytest.param({"refresh_token": None}, None, id="nothing-could-be-learnt"),
        pytest.param({"client": "app", "refresh_token": None}, NOW + SOON_MS, id="client-credentials"),
    ],
)
def test_where_a_line_states_no_end_the_provider_s_page_counts(
    clients: dict[str, Client], changes: dict[str, object], ends_at: int | None
) -> None:
    line = _read(clients, **changes)
    assert line.grant.access_expires_at == ends_at
    assert line.grant.stated_life_ms is None
    assert not line.states_end


@pytest.mark.parametrize(
    ("setting", "ends_at"), [(NoLifetime.NEVER, None), (2 * HOUR_MS, NOW + HOUR_MS)], ids=["never", "hours"]
)
def test_where_a_line_states_no_end_the_client_s_setting_wins_over_the_provider_s_page(
    clients: dict[str, Client], setting: int | NoLifetime, ends_at: int | None
) -> None:
    told = {"pagerduty": replace(clients["pagerduty"], access_lifetime_ms=setting)}
    line = _read(told, client="pagerduty", issued_at=NOW // 1000 - 3600)
    assert line.grant.access_expires_at == ends_at


def test_never_means_never_and_is_remembered(clients: dict[str, Client]) -> None:
    line = _read(clients, expires_at="never")
    assert (line.grant.access_expires_at, line.grant.stated_life_ms) == (None, ENDLESS_MS)
    assert line.states_end
    assert write_line(line.grant, line.pair)["expires_at"] == "never"


@pytest.mark.parametrize(
    ("field", "life_ms"),
    [
        pytest.param({"expires_in": "3600"}, HOUR_MS, id="a-number-as-text"),
        pytest.param({"expires_in": NOW // 1000 + 3600}, HOUR_MS, id="a-unix-time-as-a-span"),
        pytest.param({"expires_in": "2023-11-14T23:13:20Z"}, HOUR_MS, id="a-date-as-a-span"),
        pytest.param({"expiresIn": 3600}, HOUR_MS, id="camel-case"),
        pytest.param({"expiresAt": "2023-11-14T23:13:20Z"}, HOUR_MS, id="a-moment-in-camel-case"),
        pytest.param({"expires": NOW // 1000 + 3600}, HOUR_MS, id="expires"),
        pytest.param({"expires": 3600}, HOUR_MS, id="expires-as-a-span"),
        pytest.param({"expires_on": str(NOW // 1000 + 3600)}, HOUR_MS, id="expires-on"),
        pytest.param({"expiry": "2023-11-14T23:13:20.123456789Z"}, HOUR_MS + 123, id="expiry"),
        pytest.param({"expiry": "Tue, 14 Nov 2023 23:13:20 GMT"}, HOUR_MS, id="an-http-date"),
        pytest.param({"expiry_date": NOW + HOUR_MS}, HOUR_MS, id="expiry-date-in-milliseconds"),
    ],
)
def test_an_end_in_any_of_the_usual_words_is_read(
    clients: dict[str, Client], field: dict[str, object], life_ms: int
) -> None:
    line = _read(clients, **field)
    assert line.grant.access_expires_at == NOW + life_ms
    assert line.grant.stated_life_ms == life_ms
    assert line.states_end


@pytest.mark.parametrize("seconds", [0, -1, "-3600"])
def test_a_life_of_nothing_is_over_and_not_remembered(clients: dict[str, Client], seconds: object) -> None:
    line = _read(clients, expires_in=seconds)
    assert (line.grant.access_expires_at, line.grant.stated_life_ms) == (NOW, None)
    assert line.states_end


def test_an_end_without_an_issue_says_little_of_a_token_s_life_if_itis_near(
    clients: dict[str, Client],
) -> None:
    assert _read(clients, expires_at=NOW // 1000 + 89).grant.stated_life_ms is None
    assert _read(clients, expires_at=NOW // 1000 + 90).grant.stated_life_ms == 90_000
    told = _read(clients, expires_at=NOW // 1000 + 89, issued_at=NOW // 1000 - 1).grant
    assert told.stated_life_ms == 90_000


def test_beside_an_end_a_span_says_how_long_the_token_lives(clients: dict[str, Client]) -> None:
    grant = _read(clients, expires_at=NOW // 1000 + 60, expires_in=3600).grant
    assert (grant.access_expires_at, grant.stated_life_ms) == (NOW + MINUTE_MS, HOUR_MS)


@pytest.mark.parametrize("name", ["refresh_expires_in", "x_refresh_token_expires_in", "refreshExpiresIn"])
def test_a_refresh_token_s_life_in_other_words_is_read(clients: dict[str, Client], name: str) -> None:
    assert _read(clients, **{name: 3600}).grant.refresh_expires_at == NOW + HOUR_MS


@pytest.mark.parametrize("name", ["refresh_token_expires_in", "refresh_expires_in"])
def test_a_refresh_token_s_life_of_zero_means_that_none_is_stated(
    clients: dict[str, Client], name: str
) -> None:
    assert _read(clients, **{name: 0}).grant.refresh_expires_at is None
    assert _read(clients, client="buddy", **{name: 0}).grant.refresh_expires_at == NOW + 183 * DAY_MS


def test_a_time_of_creation_is_the_issue_where_no_issue_stands(clients: dict[str, Client]) -> None:
    created = str(NOW - HOUR_MS)
    assert _read(clients, created_at=created, expires_in=7200).grant.access_expires_at == NOW + HOUR_MS
    both = _read(clients, created_at=created, issued_at=NOW // 1000, expires_in=7200).grant
    assert both.access_expires_at == NOW + 2 * HOUR_MS


def test_a_list_of_scopes_is_joined(clients: dict[str, Client]) -> None:
    assert _read(clients, scope=["read", "write"]).grant.scope == "read write"


def test_a_number_of_too_many_digits_costs_only_its_field(clients: dict[str, Client]) -> None:
    text = json.dumps({**LINE, "version": 3, "expires_in": 60})[:-1] + ', "nonce": ' + "9" * 10_000 + "}"
    assert read_line(text, clients, NOW).grant == _read(clients, version=3, expires_in=60).grant


def test_an_assumed_end_is_exported_as_such_and_goes_in_again_as_such(clients: dict[str, Client]) -> None:
    line = _read(clients)
    exported = write_line(line.grant, line.pair)
    assert exported["expires_at_is_assumed"] is True
    assert read_line(json.dumps(exported), clients, NOW + 1) == line


def test_a_life_that_does_not_follow_from_the_end_is_exported(clients: dict[str, Client]) -> None:
    soon = replace(_read(clients, expires_in=3600).grant, access_expires_at=NOW + SOON_MS)
    exported = write_line(soon, TokenPair("acc3ss", "r3fresh"))
    assert exported["expires_in"] == 3600
    assert read_line(json.dumps(exported), clients, NOW + 1).grant == soon


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
        *(
            pytest.param(
                {name: nothing},
                f"{name} is missing: a blank or a word for nothing stands there; or leave it out",
                id=f"{name}-{nothing!r}",
            )
            for name in ("access_token", "refresh_token")
            for nothing in ("", " ", "null", "undefined", "None")
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
        *(
            pytest.param(
                {name: nonsense},
                f"{name} takes seconds, RFC 3339 or Unix seconds, from 2000 to 2100",
                id=f"{name}-{str(nonsense)[:9]}",
            )
            for name in (
                *("expires_in", "expires_at", "expires", "expires_on", "expiry", "expiry_date"),
                *("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"),
                *("refresh_token_expires_at", "refresh_expires_at"),
            )
            for nonsense in (True, float("inf"), float("nan"), "soon", [1], 10**400, "9" * 10_000, 10**11)
        ),
        pytest.param(
            {"refresh_token_expires_at": "never"},
            "refresh_token_expires_at takes seconds, RFC 3339 or Unix seconds, from 2000 to 2100",
            id="never-of-a-refresh-token",
        ),
        pytest.param(
            {"expires_at": 0},
            "expires_at takes seconds, RFC 3339 or Unix seconds, from 2000 to 2100",
            id="a-moment-that-was-never-filled-in",
        ),
        pytest.param(
            {"expires_at": "2023-11-15T00:00:00"},
            "expires_at takes RFC 3339 with a time zone, such as 2026-11-22T08:00:00Z",
            id="end-without-a-zone",
        ),
        pytest.param(
            {"issued_at": 10**400},
            "issued_at takes RFC 3339 or Unix seconds, from 2000 to 2100",
            id="issue-huge",
        ),
        pytest.param(
            {"created_at": 60},
            "created_at takes RFC 3339 or Unix seconds, from 2000 to 2100",
            id="creation-a-span",
        ),
        pytest.param(
            {"authorized_at": True},
            "authorized_at takes RFC 3339 or Unix seconds, from 2000 to 2100",
            id="consent-true",
        ),
        *(
            pytest.param(
                {"token_type": kind},
                "token_type takes Bearer; tokens that are bound to a key, such as DPoP's, cannot be used",
                id=f"token-type-{kind}",
            )
            for kind in ("DPoP", "mac", 7)
        ),
        pytest.param(
            {"scope": ["read", 7]}, "scope takes a string of 1 to 4096 characters", id="scopes-and-a-number"
        ),
        pytest.param({"scope": []}, "scope takes a string of 1 to 4096 characters", id="no-scopes"),
        pytest.param(
            {"expires_at_is_assumed": "yes"},
            "expires_at_is_assumed takes true or false",
            id="assumed-a-word",
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
    assert line == Line(replace(grant, sealed=b""), pair, states_end=True)


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
