"""The authorization endpoint of each profile: what a browser sees, and with what it goes back."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from tests.sandbox.links import LINK, brought_back
from tests.support.servers import CALLBACK, lent
from worker.sandbox.client import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    SignIn = Callable[..., httpx.Response]
    ComeBack = Callable[..., dict[str, str]]

OTHER = "https://app.example/other?from=provider"


class Form(HTMLParser):
    """The form of a page: where it goes, its fields and its buttons."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action, self.method = "", ""
        self.fields: dict[str, str] = {}
        self.buttons: list[dict[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action, self.method = named["action"], named["method"]
        elif tag == "input":
            self.fields[named["name"]] = named["value"]
        elif tag == "button":
            self.buttons.append({named["name"]: named["value"]})


@pytest.fixture
def press(http: httpx.Client) -> Callable[[Sandbox, httpx.Response, str], httpx.Response]:
    """Press a button of the page that a link has led to."""

    def answer(sandbox: Sandbox, page: httpx.Response, decision: str) -> httpx.Response:
        form = Form(page.text)
        [button] = [button for button in form.buttons if button["decision"] == decision]
        return http.request(form.method, sandbox.url + form.action, data=form.fields | button)

    return answer


@pytest.fixture(scope="module")
def choosy_server() -> Iterator[Sandbox]:
    """A plain server with several redirect URIs, that wants PKCE and knows which scopes exist."""
    uris, scopes = (CALLBACK, OTHER), ("read", "write")
    with Sandbox.start("oauth2", redirect_uri=uris, scope=scopes, require_pkce=True) as sandbox:
        yield sandbox


@pytest.fixture
def choosy(choosy_server: Sandbox) -> Iterator[Sandbox]:
    yield from lent(choosy_server)


def test_a_person_who_allows_comes_back_with_a_code(
    server: Sandbox, sign_in: SignIn, press: Callable[..., httpx.Response]
) -> None:
    page = sign_in(server)
    answer = press(server, page, "allow")

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert server.authorize_url == server.url + Form(page.text).action
    for told in ("sandbox-client", "alice", "WORKSPACE", "USER_INFO"):
        assert told in page.text
    back = brought_back(answer)
    assert answer.status_code == 303
    assert back["state"] == "a state"
    assert len(back["code"]) >= 43


def test_a_person_who_denies_comes_back_with_that(
    server: Sandbox, sign_in: SignIn, press: Callable[..., httpx.Response]
) -> None:
    answer = press(server, sign_in(server), "deny")

    back = brought_back(answer)
    assert answer.status_code == 303
    assert (back["error"], back["state"]) == ("access_denied", "a state")
    assert "code" not in back


def test_a_plain_server_names_itself_in_every_answer_as_in_its_metadata(
    oauth2: Sandbox, http: httpx.Client, come_back: ComeBack
) -> None:
    named = http.get(f"{oauth2.url}/.well-known/oauth-authorization-server").json()["issuer"]
    oauth2.consent(decision="allow")

    allowed, refused = come_back(oauth2), come_back(oauth2, response_type="token")

    assert set(allowed) == {"code", "state", "iss"}
    assert set(refused) == {"error", "error_description", "state", "iss"}
    assert allowed["iss"] == refused["iss"] == named == oauth2.url


@pytest.mark.parametrize("profile", ["buddy", "pagerduty"])
def test_the_others_do_not_name_themselves(
    request: pytest.FixtureRequest, come_back: ComeBack, profile: str
) -> None:
    sandbox = request.getfixturevalue(profile)
    sandbox.consent(decision="allow")

    assert set(come_back(sandbox)) == {"code", "state"}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"client_id": "somebody"}, "client_id is not that of a registered client"),
        ({"client_id": ""}, "client_id is not that of a registered client"),
        ({"redirect_uri": "http://127.0.0.1:9/elsewhere"}, "redirect_uri is not registered"),
        ({"redirect_uri": f"{CALLBACK}?a=b", "scope": ""}, "redirect_uri is not registered"),
        ({"redirect_uri": "http://["}, "redirect_uri is not registered"),
    ],
)
@pytest.mark.parametrize("decision", ["ask", "allow", "deny"])
def test_a_wrong_client_or_redirect_uri_leads_nowhere(
    oauth2: Sandbox, sign_in: SignIn, fields: dict[str, str], complaint: str, decision: str
) -> None:
    oauth2.consent(decision=decision)

    answer = sign_in(oauth2, **fields)

    assert (answer.status_code, answer.headers.get("location")) == (400, None)
    assert complaint in answer.text


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
def test_two_clients_or_redirect_uris_lead_nowhere(oauth2: Sandbox, http: httpx.Client, name: str) -> None:
    answer = http.get(oauth2.authorize_url, params=[*LINK.items(), (name, LINK[name])])

    assert answer.status_code == 400
    assert f"{name} was sent more than once" in answer.text


def test_without_a_redirect_uri_the_only_one_that_is_registered_is_taken(
    server: Sandbox, choosy: Sandbox, sign_in: SignIn, come_back: ComeBack
) -> None:
    server.consent(decision="allow")

    assert come_back(server, redirect_uri="")["code"]
    refused = sign_in(choosy, redirect_uri="")
    assert refused.status_code == 400
    assert "redirect_uri is missing, and 2 are registered" in refused.text


def test_a_redirect_uri_keeps_its_own_query(choosy: Sandbox, sign_in: SignIn) -> None:
    choosy.consent(decision="deny")

    answer = sign_in(choosy, redirect_uri=OTHER, scope="read")

    assert answer.headers["location"].startswith(f"{OTHER}&error=access_denied&")


