"""Limits: bodies, time, calls at once, wrong keys. What is past one is told so, and costs others nothing."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request

from tests.http.conftest import Web
from tests.support.waiting import until
from worker.core.api_keys import Scope
from worker.http import calls, reading, serving
from worker.http.authentication import MOST_ADDRESSES, MOST_FAILURES, WINDOW_SECONDS, FailureLimit, address_of
from worker.http.calls import Refreshing
from worker.http.reading import MOST_BODY_BYTES, MOST_LINES_BYTES


@pytest.fixture
async def client(web: Web) -> httpx.AsyncClient:
    return await web.caller()


@pytest.mark.parametrize(
    ("most", "kind"), [(MOST_BODY_BYTES, "application/json"), (MOST_LINES_BYTES, "application/x-ndjson")]
)
@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_huge_body_is_refused_before_it_is_all_there(
    web: Web, client: httpx.AsyncClient, most: int, kind: str, *, is_chunked: bool
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(most // 65_536 + 2):
            yield b" " * 65_536

    body = endless() if is_chunked else b" " * (most + 1)
    answer = await client.post("/v1/grants", content=body, headers={"Content-Type": kind})

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert (await client.get("/v1/grants")).status_code == 200
    assert web.service.at_once == 0


async def test_a_body_that_does_not_arrive_is_given_up(
    web: Web, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.2)

    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    key = client.headers["Authorization"]
    writer.write(
        f"POST /v1/grants HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 9\r\n\r\n{{".encode()
    )
    answer = await reader.readuntil(b"}")
    writer.close()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


async def test_a_connection_whose_head_does_not_arrive_is_closed(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    again_reader, again_writer = await asyncio.open_connection("127.0.0.1", web.port)
    again_writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    await again_reader.readuntil(b'{"status":"alive"}')

    writer.write(b"GET /livez HTT")
    again_writer.write(b"GET /livez HTT")

    for each in (reader, again_reader):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await each.readexactly(1)
    writer.close()
    again_writer.close()


async def test_a_slow_call_is_no_slow_head(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.1)
    client = await web.caller()

    answer = await client.get("/v1/events?wait=0.5")

    assert answer.json()["events"] == []


async def test_past_the_most_calls_at_once_a_call_is_told_when_to_try_again(
    web: Web, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MOST_AT_ONCE", 1)
    waiting = asyncio.create_task(client.get("/v1/events?wait=5"))

    async def is_waiting() -> bool:
        return web.service.at_once == 1

    await until(is_waiting)

    refused = await client.get("/v1/grants")
    probe = await client.get("/livez")
    web.service.stopping.set()  # nobody waits any more

    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert refused.headers["retry-after"] == "1"
    assert probe.status_code == 200
    assert (await waiting).status_code == 200


@pytest.mark.parametrize(
    ("room", "method", "path"),
    [
        ("waiters", "GET", "/v1/events?wait=5"),
        ("refreshing", "POST", "/v1/refresh/one"),
        ("refreshing", "POST", "/v1/revoke/one"),
        ("deposits", "POST", "/v1/grants"),
    ],
)
async def test_where_all_room_for_long_work_is_taken_a_call_is_told_so_at_once(
    web: Web, client: httpx.AsyncClient, room: str, method: str, path: str
) -> None:
    await web.put({"id": "one", "client": "buddy", "access_token": "a", "refresh_token": "r"})
    setattr(web.service, room, Refreshing(0) if room == "refreshing" else asyncio.Semaphore(0))

    headers = {"Content-Type": "application/x-ndjson"}
    answer = await client.request(method, path, headers=headers, content=b"{}")

    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")


async def test_what_takes_too_long_is_given_up(web: Web, client: httpx.AsyncClient) -> None:
    web.service.longest_seconds = 0.1

    answer = await client.get("/v1/events?wait=20")

    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")


async def test_wrong_keys_of_one_address_are_limited_and_a_right_one_is_let_in_all_the_same(
    web: Web, client: httpx.AsyncClient
) -> None:
    stranger = await web.with_key("evg_000000000000_" + "A" * 43)

    answers = [await stranger.get("/v1/grants") for _ in range(MOST_FAILURES + 3)]

    assert [answer.status_code for answer in answers] == [401] * MOST_FAILURES + [429] * 3
    assert 1 <= int(answers[-1].headers["retry-after"]) <= WINDOW_SECONDS
    assert (await client.get("/v1/grants")).status_code == 200


def test_a_limit_ends_with_its_window_and_the_memory_of_failures_is_bounded() -> None:
    limit = FailureLimit()
    left = [limit.note("one", 0.0) for _ in range(MOST_FAILURES + 1)]
    assert (left[-2], left[-1]) == (0.0, WINDOW_SECONDS)
    assert limit.note("two", 0.0) == 0.0
    assert limit.note("one", WINDOW_SECONDS) == 0.0

    for number in range(MOST_ADDRESSES + 5):
        limit.note(f"address-{number}", 0.0)
    assert len(limit) == MOST_ADDRESSES


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("not an address", "not an address"),
    ],
)
def test_an_address_counts_as_what_one_host_has(host: str, counted: str) -> None:
    assert address_of(Request({"type": "http", "client": (host, 1)})) == counted


async def test_a_revoked_key_opens_nothing_from_then_on(web: Web) -> None:
    client = await web.with_key(await web.key(Scope.GRANTS, name="shop"))
    assert (await client.get("/v1/grants")).status_code == 200

    assert await web.runtime.api_keys.revoke("shop")

    assert (await client.get("/v1/grants")).status_code == 401


@pytest.mark.parametrize("headers", [[("Authorization", "Bearer {0}"), ("Authorization", "Bearer {0}")]])
async def test_two_authorizations_are_none(web: Web, headers: list[tuple[str, str]]) -> None:
    key = await web.key()
    client = await web.with_key(None)

    answer = await client.get("/v1/grants", headers=[(name, value.format(key)) for name, value in headers])

    assert answer.status_code == 401


async def test_the_scheme_is_read_in_any_letters(web: Web) -> None:
    client = await web.with_key(None)
    client.headers["Authorization"] = f"bEARER {await web.key()}"

    assert (await client.get("/v1/grants")).status_code == 200


async def test_json_that_is_nested_too_deep_is_no_fault_of_the_service(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/grants", content="[" * 100_000)
    many = json.dumps(
        {"id": "one", "client": "buddy", "access_token": "a", "labels": {str(n): "x" for n in range(99)}}
    )

    assert answer.status_code == 422
    assert (await client.post("/v1/grants", content=many)).status_code == 422
