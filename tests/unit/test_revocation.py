"""Revocation requests and replies (RFC 7009)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.grant import TokenPair
from worker.core.outcomes import Reply
from worker.core.providers import Client
from worker.core.revocation import (
    NotRevoked,
    Revocation,
    RevocationUnanswered,
    Revoked,
    read_revocation_reply,
    revocation_request,
)

URL = "https://as.test/revoke"


def _read(status: int, document: object = None) -> Revocation:
    body = b"" if document is None else json.dumps(document).encode()
    return read_revocation_reply(Reply(status, {}, body))


def test_the_refresh_token_is_sent_for_it_ends_the_whole_consent(oauth2: Client) -> None:
    request = revocation_request(URL, oauth2, TokenPair("a0", "r0"))

    assert request is not None
    assert (request.url, request.form) == (URL, {"token": "r0", "token_type_hint": "refresh_token"})
    assert "r0" not in repr(request)


def test_the_access_token_is_sent_where_there_is_no_other(oauth2: Client) -> None:
    request = revocation_request(URL, oauth2, TokenPair("a0"))

    assert request is not None
    assert request.form == {"token": "a0", "token_type_hint": "access_token"}


def test_where_nothing_was_issued_nothing_is_asked(oauth2: Client) -> None:
    assert revocation_request(URL, oauth2, TokenPair(None)) is None


@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("document", [None, {}, {"revoked": True}, {"errors": []}, "OK"])
def test_a_success_is_a_yes(status: int, document: object) -> None:
    assert _read(status, document) == Revoked()


@pytest.mark.parametrize("status", [200, 400, 401])
def test_a_token_that_the_server_calls_dead_is_as_good_as_revoked(status: int) -> None:
    assert _read(status, {"error": "invalid_token"}) == Revoked()


@pytest.mark.parametrize(
    ("status", "document", "refusal"),
    [
        (400, {"error": "unsupported_token_type"}, NotRevoked("unsupported_token_type")),
        (400, {"error": "invalid_request"}, NotRevoked("invalid_request")),
        (400, {"error": "s3cr3t"}, NotRevoked("http_400")),
        (401, {"error": "invalid_client"}, NotRevoked("invalid_client", of_client=True)),
        (403, {"error": "unauthorized_client"}, NotRevoked("unauthorized_client", of_client=True)),
        (401, {"errors": [{"message": "Wrong authentication data"}]}, NotRevoked("http_401", of_client=True)),
        (302, None, NotRevoked("http_302")),
        (404, None, NotRevoked("http_404")),
    ],
)
def test_a_refusal_is_no_yes_and_repeats_registered_codes_alone(
    status: int, document: object, refusal: NotRevoked
) -> None:
    assert _read(status, document) == refusal


@pytest.mark.parametrize("document", [{"errors": [{"message": "no"}]}, {"error": "server_error"}])
def test_a_success_that_speaks_of_an_error_is_no_yes(document: object) -> None:
    assert _read(200, document) == NotRevoked("http_200")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_server_that_is_away_has_not_answered(status: int) -> None:
    assert _read(status) == RevocationUnanswered(f"http_{status}")


@given(st.integers(100, 599), st.binary())
def test_any_bytes_give_an_answer_that_repeats_none_of_them(status: int, body: bytes) -> None:
    match read_revocation_reply(Reply(status, {}, body)):
        case Revoked():
            assert 200 <= status < 300 or b"invalid_token" in body
        case NotRevoked(code=said) | RevocationUnanswered(detail=said):
            assert said.startswith("http_") or said in body.decode()
