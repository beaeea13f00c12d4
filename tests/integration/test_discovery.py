"""What an issuer says of itself: found, checked, kept, and used while the issuer is away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.issuer import Issuer
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters import discovery
from worker.adapters.discovery import DiscoveryError, Issuers, locations, read_metadata

HOUR = 3600.0


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer with a document where RFC 8414 has it; `url` has no path."""
    async with Issuer().running() as running:
        yield running


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


Known = Callable[..., Issuers]


@pytest.fixture
def known(tmp_path: Path, clock: Clock) -> Known:
    """What a process starts with: the documents that are on this disk."""

    def start(*issuers: str, timeout_seconds: float = 10.0) -> Issuers:
        directory = tmp_path / "issuers"
        return Issuers(issuers, directory, timeout_seconds=timeout_seconds, ca_file=None, now=clock)

    return start


async def test_an_issuer_says_its_endpoints_methods_and_scopes(issuer: Issuer, known: Known) -> None:
    issuer.says(
        revocation_endpoint=f"{issuer.url}/revoke",
        token_endpoint_auth_methods_supported=["none", "private_key_jwt"],
        scopes_supported=["read", "write"],
        mtls_endpoint_aliases={"token_endpoint": f"{issuer.url}/mtls/token"},
    )
    issuers = known(issuer.url)

    assert await issuers.look_up(HOUR)
    found = issuers[issuer.url]
    assert found.token_endpoint == f"{issuer.url}/token/"
    assert found.mtls_token_endpoint == f"{issuer.url}/mtls/token"
    assert found.revocation_endpoint == f"{issuer.url}/revoke"
    assert found.authentication_methods == ("none", "private_key_jwt")
    assert found.scopes == {"read", "write"}
    assert not issuers.problems


def test_a_document_is_looked_for_where_both_standards_have_it() -> None:
    assert list(locations("https://id.test/tenant/")) == [
        "https://id.test/.well-known/oauth-authorization-server/tenant",
        "https://id.test/.well-known/openid-configuration/tenant",
        "https://id.test/tenant/.well-known/openid-configuration",
        "https://id.test/tenant/.well-known/oauth-authorization-server",
    ]
    assert list(locations("https://id.test")) == [
        "https://id.test/.well-known/oauth-authorization-server",
        "https://id.test/.well-known/openid-configuration",
    ]


async def test_an_openid_provider_with_a_path_is_found(issuer: Issuer, known: Known) -> None:
    issuer.documents.clear()
    tenant = f"{issuer.url}/tenant"
    issuer.says("/tenant/.well-known/openid-configuration", issuer=tenant)
    issuers = known(tenant)

    assert await issuers.look_up(HOUR)
    assert issuers[tenant].token_endpoint == f"{issuer.url}/token/"


@pytest.mark.parametrize("other", ["/", "/x"])
async def test_a_document_that_names_another_issuer_is_refused(
    issuer: Issuer, known: Known, other: str
) -> None:
    """Even where only a slash differs (RFC 8414 section 3.3): it is named, to be set right."""
    issuer.says(issuer=issuer.url + other)
    issuers = known(issuer.url)

    assert not await issuers.look_up(HOUR)
    assert issuer.url not in issuers
    assert issuers.problems[issuer.url] == f"its document names another issuer: {issuer.url}{other}"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"token_endpoint": None}, "its document names no token_endpoint"),
        ({"token_endpoint": 7}, "its document's token_endpoint is no URL"),
        ({"token_endpoint": "https://u:p@h/token"}, "its document's token_endpoint is no URL"),
        ({"token_endpoint": "https://h:99999/token"}, "its document's token_endpoint is no URL"),
        ({"token_endpoint": "ftp://h/token"}, "its document's token_endpoint is no URL"),
        ({"token_endpoint": "http://h/token"}, "its document's token_endpoint is not https: http://h/token"),
        ({"token_endpoint": "http://127.0.0.1/t"}, "its document's token_endpoint is not https"),
        ({"revocation_endpoint": "http://h/revoke"}, "its document's revocation_endpoint is not https"),
        ({"issuer": None}, "its document names another issuer: none that can be shown"),
    ],
)
def test_a_document_is_refused_for_one_reason(changes: dict[str, Any], problem: str) -> None:
    document = {"issuer": "https://id.test", "token_endpoint": "https://id.test/token"} | changes

    with pytest.raises(DiscoveryError, match=f"^{problem}"):
        read_metadata("https://id.test", document)