@pytest.mark.parametrize(
    ("redirect_uri", "status"),
    [
        (f"{CALLBACK}/buddy?tenant=1", 200),
        (f"{CALLBACK}-2", 400),
        (f"{CALLBACK}/../x", 400),
        (f"{CALLBACK}/%2e%2e/x", 400),
        (CALLBACK.replace(":9", ":10") + "/buddy", 400),
        (CALLBACK.replace("http", "https") + "/buddy", 400),
    ],
)
def test_buddy_goes_back_to_a_path_below_the_registered_one_too(
    buddy: Sandbox, sign_in: SignIn, redirect_uri: str, status: int
) -> None:
    assert sign_in(buddy, redirect_uri=redirect_uri).status_code == status


@pytest.mark.parametrize(
    ("profile", "fields", "error", "description"),
    [
        ("buddy", {"type": ""}, "invalid_request", "type must be web_server"),
        ("buddy", {"scope": ""}, "invalid_request", "scope is missing"),
        ("buddy", {"scope": "A+B"}, "invalid_scope", "scope must be names divided by spaces"),
        ("pagerduty", {"scope": ""}, "invalid_request", "scope is missing"),
        (
            "pagerduty",
            {"code_challenge": "", "code_challenge_method": ""},
            "invalid_request",
            "code_challenge is missing",
        ),
        ("oauth2", {"response_type": ""}, "invalid_request", "response_type is missing"),
        ("oauth2", {"response_type": "token"}, "unsupported_response_type", "response_type must be code"),
        ("oauth2", {"scope": "a  b"}, "invalid_scope", "scope must be names divided by spaces"),
        (
            "oauth2",
            {"code_challenge_method": "plain"},
            "invalid_request",
            "code_challenge_method must be S256",
        ),
        ("oauth2", {"code_challenge_method": ""}, "invalid_request", "code_challenge_method must be S256"),
        (
            "oauth2",
            {"code_challenge": "short"},
            "invalid_request",
            "code_challenge must be a SHA-256 in base64url, without padding",
        ),
    ],
)
def test_everything_else_that_is_wrong_is_told_to_the_client(
    request: pytest.FixtureRequest,
    come_back: ComeBack,
    profile: str,
    fields: dict[str, str],
    error: str,
    description: str,
) -> None:
    back = come_back(request.getfixturevalue(profile), **fields)

    assert (back["error"], back["error_description"], back["state"]) == (error, description, "a state")


def test_a_parameter_that_was_sent_twice_is_refused(oauth2: Sandbox, http: httpx.Client) -> None:
    answer = http.get(oauth2.authorize_url, params=[*LINK.items(), ("state", "another")])

    assert brought_back(answer)["error_description"] == "state was sent more than once"


@pytest.mark.parametrize("decision", ["", "perhaps"])
def test_a_form_without_a_decision_is_no_consent(oauth2: Sandbox, http: httpx.Client, decision: str) -> None:
    oauth2.consent(decision="allow")

    answer = http.post(oauth2.authorize_url, data=LINK | {"decision": decision})

    assert answer.status_code == 400
    assert "decision must be one of: allow, deny" in answer.text


def test_a_form_is_judged_as_strictly_as_a_link(oauth2: Sandbox, http: httpx.Client) -> None:
    form = LINK | {"decision": "allow"}

    elsewhere = http.post(oauth2.authorize_url, data=form | {"redirect_uri": "https://evil.example/"})
    unproven = http.post(oauth2.authorize_url, data=form | {"code_challenge_method": "plain"})

    assert (elsewhere.status_code, elsewhere.headers.get("location")) == (400, None)
    assert brought_back(unproven)["error"] == "invalid_request"


def test_what_a_client_sends_is_text_on_the_page(oauth2: Sandbox, sign_in: SignIn) -> None:
    evil = '"><script>alert(1)</script>'

    page = sign_in(oauth2, state=evil)

    assert "<script" not in page.text
    assert Form(page.text).fields["state"] == evil


def test_the_scopes_that_exist_are_configured(
    choosy: Sandbox, come_back: ComeBack, http: httpx.Client
) -> None:
    metadata = http.get(f"{choosy.url}/.well-known/oauth-authorization-server").json()

    back = come_back(choosy, scope="read delete")

    assert metadata["scopes_supported"] == ["read", "write"]
    assert (back["error"], back["error_description"]) == ("invalid_scope", "there is no scope delete")


def test_a_plain_server_can_require_pkce(choosy: Sandbox, come_back: ComeBack) -> None:
    back = come_back(choosy, scope="read", code_challenge="", code_challenge_method="")

    assert (back["error"], back["error_description"]) == ("invalid_request", "code_challenge is missing")


@pytest.mark.parametrize("profile", ["buddy", "oauth2"])
def test_pkce_may_be_left_out_elsewhere(
    request: pytest.FixtureRequest, sign_in: SignIn, profile: str
) -> None:
    answer = sign_in(request.getfixturevalue(profile), code_challenge="", code_challenge_method="")

    assert answer.status_code == 200


def test_a_person_who_allows_nothing_of_what_is_asked_for_has_denied(
    server: Sandbox, come_back: ComeBack
) -> None:
    server.consent(decision="allow", scope="SOMETHING_ELSE")

    assert come_back(server)["error"] == "access_denied"


def test_metadata_names_every_endpoint(server: Sandbox, http: httpx.Client) -> None:
    metadata = http.get(f"{server.url}/.well-known/oauth-authorization-server").json()

    assert metadata.pop("authorization_response_iss_parameter_supported", False) is (
        server.health()["profile"] == "oauth2"
    )
    assert metadata == {
        "issuer": server.url,
        "authorization_endpoint": server.authorize_url,
        "token_endpoint": server.token_url,
        "revocation_endpoint": server.revoke_url,
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
    }
