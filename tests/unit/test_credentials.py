"""Each way in which a client proves to a token endpoint who it is."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
from pydantic import SecretStr

from config.settings import ClientSettings
from worker.adapters.credentials import ClientSecretBasic, ClientSecretPost
from worker.core.ports import ClientCredentials
from worker.core.protocol import refresh_request
from worker.core.providers import Client
from worker.runtime.clients import client_of

NOW = 1_700_000_000_000

each_method = pytest.mark.parametrize("make", [ClientSecretPost, ClientSecretBasic])
Make = Callable[[str], ClientCredentials]


def test_client_secret_post_adds_id_and_secret_to_the_form_alone(oauth2: Client) -> None:
    request = refresh_request(oauth2, "refresh-1")

    authenticated = ClientSecretPost("hunter2").authenticate(request, "id of ours", NOW)

    assert authenticated.form == {
        "grant_type": "refresh_token",
        "refresh_token": "refresh-1",
        "client_id": "id of ours",
        "client_secret": "hunter2",
    }
    assert (authenticated.url, authenticated.headers) == (request.url, request.headers)


def test_client_secret_basic_encodes_id_and_secret_before_it_joins_them_in_the_header_alone(
    oauth2: Client,
) -> None:
    request = refresh_request(oauth2, "refresh-1")

    authenticated = ClientSecretBasic("s:ecret/+ä").authenticate(request, "id of ours", NOW)

    scheme, _, encoded = authenticated.headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(encoded) == b"id+of+ours:s%3Aecret%2F%2B%C3%A4"
    assert authenticated.headers.items() > request.headers.items()
    assert (authenticated.url, authenticated.form) == (request.url, request.form)


@each_method
def test_the_next_credentials_start_from_a_request_that_those_before_left_as_it_was(
    oauth2: Client, make: Make
) -> None:
    request = refresh_request(oauth2, "refresh-1")

    make("hunter2").authenticate(request, "id of ours", NOW)

    assert request == refresh_request(oauth2, "refresh-1")


@each_method
def test_no_repr_shows_a_token_or_a_secret(oauth2: Client, make: Make) -> None:
    credentials = make("hunter2")
    client = replace(oauth2, credentials=(credentials,))
    request = credentials.authenticate(refresh_request(client, "refresh-1"), client.client_id, NOW)

    for text in (repr(credentials), repr(client), repr(request)):
        assert "hunter2" not in text
        assert "refresh-1" not in text
    assert repr(request) == "TokenRequest(url='https://id.example.com/token')"


@each_method
def test_a_client_is_another_one_when_its_secret_was_replaced(oauth2: Client, make: Make) -> None:
    before = replace(oauth2, credentials=(make("hunter2"),))

    assert before == replace(oauth2, credentials=(make("hunter2"),))
    assert before != replace(oauth2, credentials=(make("swordfish"),))


@pytest.mark.parametrize(
    ("method", "make"), [("client_secret_post", ClientSecretPost), ("client_secret_basic", ClientSecretBasic)]
)
def test_a_client_is_configured_with_its_secret_and_then_the_one_that_it_replaces(
    method: Literal["client_secret_post", "client_secret_basic"], make: Make
) -> None:
    settings = ClientSettings(
        provider="buddy",
        client_id="id of ours",
        client_secret=SecretStr("hunter2"),
        previous_client_secret=SecretStr("swordfish"),
        authentication=method,
    )

    assert client_of("buddy", settings).credentials == (make("hunter2"), make("swordfish"))
