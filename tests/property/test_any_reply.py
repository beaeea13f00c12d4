"""Any reply of a token endpoint is an Outcome; no token that came is lost, and nothing secret is repeated."""

import base64
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.adapters.broken_http import read_broken
from worker.adapters.credentials import ClientSecretPost
from worker.core.lifetimes import MAX_LIFETIME_MS
from worker.core.outcomes import (
    THROTTLED,
    NoLifetime,
    Outcome,
    Refreshed,
    Rejected,
    Reply,
    Unavailable,
    Unread,
)
from worker.core.policy import RETRY_AFTER_CAP_MS, retry_after_ms
from worker.core.protocol import read_reply, refresh_request
from worker.core.providers import BUDDY, OAUTH2, PAGERDUTY_SCOPED, Client
from worker.core.refusals import CLIENT_REJECTED, DEAD_TOKEN, TRANSIENT

NOW = 1_700_000_000_000
MARK = "s3cr3tMARK"  # the refresh token that was sent

CLIENTS = [
    Client("acme", each, "https://id.example.com/token", "id of ours", (ClientSecretPost("hunter2"),))
    for each in (BUDDY, PAGERDUTY_SCOPED, OAUTH2)
]
ANY = CLIENTS[-1]
SENT = ANY.credentials[0].authenticate(refresh_request(ANY, MARK), ANY.client_id, 0)

statuses = st.sampled_from([200, 400, 401, 429, 500, 503]) | st.integers(100, 599)
clients = st.sampled_from(CLIENTS)
codes = st.sampled_from(
    sorted({"invalid_grant"} | OAUTH2.rejected_codes | CLIENT_REJECTED | TRANSIENT | THROTTLED)
)
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
    "retry_after",
    "scope",
    "token_type",
    "error",
    "errors",
    "error_description",
)
documents = st.dictionaries(st.sampled_from(FIELDS), json_values | codes)
bodies = st.binary() | documents.map(lambda document: json.dumps(document).encode())
header_names = st.sampled_from(
    ["retry-after", "x-retry-after", "ratelimit", "ratelimit-reset", "x-rate-limit-reset", "content-type"]
)
dates = st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
headers = st.dictionaries(header_names, st.text() | st.integers().map(str) | dates)
marked = st.text(alphabet="abc \n", max_size=3).map(lambda around: around + MARK + around)


@given(statuses, headers, bodies, clients)
def test_any_reply_is_an_outcome(status: int, fields: dict[str, str], body: bytes, client: Client) -> None:
    for is_whole in (True, False):
        reply = Reply(status, fields, body, is_whole=is_whole)
        assert isinstance(read_reply(reply, client, NOW), get_args(Outcome))


@given(st.binary())
def test_any_bytes_on_the_wire_are_a_reply(raw: bytes) -> None:
    for head in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        came = read_broken(head + raw)
        assert 100 <= came.status <= 999


@example(200, {"access_token": MARK, "refresh_token": MARK}, {})
@example(200, {"access_token": MARK, "scope": MARK}, {})
@example(200, {"access_token": "access-2", "token_type": MARK + "\n"}, {})
@example(400, {"error": MARK}, {"retry-after": MARK})
@given(statuses, st.dictionaries(st.sampled_from(FIELDS), marked), st.dictionaries(header_names, marked))
def test_no_outcome_repeats_the_token_that_was_sent(
    status: int, document: dict[str, str], fields: dict[str, str]
) -> None:
    document = {**document, "token_type": "x"} if MARK in document.get("token_type", "") else document
    reply = Reply(status, fields, json.dumps(document).encode())
    for client in CLIENTS:
        assert MARK not in repr(read_reply(reply, client, NOW, SENT))


@given(statuses, headers, documents)
def test_tokens_are_believed_only_in_a_2xx_and_of_buddy_without_errors(
    status: int, fields: dict[str, str], document: dict[str, object]
) -> None:
    outcome = read_reply(Reply(status, fields, json.dumps(document).encode()), CLIENTS[0], NOW)
    if isinstance(outcome, Refreshed):
        assert 200 <= status < 300
        assert not document.get("errors")
        for token in (outcome.access_token, outcome.refresh_token):
            assert token is None or token in json.dumps(document, ensure_ascii=False)


