"""What a refresh no longer gives is told once, and stays to be seen."""

import json
from dataclasses import replace

import pytest

from worker.core import lifecycle
from worker.core.grant import Grant, TokenPair
from worker.core.interchange import LineError, read_line
from worker.core.lifecycle import Change
from worker.core.outcomes import Refreshed, Reply
from worker.core.policy import Rules
from worker.core.protocol import read_reply
from worker.core.providers import BUDDY, Client, GrantType

NOW = 1_700_000_000_000


def _answer(scope: str | None, audience: tuple[str, ...] | None = None) -> Refreshed:
    return Refreshed("access-2", "refresh-2", 3_600_000, None, scope, audience)


def _succeed(grant: Grant, client: Client, answer: Refreshed) -> Change:
    pair = TokenPair("access-1", "refresh-1")
    return lifecycle.succeed(
        grant, pair, answer, client, Rules(), sealed=b"", attempt=7, sent_at=NOW, now=NOW
    )


def _told(successor: Change) -> object:
    assert successor.event is not None
    return successor.event.data.get("narrowed")


def test_a_scope_that_a_refresh_no_longer_gives_is_told_once_and_kept(grant: Grant, oauth2: Client) -> None:
    grant = replace(grant, scope="read write admin")

    first = _succeed(grant, oauth2, _answer("read"))
    second = _succeed(first.grant, oauth2, _answer("read"))

    assert _told(first) == ["admin", "write"]
    assert _told(second) is None
    assert second.grant.narrowed == "admin write"


def test_a_scope_that_is_within_another_that_was_given_is_not_missing(grant: Grant, oauth2: Client) -> None:
    buddy = replace(oauth2, provider=BUDDY)
    grant = replace(grant, scope="EXECUTION_RUN EXECUTION_INFO WORKSPACE")

    assert _succeed(grant, buddy, _answer("EXECUTION_MANAGE")).grant.narrowed == "WORKSPACE"


def test_a_scope_that_is_given_again_is_missing_no_more(grant: Grant, oauth2: Client) -> None:
    narrowed = _succeed(replace(grant, scope="read write"), oauth2, _answer("read"))

    again = _succeed(narrowed.grant, oauth2, _answer("write read"))

    assert again.grant.narrowed is None


@pytest.mark.parametrize("scope", [None, "read write", "write read more", "read,write"])
def test_a_reply_that_gives_all_or_is_silent_narrows_nothing(
    grant: Grant, oauth2: Client, scope: str | None
) -> None:
    successor = _succeed(replace(grant, scope="read write"), oauth2, _answer(scope))

    assert _told(successor) is None
    assert successor.grant.narrowed is None


def test_a_client_that_asks_for_less_is_told_of_what_it_asked_for_alone(grant: Grant, oauth2: Client) -> None:
    client = replace(oauth2, parameters=(("scope", "read list"),))
    grant = replace(grant, scope="read list write")

    assert _told(_succeed(grant, client, _answer("read list"))) is None
    assert _told(_succeed(grant, client, _answer("read"))) == ["list"]


def test_scopes_that_were_asked_for_and_never_given_are_told_where_nothing_is_known_before(
    grant: Grant, oauth2: Client
) -> None:
    unknown = replace(grant, scope=None)
    by_parameter = replace(oauth2, parameters=(("scope", "read write"),))
    by_scopes = replace(oauth2, grant_type=GrantType.CLIENT_CREDENTIALS, scopes=("read", "write"))

    for client in (by_parameter, by_scopes):
        first = _succeed(unknown, client, _answer("read"))
        assert _told(first) == ["write"]
        assert _told(_succeed(first.grant, client, _answer("read"))) is None


def test_an_audience_that_the_reply_leaves_out_is_told_once(grant: Grant, oauth2: Client) -> None:
    asked = (("resource", "https://a.test"), ("resource", "https://b.test"), ("audience", "c"))
    client = replace(oauth2, parameters=asked)

    first = _succeed(grant, client, _answer(None, ("https://a.test", "c")))
    second = _succeed(first.grant, client, _answer(None, ("https://a.test", "c")))

    assert (_told(first), _told(second)) == (["https://b.test"], None)
    assert second.grant.narrowed == "https://b.test"


@pytest.mark.parametrize(
    ("body", "audience"),
    [
        (b'{"access_token": "a", "resource": "https://a.test"}', ("https://a.test",)),
        (b'{"access_token": "a", "audience": ["b", "c"]}', ("b", "c")),
        (b'{"access_token": "a", "audience": {"a": 1}}', None),
        (b'{"access_token": "a", "audience": [7, "two words\\n"]}', None),
        (b'{"access_token": "a"}', None),
    ],
)
def test_a_reply_names_the_audience_by_either_word(
    oauth2: Client, body: bytes, audience: tuple[str, ...] | None
) -> None:
    outcome = read_reply(Reply(200, {}, body), oauth2, NOW)

    assert isinstance(outcome, Refreshed)
    assert outcome.audience == audience


def test_tokens_that_need_a_proof_are_kept_and_named(grant: Grant, oauth2: Client) -> None:
    body = b'{"access_token": "a", "refresh_token": "r", "token_type": "DPoP"}'
    outcome = read_reply(Reply(200, {}, body), oauth2, NOW)
    assert isinstance(outcome, Refreshed)

    successor = _succeed(grant, oauth2, outcome)

    assert successor.event is not None
    assert successor.event.data["token_type"] == "DPoP"
    assert successor.grant.token_type == "DPoP"
    assert (outcome.access_token, outcome.refresh_token) == ("a", "r")


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "bot", "JWT", None, 7])
def test_any_other_type_is_used_as_bearer(oauth2: Client, token_type: object) -> None:
    body = json.dumps({"access_token": "a", "token_type": token_type}).encode()
    outcome = read_reply(Reply(200, {}, body), oauth2, NOW)

    assert isinstance(outcome, Refreshed)
    assert outcome.token_type is None


@pytest.mark.parametrize("token_type", ["DPoP", "dpop", "mac", "PoP", "N_A"])
def test_a_line_with_tokens_that_need_a_proof_is_refused(oauth2: Client, token_type: str) -> None:
    line = f'{{"id": "one", "client": "oauth2", "access_token": "a", "token_type": "{token_type}"}}'

    with pytest.raises(LineError, match="token_type takes Bearer"):
        read_line(line, {"oauth2": oauth2}, NOW)