def test_an_issuer_that_names_no_methods_takes_basic() -> None:
    document = {"issuer": "https://id.test", "token_endpoint": "https://id.test/token"}

    assert read_metadata("https://id.test", document).authentication_methods == ("client_secret_basic",)


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        ("200 OK", b"<html>", "answered with no JSON at"),
        ("200 OK", b"[]", "its document is no JSON object"),
        ("200 OK", b" " * (discovery.MAX_DOCUMENT_BYTES + 1), "sent a document of more than 256 KiB"),
        ("500 Oops", b"", "answered 500 at"),
        ("302 Found\r\nLocation: /elsewhere", b"", "redirects from"),
        ("404 Not Found", b"", "has no document at"),
    ],
)
async def test_an_answer_that_is_no_document_is_named(
    issuer: Issuer, known: Known, status: str, body: bytes, problem: str
) -> None:
    issuer.documents["/.well-known/oauth-authorization-server"] = (status, body)
    issuers = known(issuer.url)

    assert not await issuers.look_up(HOUR)
    assert problem in issuers.problems[issuer.url]
    assert "/elsewhere" not in issuer.asked


async def test_an_issuer_that_says_nothing_is_given_up(known: Known) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        issuers = known(url, timeout_seconds=0.2)
        await issuers.look_up(HOUR)

    assert issuers.problems[url] == "does not answer within 0.2 s"


async def test_a_document_is_kept_on_disk_and_fetched_again_after_an_hour(
    issuer: Issuer, known: Known, clock: Clock
) -> None:
    await known(issuer.url).look_up(HOUR)
    issuer.says(token_endpoint=f"{issuer.url}/moved")

    restarted = known(issuer.url)
    assert not await restarted.look_up(HOUR)
    assert restarted[issuer.url].token_endpoint == f"{issuer.url}/token/"

    clock.seconds += HOUR
    assert await restarted.look_up(HOUR)
    assert restarted[issuer.url].token_endpoint == f"{issuer.url}/moved"
    assert known(issuer.url)[issuer.url].token_endpoint == f"{issuer.url}/moved"


async def test_an_old_document_is_used_while_the_issuer_is_away(
    issuer: Issuer, known: Known, clock: Clock
) -> None:
    await known(issuer.url).look_up(HOUR)
    issuer.documents = {"/.well-known/oauth-authorization-server": ("503 Away", b"")}
    clock.seconds += 1000 * HOUR

    issuers = known(issuer.url)

    assert not await issuers.look_up(HOUR)
    assert issuers[issuer.url].token_endpoint == f"{issuer.url}/token/"
    assert "answered 503" in issuers.problems[issuer.url]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"fetched_at": 1}', b'{"document": {}, "fetched_at": 1}'])
async def test_a_kept_document_that_was_damaged_is_fetched_again(
    issuer: Issuer, known: Known, tmp_path: Path, content: bytes
) -> None:
    await known(issuer.url).look_up(HOUR)
    (file,) = (tmp_path / "issuers").iterdir()
    file.write_bytes(content)

    issuers = known(issuer.url)

    assert issuer.url not in issuers
    assert await issuers.look_up(HOUR)


async def test_documents_are_fetched_again_until_the_process_ends(
    issuer: Issuer, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "AGAIN_SECONDS", 0.01)
    issuer.documents.clear()
    issuers, changed = known(issuer.url), asyncio.Event()
    keeping = asyncio.create_task(issuers.keep(changed.set))

    await asyncio.sleep(0)
    issuer.says()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await changed.wait()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)

    assert issuer.url in issuers
