"""The token request as RFC 6749 has it, and what each reply of a token endpoint means."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from worker.adapters.credentials import ClientSecretBasic, ClientSecretPost
from worker.core.outcomes import (
    ClientRejected,
    NoLifetime,
    Outcome,
    Refreshed,
    Rejected,
    Reply,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.ports import ClientCredentials
from worker.core.protocol import client_credentials_request, read_reply, refresh_request
from worker.core.providers import BUDDY, DAY_MS, OAUTH2, PAGERDUTY_SCOPED, Client, Provider

NOW = 1_700_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
TOKENS: dict[str, Any] = {"access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 3600}
WRONG_DATA = {"errors": [{"message": "Wrong authentication data"}]}


def _reply(status: int, document: object = None, **headers: str) -> Reply:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def _at(provider: Provider) -> Client:
    return Client(
        "acme", provider, "https://id.example.com/token", "id of ours", (ClientSecretPost("hunter2"),)
    )


def _read(status: int, document: object = None, **headers: str) -> Outcome:
    return read_reply(_reply(status, document, **headers), _at(OAUTH2), NOW)


def _answer(**changes: object) -> Refreshed:
    """Read an answer; a field that is changed to `None` is left out."""
    document = {name: value for name, value in {**TOKENS, **changes}.items() if value is not None}
    outcome = _read(200, document)
    assert isinstance(outcome, Refreshed)
    return outcome


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine five hours behind UTC."""
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# The request


def test_a_refresh_sends_the_token_and_no_scope(buddy: Client) -> None:
    request = refresh_request(replace(buddy, scopes=("WORKSPACE",)), "refresh-1")
    assert request.url == "https://api.buddy.works/oauth2/token"
    assert request.form == {"grant_type": "refresh_token", "refresh_token": "refresh-1"}


def test_a_request_holds_nothing_that_authenticates_the_client(oauth2: Client, app: Client) -> None:
    for request in (refresh_request(oauth2, "refresh-1"), client_credentials_request(app)):
        assert "Authorization" not in request.headers
        assert not {"client_id", "client_secret"} & request.form.keys()


def test_a_client_credentials_request_divides_scopes_by_spaces(app: Client) -> None:
    form = client_credentials_request(app).form
    assert form["grant_type"] == "client_credentials"
    assert form["scope"] == "as_account-us.acme incidents.read"
    assert "refresh_token" not in form


def test_a_client_credentials_request_can_be_made_once_more_without_scope(app: Client) -> None:
    assert "scope" not in client_credentials_request(app, with_scope=False).form


def test_a_client_without_scopes_asks_for_none(oauth2: Client) -> None:
    assert "scope" not in client_credentials_request(oauth2).form


def test_the_repr_of_a_request_shows_no_token(oauth2: Client) -> None:
    text = repr(refresh_request(oauth2, "refresh-1"))
    assert text == "TokenRequest(url='https://id.example.com/token')"


def test_the_repr_of_a_reply_shows_only_its_status() -> None:
    assert repr(_reply(200, TOKENS, retry_after="5")) == "Reply(status=200)"


# Tokens came


def test_tokens_in_a_200_are_a_refreshed_outcome() -> None:
    assert _read(200, TOKENS) == Refreshed(
        access_token="access-2",
        refresh_token="refresh-2",
        expires_in_ms=3_600_000,
        refresh_expires_in_ms=None,
        scope=None,
    )


def test_tokens_in_a_201_are_a_refreshed_outcome_too() -> None:
    assert isinstance(_read(201, TOKENS), Refreshed)


def test_an_answer_without_a_refresh_token_says_that_the_old_one_stays_good() -> None:
    assert _answer(refresh_token=None).refresh_token is None


@pytest.mark.parametrize("provider", [OAUTH2, BUDDY], ids=lambda provider: provider.name)
def test_an_answer_without_expires_in_says_nothing_of_its_token_s_life(provider: Provider) -> None:
    answer = read_reply(Reply(200, {}, b'{"access_token": "access-2"}'), _at(provider), NOW)
    assert isinstance(answer, Refreshed)
    assert answer.expires_in_ms is NoLifetime.UNKNOWN


def test_an_answer_without_scope_says_that_the_scope_is_unchanged() -> None:
    assert _answer().scope is None


def test_fields_of_an_answer_that_nobody_knows_are_ignored() -> None:
    assert _answer(token_type="bearer", id_token="x", expires="soon", ext=[1]) == _answer()


