"""The servers that sessions share, and a way to ask them.

Tests name their grants after themselves and read the judge's counts by grant or as differences,
so that they can share a process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.servers import SECRET, lent
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
def oauth2() -> Iterator[Sandbox]:
    with Sandbox.start("oauth2", reuse="revoke-family") as sandbox:
        yield sandbox


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
