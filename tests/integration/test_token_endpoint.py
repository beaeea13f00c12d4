"""HttpTokenEndpoint over real HTTP: anything a server does is an Outcome, and the next request works."""

import asyncio
import errno
import gzip
import json
import socket
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.waiting import PATIENCE_SECONDS, moved_clock, until
from worker.adapters.credentials import ClientSecretBasic, ClientSecretPost
from worker.adapters.token_endpoint import CATCH_UP_SECONDS, MAX_REPLY_BYTES, HttpTokenEndpoint
from worker.core.grant import TokenPair
from worker.core.outcomes import ClientRejected, Refreshed, Rejected, Unavailable, Unknown, Unread
from worker.core.ports import ClientCheck
from worker.core.providers import BUDDY, OAUTH2, Client, GrantType
from worker.core.reachability import Reach, Reached
from worker.core.revocation import NotRevoked, Revocation, RevocationUnanswered, Revoked
from worker.sandbox.client import Sandbox

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[..., Awaitable[Client]]
Open = Callable[..., Awaitable[HttpTokenEndpoint]]
LetPass = Callable[[float], None]

# Long enough that no random bytes (a TLS greeting) hold one by chance.
PAIR = TokenPair("access-canary-0", "refresh-canary-0")
TOKENS = b'{"access_token": "a1", "refresh_token": "r1", "expires_in": 3600}'
SECRET = "sandbox-secret"
# What TLS begins with: a record that holds a handshake (RFC 8446, section 5.1).
TLS_HANDSHAKE = b"\x16\x03"


@pytest.fixture
async def open_endpoint() -> AsyncIterator[Open]:
    async with AsyncExitStack() as opened:

        async def build(*, timeout_seconds: float = PATIENCE_SECONDS) -> Any:
            endpoint = HttpTokenEndpoint(timeout_seconds=timeout_seconds)
            return await opened.enter_async_context(endpoint)

        yield build


@pytest.fixture
async def endpoint(open_endpoint: Open) -> HttpTokenEndpoint:
    return await open_endpoint()


