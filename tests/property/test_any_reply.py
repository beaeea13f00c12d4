"""Any reply of a token endpoint is an Outcome, and nothing the server wrote is repeated."""

import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import get_args

from hypothesis import example, given
from hypothesis import strategies as st

from worker.core.outcomes import Outcome, Refreshed, Rejected, Unavailable
from worker.core.policy import RETRY_AFTER_CAP_MS, retry_after_ms
from worker.core.protocol import (
    CLIENT_REJECTED,
    MAX_LIFETIME_MS,
    TRANSIENT,
    Reply,
    read_reply,
)
from worker.core.providers import BUDDY, OAUTH2, PAGERDUTY_SCOPED, Provider

NOW = 1_700_000_000_000
MARK = "s3cr3tMARK"  # stands for whatever must not be repeated

statuses = st.sampled_from([200, 400, 401, 429, 500, 503]) | st.integers(100, 599)
providers = st.sampled_from([BUDDY, PAGERDUTY_SCOPED, OAUTH2])
codes = st.sampled_from(sorted({"invalid_grant"} | OAUTH2.rejected_codes | CLIENT_REJECTED | TRANSIENT))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    "access_token",
    "refresh_token",
    "expires_in",
    "refresh_token_expires_in",
    "scope",
    "error",
    "errors",
    "error_description",
)
documents = st.dictionaries(st.sampled_from(FIELDS), json_values | codes)
bodies = st.binary() | documents.map(lambda document: json.dumps(document).encode())
header_names = st.sampled_from(["retry-after", "ratelimit-reset", "x-rate-limit-reset", "content-type"])
dates = st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
headers = st.dictionaries(header_names, st.text() | st.integers().map(str) | dates)
marked = st.text(alphabet="abc \n", max_size=3).map(lambda around: around + MARK + around)


@given(statuses, headers, bodies, providers)
def test_any_reply_is_an_outcome(
    status: int, fields: dict[str, str], body: bytes, provider: Provider
) -> None:
    assert isinstance(read_reply(Reply(status, fields, body), provider, NOW), get_args(Outcome))


@example(200, {"access_token": MARK, "refresh_token": MARK}, {})
@example(200, {"access_token": MARK, "scope": MARK}, {})
@example(400, {"error": MARK}, {"retry-after": MARK})
@given(statuses, st.dictionaries(st.sampled_from(FIELDS), marked), st.dictionaries(header_names, marked))
def test_no_outcome_repeats_what_the_server_wrote(
    status: int, document: dict[str, str], fields: dict[str, str]
) -> None:
    reply = Reply(status, fields, json.dumps(document).encode())
    for provider in (BUDDY, PAGERDUTY_SCOPED, OAUTH2):
        assert MARK not in repr(read_reply(reply, provider, NOW))


@given(statuses, headers, documents)
def test_tokens_are_believed_only_in_a_2xx_without_errors(
    status: int, fields: dict[str, str], document: dict[str, object]
) -> None:
    outcome = read_reply(Reply(status, fields, json.dumps(document).encode()), BUDDY, NOW)
    if isinstance(outcome, Refreshed):
        assert 200 <= status < 300
        assert not document.get("errors")
        assert outcome.access_token == document["access_token"]
        assert outcome.refresh_token is None or outcome.refresh_token == document["refresh_token"]


@given(json_values, json_values)
def test_good_tokens_are_taken_with_lifetimes_that_are_positive_and_ten_years_at_most(
    access: object, refresh: object
) -> None:
    document = {"access_token": "access-2", "expires_in": access, "refresh_token_expires_in": refresh}
    outcome = read_reply(Reply(200, {}, json.dumps(document).encode()), OAUTH2, NOW)
    assert isinstance(outcome, Refreshed)
    assert (outcome.expires_in_ms is None) == (access is None)
    for lifetime_ms in (outcome.expires_in_ms, outcome.refresh_expires_in_ms):
        assert lifetime_ms is None or 0 < lifetime_ms <= MAX_LIFETIME_MS


@given(st.binary().map(lambda raw: raw.translate(None, b'"\\')))
def test_no_bytes_in_a_field_beside_good_tokens_cost_them(raw: bytes) -> None:
    body = b'{"access_token": "access-2", "refresh_token": "refresh-2", "user": "' + raw + b'"}'
    assert read_reply(Reply(200, {}, body), OAUTH2, NOW) == Refreshed(
        "access-2", "refresh-2", None, None, None
    )


@given(statuses, headers, bodies)
def test_a_grant_is_rejected_only_in_registered_words_or_by_an_ambiguous_401(
    status: int, fields: dict[str, str], body: bytes
) -> None:
    for provider in (BUDDY, PAGERDUTY_SCOPED, OAUTH2):
        outcome = read_reply(Reply(status, fields, body), provider, NOW)
        if isinstance(outcome, Rejected) and not outcome.ambiguous:
            assert outcome.code == "invalid_grant" or outcome.code in provider.rejected_codes
            assert outcome.code.encode() in body


@given(st.integers(0, 10**9 - 1))
def test_a_retry_after_in_seconds_is_respected_within_an_hour(seconds: int) -> None:
    outcome = read_reply(Reply(429, {"retry-after": str(seconds)}, b""), OAUTH2, NOW)
    assert outcome == Unavailable("http_429", seconds * 1000)
    assert retry_after_ms(seconds * 1000) == min(seconds * 1000, RETRY_AFTER_CAP_MS)


@given(st.integers(-(10**9), 10**9))
def test_a_retry_after_as_a_date_means_the_same_as_the_seconds_until_then(ahead_seconds: int) -> None:
    at = datetime.fromtimestamp(NOW // 1000 + ahead_seconds, UTC)
    date = format_datetime(at, usegmt=True)
    outcome = read_reply(Reply(429, {"retry-after": date}, b""), OAUTH2, NOW)
    assert outcome == Unavailable("http_429", max(ahead_seconds * 1000, 0))