@pytest.mark.parametrize(
    ("stated", "lifetime_ms"),
    [
        pytest.param(28800, 28_800_000, id="a-number"),
        pytest.param("28800", 28_800_000, id="a-string-holding-one"),
        pytest.param(1.5, 1_500, id="a-fraction"),
        pytest.param(0.0001, 1, id="less-than-a-millisecond"),
        pytest.param(900_000_000, 3650 * DAY_MS, id="ten-years-at-most"),
        pytest.param(0, 0, id="zero"),
        pytest.param(-5, 0, id="negative-counts-as-zero"),
        pytest.param(10**400, NoLifetime.UNKNOWN, id="beyond-any-double-is-nonsense"),
        pytest.param("1e999", NoLifetime.UNKNOWN, id="infinity-in-a-string-is-nonsense"),
        pytest.param(True, NoLifetime.UNKNOWN, id="true-is-nonsense"),
        pytest.param("soon", NoLifetime.UNKNOWN, id="a-word-is-nonsense"),
        pytest.param("never", NoLifetime.UNKNOWN, id="so-is-never-which-no-server-documents"),
        pytest.param("nan", NoLifetime.UNKNOWN, id="no-number-is-nonsense"),
        pytest.param([3600], NoLifetime.UNKNOWN, id="a-list-is-nonsense"),
    ],
)
def test_good_tokens_are_never_thrown_away_for_a_flaw_in_their_lifetime(
    stated: object, lifetime_ms: int | NoLifetime
) -> None:
    assert _answer(expires_in=stated).expires_in_ms == lifetime_ms


@pytest.mark.parametrize(
    ("stated", "lifetime_ms"),
    [
        pytest.param(15811201, 15_811_201_000, id="a-number"),
        pytest.param("86400", 86_400_000, id="a-string-holding-one"),
        pytest.param(0, None, id="zero"),
        pytest.param(False, None, id="false"),
        pytest.param("", None, id="empty"),
        pytest.param({}, None, id="an-object"),
    ],
)
def test_a_refresh_lifetime_that_cannot_be_believed_counts_as_not_stated(
    stated: object, lifetime_ms: int | None
) -> None:
    assert _answer(refresh_token_expires_in=stated).refresh_expires_in_ms == lifetime_ms


@pytest.mark.parametrize(
    ("stated", "scope"),
    [
        pytest.param("openid write", "openid write", id="text"),
        pytest.param("", None, id="empty"),
        pytest.param("a\nb", None, id="two-lines"),
        pytest.param(["a"], None, id="a-list"),
        pytest.param("a" * 4_097, None, id="too-long"),
    ],
)
def test_a_scope_is_taken_as_it_is_or_not_at_all(stated: object, scope: str | None) -> None:
    assert _answer(scope=stated).scope == scope


@pytest.mark.parametrize(
    "token",
    ["", " ", "\n", "null", "NULL", "undefined", "None", "nil", "***", "\ud800", 0, False, [], {}],
    ids=repr,
)
def test_what_stands_for_no_token_is_none_and_takes_no_living_ones_place(token: object) -> None:
    assert _answer(refresh_token=token).refresh_token is None
    assert isinstance(_read(200, {**TOKENS, "access_token": token}), Unread)


@pytest.mark.parametrize("token", [7, {"value": "r"}, ["r", "s"], "r\ns", "r\0s", "r\ud800"], ids=repr)
def test_a_refresh_token_that_cannot_be_read_is_not_taken_for_none(token: object) -> None:
    reply = _reply(200, {**TOKENS, "refresh_token": token})
    assert read_reply(reply, _at(OAUTH2), NOW) == Unread("http_200_unreadable_refresh_token", reply)


def test_blanks_around_a_token_are_no_part_of_it() -> None:
    assert _answer(refresh_token=" refresh-2\r\n").refresh_token == "refresh-2"


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", " BEARER", "", 7, ["DPoP"]])
def test_a_bearer_token_and_one_whose_type_is_not_said_are_alike(token_type: object) -> None:
    assert _answer(token_type=token_type).token_type is None


def test_another_type_of_token_is_named_and_its_tokens_are_kept() -> None:
    assert _answer(token_type="DPoP") == replace(_answer(), token_type="DPoP")
    assert _answer(token_type="<refresh-2>").token_type is None