@pytest.fixture
async def let_pass() -> AsyncIterator[LetPass]:
    """Let seconds pass by the event loop's clock, as if this whole process were frozen."""
    with moved_clock() as let_pass:
        yield let_pass


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A server that says the bytes a test wants, and the client that asks it."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def start(handle: Handler, tls: ssl.SSLContext | None = None) -> Client:
        async def handle_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handle(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # the client left, as it may
            finally:
                writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(handle_and_close(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        scheme = "http" if tls is None else "https"
        return _client(f"{scheme}://127.0.0.1:{port}/token")

    yield start
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def at_sandbox(sandbox: Sandbox) -> Client:
    return replace(_client(sandbox.token_url), client_id="sandbox-client", credentials=_secrets(SECRET))


@pytest.fixture
def at_buddy(buddy: Sandbox) -> Client:
    client = replace(_client(buddy.token_url), client_id="sandbox-client", credentials=_secrets(SECRET))
    return replace(client, provider=BUDDY)


def _client(token_url: str) -> Client:
    return Client("acme", OAUTH2, token_url, "id", _secrets("secret"))


def _secrets(*secrets: str) -> tuple[ClientSecretPost, ...]:
    return tuple(ClientSecretPost(each) for each in secrets)


def _pair_of(server: Sandbox) -> tuple[str, TokenPair]:
    (line,) = server.issue(1, prefix=uuid.uuid4().hex)
    return line["id"], TokenPair(line["access_token"], line["refresh_token"])


async def _read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
    headers = {name.lower(): value for name, _, value in lines}
    return headers, await reader.readexactly(int(headers["content-length"]))


def _answering(body: bytes, status: str = "200 OK", *headers: str) -> Handler:
    """Answer every request of a connection with the same bytes."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await _read_request(reader)
            writer.write(head.encode() + body)
            await writer.drain()

    return handle


def _saying(raw: bytes) -> Handler:
    """Read one request, say exactly this, and close."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(raw)
        await writer.drain()

    return handle


def _asking_first(first: Handler, then: Handler) -> Handler:
    """One way for the first connection, another for all after it."""
    handlers = [first]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (handlers.pop() if handlers else then)(reader, writer)

    return handle


async def _hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1024):
        pass


def _hanging_past(deadline: float, let_pass: LetPass, requests: int = 1) -> Handler:
    """Hang; the deadline passes as soon as so many requests are here."""
    left = [None] * requests

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        left.pop()
        if not left:
            let_pass(deadline)
        await _hang(reader, writer)

    return handle


# What fails before a connection stands was certainly not acted on


async def test_a_refused_connection_is_unavailable(endpoint: HttpTokenEndpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    outcome = await endpoint.refresh(_client(f"http://127.0.0.1:{port}/token"), PAIR, 0)

    assert outcome == Unavailable("could_not_connect")


async def test_a_server_with_a_certificate_nobody_vouches_for_is_unavailable_and_hears_no_secret(
    endpoint: HttpTokenEndpoint, serve: Serve, tmp_path: Path
) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            heard.extend(data)

    client = await serve(listen, _self_signed(tmp_path))

    assert await endpoint.refresh(client, PAIR, 0) == Unavailable("could_not_connect")
    assert not heard


async def test_a_plain_server_behind_an_https_url_is_unavailable_and_hears_no_secret(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    heard = bytearray()

    async def answer_in_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(4096))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    client = await serve(answer_in_plain)
    client = replace(client, token_url=client.token_url.replace("http:", "https:"))

    assert await endpoint.refresh(client, PAIR, 0) == Unavailable("could_not_connect")
    assert heard.startswith(TLS_HANDSHAKE)
    assert b"refresh-canary-0" not in heard


async def test_a_server_that_leaves_during_the_tls_handshake_is_unavailable(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    async def leave(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(10)

    client = await serve(leave)
    client = replace(client, token_url=client.token_url.replace("http:", "https:"))

    assert await endpoint.refresh(client, PAIR, 0) == Unavailable("could_not_connect")


# Where nothing of a reply came after that, it is unknown whether the server acted


async def test_a_server_that_closes_after_reading_leaves_the_reply_unknown(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    client = await serve(_saying(b""))

    assert await endpoint.refresh(client, PAIR, 0) == Unknown("connection_lost")


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "outage"])
async def test_a_connection_that_the_server_drops_leaves_the_reply_unknown(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client, kind: str
) -> None:
    _, pair = _pair_of(sandbox)

    with sandbox.fault(kind):
        assert await endpoint.refresh(at_sandbox, pair, 0) == Unknown("connection_lost")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", id="a head without its body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="a head cut short"),
        pytest.param(b"\x16\x03\x01 this is no HTTP\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", id="an endless header"),
    ],
)
async def test_a_reply_that_breaks_off_in_front_of_its_body_or_is_no_http_is_unknown(
    endpoint: HttpTokenEndpoint, serve: Serve, raw: bytes
) -> None:
    client = await serve(_saying(raw))

    assert await endpoint.refresh(client, PAIR, 0) == Unknown("connection_lost")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<!doctype html>", id="html"),
        pytest.param(b'{"access_token": "\xff\xfe"}', id="not utf-8"),
        pytest.param(b"[" * 60_000, id="nested without end"),
        pytest.param(b'"a1"', id="json but no object"),
        pytest.param(b"{}", id="no token"),
    ],
)
async def test_a_success_without_readable_tokens_is_kept(
    endpoint: HttpTokenEndpoint, serve: Serve, body: bytes
) -> None:
    client = await serve(_answering(body, "200 OK", "X-Request-Id: 7"))

    outcome = await endpoint.refresh(client, PAIR, 0)

    assert isinstance(outcome, Unread)
    assert (outcome.reply.status, outcome.reply.body) == (200, body)
    assert outcome.reply.headers["x-request-id"] == "7"


