"""How a token request travels: its URL, its name, through a proxy."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.certificates import CertificateFiles, issue_certificate
from tests.support.proxy import ConnectProxy
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.token_endpoint import HttpTokenEndpoint
from worker.core.grant import TokenPair
from worker.core.outcomes import Refreshed, Unavailable
from worker.core.providers import OAUTH2, Client
from worker.core.reachability import Reach, Reached

PAIR = TokenPair("access-canary-0", "refresh-canary-0")
BODY = b'{"access_token": "a1", "refresh_token": "r1", "expires_in": 3600}'

Serve = Callable[..., Awaitable[tuple[Client, list[str]]]]


@pytest.fixture(autouse=True)
def _no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "https_proxy",
        "HTTPS_PROXY",
        "no_proxy",
        "NO_PROXY",
        "http_proxy",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def certificate(tmp_path: Path) -> CertificateFiles:
    return issue_certificate(tmp_path / "server", "the server")


@pytest.fixture
async def serve(certificate: CertificateFiles) -> AsyncIterator[Serve]:
    """A server that gives tokens; returns its client, and the head of each request that it gets."""
    async with AsyncExitStack() as opened:

        async def start(*, tls: bool = True, target: str = "/token") -> tuple[Client, list[str]]:
            heads: list[str] = []

            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY)
                )
                writer.write(BODY)
                await writer.drain()
                writer.close()

            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate.certificate, certificate.key)
            server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context if tls else None)
            opened.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{target}"
            return Client("acme", OAUTH2, url, "id", (ClientSecretPost("secret"),)), heads

        yield start


@pytest.fixture
async def proxy() -> AsyncIterator[ConnectProxy]:
    async with ConnectProxy().running() as running:
        yield running


@pytest.fixture
async def endpoint(certificate: CertificateFiles) -> AsyncIterator[HttpTokenEndpoint]:
    async with HttpTokenEndpoint(timeout_seconds=20, ca_file=certificate.authority) as opened:
        yield opened


@pytest.mark.parametrize(
    "target",
    [
        "/token",
        "/o/token/",
        "/a/../b/./token",
        "//token//",
        "/%7etoken/%2f%2F?tenant=a%20b+c&x=%7E&y",
        "/t;v=1/tok'en!(*)",
    ],
)
async def test_a_url_is_sent_byte_for_byte(endpoint: HttpTokenEndpoint, serve: Serve, target: str) -> None:
    client, heads = await serve(target=target)

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)
    assert heads[0].split("\r\n")[0] == f"POST {target} HTTP/1.1"


async def test_every_request_names_its_sender_as_the_client_says(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    client, heads = await serve(tls=False)
    client = replace(client, user_agent="acme-integration/7 (ops@acme.test)", revoke_url=client.token_url)

    await endpoint.refresh(client, PAIR, 0)
    await endpoint.revoke(client, PAIR, 0)
    await endpoint.reach(client)

    assert len(heads) == 3
    for head in heads:
        named = [line for line in head.split("\r\n") if line.lower().startswith("user-agent:")]
        assert named == ["User-Agent: acme-integration/7 (ops@acme.test)"]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_a_server_is_reached_through_the_proxy_of_the_environment(
    serve: Serve,
    proxy: ConnectProxy,
    certificate: CertificateFiles,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    scheme: str,
) -> None:
    client, heads = await serve()
    monkeypatch.setenv(variable, f"{scheme}{proxy.address}")

    async with HttpTokenEndpoint(timeout_seconds=20, ca_file=certificate.authority) as endpoint:
        outcome = await endpoint.refresh(client, PAIR, 0)

    assert isinstance(outcome, Refreshed)
    host = client.token_url.split("/")[2]
    assert [head.split("\r\n")[0] for head in proxy.asked] == [f"CONNECT {host} HTTP/1.1"]
    assert len(heads) == 1
    assert not [head for head in proxy.asked if "refresh-canary-0" in head or "secret" in head]


async def test_the_proxy_s_password_goes_to_the_proxy_alone(
    endpoint: HttpTokenEndpoint, serve: Serve, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, heads = await serve()
    monkeypatch.setenv("HTTPS_PROXY", f"http://us%40er:pa%3Ass@{proxy.address}")

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)
    assert "Proxy-Authorization: Basic dXNAZXI6cGE6c3M=" in proxy.asked[0]
    assert "authorization" not in heads[0].lower()


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "elsewhere.test, 127.0.0.1"])
async def test_no_proxy_is_used_for_hosts_that_the_environment_excepts(
    endpoint: HttpTokenEndpoint,
    serve: Serve,
    proxy: ConnectProxy,
    monkeypatch: pytest.MonkeyPatch,
    no_proxy: str,
) -> None:
    client, _ = await serve()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("NO_PROXY", no_proxy)

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)
    assert proxy.asked == []


async def test_plain_http_which_is_loopback_goes_through_no_proxy(
    endpoint: HttpTokenEndpoint, serve: Serve, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await serve(tls=False)
    for variable in ("HTTPS_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://{proxy.address}")

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)
    assert proxy.asked == []


async def test_a_proxy_that_refuses_is_no_doubt_about_the_request(
    endpoint: HttpTokenEndpoint, serve: Serve, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, heads = await serve()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    proxy.answer = "HTTP/1.1 407 Proxy Authentication Required"

    assert await endpoint.refresh(client, PAIR, 0) == Unavailable("could_not_connect")
    assert await endpoint.reach(client) == Reached(Reach.NO_CONNECTION)
    assert heads == []


async def test_a_proxy_that_says_nothing_is_no_doubt_about_the_request(
    certificate: CertificateFiles, serve: Serve, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await serve()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    proxy.answer = None

    async with HttpTokenEndpoint(timeout_seconds=1, ca_file=certificate.authority) as endpoint:
        assert await endpoint.refresh(client, PAIR, 0) == Unavailable("could_not_connect")


async def test_a_proxy_that_is_away_is_no_doubt_about_the_request(
    endpoint: HttpTokenEndpoint, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await serve()
    monkeypatch.setenv("HTTPS_PROXY", "http://us:swordfish@127.0.0.1:1")

    assert await endpoint.refresh(client, PAIR, 0) == Unavailable("could_not_connect")
    assert await endpoint.reach(client) == Reached(Reach.NO_CONNECTION)
