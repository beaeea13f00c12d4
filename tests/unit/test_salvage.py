"""Finding the tokens in a reply that the reader cannot read."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from worker.core.outcomes import NoLifetime, Refreshed
from worker.core.salvage import Directions, SalvageError, leaves_of, salvage

TOKENS = {"access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 3600}
ANSWER = Refreshed("access-2", "refresh-2", 3_600_000, None, None)
DEPTH = 30_000


def _salvage(body: object, **told: Any) -> Refreshed:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return salvage(raw, Directions(**told), "access-1")


def _shown(body: bytes) -> list[str]:
    return [leaf.shown() for leaf in leaves_of(body)]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json.dumps(TOKENS).encode(), id="plain"),
        pytest.param(b"[" * DEPTH + json.dumps(TOKENS).encode() + b"]" * DEPTH, id="nested-beyond-reading"),
        pytest.param(
            b'{"a":' * DEPTH + json.dumps(TOKENS).encode() + b"}" * DEPTH, id="objects-beyond-reading"
        ),
        pytest.param(b"[" * DEPTH + json.dumps(TOKENS).encode(), id="nested-and-never-closed"),
        pytest.param(json.dumps({"data": [{"tokens": TOKENS}]}).encode(), id="at-some-depth"),
        pytest.param(json.dumps(json.dumps(json.dumps(TOKENS))).encode(), id="json-in-json-text-twice"),
        pytest.param(json.dumps({"body": json.dumps(TOKENS)}).encode(), id="json-text-in-a-field"),
        pytest.param(json.dumps({"body": urlencode(TOKENS)}).encode(), id="a-form-in-a-field"),
        pytest.param(urlencode({"payload": "x", **TOKENS}).encode(), id="a-form"),
        pytest.param(urlencode({"access_token": json.dumps(TOKENS)}).encode(), id="json-in-a-form"),
        pytest.param(json.dumps(TOKENS).encode("utf-16"), id="utf-16"),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(TOKENS).encode(), id="a-byte-order-mark"),
        pytest.param(
            b'{"accessToken":"access-2","Refresh-Token":"refresh-2","expiresIn":"3600"}', id="other-spellings"
        ),
        pytest.param(json.dumps([TOKENS, {"copy": TOKENS}]).encode(), id="the-same-tokens-twice"),
        pytest.param(json.dumps(TOKENS).encode()[:-1] + b', "user": "cut o', id="cut-off-after-the-tokens"),
        pytest.param(json.dumps(TOKENS).encode()[:-1] + b', "user": "line\nbreak"}', id="a-raw-line-break"),
        pytest.param(json.dumps(TOKENS).encode()[:-1] + b', "user": "\xe9"}', id="latin-1"),
    ],
)
def test_one_access_token_and_one_refresh_token_are_found_wherever_they_are(body: bytes) -> None:
    assert _salvage(body) == ANSWER


def test_without_a_refresh_token_the_old_one_stays_and_without_a_lifetime_nobody_knows_it() -> None:
    assert _salvage({"access_token": "a"}) == Refreshed("a", None, NoLifetime.UNKNOWN, None, None)


def test_a_lifetime_counts_only_where_it_stands_beside_the_access_token() -> None:
    document = {"session": {"expires_in": 60}, "oauth": {"access_token": "a", "refresh_expires_in": 90}}
    assert _salvage(document) == Refreshed("a", None, NoLifetime.UNKNOWN, 90_000, None)


@pytest.mark.parametrize("lifetime", [0, -1, True, None, "soon", float("nan"), [], {}], ids=repr)
def test_a_lifetime_that_is_none_is_unknown(lifetime: object) -> None:
    assert _salvage({"access_token": "a", "expires_in": lifetime}).expires_in_ms is NoLifetime.UNKNOWN


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({}, "it has no access token by that name: say where it is with --access-token PATH"),
        ({"access_token": " "}, "it has no access token by that name"),
        ({"access_token": "\ud800"}, "it has no access token by that name"),
        ({"refresh_token": "r"}, "or take a refresh token alone with --refresh-token PATH"),
        (b"<html>Maintenance</html>", "it has no access token by that name"),
        (
            {"user": {"access_token": "a"}, "bot": {"access_token": "b"}},
            "more than one access token, at user.access_token, bot.access_token: choose one with",
        ),
        (
            b'{"access_token": "a", "access_token": "b"}',
            "more than one access token, at access_token, access_token",
        ),
        (
            [{"access_token": "a", "refresh_token": "r"}, {"refresh_token": "s"}],
            "more than one refresh token, at 0.refresh_token, 1.refresh_token",
        ),
    ],
)
def test_what_is_not_one_answer_is_refused_in_a_line_that_says_how_to_go_on(body: object, why: str) -> None:
    with pytest.raises(SalvageError) as caught:
        _salvage(body)
    assert why in str(caught.value)


def test_a_person_says_where_the_tokens_are_and_how_long_they_live() -> None:
    document = {"data": [{"token": "a", "renewal": "r"}, {"token": "b"}], "access_token": "c"}
    assert _salvage(
        document, access_token="data.0.token", refresh_token="data.0.renewal", expires_in_ms=5_000
    ) == Refreshed("a", "r", 5_000, None, None)


def test_a_path_leads_through_a_text_that_holds_a_document() -> None:
    assert _salvage({"body": json.dumps({"t": "a"})}, access_token="body.t").access_token == "a"


@pytest.mark.parametrize("path", ["data", "data.1.token", "data.0.token.x", "", "data.0.number"])
def test_a_path_that_leads_to_no_text_is_refused(path: str) -> None:
    with pytest.raises(SalvageError, match="--access-token: it has no text at"):
        _salvage({"data": [{"token": "a", "number": 5}]}, access_token=path)


def test_a_refresh_token_that_a_person_names_is_taken_alone_beside_an_access_token_at_its_end() -> None:
    answer = _salvage({"id_token": "x", "refresh_token": "r"}, refresh_token="refresh_token")
    assert answer == Refreshed("access-1", "r", 1, None, None)


# What is shown


def test_each_value_is_shown_by_its_place_type_and_length() -> None:
    document = {"ok": True, "data": [{"access_token": "secret-1234", "expires_in": 60, "x": None}]}
    assert sorted(_shown(json.dumps(document).encode())) == [
        "data.0.access_token: text, 11 characters",
        "data.0.expires_in: number",
        "data.0.x: null",
        "ok: true or false",
    ]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"secret-1234", id="bare"),
        pytest.param(b"secret1234==", id="bare-and-like-a-form"),
        pytest.param(b'"secret-1234"', id="a-json-text"),
        pytest.param(b'{"secret-1234": 1}', id="as-a-name"),
        pytest.param(b'{"a": {"secret1234abc": "x"}}', id="as-a-name-within"),
        pytest.param(b"access_token=secret-1234&secret-1234=", id="in-a-form"),
        pytest.param(b'{"access_token": "secret-1234', id="cut-off"),
        pytest.param(b"<token>secret-1234</token>", id="xml"),
    ],
)
def test_no_value_and_no_name_that_may_be_one_is_shown(body: bytes) -> None:
    assert "secret" not in "".join(_shown(body))


def test_of_a_place_that_is_very_deep_the_end_is_shown() -> None:
    body = b'{"a":' * DEPTH + b'{"token": "x"}' + b"}" * DEPTH
    assert _shown(body) == [f"({DEPTH - 5} levels).a.a.a.a.a.token: text, 1 characters"]