@pytest.mark.parametrize(
    ("body", "is_read"),
    [
        pytest.param(TOKENS, True, id="behind its tokens"),
        pytest.param(TOKENS[:-3], True, id="in a later field"),
        pytest.param(TOKENS[:40], False, id="in its refresh token"),
        pytest.param(TOKENS[:5], False, id="at once"),
    ],
)
async def test_a_body_that_breaks_off_is_read_as_far_as_it_came_or_kept(
    endpoint: HttpTokenEndpoint, serve: Serve, let_pass: LetPass, body: bytes, *, is_read: bool
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + body

    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _saying(raw)(reader, writer)
        let_pass(PATIENCE_SECONDS)
        await _hang(reader, writer)

    for handler in (_saying(raw), stop):
        outcome = await endpoint.refresh(await serve(handler), PAIR, 0)
        if is_read:
            assert isinstance(outcome, Refreshed)
        else:
            assert isinstance(outcome, Unread)
            assert outcome.reply.body == body


async def test_what_comes_after_a_fault_is_waited_for(endpoint: HttpTokenEndpoint, serve: Serve) -> None:
    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        head = f"HTTP/1.1 200 OK\r\nX-Odd : v\r\nContent-Length: {len(TOKENS)}\r\n\r\n".encode()
        for piece in (head[:20], head[20:30], head[30:], TOKENS[:20], TOKENS[20:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        await _hang(reader, writer)

    client = await serve(_asking_first(dawdle, _answering(TOKENS)))

    async with asyncio.timeout(PATIENCE_SECONDS / 2):  # it ends as it is complete, and not with the deadline
        assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)
    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)


async def test_a_fault_leaves_nothing_to_what_its_task_asks_next(
    endpoint: HttpTokenEndpoint, serve: Serve, at_sandbox: Client
) -> None:
    broken = await serve(_saying(b"HTTP/1.1 200 OK\r\nX-Odd : v\r\n\r\n" + TOKENS))

    assert isinstance(await endpoint.refresh(broken, PAIR, 0), Refreshed)
    assert (await endpoint.reach(at_sandbox)).reach is Reach.ANSWERS


async def test_a_broken_reply_of_any_length_ends_at_the_cap(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX-Odd : v\r\n\r\n" + TOKENS[:-1])
        while True:
            writer.write(b" " * 0x10000)
            await writer.drain()

    client = await serve(flood)

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            b'{"error": "invalid_grant", "error_desc', Rejected("invalid_grant"), id="behind its word"
        ),
        pytest.param(b'{"error": "invalid_gr', Unavailable("http_400", refused=True), id="in its word"),
    ],
)
async def test_a_refusal_that_breaks_off_is_read_by_its_words_or_its_status(
    endpoint: HttpTokenEndpoint, serve: Serve, body: bytes, expected: Rejected | Unavailable
) -> None:
    client = await serve(_saying(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n" + body))

    assert await endpoint.refresh(client, PAIR, 0) == expected


async def test_a_reply_that_was_compressed_unasked_is_read(endpoint: HttpTokenEndpoint, serve: Serve) -> None:
    body = gzip.compress(TOKENS)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    assert isinstance(await endpoint.refresh(await serve(handle), PAIR, 0), Refreshed)


async def test_compression_is_not_asked_for_and_a_bomb_is_cut_at_the_cap(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    asked = []
    bomb = gzip.compress(b" " * 50_000_000)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers, _ = await _read_request(reader)
        asked.append(headers["accept-encoding"])
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        writer.write(head.encode() + bomb)
        await writer.drain()

    client = await serve(handle)

    outcome = await endpoint.refresh(client, PAIR, 0)
    assert isinstance(outcome, Unread)
    assert len(outcome.reply.body) == MAX_REPLY_BYTES
    assert asked == ["identity"]


@pytest.mark.parametrize("kind", ["not_json", "empty_200", "buddy_errors_200"])
async def test_a_success_that_the_server_spoiled_is_kept(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client, kind: str
) -> None:
    _, pair = _pair_of(sandbox)

    with sandbox.fault(kind, acts=True):
        assert isinstance(await endpoint.refresh(at_sandbox, pair, 0), Unread)


# Tokens that came are not thrown away for a flaw beside them


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(["200 " + "x" * 60_000], id="a status line of 60 KB"),
        pytest.param(["200 OK", "Content-Security-Policy: " + "x" * 60_000], id="a header of 60 KB"),
        pytest.param(["200 OK", *(f"X-{number}: 1" for number in range(500))], id="500 headers"),
    ],
)
async def test_tokens_are_read_whatever_a_proxy_put_into_the_head(
    endpoint: HttpTokenEndpoint, serve: Serve, head: list[str]
) -> None:
    client = await serve(_answering(TOKENS, *head))

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)


async def test_a_head_without_end_is_cut_off(endpoint: HttpTokenEndpoint, serve: Serve) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: 1\r\n" * 100)
            await writer.drain()

    client = await serve(flood)

    assert await endpoint.refresh(client, PAIR, 0) == Unknown("connection_lost")


async def test_tokens_are_read_beside_a_name_in_latin_1_and_a_raw_line_break(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    client = await serve(_answering(TOKENS[:-1] + b', "user": "Jos\xe9\n"}'))

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)


async def test_tokens_that_were_read_stay_whatever_happens_as_their_connection_is_let_go(
    endpoint: HttpTokenEndpoint, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: aiohttp.ClientResponse) -> None:
        raise aiohttp.ClientOSError(errno.ECONNRESET, "reset as it is let go")

    client = await serve(_answering(TOKENS))
    monkeypatch.setattr(aiohttp.ClientResponse, "release", fail)

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)


# The total deadline, and that nothing is left behind by it


