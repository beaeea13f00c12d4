"""The servers that sessions share, and a way to ask them.

Tests name their grants after themselves and read the judge's counts by grant or as differences,
so that they can share a process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.sandbox.links import LINK, VERIFIER, brought_back
from tests.support.servers import CALLBACK, SECRET, lent
from tests.support.waiting import PATIENCE_SECONDS
from worker.sandbox.client import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CREDENTIALS = {"client_id": "sandbox-client", "client_secret": SECRET}


@pytest.fixture
def buddy(buddy_server: Sandbox) -> Iterator[Sandbox]:
    """A Buddy without faults and with its first secret."""
    yield from lent(buddy_server)


@pytest.fixture
def pagerduty(pagerduty_server: Sandbox) -> Iterator[Sandbox]:
    yield from lent(pagerduty_server)


@pytest.fixture(scope="session")
def revoking_server() -> Iterator[Sandbox]:
    with Sandbox.start("oauth2", reuse="revoke-family", redirect_uri=CALLBACK) as sandbox:
        yield sandbox


@pytest.fixture
def oauth2(revoking_server: Sandbox) -> Iterator[Sandbox]:
    yield from lent(revoking_server)


@pytest.fixture(params=["buddy", "pagerduty", "oauth2"])
def server(request: pytest.FixtureRequest) -> Sandbox:
    """Each profile."""
    sandbox: Sandbox = request.getfixturevalue(request.param)
    return sandbox


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.fixture
def issue_one(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Obtain one grant, named after the test."""

    def issue(sandbox: Sandbox, **order: str | float) -> dict[str, Any]:
        return sandbox.issue(1, prefix=request.node.name, **order)[0]

    return issue


@pytest.fixture
def refresh(http: httpx.Client) -> Callable[..., httpx.Response]:
    """Present a refresh token with the right credentials, or with the fields given."""

    def ask(sandbox: Sandbox, token: str, **fields: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        return http.post(sandbox.token_url, data=form | CREDENTIALS | fields)

    return ask


@pytest.fixture
def sign_in(http: httpx.Client) -> Callable[..., httpx.Response]:
    """Open a client's link, with the fields given; an empty one leaves the parameter out."""

    def ask(sandbox: Sandbox, **fields: str) -> httpx.Response:
        link = {name: value for name, value in (LINK | fields).items() if value}
        return http.get(sandbox.authorize_url, params=link)

    return ask


@pytest.fixture
def come_back(sign_in: Callable[..., httpx.Response]) -> Callable[..., dict[str, str]]:
    """Open a client's link at a server that needs no page; returns what the browser brings back."""

    def ask(sandbox: Sandbox, **fields: str) -> dict[str, str]:
        answer = sign_in(sandbox, **fields)
        assert answer.status_code == 302, answer.text
        return brought_back(answer)

    return ask


@pytest.fixture
def exchange(http: httpx.Client) -> Callable[..., httpx.Response]:
    """Exchange a code with the right credentials, or with the fields given; an empty one is left out."""

    def ask(sandbox: Sandbox, code: str, **fields: str) -> httpx.Response:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
        form |= {"code_verifier": VERIFIER} | CREDENTIALS | fields
        return http.post(sandbox.token_url, data={name: value for name, value in form.items() if value})

    return ask
