"""URLs on a person's way to a provider and back: where they may lead, and what they hold."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from worker.core.providers import BUDDY, OAUTH2, PAGERDUTY_SCOPED, Client, Provider
from worker.core.redirects import (
    are_scopes,
    authorization_url,
    harmless_code,
    may_return_to,
    return_url,
    same_origin,
)


def a_client(provider: Provider, **changes: Any) -> Client:
    return Client("acme", provider, "https://id.example/token", "id", (), **changes)


ALLOWED = ("https://app.example/oauth", "http://127.0.0.1:3000")


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example/oauth",
        "https://app.example/oauth/",
        "https://app.example/oauth/done?user=42",
        "https://app.example:443/oauth",
        "https://APP.example/oauth",
        "http://127.0.0.1:3000",
        "http://127.0.0.1:3000/anything",
    ],
)
def test_a_person_may_go_back_below_an_allowed_url(url: str) -> None:
    assert may_return_to(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example",
        "https://app.example/oauthor",
        "https://app.example/oauth/../admin",
        "https://app.example/oauth/%2e%2E/admin",
        "https://app.example/oauth\\@elsewhere.example",
        "https://app.example@elsewhere.example/oauth",
        "https://app.example.elsewhere.example/oauth",
        "https://elsewhere.example/oauth",
        "http://app.example/oauth",
        "https://app.example:8443/oauth",
        "https://app.example/oauth#code",
        "https://app.example/oauth /",
        "https://app.example/oauth\n",
        "//app.example/oauth",
        "/oauth",
        "javascript:alert(1)//app.example/oauth",
        "https://app.example:x/oauth",
        "http://127.0.0.1:3000.elsewhere.example/",
        "",
    ],
)
def test_a_person_may_go_back_nowhere_else(url: str) -> None:
    assert not may_return_to(url, ALLOWED)


def test_where_nothing_is_allowed_nobody_is_sent_back() -> None:
    assert not may_return_to("https://app.example/", ())


def test_what_the_application_wrote_into_its_url_is_kept() -> None:
    url = return_url("https://app.example/done?user=42&next=%2F", code="id.secret")

    assert url == "https://app.example/done?user=42&next=%2F&code=id.secret"


def query_of(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query, keep_blank_values=True)


def test_a_person_is_sent_to_buddy_as_its_page_says() -> None:
    url = authorization_url(
        "https://api.buddy.works/oauth2/authorize",
        a_client(BUDDY),
        ["WORKSPACE", "USER_INFO"],
        redirect_uri="https://app.example/integration-callback",
        state="s.t",
        challenge="c",
    )

    assert "scope=WORKSPACE%20USER_INFO" not in url  # Buddy divides scopes by a plus
    assert "scope=WORKSPACE+USER_INFO" in url
    assert query_of(url) == [
        ("type", "web_server"),
        ("response_type", "code"),
        ("client_id", "id"),
        ("redirect_uri", "https://app.example/integration-callback"),
        ("scope", "WORKSPACE USER_INFO"),
        ("state", "s.t"),
        ("code_challenge", "c"),
        ("code_challenge_method", "S256"),
    ]


def test_resource_and_audience_are_asked_for_where_a_person_consents_and_other_parameters_are_not() -> None:
    client = a_client(OAUTH2, parameters=(("resource", "https://a"), ("tenant", "t"), ("audience", "b")))

    url = authorization_url(
        "https://id.example/authorize?realm=x",
        client,
        [],
        redirect_uri="https://app.example/cb",
        state="s",
        challenge="c",
    )

    assert url.startswith("https://id.example/authorize?realm=x&")
    fields = dict(query_of(url))
    assert (fields["resource"], fields["audience"]) == ("https://a", "b")
    assert not {"tenant", "scope"} & set(fields)


def test_a_scope_takes_what_rfc_6749_takes() -> None:
    assert are_scopes(["incidents.read", "https://www.example/auth/mail", "a:b"])
    assert not are_scopes(["two words"])
    assert not are_scopes(['"quoted"'])
    assert not are_scopes([""])
    assert not are_scopes(["ä"])


def test_a_scope_contains_others_through_others() -> None:
    assert BUDDY.contained_in("EXECUTION_MANAGE") == {"EXECUTION_RUN", "EXECUTION_INFO"}
    assert BUDDY.contained_in("WORKSPACE") == frozenset()
    assert PAGERDUTY_SCOPED.contained_in("incidents.write") == frozenset()


def test_a_providers_error_is_shown_only_where_it_is_one_harmless_word() -> None:
    assert harmless_code("temporarily_unavailable") == "temporarily_unavailable"
    assert harmless_code("<script>") is None
    assert harmless_code("a" * 41) is None
    assert harmless_code(None) is None


def test_an_origin_is_scheme_host_and_port() -> None:
    assert same_origin("https://app.example/a", "https://APP.example:443/b")
    assert not same_origin("https://app.example/", "http://app.example/")
    assert not same_origin("https://app.example/", "https://app.example:8443/")
