"""Replies as servers really give them, over real HTTP: what each of them has to be read as.

`token_replies.jsonl` has one case a line. `reply` is what the server says: `status`, `headers` and `body` (or
`body_base64`, or `body_plain` with `body_encode`); or `raw_base64`, the bytes on the wire, after which the
server closes, unless `stays_open`. In a body `"NOW+1800"` stands for the Unix time half an hour ahead, with
`MS` in milliseconds, `RFC3339` as such a text and `TEXT` as digits in a text. `sent` is what was known
before: the old pair is `at-old`, `rt-old`. `right` is how it has to be read.

More files of that form are read where `REPLY_CASES` names them, divided by `:`.
"""

import asyncio
import base64
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import brotli
import pytest
import pytest_asyncio

from tests.support.waiting import PATIENCE_SECONDS, moved_clock
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.token_endpoint import HttpTokenEndpoint
from worker.core import lifecycle
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.outcomes import (
    ClientRejected,
    NoLifetime,
    Outcome,
    Refreshed,
    Rejected,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.policy import Rules
from worker.core.providers import BUDDY, OAUTH2, PAGERDUTY_SCOPED, Client, GrantType

OLD = TokenPair("at-old", "rt-old")
PROVIDERS = {"oauth2": OAUTH2, "buddy": BUDDY, "pagerduty": PAGERDUTY_SCOPED}
KINDS = {
    Refreshed: "refreshed",
    Rejected: "grant_rejected",
    ClientRejected: "client_rejected",
    Unavailable: "no_answer",
    Unknown: "lost",
    Unread: "unread",
}
if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SOON_MS = 120_000
ENCODERS = {"br": brotli.compress, "zstd": zstd.compress}
FILES = [
    Path(__file__).with_name("token_replies.jsonl"),
    *map(Path, filter(None, os.environ.get("REPLY_CASES", "").split(":"))),
]


def _cases() -> list[Any]:
    return [
        pytest.param(case, id=case["name"])
        for file in FILES
        for case in map(json.loads, file.read_text().splitlines())
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[HttpTokenEndpoint]:
    async with HttpTokenEndpoint(timeout_seconds=PATIENCE_SECONDS) as opened:
        yield opened


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", _cases())
async def test_a_reply_is_read_as_what_it_is(case: dict[str, Any], endpoint: HttpTokenEndpoint) -> None:
    now = int(time.time() * 1000)
    async with AsyncExitStack() as opened:
        let_pass = opened.enter_context(moved_clock())
        url = await opened.enter_async_context(_serving(case["reply"], now, let_pass))
        client = _client(url, case.get("client", {}))
        outcome = await endpoint.refresh(client, OLD, now)

    right = case["right"]
    assert KINDS[type(outcome)] == right["outcome"], outcome
    _judge(outcome, right, case.get("sent", {}), client, now)
    assert not [each for each in ("at-new", "rt-new", "at-old", "rt-old", "hunter2") if each in repr(outcome)]


def _judge(outcome: Outcome, right: dict[str, Any], sent: dict[str, Any], client: Client, now: int) -> None:
    match outcome:
        case Refreshed():
            assert outcome.access_token == right["access_token"]
            assert (outcome.refresh_token or OLD.refresh_token) == right["refresh_token"]
            _judge_lifetime(outcome, right, sent, client, now)
            assert outcome.token_type == right.get("token_type")
        case Unread(reply=reply):
            assert all(token.encode() in reply.body for token in right.get("kept", ()))
        case Unavailable():
            asked = right.get("retry_after")
            stated = outcome.retry_after_ms
            assert stated == (None if asked is None else asked * 1000)
            assert outcome.refused == right.get("refused", False)
    for name in ("code", "detail"):
        assert getattr(outcome, name, None) == right.get(name, getattr(outcome, name, None))


def _judge_lifetime(
    outcome: Refreshed, right: dict[str, Any], sent: dict[str, Any], client: Client, now: int
) -> None:
    """By what becomes of a grant whose last known lifetime is `sent`'s."""
    last = sent.get("last_lifetime")
    grant = Grant(
        "one", "acme", Status.ACTIVE, 0, lineage_of("one", OLD.refresh_token), b"", now, now, now, None, None
    )
    grant = replace(grant, stated_life_ms=last * 1000 if last else None)
    after = lifecycle.succeed(
        grant, OLD, outcome, client, Rules(), sealed=b"", attempt=1, sent_at=now, now=now
    )
    ends_at = after.grant.access_expires_at
    match right.get("expires_in"):
        case None:
            pass
        case "never":
            assert ends_at is None
        case "unknown":
            assert outcome.expires_in_ms is NoLifetime.UNKNOWN
        case "soon":
            assert after.due_at is not None
            assert now < after.due_at <= now + SOON_MS
        case seconds:
            assert ends_at is not None
            assert abs(ends_at - now - seconds * 1000) <= 2_000
    if "refresh_expires_in" in right:
        assert outcome.refresh_expires_in_ms == right["refresh_expires_in"] * 1000


def _client(url: str, described: dict[str, Any]) -> Client:
    return Client(
        "acme",
        PROVIDERS[described.get("provider", "oauth2")],
        url,
        "id of ours",
        (ClientSecretPost("hunter2"),),
        grant_type=GrantType(described.get("grant_type", "refresh_token")),
    )


def _wire(reply: dict[str, Any], now: int) -> bytes:
    if "raw_base64" in reply:
        return base64.b64decode(reply["raw_base64"])
    body = _body(reply, now)
    headers = {**reply.get("headers", {}), "Content-Length": str(len(body))}
    head = [f"HTTP/1.1 {reply['status']} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*head, "", ""]).encode() + body


def _body(reply: dict[str, Any], now: int) -> bytes:
    if "body_base64" in reply:
        return base64.b64decode(reply["body_base64"])
    if "body_plain" in reply:
        return bytes(ENCODERS[reply["body_encode"]](reply["body_plain"].encode()))
    return re.sub(
        r'"NOW\+(\d+)(MS|RFC3339|TEXT)?"', lambda found: _instant(found, now), reply["body"]
    ).encode()


def _instant(found: re.Match[str], now: int) -> str:
    at_ms = now + int(found[1]) * 1000
    match found[2]:
        case "MS":
            return str(at_ms)
        case "RFC3339":
            return json.dumps(datetime.fromtimestamp(at_ms // 1000, UTC).isoformat())
        case "TEXT":
            return json.dumps(str(at_ms // 1000))
        case _:
            return str(at_ms // 1000)


@asynccontextmanager
async def _serving(reply: dict[str, Any], now: int, let_pass: Callable[[float], None]) -> AsyncIterator[str]:
    """A server that answers one request so; if it then stays open, the deadline passes soon."""
    wire = _wire(reply, now)
    is_over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(wire)
        await writer.drain()
        if reply.get("stays_open"):
            asyncio.get_running_loop().call_later(0.3, let_pass, PATIENCE_SECONDS)
            await is_over.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    finally:
        is_over.set()
        server.close()
