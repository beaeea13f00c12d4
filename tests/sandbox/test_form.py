"""How a request at the token endpoint is read."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from worker.sandbox.form import ReceivedRequest, read_token_request

FORM = "application/x-www-form-urlencoded"


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_fields_and_credentials_come_from_the_body() -> None:
    body = b"grant_type=refresh_token&refresh_token=a%2Bb&client_id=id&client_secret=s"

    request = read_token_request({"content-type": FORM + "; charset=utf-8"}, body)

    assert replace(request, parameters={}) == ReceivedRequest("refresh_token", "a+b", "id", "s")
    assert request.parameters["refresh_token"] == ("a+b",)


def test_a_resource_may_be_named_more_than_once() -> None:
    request = read_token_request({"content-type": FORM}, b"grant_type=a&resource=b&resource=c")

    assert request.problem is None
    assert request.parameters["resource"] == ("b", "c")


def test_credentials_in_a_basic_header_are_read_as_they_are_and_decoded() -> None:
    headers = {"content-type": FORM, "authorization": basic("my%20id:a%3Ab")}

    request = read_token_request(headers, b"grant_type=client_credentials")

    assert request.basic == ("my%20id", "a%3Ab")
    assert request.basic_decoded == ("my id", "a:b")


def test_an_unreadable_basic_header_is_never_right() -> None:
    headers = {"content-type": FORM, "authorization": "Basic ???"}

    request = read_token_request(headers, b"grant_type=client_credentials")

    assert (request.basic_decoded, request.problem) == (("", ""), None)


@pytest.mark.parametrize(
    ("headers", "body", "problem"),
    [
        ({}, b"grant_type=refresh_token", f"the body must be {FORM}"),
        ({"content-type": "application/json"}, b"{}", f"the body must be {FORM}"),
        ({"content-type": FORM}, b"", "grant_type is missing"),
        ({"content-type": FORM}, b"grant_type=", "grant_type is missing"),
        ({"content-type": FORM}, b"\xff\xfe", "the body is not UTF-8 form data"),
        ({"content-type": FORM}, b"grant_type=%ff", "the body is not UTF-8 form data"),
        (
            {"content-type": FORM},
            b"grant_type=a&grant_type=a",
            "grant_type was sent more than once",
        ),
        (
            {"content-type": FORM, "authorization": basic("id:s")},
            b"grant_type=a&client_secret=s",
            "credentials were sent both in the header and in the body",
        ),
    ],
)
def test_what_breaks_the_form_rules_is_named(headers: dict[str, str], body: bytes, problem: str) -> None:
    assert read_token_request(headers, body).problem == problem
