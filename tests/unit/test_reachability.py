"""The harmless question to a token endpoint, and what replies say of its URL."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.outcomes import Reply
from worker.core.providers import Client
from worker.core.reachability import Reach, harmless_request, read_reach

URL = "https://as.test/oauth2/token"


def _read(status: int, document: object = None, location: str = "") -> Reach:
    body = b"<h1>hello</h1>" if document is None else json.dumps(document).encode()
    return read_reach(Reply(status, {"location": location} if location else {}, body), URL).reach


def test_the_question_names_no_client_no_token_and_no_secret(oauth2: Client) -> None:
    request = harmless_request(oauth2)

    assert request.form == {"grant_type": "evergrant_doctor"}
    assert "authorization" not in {name.lower() for name in request.headers}


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (400, {"error": "unsupported_grant_type"}),
        (400, {"error": "invalid_request", "error_description": "client_id is missing"}),
        (401, {"error": "invalid_client"}),
        (401, {"errors": [{"message": "Wrong authentication data"}]}),
        (200, {"error": "bad_client_id"}),  # some say so with a success
        (404, {"error": "invalid_client"}),
    ],
)
def test_an_error_in_the_words_of_a_token_endpoint_is_one(status: int, document: object) -> None:
    assert _read(status, document) is Reach.ANSWERS


@pytest.mark.parametrize(
    ("status", "document", "reach"),
    [
        (404, None, Reach.NOT_FOUND),
        (404, {"status": 404, "error": "Not Found"}, Reach.NOT_FOUND),
        (404, {"error": "not_found"}, Reach.NOT_FOUND),
        (410, None, Reach.NOT_FOUND),
        (405, None, Reach.NO_POST),
        (403, None, Reach.FORBIDS),
        (429, None, Reach.THROTTLES),
        (500, {"error": "server_error"}, Reach.FAILS),
        (502, None, Reach.FAILS),
        (200, None, Reach.ANSWERS_OTHERWISE),
        (400, None, Reach.ANSWERS_OTHERWISE),
        (400, {"message": "no"}, Reach.ANSWERS_OTHERWISE),
    ],
)
def test_anything_else_says_what_may_be_wrong_with_the_url(
    status: int, document: object, reach: Reach
) -> None:
    assert _read(status, document) is reach


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    ("location", "reach"),
    [
        ("/oauth2/token/", Reach.REDIRECTS_TO_SLASH),
        ("https://as.test/oauth2/token/", Reach.REDIRECTS_TO_SLASH),
        ("https://elsewhere.test/oauth2/token/", Reach.REDIRECTS),
        ("/login", Reach.REDIRECTS),
        ("https://[", Reach.REDIRECTS),
        ("", Reach.REDIRECTS),
    ],
)
def test_a_redirect_is_told_and_so_is_the_slash_that_it_adds(
    status: int, location: str, reach: Reach
) -> None:
    assert _read(status, location=location) is reach


@given(st.integers(100, 599), st.binary(), st.text())
def test_any_reply_can_be_read(status: int, body: bytes, location: str) -> None:
    assert read_reach(Reply(status, {"location": location}, body), URL).status == status