@pytest.mark.parametrize(
    "flaw",
    [
        pytest.param(b'"user": "Jos\xe9"', id="latin-1"),
        pytest.param(b'"user": "Jo\ns\x00\t"', id="raw-control-characters"),
        pytest.param(b'"user": "Jo\ns\xe9", "scope": "\xff"', id="both"),
        pytest.param(b'"id": ' + b"9" * 5_000, id="a-number-too-long"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["bare", "after-a-byte-order-mark"])
def test_good_tokens_are_never_thrown_away_for_a_field_beside_them_that_is_no_json(
    flaw: bytes, mark: bytes
) -> None:
    body = mark + json.dumps(TOKENS).encode()[:-1] + b", " + flaw + b"}"
    assert _read(200, body) == _answer()


def test_a_lifetime_of_too_many_digits_says_nothing_of_the_token_s_life() -> None:
    body = b'{"access_token": "access-2", "expires_in": ' + b"9" * 5_000 + b"}"
    outcome = _read(200, body)
    assert isinstance(outcome, Refreshed)
    assert outcome.expires_in_ms is NoLifetime.UNKNOWN


def test_a_token_of_bytes_that_are_no_text_is_not_taken_for_what_stands_for_them_is_not_what_was_sent() -> (
    None
):
    for body in (
        b'{"access_token": "access-2", "refresh_token": "refresh-\xe9"}',
        b'{"access_token": "access-\xe9"}',
    ):
        assert isinstance(_read(200, body), Unread)


def test_an_error_code_is_read_whatever_is_wrong_with_its_description() -> None:
    body = b'{"error": "invalid_grant", "error_description": "Abgelaufen f\xfcr\nimmer"}'
    assert _read(400, body) == Rejected("invalid_grant")


def test_the_repr_of_an_answer_shows_neither_token() -> None:
    text = repr(_answer())
    assert "access-2" not in text
    assert "refresh-2" not in text


def test_the_repr_of_an_answer_shows_no_scope_for_a_server_may_write_anything_there() -> None:
    assert "refresh-2" not in repr(_answer(scope="refresh-2"))


@pytest.mark.parametrize(
    "dress",
    [
        pytest.param("%s", id="bare"),
        pytest.param('{"code": 0, "data": %s, "message": "OK"}', id="wrapped"),
        pytest.param("[%s]", id="in-a-list"),
        pytest.param("<b>Warning</b>: {main}\n%s", id="behind-a-warning"),
    ],
)
def test_a_reply_that_breaks_off_anywhere_is_read_exactly_where_both_tokens_came(dress: str) -> None:
    body = (dress % json.dumps({"expires_in": 3600, **TOKENS, "scope": "a"})).encode()
    both_at = body.index(b"refresh-2") + len(b'refresh-2"')
    for end in range(1, len(body)):
        outcome = _read(200, body[:end])
        if end < both_at:
            assert isinstance(outcome, Unread), body[:end]
        else:
            assert isinstance(outcome, Refreshed), body[:end]
            assert (outcome.access_token, outcome.refresh_token) == ("access-2", "refresh-2")


def test_a_number_that_may_have_had_more_digits_is_not_believed() -> None:
    whole = b'{"access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 3600'
    for body, lifetime in ((whole[:-2], NoLifetime.UNKNOWN), (whole + b",", 3_600_000)):
        outcome = _read(200, body)
        assert isinstance(outcome, Refreshed)
        assert outcome.expires_in_ms == lifetime


def test_a_client_credentials_reply_that_breaks_off_needs_no_refresh_token(app: Client) -> None:
    reply = _reply(200, b'{"access_token": "access-2", "expires')
    assert isinstance(read_reply(reply, app, NOW), Refreshed)
    assert isinstance(read_reply(reply, _at(OAUTH2), NOW), Unread)


def test_of_two_pairs_in_a_reply_none_is_taken() -> None:
    other = {**TOKENS, "access_token": "access-3"}
    for document in ([TOKENS, other], {"a": TOKENS, "b": other}, {"a": [other], "b": {"c": TOKENS}}):
        assert isinstance(_read(200, document), Unread)


def test_a_pair_where_the_standard_has_it_is_taken_whatever_other_pairs_the_reply_holds() -> None:
    linked = [{"access_token": f"access-{number}", "refresh_token": "r"} for number in (7, 8)]
    assert _answer(linked=linked) == _answer()


def test_one_name_with_two_tokens_is_ambiguous_and_with_one_is_not() -> None:
    start = b'{"refresh_token": "refresh-2", "expires_in": 3600, "access_token": "access-2"'
    assert isinstance(_read(200, start + b', "access_token": "access-3"}'), Unread)
    for again in (b'"access-2"', b"null", b'""'):
        assert _read(200, start + b', "access_token": ' + again + b"}") == _answer()


@pytest.mark.parametrize(
    "body",
    [
        b'{"access_token": ' * 60_000,
        b'[{"' * 300_000,
        b"{" * 1_000_000,
        b'{"a": 1} ' * 100_000,
        b"access_token=x&" * 60_000,
        b"access_token=" + b"x&" * 60_000 + b" ",
        b'"' + b"\\" * 1_000_000,
    ],
    ids=lambda body: body[:12].decode(),
)
def test_a_hostile_reply_is_given_up_before_long(body: bytes) -> None:
    began = time.process_time()
    _read(200, body)
    assert time.process_time() - began < 5.0


# The table of providers.md, row by row


def test_invalid_grant_rejects_the_grant() -> None:
    assert _read(400, {"error": "invalid_grant"}) == Rejected("invalid_grant")


@pytest.mark.parametrize("status", [400, 401])
def test_invalid_client_rejects_the_client_and_says_nothing_of_the_grant(status: int) -> None:
    assert _read(status, {"error": "invalid_client"}) == ClientRejected("invalid_client")


@pytest.mark.parametrize("code", ["unauthorized_client", "unsupported_grant_type"])
def test_a_settings_fault_of_the_client_rejects_the_client_and_keeps_the_grant(code: str) -> None:
    assert _read(400, {"error": code}) == ClientRejected(code)


def test_invalid_request_may_be_said_of_a_dead_token_or_of_the_client_s_settings() -> None:
    assert _read(400, {"error": "invalid_request"}) == Rejected("invalid_request", ambiguous=True)


def test_invalid_scope_is_a_settings_fault_of_the_client() -> None:
    assert _read(400, {"error": "invalid_scope"}) == ClientRejected("invalid_scope")


@pytest.mark.parametrize(
    "code", ["bad_refresh_token", "invalid_refresh_token", "token_expired", "token_revoked"]
)
def test_what_github_and_slack_say_of_a_dead_refresh_token_in_a_200_rejects_the_grant(code: str) -> None:
    assert _read(200, {"error": code}) == Rejected(code)


def test_a_provider_with_another_word_for_a_dead_refresh_token_is_a_line_of_data() -> None:
    odd = replace(OAUTH2, rejected_codes=frozenset({"grant_gone"}))
    reply = _reply(400, {"error": "grant_gone"})
    assert read_reply(reply, _at(odd), NOW) == Rejected("grant_gone")
    assert read_reply(reply, _at(OAUTH2), NOW) == Unavailable("grant_gone", refused=True)


def test_a_429_with_retry_after_in_seconds_waits_that_long() -> None:
    assert _read(429, None, retry_after="120") == Unavailable("http_429", 120_000)


@pytest.mark.parametrize(
    "date",
    [
        pytest.param("Tue, 14 Nov 2023 22:14:20 GMT", id="imf-fixdate"),
        pytest.param("Tuesday, 14-Nov-23 22:14:20 GMT", id="rfc-850"),
        pytest.param("Tue Nov 14 22:14:20 2023", id="asctime"),
    ],
)
@pytest.mark.usefixtures("new_york")
def test_a_429_with_retry_after_as_any_http_date_waits_until_then_whatever_the_machine_s_time_zone(
    date: str,
) -> None:
    assert _read(429, None, retry_after=date) == Unavailable("http_429", 60_000)


def test_a_retry_after_that_has_passed_asks_for_no_wait() -> None:
    outcome = _read(429, None, retry_after="Tue, 14 Nov 2023 22:00:00 GMT")
    assert outcome == Unavailable("http_429", 0)


@pytest.mark.parametrize("value", ["soon", "-5", "1.5.2", "Tue, 99 Nov 2023 99:99:99 GMT", "", "9" * 40])
def test_a_retry_after_that_is_neither_seconds_nor_a_date_counts_as_none(value: str) -> None:
    assert _read(429, None, retry_after=value) == Unavailable("http_429", None)


def test_a_pagerduty_429_waits_for_the_seconds_of_its_reset_header() -> None:
    outcome = read_reply(_reply(429, None, ratelimit_reset="17"), _at(PAGERDUTY_SCOPED), NOW)
    assert outcome == Unavailable("http_429", 17_000)


def test_a_pagerduty_429_without_headers_and_body_leaves_the_wait_to_the_backoff() -> None:
    assert read_reply(_reply(429, b""), _at(PAGERDUTY_SCOPED), NOW) == Unavailable("http_429", None)


def test_a_buddy_429_waits_until_the_unix_second_of_its_reset_header() -> None:
    reset_at = str(NOW // 1000 + 30)
    outcome = read_reply(_reply(429, None, x_rate_limit_reset=reset_at), _at(BUDDY), NOW)
    assert outcome == Unavailable("http_429", 30_000)


def test_a_429_prefers_retry_after_to_the_reset_header() -> None:
    outcome = _read(429, None, retry_after="5", ratelimit_reset="60")
    assert outcome == Unavailable("http_429", 5_000)


def test_a_429_throttles_even_if_its_body_says_otherwise() -> None:
    assert _read(429, {"error": "invalid_grant"}) == Unavailable("http_429", None)


@pytest.mark.parametrize("stated", ["30", "30.0", str(NOW // 1000 + 30), str(NOW + 30_000)])
@pytest.mark.parametrize(
    "header", ["ratelimit_reset", "x_rate_limit_reset", "x_ratelimit_reset", "x_ratelimit_reset_after"]
)
def test_a_reset_header_counts_from_now_or_in_unix_seconds_or_milliseconds(header: str, stated: str) -> None:
    assert _read(429, None, **{header: stated}) == Unavailable("http_429", 30_000)


@pytest.mark.parametrize(
    "document",
    [
        {"retry_after": 6.5},
        {"retry_after": "6.5"},
        {"retryAfter": 6.5},
        {"error": {"retry_after": 6.5}},
        {"retry_after_ms": 6500},
        {"retry_after": NOW / 1000 + 6.5},
    ],
    ids=str,
)
def test_a_wait_may_stand_in_the_body(document: object) -> None:
    assert _read(429, document) == Unavailable("http_429", 6_500)
    assert _read(403, document) == Unavailable("http_403", 6_500)
    assert _read(500, document) == Unavailable("http_500", 6_500, may_have_acted=True)


def test_a_header_that_asks_for_a_wait_goes_before_the_body() -> None:
    assert _read(429, {"retry_after": 60}, x_retry_after="2") == Unavailable("http_429", 2_000)


def test_a_provider_with_another_reset_header_is_a_line_of_data() -> None:
    odd = replace(OAUTH2, reset_headers=("x-come-back-at",))
    reply = _reply(429, None, x_come_back_at=str(NOW // 1000 + 7), ratelimit_reset="60")
    assert read_reply(reply, _at(odd), NOW) == Unavailable("http_429", 7_000)


def test_reset_headers_of_replies_other_than_a_429_ask_for_nothing() -> None:
    reset_at = str(NOW // 1000 + 30)
    outcome = _read(400, {"error": "temporarily_unavailable"}, x_rate_limit_reset=reset_at)
    assert outcome == Unavailable("temporarily_unavailable", None)


def test_a_408_is_transient_and_certainly_not_acted_on() -> None:
    assert _read(408, None, retry_after="1") == Unavailable("http_408", 1_000)


@pytest.mark.parametrize("code", ["temporarily_unavailable", "server_error", "slow_down"])
def test_a_transient_error_code_is_unavailable_with_the_wait_that_was_asked_for(code: str) -> None:
    assert _read(400, {"error": code}, retry_after="9") == Unavailable(code, 9_000)


@pytest.mark.parametrize("status", [500, 502, 504, 520])
def test_after_a_5xx_the_server_may_have_rotated_all_the_same_so_the_outcome_is_unknown(status: int) -> None:
    assert _read(status, b"<html>Bad Gateway</html>") == Unknown(f"http_{status}")


@pytest.mark.parametrize("status", [500, 503])
def test_a_5xx_that_names_invalid_grant_rejects_the_grant(status: int) -> None:
    assert _read(status, {"error": "invalid_grant"}) == Rejected("invalid_grant")


def test_a_5xx_that_names_invalid_request_says_nothing_of_the_grant() -> None:
    assert _read(500, {"error": "invalid_request"}) == Unknown("http_500")


@pytest.mark.parametrize("status", [302, 400, 401, 500, 503])
def test_tokens_with_another_status_than_a_2xx_are_kept_for_it_cannot_be_told_whether_they_live(
    status: int,
) -> None:
    reply = _reply(status, TOKENS)
    assert read_reply(reply, _at(OAUTH2), NOW) == Unread(f"http_{status}_with_token", reply)


def test_a_500_with_retry_after_is_waited_for_and_may_have_been_acted_on() -> None:
    assert _read(500, None, retry_after="3") == Unavailable("http_500", 3_000, may_have_acted=True)


def test_a_503_waits_as_long_as_was_asked_and_may_have_rotated_all_the_same() -> None:
    outcome = _read(503, None, retry_after="30")
    assert outcome == Unavailable("http_503", 30_000, may_have_acted=True)


def test_a_5xx_that_says_temporarily_unavailable_throttles_and_may_have_rotated() -> None:
    outcome = _read(500, {"error": "temporarily_unavailable"})
    assert outcome == Unavailable("http_500", may_have_acted=True)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        pytest.param(b"", "http_200_empty", id="empty"),
        pytest.param(b" \r\n", "http_200_empty", id="blank"),
        pytest.param(b"<html>", "http_200_not_json", id="html"),
        pytest.param(b'{"access_token":"acc', "http_200_cut_off", id="cut-off"),
        pytest.param(b"[1]", "http_200_not_json", id="a-list"),
        pytest.param(b"null", "http_200_not_json", id="null"),
        pytest.param(b"\xff\xfe\x00", "http_200_not_json", id="broken-bytes"),
        pytest.param(b"[" * 60_000, "http_200_cut_off", id="nested-too-deep"),
        pytest.param(b"{}", "http_200_without_token", id="nothing"),
        pytest.param(b'{"refresh_token": "refresh-2"}', "http_200_without_token", id="only-a-refresh-token"),
        pytest.param(b'{"access_token": 7}', "http_200_without_token", id="a-number"),
        pytest.param(b'{"error": {"message": "?"}}', "http_200_without_token", id="an-error-without-code"),
    ],
)
def test_a_200_without_tokens_that_can_be_read_is_kept_as_it_came(body: bytes, detail: str) -> None:
    reply = _reply(200, body)
    assert read_reply(reply, _at(OAUTH2), NOW) == Unread(detail, reply)


def test_a_204_is_kept_too() -> None:
    assert isinstance(_read(204, b""), Unread)


@pytest.mark.parametrize("status", [403, 404, 405, 413, 418])
def test_a_4xx_that_says_nothing_is_a_refusal_that_leaves_the_grant_be(status: int) -> None:
    assert _read(status, b"<html>") == Unavailable(f"http_{status}", refused=True)


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_no_outage(status: int) -> None:
    assert _read(status, b"<html>") == ClientRejected(f"redirect_{status}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_wrong_url_in_the_clients_settings_and_no_outage(status: int) -> None:
    assert _read(status, b"<html>") == ClientRejected(f"redirect_{status}")


def test_a_bare_401_rejects_the_client() -> None:
    assert _read(401, b"") == ClientRejected("http_401")


# A server's own words


@pytest.mark.parametrize(
    "document",
    [
        {"error": "INVALID_GRANT"},
        {"error": " invalid_grant\n"},
        {"error": "invalidGrant"},
        {"error": "InvalidGrantException"},
        {"error": "invalid_grant: token expired"},
        {"type": "urn:ietf:params:oauth:error:invalid_grant"},
        {"status": 400, "message": "Invalid grant."},
        {"errorCode": "invalid_grant"},
        {"code": "invalid_grant"},
        {"error": {"type": "invalid_grant"}},
        {"errors": [{"code": "invalid_grant"}]},
        {"errors": ["invalid_grant"]},
        [{"error": "invalid_grant"}],
        {"body": '{"error": "invalid_grant"}'},
        {"error": "invalid_request", "suberror": "invalid_grant"},
        b"error=invalid_grant&error_description=gone",
        b"invalid_grant",
        b"<h1>Error</h1> invalid_grant",
    ],
    ids=repr,
)
def test_invalid_grant_is_read_wherever_and_however_a_server_writes_it(document: object) -> None:
    assert _read(400, document) == Rejected("invalid_grant")


@pytest.mark.parametrize(
    "sentence",
    ["The refresh_token is invalid.", "Unknown or invalid refresh token", "The refresh token has expired"],
)
@pytest.mark.parametrize("code", ["invalid_request", "unauthorized_client", "access_denied"])
def test_a_sentence_about_the_refresh_token_weighs_more_than_a_word_that_may_mean_anything(
    code: str, sentence: str
) -> None:
    outcome = _read(400, {"error": code, "error_description": sentence})
    assert outcome == Rejected("invalid_refresh_token")


def test_a_sentence_that_asks_for_a_refresh_token_does_not_reject_the_one_that_was_sent() -> None:
    document = {"error": "invalid_request", "error_description": "Invalid request: refresh_token is required"}
    assert _read(400, document) == Rejected("invalid_request", ambiguous=True)


def test_a_text_that_names_two_codes_names_none() -> None:
    text = b"<p>One of invalid_grant and invalid_client"
    assert _read(400, text) == Unavailable("http_400", refused=True)


def test_a_code_that_nobody_knows_is_named_and_leaves_the_grant_be() -> None:
    assert _read(400, {"error": "E-42.gone"}) == Unavailable("E-42.gone", refused=True)
    assert _read(400, {"error": "E-42.gone"}, retry_after="2") == Unavailable("E-42.gone", 2_000)


@pytest.mark.parametrize(
    "code",
    ["refresh-1 is unknown", "x" * 41, "<b>", "refresh-1", "fresh-", "xx-refresh-1-xx", "hunter2", "caf\xe9"],
)
@pytest.mark.parametrize("credentials", [ClientSecretPost("hunter2"), ClientSecretBasic("hunter2")])
def test_a_code_that_may_be_a_part_of_a_secret_is_never_repeated(
    code: str, credentials: ClientCredentials
) -> None:
    client = replace(_at(OAUTH2), credentials=(credentials,))
    sent = credentials.authenticate(refresh_request(client, "refresh-1"), client.client_id, NOW)
    outcome = read_reply(_reply(400, {"error": code}), client, NOW, sent)
    assert outcome == Unavailable("unrecognized_error_code", refused=True)


# Where Buddy is odd


def test_a_buddy_401_with_wrong_authentication_data_may_mean_the_grant_or_the_client() -> None:
    assert read_reply(_reply(401, WRONG_DATA), _at(BUDDY), NOW) == Rejected("http_401", ambiguous=True)


def test_a_buddy_400_with_wrong_authentication_data_may_mean_the_grant_or_the_client_too() -> None:
    outcome = read_reply(_reply(400, WRONG_DATA), _at(BUDDY), NOW)
    assert isinstance(outcome, Rejected)
    assert outcome.ambiguous


def test_a_buddy_401_with_an_rfc_6749_code_means_what_the_code_says() -> None:
    assert read_reply(_reply(401, {"error": "invalid_client"}), _at(BUDDY), NOW) == ClientRejected(
        "invalid_client"
    )
    assert read_reply(_reply(401, {"error": "invalid_grant"}), _at(BUDDY), NOW) == Rejected("invalid_grant")


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        pytest.param(WRONG_DATA, "http_200_without_token", id="alone"),
        pytest.param({**TOKENS, **WRONG_DATA}, "http_200_with_errors", id="beside-tokens"),
    ],
)
def test_a_buddy_200_with_errors_is_kept_as_it_came_and_its_tokens_are_not_taken(
    document: object, detail: str
) -> None:
    reply = _reply(200, document)
    assert read_reply(reply, _at(BUDDY), NOW) == Unread(detail, reply)


def test_errors_beside_tokens_cost_them_only_where_the_provider_means_it_so() -> None:
    assert _read(200, {**TOKENS, "errors": [{"message": "scope x was dropped"}]}) == _answer()


def test_a_buddy_200_with_an_empty_list_of_errors_is_an_answer() -> None:
    assert isinstance(read_reply(_reply(200, {**TOKENS, "errors": []}), _at(BUDDY), NOW), Refreshed)


def test_a_buddy_404_or_403_with_errors_never_fails_the_grant() -> None:
    for status in (403, 404):
        reply = _reply(status, {"errors": [{"message": "Not here"}]})
        assert read_reply(reply, _at(BUDDY), NOW) == Unavailable(f"http_{status}", refused=True)
