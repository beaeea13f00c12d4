"""What goes over the wire for a webhook, and where it does not go. A table of the test resolves names."""

import asyncio
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from tests.support.receiver import Receiver, receiving
from worker.adapters.webhook_sender import HttpWebhookSender
from worker.core.delivery import Answer
from worker.core.webhooks import Message

SECRET = bytes(range(32))
WHSEC = "whsec_" + b64encode(SECRET).decode()
LOOPBACK = (ip_network("127.0.0.0/8"),)

Resolve = Callable[..., None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Let names lead to addresses: the next look-up to the next set of them, and the last set for ever."""
    table: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *arguments: Any, **options: Any) -> Any:
        if host not in table:
            return real(host, port, *arguments, **options)
        sets = table[host]
        addresses = sets.pop(0) if len(sets) > 1 else sets[0]
        return [found for address in addresses for found in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return lambda host, *sets: table.__setitem__(host, [list(each) for each in sets])


@asynccontextmanager
async def sending(**options: Any) -> AsyncIterator[HttpWebhookSender]:
    sender = HttpWebhookSender(**{"timeout_seconds": 10.0} | options)
    try:
        yield sender
    finally:
        await sender.close()


async def send(url: str, **options: Any) -> Answer:
    async with sending(**options) as sender:
        return await sender.send(message_to(url))


def message_to(url: str) -> Message:
    return Message(
        url, "1-grant-failed", b'{"type":"evergrant.grant.failed"}', int(time.time() * 1000), [SECRET]
    )


async def test_a_message_is_signed_with_each_secret_for_this_moment() -> None:
    async with receiving() as receiver, sending() as sender:
        message = message_to(receiver.url)
        answer = await sender.send(message)

    (got,) = receiver.got
    assert answer == Answer("http_204", 204)
    assert got.verified(WHSEC) == {"type": "evergrant.grant.failed"}
    assert got.headers["webhook-timestamp"] == str(message.at // 1000)
    assert got.headers["user-agent"].startswith("evergrant/")
    assert "cookie" not in got.headers


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with receiving() as receiver, receiving() as elsewhere:
        receiver.answers = [web.Response(status=307, headers={"Location": elsewhere.url})]
        answer = await send(receiver.url)

    assert answer.status == 307
    assert elsewhere.got == []


async def test_a_receivers_wait_is_read_and_its_cookies_are_not_kept() -> None:
    async with receiving() as receiver, sending() as sender:
        receiver.answers = [web.Response(status=503, headers={"Retry-After": "7", "Set-Cookie": "a=b"})]
        first = await sender.send(message_to(receiver.url))
        await sender.send(message_to(receiver.url))

    assert first == Answer("http_503", 503, 7_000)
    assert "cookie" not in receiver.got[1].headers


async def test_a_long_answer_counts_by_its_status_and_is_not_read_to_its_end() -> None:
    async with receiving() as receiver:
        receiver.answers = [web.Response(status=200, body=b"x" * 50_000_000)]
        answer = await send(receiver.url)

    assert answer.status == 200


async def test_a_receiver_that_does_not_answer_is_given_up_after_the_deadline() -> None:
    async with receiving() as receiver:
        receiver.hold.clear()
        answer = await send(receiver.url, timeout_seconds=0.2)
        receiver.hold.set()

    assert answer == Answer("timeout")


async def test_a_receiver_that_is_not_there_or_breaks_off_is_a_failure_without_its_words() -> None:
    async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        lost = await send(f"http://127.0.0.1:{port}/")
    nobody = await send(f"http://127.0.0.1:{port}/")

    assert (lost.detail, nobody.detail) == ("connection_lost", "could_not_connect")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "0.0.0.0"],  # noqa: S104
)
async def test_a_name_that_leads_inward_is_not_connected_to(resolve: Resolve, address: str) -> None:
    resolve("app.example", [address])

    assert await send("https://app.example/hooks") == Answer("address_refused")


async def test_a_name_with_one_address_inward_is_not_connected_to(resolve: Resolve) -> None:
    resolve("app.example", ["8.8.8.8", "127.0.0.1"])

    assert await send("https://app.example/hooks") == Answer("address_refused")


async def test_a_name_is_judged_at_each_connection(resolve: Resolve) -> None:
    async with receiving() as receiver, sending(allowed=LOOPBACK) as sender:
        url = receiver.url.replace("127.0.0.1", "app.example")
        resolve("app.example", ["127.0.0.1"], ["10.0.0.1"])
        receiver.answers = [web.Response(status=204, headers={"Connection": "close"})]
        answers = [await sender.send(message_to(url)) for _ in range(2)]

    assert [answer.detail for answer in answers] == ["http_204", "address_refused"]
    assert len(receiver.got) == 1


async def test_the_address_that_was_judged_is_the_one_that_is_connected_to(resolve: Resolve) -> None:
    """A second look-up would lead elsewhere."""
    async with receiving() as receiver:
        resolve("app.example", ["127.0.0.1"], ["10.0.0.1"])
        answer = await send(receiver.url.replace("127.0.0.1", "app.example"), allowed=LOOPBACK)

    assert answer.status == 204


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "10.0.0.1", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "127.1", "0177.0.0.1"],
)
async def test_an_address_in_the_url_is_judged_in_whatever_form_it_is_written(host: str) -> None:
    answer = await send(f"https://{host}/latest/meta-data")

    assert answer.detail in {"address_refused", "could_not_connect", "connection_lost"}
    assert answer.status is None


async def test_without_tls_a_name_must_lead_to_an_allowed_range(resolve: Resolve) -> None:
    resolve("app.example", ["8.8.8.8"])

    assert await send("http://app.example/", allowed=LOOPBACK) == Answer("address_refused")


async def test_no_proxy_is_used_whatever_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with receiving() as receiver:
        answer = await send(receiver.url)

    assert answer.status == 204


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Path]:
    ca, file = trustme.CA(), tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return ca, file


@asynccontextmanager
async def receiving_with_tls(ca: trustme.CA, name: str) -> AsyncIterator[Receiver]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    async with receiving(context) as receiver:
        yield receiver


async def test_a_certificate_is_verified_by_private_authorities_too_and_for_the_name_in_the_url(
    authority: tuple[trustme.CA, Path], resolve: Resolve
) -> None:
    ca, file = authority
    resolve("app.example", ["127.0.0.1"])
    resolve("other.example", ["127.0.0.1"])
    async with receiving_with_tls(ca, "app.example") as receiver:
        url = receiver.url.replace("127.0.0.1", "app.example")
        trusted = await send(url, allowed=LOOPBACK, ca_file=file)
        unknown = await send(url, allowed=LOOPBACK)
        misnamed = await send(
            receiver.url.replace("127.0.0.1", "other.example"), allowed=LOOPBACK, ca_file=file
        )

    assert [answer.detail for answer in (trusted, unknown, misnamed)] == [
        "http_204",
        "certificate_not_trusted",
        "certificate_not_trusted",
    ]
