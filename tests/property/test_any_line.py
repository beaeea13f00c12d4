"""Any import line is a grant or an error of one clause; what was exported goes in again."""

import json
from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st

from worker.adapters.credentials import ClientSecretPost
from worker.core.grant import Status
from worker.core.interchange import NO_TOKEN, Line, LineError, read_line, write_line
from worker.core.providers import BUDDY, OAUTH2, PAGERDUTY_SCOPED, Client, GrantType

NOW = 1_700_000_000_000
MARK = "t0kenMARK"
LATEST_MS = 4_102_444_800_000


def _client(name: str, grant_type: GrantType = GrantType.REFRESH_TOKEN) -> Client:
    provider = {"buddy": BUDDY, "pagerduty": PAGERDUTY_SCOPED}.get(name, OAUTH2)
    url = "https://id.example.com/token"
    return Client(name, provider, url, "id of ours", (ClientSecretPost("hunter2"),), grant_type=grant_type)


CLIENTS = {
    "buddy": _client("buddy"),
    "pagerduty": _client("pagerduty"),
    "oauth2": _client("oauth2"),
    "app": _client("app", GrantType.CLIENT_CREDENTIALS),
}
FIELDS = (
    "id",
    "client",
    "access_token",
    "refresh_token",
    "expires_in",
    "expires_at",
    "expires",
    "expiry_date",
    "expiresIn",
    "refresh_expires_in",
    "created_at",
    "token_type",
    "expires_at_is_assumed",
    "refresh_token_expires_in",
    "refresh_token_expires_at",
    "issued_at",
    "authorized_at",
    "scope",
    "labels",
    "status",
    "version",
    "anything",
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
# Numbers beyond any double, which JSON can hold and Python reads.
numbers = st.integers() | st.floats() | st.integers(300, 1_000).map(lambda digits: 10**digits)
any_fields = st.dictionaries(st.sampled_from(FIELDS), json_values | numbers)

seconds = st.floats(NOW / 1000 - 10**8, NOW / 1000 + 10**8)
zones = st.sampled_from(["Z", "+05:30", "-11:00"])
instants = (
    seconds | seconds.map(int) | st.builds("2026-11-{:02}T08:00:00{}".format, st.integers(1, 30), zones)
)
past_seconds = st.floats(NOW / 1000 - 10**8, NOW / 1000)
past = (
    past_seconds
    | past_seconds.map(int)
    | st.builds("2023-11-{:02}T08:00:00{}".format, st.integers(1, 13), zones)
)
spans = st.integers(0, 10**8) | st.floats(0, 10**8)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
tokens = texts.filter(lambda text: text.strip().lower() not in NO_TOKEN)
good_fields: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "id": texts.filter(str.isprintable),
        "client": st.sampled_from(sorted(CLIENTS)),
        "access_token": tokens,
    },
    optional={
        "refresh_token": tokens,
        "expires_in": spans | spans.map(int).map(str),
        "expires_at": instants | st.just("never"),
        "expiry": instants,
        "refresh_token_expires_in": spans,
        "refresh_token_expires_at": instants,
        "issued_at": past,
        "created_at": past,
        "token_type": st.just("bearer"),
        "authorized_at": past,
        "scope": texts,
        "labels": st.dictionaries(texts, texts, max_size=5),
        "status": st.sampled_from([status.value for status in Status]),
        "version": st.integers(0, 2**31 - 1),
    },
)


def _grant_or_clause(text: str | bytes) -> Line | LineError:
    try:
        return read_line(text, CLIENTS, NOW)
    except LineError as problem:
        return problem


def _check(text: str | bytes) -> None:
    """Any other exception than a `LineError` fails the test that asks."""
    found = _grant_or_clause(text)
    if isinstance(found, LineError):
        assert len(str(found).splitlines()) == 1


@given(st.text() | st.binary())
def test_any_text_is_a_grant_or_one_clause(text: str | bytes) -> None:
    _check(text)


@given(json_values)
def test_any_json_is_a_grant_or_one_clause(document: object) -> None:
    _check(json.dumps(document))


@given(any_fields)
def test_any_values_in_our_fields_are_a_grant_or_one_clause(fields: dict[str, Any]) -> None:
    _check(json.dumps(fields))


@example({"id": "user-42", "client": "buddy", "access_token": "a"}, "expires_in", 10**400)
@given(good_fields, st.sampled_from(FIELDS), json_values | numbers)
def test_a_good_line_with_any_one_field_changed_is_a_grant_or_one_clause(
    fields: dict[str, Any], name: str, value: object
) -> None:
    _check(json.dumps({**fields, name: value}))


@given(good_fields, st.dictionaries(st.sampled_from(FIELDS), st.just(MARK) | st.just([MARK]), min_size=1))
def test_no_clause_repeats_what_stood_on_the_line(fields: dict[str, Any], marked: dict[str, Any]) -> None:
    found = _grant_or_clause(json.dumps({**fields, **marked}))
    if isinstance(found, LineError):
        assert MARK not in str(found)
        assert found.__cause__ is None
    else:
        assert MARK not in repr(found.pair)


@given(good_fields)
def test_a_good_line_is_a_grant(fields: dict[str, Any]) -> None:
    line = read_line(json.dumps(fields), CLIENTS, NOW)
    assert line.grant.id == fields["id"]
    assert line.pair.access_token == fields["access_token"]
    assert line.grant.has_refresh_token == (line.pair.refresh_token is not None)


@given(good_fields, st.booleans())
def test_what_was_exported_goes_in_again_unchanged(
    fields: dict[str, Any],
    ascii_only: bool,  # noqa: FBT001 hypothesis draws it
) -> None:
    line = read_line(json.dumps(fields), CLIENTS, NOW)
    ends = (line.grant.access_expires_at or 0, line.grant.refresh_expires_at or 0)
    assume(max(ends) <= LATEST_MS)
    exported = json.dumps(write_line(line.grant, line.pair), ensure_ascii=ascii_only)
    again = read_line(exported, CLIENTS, NOW + 1)
    assert (again.grant, again.pair) == (line.grant, line.pair)