@given(json_values, json_values)
def test_good_tokens_are_taken_with_lifetimes_from_zero_to_ten_years(access: object, refresh: object) -> None:
    document = {"access_token": "access-2", "expires_in": access, "refresh_token_expires_in": refresh}
    outcome = read_reply(Reply(200, {}, json.dumps(document).encode()), ANY, NOW)
    assert isinstance(outcome, Refreshed)
    assert access is not None or outcome.expires_in_ms is NoLifetime.UNKNOWN
    for lifetime_ms in (outcome.expires_in_ms, outcome.refresh_expires_in_ms):
        assert not isinstance(lifetime_ms, int) or 0 <= lifetime_ms <= MAX_LIFETIME_MS
    assert outcome.refresh_expires_in_ms != 0


@given(st.binary().map(lambda raw: raw.translate(None, b'"\\')))
def test_no_bytes_in_a_field_beside_good_tokens_cost_them(raw: bytes) -> None:
    body = b'{"access_token": "access-2", "refresh_token": "refresh-2", "user": "' + raw + b'"}'
    assert read_reply(Reply(200, {}, body), ANY, NOW) == Refreshed(
        "access-2", "refresh-2", NoLifetime.UNKNOWN, None, None
    )


@given(statuses, headers, bodies)
def test_a_grant_is_rejected_only_in_registered_words_or_by_an_ambiguous_401(
    status: int, fields: dict[str, str], body: bytes
) -> None:
    for client in CLIENTS:
        outcome = read_reply(Reply(status, fields, body), client, NOW)
        if isinstance(outcome, Rejected) and not outcome.ambiguous:
            words = {"invalid_grant", DEAD_TOKEN} | client.provider.rejected_codes
            assert outcome.code in words
            assert re.search(rb"[a-z]", body, re.IGNORECASE)


@given(st.integers(0, 10**9 - 1))
def test_a_retry_after_in_seconds_is_respected_within_an_hour(seconds: int) -> None:
    outcome = read_reply(Reply(429, {"retry-after": str(seconds)}, b""), ANY, NOW)
    assert outcome == Unavailable("http_429", seconds * 1000)
    assert retry_after_ms(seconds * 1000) == min(seconds * 1000, RETRY_AFTER_CAP_MS)


