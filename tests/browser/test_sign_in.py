"""Signing in with a real browser: the whole way, and everything that a person may do on it."""

import uuid
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit, urlunsplit

import httpx
import pytest

from tests.browser.conftest import Deployment
from tests.browser.person import Person
from worker.sandbox.client import Sandbox

pytestmark = pytest.mark.browser

CALLBACK = "/integration-callback"


@pytest.fixture
def grant() -> str:
    return uuid.uuid4().hex


def test_a_person_connects_and_the_grant_is_kept_alive(
    deployment: Deployment, provider: Sandbox, client: str, person: Person, grant: str
) -> None:
    person.sets_out(client, grant)
    (cookie,) = own_cookies(person, deployment)
    at_provider = person.page.url
    person.presses("Allow")

    assert at_provider.startswith(provider.authorize_url)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    assert str(cookie["value"]) not in at_provider
    assert person.heading == f"Connected: {grant}"
    assert own_cookies(person, deployment) == []
    first = deployment.token(grant)
    assert is_served(provider, first)
    assert deployment.api.post(f"/v1/refresh/{grant}").json()["version"] == 1
    assert deployment.token(grant) != first
    assert is_served(provider, deployment.token(grant))


def test_the_service_is_neither_in_the_history_nor_a_referrer_nor_is_the_provider_one(
    deployment: Deployment, client: str, person: Person, grant: str
) -> None:
    person.sets_out(client, grant)
    person.presses("Allow")

    done = [each for each in person.requests if each.url.startswith(f"{deployment.application.url}/done")]
    assert [url for url in person.history() if url.startswith(deployment.url)] == []
    assert [each.all_headers().get("referer") for each in done] == [None]


def test_a_person_who_says_no_comes_back_with_the_reason(
    deployment: Deployment, client: str, person: Person, grant: str
) -> None:
    person.sets_out(client, grant)
    person.presses("Deny")

    assert person.heading == "Not connected: access_denied"
    assert deployment.status(grant) is None


def test_a_link_that_has_expired_is_a_page_that_says_so(
    deployment: Deployment, client: str, person: Person, grant: str
) -> None:
    link = deployment.link(client, grant)
    deployment.let_links_expire()

    assert person.opens(link) == 410
    assert person.heading == "This link has expired"


def test_a_person_who_took_too_long_comes_back_with_the_reason(
    deployment: Deployment, client: str, person: Person, grant: str
) -> None:
    person.sets_out(client, grant)
    deployment.let_links_expire()
    person.presses("Allow")

    assert person.heading == "Not connected: expired"
    assert deployment.status(grant) is None


def test_neither_reloading_nor_the_back_button_nor_the_same_callback_connects_again(
    deployment: Deployment, provider: Sandbox, client: str, person: Person, grant: str
) -> None:
    before = provider.totals().get("connected", 0)
    person.sets_out(client, grant)
    person.presses("Allow")

    person.reloads()
    reloaded = person.heading
    person.goes_back()
    person.presses("Allow")
    back_and_allowed = person.heading
    (callback, _) = [each.url for each in person.requests if each.url.startswith(deployment.url + CALLBACK)]
    status = person.opens(callback)

    assert reloaded == "Not confirmed: code_used"
    assert back_and_allowed == "This link was used, or there is no such link"
    assert (status, person.heading) == (404, "This link was used, or there is no such link")
    assert provider.totals()["connected"] == before + 1
    assert is_served(provider, deployment.token(grant))


def test_a_callback_is_taken_only_from_the_browser_that_set_out(
    client: str, arrives: Callable[[], Person], grant: str
) -> None:
    person, other = arrives(), arrives()
    person.sets_out(client, grant)
    callback = person.callback()

    status = other.opens(callback)
    person.opens(callback)

    assert (status, other.heading) == (403, "This sign-in was begun in another browser")
    assert person.heading == f"Connected: {grant}"


def test_who_has_set_out_with_a_stranger_s_link_is_not_taken_for_the_stranger(
    deployment: Deployment, client: str, arrives: Callable[[], Person], grant: str
) -> None:
    """The application sent one person; the link is opened by another, whom it does not know."""
    stranger = arrives()
    link = deployment.application.start("the session of the person", {"client": client, "grant": grant})
    stranger.opens(link)
    stranger.presses("Allow")

    assert stranger.heading == "Nobody here was sent to connect"
    assert deployment.status(grant) is None


def test_a_grant_that_failed_is_connected_anew(
    deployment: Deployment, provider: Sandbox, client: str, person: Person, grant: str
) -> None:
    person.sets_out(client, grant)
    person.presses("Allow")
    revoke(provider, deployment.token(grant))
    deployment.let_fail(client, grant)

    person.sets_out(client, grant)
    person.presses("Allow")

    assert person.heading == f"Connected: {grant}"
    assert deployment.status(grant) == "active"
    assert is_served(provider, deployment.token(grant))


def test_a_person_whom_nobody_takes_back_reads_the_code_and_what_was_not_allowed(
    deployment: Deployment, provider: Sandbox, client: str, person: Person, grant: str
) -> None:
    asked = {"buddy": "WORKSPACE", "pagerduty": "incidents.read", "issuer": "read"}[client]
    provider.consent(scope=asked)
    answer = deployment.api.post(
        "/v1/connect", json={"client": client, "grant": grant, "scopes": [asked, "EXECUTION_RUN"]}
    )
    person.opens(answer.json()["url"])
    person.presses("Allow")

    assert person.heading == "Almost done"
    assert "everything that was asked for: EXECUTION_RUN" in person.page.inner_text("main")
    assert person.page.locator("body").evaluate("body => getComputedStyle(body).maxWidth") != "none"
    code = person.page.inner_text("code")
    assert deployment.api.post("/v1/connect/confirm", json={"code": code}).json()["id"] == grant


@pytest.mark.parametrize("client", ["issuer"], indirect=True)
@pytest.mark.parametrize("issuer", ["http://127.0.0.1:1", None])
def test_a_callback_of_another_issuer_is_refused_before_its_code_goes_anywhere(
    deployment: Deployment, provider: Sandbox, client: str, person: Person, grant: str, issuer: str | None
) -> None:
    person.sets_out(client, grant)
    parts = urlsplit(person.callback())
    query = dict(httpx.QueryParams(parts.query)) | {"iss": issuer}
    seen = len(list(provider.log()))
    person.opens(urlunsplit(parts._replace(query=urlencode({k: v for k, v in query.items() if v}))))

    assert person.heading == "Not connected: provider_refused"
    assert len(list(provider.log())) == seen
    assert deployment.status(grant) is None


def own_cookies(person: Person, deployment: Deployment) -> list[dict[str, object]]:
    """What the browser holds for the service."""
    return [each for each in person.cookies(deployment.url) if str(each["name"]).startswith("evergrant")]


def is_served(provider: Sandbox, access_token: str) -> bool:
    """Whether the provider's API takes a token."""
    headers = {"Authorization": f"Bearer {access_token}"}
    return httpx.get(provider.api_url, headers=headers, trust_env=False).is_success


def revoke(provider: Sandbox, access_token: str) -> None:
    """The person withdraws its consent at the provider."""
    (issued,) = [pair for pair in provider.pairs() if pair["access_token"] == access_token]
    provider.revoke(issued["id"])