async def test_a_server_that_hangs_is_unknown_within_the_deadline_and_the_endpoint_still_works(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client, let_pass: LetPass
) -> None:
    _, pair = _pair_of(sandbox)
    before = sandbox.totals()["requests"]

    async def have_arrived() -> bool:
        return sandbox.totals()["requests"] == before + 6

    with sandbox.fault("hang"):
        asked = [asyncio.create_task(endpoint.refresh(at_sandbox, pair, 0)) for _ in range(6)]
        await until(have_arrived)
        assert not any(task.done() for task in asked)
        let_pass(PATIENCE_SECONDS)
        outcomes = await asyncio.gather(*asked)

    assert outcomes == [Unknown("timeout")] * 6
    for _ in range(20):
        _, pair = _pair_of(sandbox)
        assert isinstance(await endpoint.refresh(at_sandbox, pair, 0), Refreshed)


async def test_after_many_cancelled_requests_every_connection_can_be_used_again(
    endpoint: HttpTokenEndpoint, serve: Serve, let_pass: LetPass
) -> None:
    hanging = await serve(_hang)
    silent = await serve(_hanging_past(PATIENCE_SECONDS, let_pass, requests=3))
    answering = await serve(_answering(TOKENS))
    asked = [asyncio.create_task(endpoint.refresh(hanging, PAIR, 0)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await asyncio.gather(*(endpoint.refresh(silent, PAIR, 0) for _ in range(3)))

    outcomes = [await endpoint.refresh(answering, PAIR, 0) for _ in range(20)]

    assert all(isinstance(outcome, Refreshed) for outcome in outcomes)


async def test_a_body_that_trickles_for_ever_is_cut_by_the_total_deadline(
    endpoint: HttpTokenEndpoint, serve: Serve, let_pass: LetPass
) -> None:
    loop = asyncio.get_running_loop()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            let_pass(PATIENCE_SECONDS / 50)
            await asyncio.sleep(0.02)

    client = await serve(_asking_first(trickle, _answering(TOKENS)))
    started = loop.time()

    outcome = await endpoint.refresh(client, PAIR, 0)

    assert outcome == Unknown("timeout")
    assert loop.time() - started >= PATIENCE_SECONDS
    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)


# The cap


async def test_a_body_over_the_cap_is_kept_as_far_as_it_came_and_not_read_to_its_end(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            await writer.drain()

    client = await serve(_asking_first(flood, _answering(TOKENS)))

    outcome = await endpoint.refresh(client, PAIR, 0)
    assert isinstance(outcome, Unread)
    assert (outcome.detail, len(outcome.reply.body)) == ("http_200_cut_off", MAX_REPLY_BYTES)
    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)


async def test_tokens_in_front_of_more_than_a_body_may_have_are_read(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    client = await serve(_answering(TOKENS[:-1] + b', "roles": "' + b"r" * MAX_REPLY_BYTES + b'"}'))

    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)


async def test_a_huge_body_of_the_sandbox_is_kept(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    _, pair = _pair_of(sandbox)

    with sandbox.fault("huge_body", acts=True):
        assert isinstance(await endpoint.refresh(at_sandbox, pair, 0), Unread)


@pytest.mark.parametrize(("size", "expected"), [(MAX_REPLY_BYTES, Refreshed), (MAX_REPLY_BYTES + 3, Unread)])
async def test_the_cap_is_exact(
    endpoint: HttpTokenEndpoint, serve: Serve, size: int, expected: type[Refreshed | Unread]
) -> None:
    client = await serve(_answering(b'{"access_token": "a1", "refresh_token": "r1"}'.rjust(size)))

    assert isinstance(await endpoint.refresh(client, PAIR, 0), expected)


# One request per call, and nothing carried from one to the next


async def test_a_redirect_is_not_followed(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    _, pair = _pair_of(sandbox)
    before = sandbox.totals()

    with sandbox.fault("redirect"):
        outcome = await endpoint.refresh(at_sandbox, pair, 0)

    after = sandbox.totals()
    assert outcome == ClientRejected("redirect_302")
    assert after["redirects_followed"] == before["redirects_followed"]
    assert after["requests"] == before["requests"] + 1


@pytest.mark.parametrize("status", ["301 Moved", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_no_kind_of_redirect_is_followed(
    endpoint: HttpTokenEndpoint, serve: Serve, status: str
) -> None:
    asked = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await _read_request(reader))
        writer.write(f"HTTP/1.1 {status}\r\nLocation: /token\r\nContent-Length: 0\r\n\r\n".encode())
        await _hang(reader, writer)

    client = await serve(redirect)

    assert await endpoint.refresh(client, PAIR, 0) == ClientRejected(f"redirect_{status[:3]}")
    assert len(asked) == 1


async def test_cookies_are_not_kept_between_requests(endpoint: HttpTokenEndpoint, serve: Serve) -> None:
    cookies = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            headers, _ = await _read_request(reader)
            cookies.append(headers.get("cookie"))
            head = f"HTTP/1.1 200 OK\r\nSet-Cookie: who=one; Path=/\r\nContent-Length: {len(TOKENS)}\r\n\r\n"
            writer.write(head.encode() + TOKENS)

    client = await serve(handle)

    for _ in range(3):
        assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)
    assert cookies == [None, None, None]


async def test_a_request_is_never_sent_again_on_another_connection(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    asked = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(2):
            asked.append(await _read_request(reader))
            if number == 0:
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(TOKENS)}\r\n\r\n"
                writer.write(head.encode() + TOKENS)

    client = await serve(answer_once)
    assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)

    assert await endpoint.refresh(client, PAIR, 0) == Unknown("connection_lost")
    assert len(asked) == 2


async def test_connections_are_kept_for_the_next_request(endpoint: HttpTokenEndpoint, serve: Serve) -> None:
    connections = []
    answer = _answering(TOKENS)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answer(reader, writer)

    client = await serve(handle)

    for _ in range(5):
        assert isinstance(await endpoint.refresh(client, PAIR, 0), Refreshed)
    assert len(connections) == 1


# What servers say in words


async def test_tokens_that_came_are_read(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    grant_id, pair = _pair_of(sandbox)

    outcome = await endpoint.refresh(at_sandbox, pair, 0)

    live = {each["id"]: each for each in sandbox.pairs()}[grant_id]
    assert isinstance(outcome, Refreshed)
    assert (outcome.access_token, outcome.refresh_token) == (live["access_token"], live["refresh_token"])
    assert outcome.expires_in_ms == 60_000


async def test_a_dead_refresh_token_is_rejected(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    grant_id, pair = _pair_of(sandbox)
    sandbox.revoke(grant_id)

    assert await endpoint.refresh(at_sandbox, pair, 0) == Rejected("invalid_grant")


async def test_a_bare_401_of_buddy_is_ambiguous(
    endpoint: HttpTokenEndpoint, buddy: Sandbox, at_buddy: Client
) -> None:
    grant_id, pair = _pair_of(buddy)
    buddy.revoke(grant_id)

    assert await endpoint.refresh(at_buddy, pair, 0) == Rejected("http_401", ambiguous=True)


async def test_a_wrong_secret_is_the_clients_fault(endpoint: HttpTokenEndpoint, at_sandbox: Client) -> None:
    wrong = replace(at_sandbox, credentials=_secrets("wrong"))

    assert await endpoint.refresh(wrong, PAIR, 0) == ClientRejected("invalid_client")


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("status", {"status": 503}, Unavailable("http_503", may_have_acted=True)),
        ("status", {"status": 500}, Unknown("http_500")),
        ("status", {"status": 502, "acts": True}, Unknown("http_502")),
        ("outage", {"form": "503"}, Unavailable("http_503", may_have_acted=True)),
        ("too_many_requests", {"retry_after": 7}, Unavailable("http_429", 7_000)),
        ("too_many_requests", {"form": "absent"}, Unavailable("http_429")),
    ],
)
async def test_a_fault_of_the_server_is_read_by_its_status(
    endpoint: HttpTokenEndpoint,
    sandbox: Sandbox,
    at_sandbox: Client,
    kind: str,
    options: dict[str, Any],
    expected: Unavailable | Unknown,
) -> None:
    _, pair = _pair_of(sandbox)

    with sandbox.fault(kind, **options):
        assert await endpoint.refresh(at_sandbox, pair, 0) == expected


async def test_a_retry_after_may_be_a_date(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    _, pair = _pair_of(sandbox)

    with sandbox.fault("too_many_requests", retry_after=3000, form="http_date"):
        outcome = await endpoint.refresh(at_sandbox, pair, int(time.time() * 1000))

    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after_ms is not None
    assert 2_900_000 < outcome.retry_after_ms <= 3_000_000


# Credentials


async def test_basic_credentials_are_encoded_before_they_are_joined_and_stand_in_the_header_alone(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    odd = "s: é+ %&=/\u20ac"
    sandbox.set_secret(odd)
    _, pair = _pair_of(sandbox)
    client = replace(at_sandbox, credentials=(ClientSecretBasic(odd),))

    assert isinstance(await endpoint.refresh(client, pair, 0), Refreshed)


async def test_credentials_in_the_body_survive_any_characters(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    odd = "s: é+ %&=/\u20ac"
    sandbox.set_secret(odd)
    _, pair = _pair_of(sandbox)
    client = replace(at_sandbox, credentials=_secrets(odd))

    assert isinstance(await endpoint.refresh(client, pair, 0), Refreshed)


async def test_the_previous_secret_is_tried_when_the_first_is_refused(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    _, pair = _pair_of(sandbox)
    rolling = replace(at_sandbox, credentials=_secrets("not yet", SECRET))

    assert isinstance(await endpoint.refresh(rolling, pair, 0), Refreshed)


async def test_the_previous_secret_is_tried_at_a_server_whose_refusals_are_ambiguous_too(
    endpoint: HttpTokenEndpoint, buddy: Sandbox, at_buddy: Client
) -> None:
    _, pair = _pair_of(buddy)
    rolling = replace(at_buddy, credentials=_secrets("not yet", SECRET))

    assert isinstance(await endpoint.refresh(rolling, pair, 0), Refreshed)


async def test_the_previous_secret_is_not_tried_where_the_first_was_taken(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    grant_id, pair = _pair_of(sandbox)
    rolling = replace(at_sandbox, credentials=_secrets(SECRET, "an old one"))
    before = sandbox.totals()["requests"]

    assert isinstance(await endpoint.refresh(rolling, pair, 0), Refreshed)
    assert await endpoint.refresh(rolling, pair, 0) == Rejected("invalid_grant")

    assert sandbox.totals()["requests"] == before + 2
    assert sandbox.grant(grant_id)["counts"]["wrong_client"] == 0


async def test_two_wrong_secrets_are_the_clients_fault(
    endpoint: HttpTokenEndpoint, sandbox: Sandbox, at_sandbox: Client
) -> None:
    grant_id, pair = _pair_of(sandbox)
    wrong = replace(at_sandbox, credentials=_secrets("wrong", "wrong too"))

    assert await endpoint.refresh(wrong, pair, 0) == ClientRejected("invalid_client")
    assert sandbox.grant(grant_id)["counts"]["wrong_client"] == 2


async def test_the_deadline_is_total_over_both_secrets_so_that_a_lease_outlasts_it(
    endpoint: HttpTokenEndpoint, serve: Serve, let_pass: LetPass
) -> None:
    refusal = b'{"error": "invalid_client"}'

    async def refuse_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await _read_request(reader)
            for seconds in (0.7 * PATIENCE_SECONDS, 2 * CATCH_UP_SECONDS):
                let_pass(seconds)
                await asyncio.sleep(0.01)  # what is due by now is done
            head = f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(refusal)}\r\n\r\n"
            writer.write(head.encode() + refusal)

    client = replace(await serve(refuse_slowly), credentials=_secrets("secret", "an old one"))

    assert await endpoint.refresh(client, PAIR, 0) == Unknown("timeout")


@pytest.mark.parametrize("asked", ["refresh", "check"])
async def test_a_reply_that_came_while_this_process_stood_still_past_its_deadline_is_read(
    endpoint: HttpTokenEndpoint, let_pass: LetPass, asked: str
) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        client = _client(f"http://127.0.0.1:{listener.getsockname()[1]}/token")
        refresh, check = endpoint.refresh(client, PAIR, 0), endpoint.check(client, 0)
        asking: asyncio.Task[Any] = asyncio.create_task(refresh if asked == "refresh" else check)
        (check if asked == "refresh" else refresh).close()
        connection, _ = await loop.sock_accept(listener)
        with connection:
            await loop.sock_recv(connection, 65_536)
            connection.settimeout(None)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(TOKENS), TOKENS))
            let_pass(2 * PATIENCE_SECONDS)
            outcome = await asking

    assert outcome is ClientCheck.ACCEPTED or isinstance(outcome, Refreshed)


async def test_nothing_is_sent_where_this_process_stood_still_past_its_deadline_before_it_was_connected(
    endpoint: HttpTokenEndpoint, serve: Serve, let_pass: LetPass, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease may have ended meanwhile, and another may have rotated the grant."""
    heard = bytearray()
    left = asyncio.Event()
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(1024))
        left.set()

    async def resolve_at_length(*asked: Any, **options: Any) -> Any:
        let_pass(2 * PATIENCE_SECONDS)
        return await resolve(*asked, **options)

    client = await serve(listen)
    client = replace(client, token_url=client.token_url.replace("127.0.0.1", "localhost"))
    monkeypatch.setattr(loop, "getaddrinfo", resolve_at_length)

    assert await endpoint.refresh(client, PAIR, 0) == Unavailable("could_not_connect")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await left.wait()
    assert not heard


async def test_another_secret_is_not_tried_where_this_process_stood_still_past_its_deadline(
    endpoint: HttpTokenEndpoint, let_pass: LetPass
) -> None:
    refusal = b'{"error": "invalid_client"}'
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        client = _client(f"http://127.0.0.1:{listener.getsockname()[1]}/token")
        client = replace(client, credentials=_secrets("secret", "an old one"))
        asking = asyncio.create_task(endpoint.refresh(client, PAIR, 0))
        connection, _ = await loop.sock_accept(listener)
        with connection:
            await loop.sock_recv(connection, 65_536)
            head = f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(refusal)}\r\n\r\n"
            connection.settimeout(None)
            connection.sendall(head.encode() + refusal)
            let_pass(2 * PATIENCE_SECONDS)
            assert await asking == Unknown("timeout")
            connection.settimeout(0)
            with pytest.raises(BlockingIOError):
                connection.recv(65_536)


# Client credentials as the grant itself


async def test_client_credentials_bring_an_access_token_and_no_refresh_token_is_sent(
    endpoint: HttpTokenEndpoint, at_sandbox: Client
) -> None:
    client = replace(at_sandbox, grant_type=GrantType.CLIENT_CREDENTIALS, scopes=("a", "b"))

    outcome = await endpoint.refresh(client, TokenPair(None), 0)

    assert isinstance(outcome, Refreshed)
    assert (outcome.refresh_token, outcome.scope) == (None, "a b")


async def test_client_credentials_are_asked_for_without_a_scope_where_the_scope_is_refused(
    endpoint: HttpTokenEndpoint, serve: Serve
) -> None:
    asked = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, body = await _read_request(reader)
            asked.append(b"scope=" in body)
            status = "400 Bad Request" if asked[-1] else "200 OK"
            reply = b'{"error": "invalid_scope"}' if asked[-1] else TOKENS
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(reply)}\r\n\r\n".encode() + reply)

    client = replace(await serve(handle), grant_type=GrantType.CLIENT_CREDENTIALS, scopes=("a",))

    assert isinstance(await endpoint.refresh(client, TokenPair(None), 0), Refreshed)
    assert asked == [True, False]


# Is the client itself accepted?


async def test_a_client_that_is_given_tokens_is_accepted(
    endpoint: HttpTokenEndpoint, at_sandbox: Client, at_buddy: Client
) -> None:
    assert await endpoint.check(at_sandbox, 0) is ClientCheck.ACCEPTED
    assert await endpoint.check(at_buddy, 0) is ClientCheck.ACCEPTED


async def test_a_client_whose_secret_is_wrong_is_rejected(
    endpoint: HttpTokenEndpoint, at_sandbox: Client, at_buddy: Client
) -> None:
    for client in (at_sandbox, at_buddy):
        wrong = replace(client, credentials=_secrets("wrong"))
        assert await endpoint.check(wrong, 0) is ClientCheck.REJECTED


async def test_a_client_whose_previous_secret_is_still_good_is_accepted(
    endpoint: HttpTokenEndpoint, at_sandbox: Client, at_buddy: Client
) -> None:
    for client in (at_sandbox, at_buddy):
        rolling = replace(client, credentials=_secrets("not yet", SECRET))
        assert await endpoint.check(rolling, 0) is ClientCheck.ACCEPTED


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("unauthorized_client", ClientCheck.ACCEPTED),
        ("unsupported_grant_type", ClientCheck.ACCEPTED),
        ("invalid_scope", ClientCheck.ACCEPTED),
        ("invalid_client", ClientCheck.REJECTED),
        ("invalid_grant", ClientCheck.UNKNOWN),
        ("access_denied", ClientCheck.UNKNOWN),
        ("temporarily_unavailable", ClientCheck.UNKNOWN),
    ],
)
async def test_what_a_server_says_of_a_client_it_gives_no_tokens(
    endpoint: HttpTokenEndpoint, serve: Serve, code: str, expected: ClientCheck
) -> None:
    client = await serve(_answering(json.dumps({"error": code}).encode(), "400 Bad Request"))

    assert await endpoint.check(client, 0) is expected


@pytest.mark.parametrize("kind", ["status", "hang", "drop_before", "not_json", "too_many_requests"])
async def test_nothing_is_known_of_a_client_where_the_server_is_at_fault(
    open_endpoint: Open, sandbox: Sandbox, at_sandbox: Client, kind: str
) -> None:
    endpoint = await open_endpoint(timeout_seconds=0.3 if kind == "hang" else PATIENCE_SECONDS)

    with sandbox.fault(kind):
        assert await endpoint.check(at_sandbox, 0) is ClientCheck.UNKNOWN


async def test_whether_an_endpoint_can_be_reached_is_told_without_a_secret(
    endpoint: HttpTokenEndpoint, serve: Serve, let_pass: LetPass, at_sandbox: Client, at_buddy: Client
) -> None:
    heard, whole = bytearray(), b"grant_type=evergrant_doctor"

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            heard.extend(data)
            if heard.endswith(whole):
                let_pass(PATIENCE_SECONDS)

    hanging = await serve(listen)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = f"http://127.0.0.1:{listener.getsockname()[1]}/token"

    assert await endpoint.reach(at_sandbox) == Reached(Reach.ANSWERS, 401)
    assert await endpoint.reach(at_buddy) == Reached(Reach.ANSWERS, 401)
    assert await endpoint.reach(_client(refusing)) == Reached(Reach.NO_CONNECTION)
    assert await endpoint.reach(hanging) == Reached(Reach.TIMES_OUT)
    assert heard.startswith(b"POST /token ")
    assert heard.endswith(whole)
    assert b"secret" not in heard


async def test_what_is_wrong_with_an_endpoint_is_told_in_a_kind_of_its_own(
    endpoint: HttpTokenEndpoint, serve: Serve, tmp_path: Path
) -> None:
    plain = await serve(_answering(b"{}", "404 Not Found"))
    slash = await serve(_answering(b"", "308 Permanent Redirect", "Location: /token/"))
    untrusted = await serve(_answering(b"{}"), tls=_self_signed(tmp_path))
    garbled = await serve(_saying(b"s3cr3t\r\n\r\n"))

    async def refuse_what_is_no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    without_tls = (await serve(refuse_what_is_no_http)).token_url.replace("http:", "https:")

    assert await endpoint.reach(plain) == Reached(Reach.NOT_FOUND, 404)
    assert await endpoint.reach(slash) == Reached(Reach.REDIRECTS_TO_SLASH, 308)
    assert await endpoint.reach(untrusted) == Reached(Reach.NOT_TRUSTED)
    assert await endpoint.reach(_client(without_tls)) == Reached(Reach.NO_TLS)
    assert await endpoint.reach(garbled) == Reached(Reach.BREAKS_OFF)


# Revocation


async def test_a_pair_is_revoked_with_the_secret_that_the_server_knows(
    endpoint: HttpTokenEndpoint, at_buddy: Client, buddy: Sandbox
) -> None:
    client = replace(at_buddy, revoke_url=buddy.revoke_url, credentials=_secrets("new", SECRET))
    grant_id, pair = _pair_of(buddy)

    assert await endpoint.revoke(client, pair, 0) == Revoked()
    assert await endpoint.revoke(client, pair, 0) == Revoked()  # it is dead by now, which is no error

    counts = buddy.grant(grant_id)["counts"]
    assert (counts["revocations"], counts["revocations_of_dead_tokens"]) == (1, 1)
    assert isinstance(await endpoint.refresh(client, pair, 0), Rejected)


async def test_without_the_right_secret_nothing_is_revoked(
    endpoint: HttpTokenEndpoint, at_sandbox: Client, sandbox: Sandbox
) -> None:
    client = replace(at_sandbox, revoke_url=sandbox.revoke_url, credentials=_secrets("new", "wrong"))
    grant_id, pair = _pair_of(sandbox)

    assert await endpoint.revoke(client, pair, 0) == NotRevoked("invalid_client", of_client=True)
    assert sandbox.grant(grant_id)["revoked"] is False


async def test_a_revocation_endpoint_that_does_not_answer_is_no_yes(
    endpoint: HttpTokenEndpoint, serve: Serve, let_pass: LetPass
) -> None:
    hanging = await serve(_hanging_past(PATIENCE_SECONDS, let_pass))
    broken = await serve(_saying(b""))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = f"http://127.0.0.1:{listener.getsockname()[1]}/revoke"

    async def ask(url: str) -> Revocation:
        return await endpoint.revoke(replace(hanging, revoke_url=url), PAIR, 0)

    assert await ask(hanging.token_url) == RevocationUnanswered("timeout")
    assert await ask(broken.token_url) == RevocationUnanswered("connection_lost")
    assert await ask(refusing) == RevocationUnanswered("could_not_connect")


async def test_no_outcome_shows_a_token_or_a_secret(endpoint: HttpTokenEndpoint, serve: Serve) -> None:
    body = (
        b'{"error": "refresh-canary-0 secret", "error_description": "refresh-canary-0 and secret are wrong"}'
    )
    outcomes = [
        await endpoint.refresh(await serve(_answering(TOKENS)), PAIR, 0),
        await endpoint.refresh(await serve(_answering(body, "400 Bad Request")), PAIR, 0),
        await endpoint.refresh(await serve(_saying(b"refresh-canary-0 secret\r\n\r\n")), PAIR, 0),
    ]

    shown = " ".join(map(repr, outcomes))
    assert not [word for word in ("a1", "r1", "refresh-canary-0", "secret") if word in shown]


def _self_signed(home: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = home / "certificate.pem", home / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context
