"""One grant and one client of each kind; a test changes what it is about with `dataclasses.replace`."""

import pytest

from worker.adapters.credentials import ClientSecretPost
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.policy import Rules
from worker.core.providers import (
    BUDDY,
    DAY_MS,
    OAUTH2,
    PAGERDUTY_CLASSIC,
    PAGERDUTY_SCOPED,
    Client,
    GrantType,
    Provider,
)


def _client(provider: Provider) -> Client:
    url = f"{provider.base_url or 'https://id.example.com'}{provider.token_path or '/token'}"
    return Client(provider.name, provider, url, "id of ours", credentials=(ClientSecretPost("hunter2"),))


@pytest.fixture
def now() -> int:
    """The moment of these tests, in Unix milliseconds: 2023-11-14T22:13:20Z."""
    return 1_700_000_000_000


@pytest.fixture
def pair() -> TokenPair:
    return TokenPair("access-1", "refresh-1")


@pytest.fixture
def grant(now: int, pair: TokenPair) -> Grant:
    """Consented and issued `now`: an hour's access token, a refresh token without a known end."""
    return Grant(
        id="user-42/buddy",
        client="oauth2",
        status=Status.ACTIVE,
        version=3,
        lineage=lineage_of("user-42/buddy", pair.refresh_token),
        sealed=b"sealed",
        issued_at=now,
        access_expires_at=now + 3_600_000,
        refresh_issued_at=now,
        refresh_expires_at=None,
        authorized_at=now - DAY_MS,
        scope="read",
        labels={"tenant": "acme"},
        stated_life_ms=3_600_000,
    )


@pytest.fixture
def rules() -> Rules:
    return Rules()


@pytest.fixture
def oauth2() -> Client:
    return _client(OAUTH2)


@pytest.fixture
def buddy() -> Client:
    return _client(BUDDY)


@pytest.fixture
def pagerduty() -> Client:
    return _client(PAGERDUTY_SCOPED)


@pytest.fixture
def pagerduty_classic() -> Client:
    return _client(PAGERDUTY_CLASSIC)


@pytest.fixture
def app() -> Client:
    """A client whose grants are its own: it asks with client credentials."""
    return Client(
        "app",
        PAGERDUTY_SCOPED,
        "https://identity.pagerduty.com/oauth/token",
        client_id="id of ours",
        credentials=(ClientSecretPost("hunter2"),),
        grant_type=GrantType.CLIENT_CREDENTIALS,
        scopes=("as_account-us.acme", "incidents.read"),
    )