@given(st.integers(-(10**9), 10**9))
def test_a_retry_after_as_a_date_means_the_same_as_the_seconds_until_then(ahead_seconds: int) -> None:
    at = datetime.fromtimestamp(NOW // 1000 + ahead_seconds, UTC)
    date = format_datetime(at, usegmt=True)
    outcome = read_reply(Reply(429, {"retry-after": date}, b""), ANY, NOW)
    assert outcome == Unavailable("http_429", max(ahead_seconds * 1000, 0))


# Good replies in any dress, then spoiled: what is read is what was issued, and what is not read is kept


@pytest.mark.parametrize("replies", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_tokens_are_found_in_any_dress_and_never_taken_for_others(replies: int) -> None:
    """Seeded, so that a failure can be run again: its message has the seed and the body."""
    seed = int(os.environ.get("SEED", "20231114"))
    for number in range(replies):
        chance = random.Random(seed + number)  # noqa: S311 it makes up replies
        body, is_spoiled = _made_up(chance)
        outcome = read_reply(Reply(200, {}, body, is_whole=not is_spoiled), ANY, NOW, SENT)
        said = f"SEED={seed + number}: {body!r} is {outcome!r}"
        match outcome:
            case Refreshed():
                assert (outcome.access_token, outcome.refresh_token) == (ACCESS, REFRESH), said
            case Unread(reply=reply):
                assert is_spoiled, said
                assert reply.body == body, said
            case _:
                raise AssertionError(said)


@pytest.mark.parametrize("replies", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_spoiled_case_is_read_as_it_was_or_not_at_all(replies: int) -> None:
    """Where bytes of a real reply are lost, doubled or changed, no other token is made up."""
    seed = int(os.environ.get("SEED", "20231114"))
    cases = list(_bodies_of_cases())
    for number in range(replies):
        chance = random.Random(seed + number)  # noqa: S311 it spoils replies
        status, body, tokens = chance.choice(cases)
        spoiled = chance.choice(SPOILERS)(chance, body)
        outcome = read_reply(Reply(status, {}, spoiled), ANY, NOW, SENT)
        said = f"SEED={seed + number}: {spoiled!r} is {outcome!r}"
        assert isinstance(outcome, get_args(Outcome)), said
        if isinstance(outcome, Refreshed):
            given_out = {outcome.access_token, outcome.refresh_token} - {None}
            assert all(_is_in(token, spoiled) for token in given_out if token), said
            assert not tokens or outcome.access_token.strip(), said


ACCESS, REFRESH = "at-+/=~2f81c0", "rt-.e5b0_77d1"
PLAIN = {"access_token": ACCESS, "refresh_token": REFRESH, "expires_in": 3600, "token_type": "Bearer"}


def _made_up(chance: random.Random) -> tuple[bytes, bool]:
    """A reply with the one pair, dressed up a few times, perhaps spoiled; and whether it is."""
    fields = list(_named(chance, {**PLAIN, **_beside(chance)}).items())
    chance.shuffle(fields)
    text = json.dumps(dict(fields), ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.1:
        text = urlencode(dict(fields))
    else:
        for _ in range(chance.randrange(4)):
            text = chance.choice(WRAPPERS)(text)
        text = chance.choice(SURROUNDINGS)(text)
    body = text.encode(chance.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"]), "surrogatepass")
    if chance.random() < 0.4:
        return body, False
    return chance.choice(HARD_SPOILERS)(chance, body), True


STYLES: list[Callable[[str], str]] = [
    str,
    str,
    str.upper,
    str.title,
    lambda name: name.replace("_", "-"),
    lambda name: re.sub("_(.)", _up, name),
]


def _named(chance: random.Random, fields: dict[str, Any]) -> dict[str, Any]:
    style = chance.choice(STYLES)
    return {style(name): value for name, value in fields.items()}


def _up(found: re.Match[str]) -> str:
    return found[1].upper()


def _beside(chance: random.Random) -> dict[str, Any]:
    values: list[Any] = [
        None,
        True,
        7,
        1e300,
        "",
        "é ü",
        "\u2028",
        'a "quoted" \\ text',
        {"b": [1, {}]},
        [],
        "x=1&y=2",
        "{",
        "[",
    ]
    return {name: chance.choice(values) for name in chance.sample(["user", "scope", "id", "meta"], 2)}


WRAPPERS: list[Callable[[str], str]] = [
    lambda text: f'{{"data": {text}}}',
    lambda text: f'{{"code": 0, "message": "OK", "result": {text}, "errors": null}}',
    lambda text: f"[{text}]",
    lambda text: f'{{"statusCode": 200, "body": {json.dumps(text)}}}',
]
SURROUNDINGS: list[Callable[[str], str]] = [
    str,
    str,
    json.dumps,
    lambda text: f" \r\n{text}\n\0",
    lambda text: f"<br />\n<b>Warning</b>: a 'b' {{main}} [0] in <b>/srv/x.php</b><br />\n{text}",
    lambda text: f"{text}\n<!-- 0.3 s -->",
    lambda text: f"callback({text});",
    lambda text: f")]}}',\n{text}",
]


def _cut(chance: random.Random, body: bytes) -> bytes:
    return body[: chance.randrange(len(body))] if body else body


def _without(chance: random.Random, body: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] + body[at + chance.randint(1, 9) :]


def _changed(chance: random.Random, body: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]


def _added(chance: random.Random, body: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    return (
        body[:at] + chance.choice([b'"', b"{", b"}", b",", b"\0", b"\n", b"\\", b"\xff", b"null"]) + body[at:]
    )


def _doubled(chance: random.Random, body: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[: at + chance.randrange(40)] + body[at:]


SPOILERS = [_cut, _without, _changed, _added, _doubled]
# A cut leaves each token whole or shows that it is not; other damage may make another token that looks good.
HARD_SPOILERS = [_cut]


def _bodies_of_cases() -> Iterator[tuple[int, bytes, bool]]:
    file = Path(__file__).parents[1] / "integration" / "token_replies.jsonl"
    for case in map(json.loads, file.read_text().splitlines()):
        reply = case["reply"]
        if "body" in reply:
            yield reply["status"], reply["body"].encode(), case["right"]["outcome"] == "refreshed"
        elif "body_base64" in reply:
            yield reply["status"], base64.b64decode(reply["body_base64"]), False


def _is_in(token: str, body: bytes) -> bool:
    """Whether every letter and digit of a token came in the body, in this order, quoted or not."""
    for encoding in ("utf-8", "utf-16", "utf-16-be", "utf-16-le"):
        text = body.decode(encoding, "ignore").replace("\\", "")
        if any(
            re.sub(r"\W", "", token) in re.sub(noise, "", text) for noise in (r"\W", r"%[0-9A-Fa-f]{2}|\W")
        ):
            return True
    return False
