"""`EvergrantAuth`: requests to the provider's API bear tokens that work, of threads and of tasks."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from evergrant_client import EvergrantAuth, EvergrantError
from tests.client.conftest import served, tokens_taken
from tests.http.conftest import Web
from tests.support.waiting import PATIENCE_SECONDS, until
from worker.core.api_keys import Scope

Get = Callable[..., Coroutine[Any, Any, httpx.Response]]


async def get_in_a_thread(auth: httpx.Auth, url: str, **options: Any) -> httpx.Response:
    def get() -> httpx.Response:
        with httpx.Client(auth=auth, timeout=PATIENCE_SECONDS, **options) as api:
            return api.get(url)

    return await asyncio.to_thread(get)


async def get_in_a_task(auth: httpx.Auth, url: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(auth=auth, timeout=PATIENCE_SECONDS, **options) as api:
        return await api.get(url)


@pytest.fixture(params=[get_in_a_thread, get_in_a_task])
def get(request: pytest.FixtureRequest) -> Get:
    """GET by the blocking client and by the one of asyncio."""
    chosen: Get = request.param
    return chosen


GIVEN = {"token_type": "Bearer", "scope": None, "grant": "a"}


class Api:
    """An API that notes which tokens it was shown, and refuses as many as it is told to."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.elsewhere: list[str | None] = []
        self.refuses = 0
        self.url = ""

    def app(self) -> Starlette:
        """Its routes: the API, a way to another host, and that host."""
        return Starlette(
            routes=[
                Route("/", self._answer, methods=["GET", "POST"]),
                Route("/moved", self._move),
                Route("/elsewhere", self._note),
            ]
        )

    async def _answer(self, request: Request) -> Response:
        self.shown.append(request.headers["authorization"].removeprefix("Bearer "))
        body = (await request.body()).decode()
        return JSONResponse({"body": body}, 401 if len(self.shown) <= self.refuses else 200)

    async def _move(self, request: Request) -> Response:
        self.shown.append(request.headers["authorization"].removeprefix("Bearer "))
        return RedirectResponse(self.url.replace("127.0.0.1", "localhost") + "/elsewhere")

    async def _note(self, request: Request) -> Response:
        self.elsewhere.append(request.headers.get("authorization"))
        return Response(status_code=401)


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    with served(api.app()) as api.url:
        yield api


async def test_a_token_is_taken_once_and_kept_while_it_is_promised(
    web: Web, auth: EvergrantAuth, get: Get
) -> None:
    answers = [await get(auth, web.sandbox.api_url) for _ in range(3)]

    assert [answer.json() for answer in answers] == [{"ok": True, "person": "alice"}] * 3
    assert await tokens_taken(web) == 1


async def test_a_token_whose_promise_is_over_is_taken_anew(
    web: Web, auth: EvergrantAuth, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evergrant_client.auth.ON_THE_WAY_SECONDS", 3_600)  # longer than any promise
    answers = [await get(auth, web.sandbox.api_url) for _ in range(2)]

    assert [answer.json() for answer in answers] == [{"ok": True, "person": "alice"}] * 2
    assert await tokens_taken(web) == 2


async def test_threads_and_tasks_that_need_a_token_share_one_call(web: Web, auth: EvergrantAuth) -> None:
    answers = await asyncio.gather(
        *(get_in_a_thread(auth, web.sandbox.api_url) for _ in range(20)),
        *(get_in_a_task(auth, web.sandbox.api_url) for _ in range(20)),
    )

    assert {answer.status_code for answer in answers} == {200}
    assert await tokens_taken(web) == 1


async def test_a_task_that_is_cancelled_does_not_end_the_call_for_others(web: Web, key: str) -> None:
    (grant,) = web.enroll()
    await web.put({**grant, "expires_in": 30})
    auth = EvergrantAuth(grant["id"], url=web.url, key=key, min_ttl=120)
    with web.sandbox.fault("latency", ms=500):
        first, second = (asyncio.create_task(get_in_a_task(auth, web.sandbox.api_url)) for _ in range(2))

        async def is_refreshing() -> bool:
            return bool(await asyncio.to_thread(lambda: list(web.sandbox.log(grant["id"]))))

        await until(is_refreshing)
        first.cancel()
        answer = await second

    assert answer.json() == {"ok": True, "person": "alice"}
    assert first.cancelled()
    assert await tokens_taken(web) == 1


async def test_a_grant_that_was_refreshed_behind_its_back_costs_one_more_try(
    web: Web, auth: EvergrantAuth, get: Get, grant: dict[str, Any]
) -> None:
    await get(auth, web.sandbox.api_url)
    admin = await web.caller(Scope.ADMIN)
    await admin.post(f"/v1/refresh/{grant['id']}")

    answers = [await get(auth, web.sandbox.api_url) for _ in range(2)]

    assert [answer.json() for answer in answers] == [{"ok": True, "person": "alice"}] * 2
    assert await tokens_taken(web) == 2
    assert len(list(web.sandbox.log(grant["id"]))) == 1


async def test_an_api_that_refuses_every_token_is_tried_twice_and_then_its_answer_stands(
    web: Web, auth: EvergrantAuth, get: Get, api: Api, grant: dict[str, Any]
) -> None:
    api.refuses = 10
    first = await get(auth, api.url)
    shown = list(api.shown)
    soon = await get(auth, api.url)

    assert (first.status_code, soon.status_code) == (401, 401)
    assert shown == [grant["access_token"], web.sandbox.grant(grant["id"])["access_token"]]
    assert api.shown == [*shown, shown[-1]]


async def test_callers_who_are_refused_together_share_one_refresh(
    web: Web, auth: EvergrantAuth, get: Get, api: Api, grant: dict[str, Any]
) -> None:
    api.refuses = 10
    answers = await asyncio.gather(*(get(auth, api.url) for _ in range(10)))

    assert {answer.status_code for answer in answers} <= {200, 401}
    assert len(list(web.sandbox.log(grant["id"]))) == 1


async def test_who_was_not_refused_does_not_hear_of_anothers_refusal(get: Get) -> None:
    """The grant was refreshed a moment ago, and an API refuses its token again: others still get it."""
    refused, told = threading.Event(), threading.Event()  # the service has a loop of its own

    async def give(request: Request) -> Response:
        if "refused_version" in await request.json():
            refused.set()
            await asyncio.to_thread(told.wait, PATIENCE_SECONDS)
            return JSONResponse({"code": "too_many_requests", "detail": "too soon"}, 429)
        return JSONResponse({**GIVEN, "access_token": "new", "expires_in": 0, "version": 1})

    async def answer(request: Request) -> Response:
        return Response(status_code=401 if request.url.path == "/refuses" else 200)

    app = Starlette(
        routes=[
            Route("/v1/token/{id:path}", give, methods=["POST"]),
            Route("/refuses", answer),
            Route("/serves", answer),
        ]
    )
    with served(app) as url:
        auth = EvergrantAuth("one", url=url, key="k")
        first = asyncio.create_task(get(auth, url + "/refuses"))
        await asyncio.to_thread(refused.wait, PATIENCE_SECONDS)
        other = await get(auth, url + "/serves")
        told.set()

    assert other.status_code == 200
    assert (await first).status_code == 401


async def test_who_was_refused_does_not_wait_for_a_call_that_was_made_without_word_of_it(get: Get) -> None:
    asked_again, told = asyncio.Event(), asyncio.Event()
    asked: list[dict[str, Any]] = []
    shown: list[str] = []

    async def give(request: Request) -> Response:
        body = await request.json()
        asked.append(body)
        if body == {"refused_version": 0}:
            told.set()
            return JSONResponse({**GIVEN, "access_token": "good", "expires_in": 300, "version": 1})
        if len(asked) > 1:
            asked_again.set()
            with suppress(TimeoutError):  # none where the refused caller waits for this very answer
                await asyncio.wait_for(told.wait(), 5)
        return JSONResponse({**GIVEN, "access_token": "bad", "expires_in": 0, "version": 0})

    async def answer(request: Request) -> Response:
        token = request.headers["authorization"]
        shown.append(token)
        await asyncio.wait_for(asked_again.wait(), PATIENCE_SECONDS)
        return Response(status_code=200 if token == "Bearer good" else 401)

    async def is_shown() -> bool:
        return bool(shown)

    routes = [Route("/v1/token/a", give, methods=["POST"]), Route("/api", answer)]
    with served(Starlette(routes=routes)) as url:
        auth = EvergrantAuth("a", url=url, key="the-key")
        answers = [asyncio.create_task(get(auth, url + "/api"))]
        await until(is_shown)
        answers.append(asyncio.create_task(get(auth, url + "/api")))
        statuses = [(await each).status_code for each in answers]

    assert statuses == [200, 200]
    assert asked == [{}, {}, {"refused_version": 0}]


async def test_a_request_whose_body_can_be_sent_once_only_is_not_sent_again(
    auth: EvergrantAuth, api: Api, grant: dict[str, Any]
) -> None:
    def post(content: Any) -> httpx.Response:
        with httpx.Client(auth=auth, timeout=PATIENCE_SECONDS) as client:
            return client.post(api.url, content=content)

    api.refuses = 1
    streamed = await asyncio.to_thread(post, iter([b"one ", b"body"]))
    whole = await asyncio.to_thread(post, b"one body")

    assert (streamed.status_code, streamed.json()) == (401, {"body": "one body"})
    assert (whole.status_code, whole.json()) == (200, {"body": "one body"})
    assert api.shown[0] == grant["access_token"] != api.shown[1]


async def test_a_body_that_is_held_whole_is_sent_again(auth: EvergrantAuth, api: Api) -> None:
    api.refuses = 1
    async with httpx.AsyncClient(auth=auth, timeout=PATIENCE_SECONDS) as client:
        answer = await client.post(api.url, json={"name": "one"})

    assert (answer.status_code, answer.json()) == (200, {"body": '{"name":"one"}'})


async def test_another_host_is_not_shown_the_token_and_its_401_costs_no_refresh(
    web: Web, auth: EvergrantAuth, get: Get, api: Api, grant: dict[str, Any]
) -> None:
    answer = await get(auth, api.url + "/moved", follow_redirects=True)

    assert answer.status_code == 401
    assert (api.shown, api.elsewhere) == ([grant["access_token"]], [None])
    assert list(web.sandbox.log(grant["id"])) == []


async def test_a_failed_grant_is_an_error_that_says_why_to_each_who_waits(
    web: Web, key: str, get: Get
) -> None:
    line = {"id": "over", "client": "buddy", "access_token": "a", "expires_in": 1, "issued_at": 1_700_000_000}
    await web.put(line | {"status": "failed"})
    auth = EvergrantAuth("over", url=web.url, key=key)

    errors = await asyncio.gather(*(get(auth, web.sandbox.api_url) for _ in range(5)), return_exceptions=True)

    for error in errors:
        assert isinstance(error, EvergrantError)
        assert (error.code, error.status) == ("grant_failed", 409)
        assert {"reason", "access_token_expires_at"} <= error.problem.keys()


async def test_after_a_failure_the_next_request_asks_again(
    web: Web, key: str, get: Get, grant: dict[str, Any]
) -> None:
    auth = EvergrantAuth(grant["id"], url=web.url, key=key)
    admin = await web.caller(Scope.ADMIN)
    await admin.delete(f"/v1/grants/{grant['id']}")
    with pytest.raises(EvergrantError, match="no_such_grant"):
        await get(auth, web.sandbox.api_url)
    await web.put(grant)

    assert (await get(auth, web.sandbox.api_url)).json() == {"ok": True, "person": "alice"}


def test_what_cannot_be_a_service_or_a_key_is_said_at_once_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("EVERGRANT_URL", "EVERGRANT_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="EVERGRANT_URL"):
        EvergrantAuth("user-42/buddy", key="canary")
    for url in (
        "evergrant.example",
        "ftp://evergrant.example",
        "https://canary@evergrant.example",
        "https://",
    ):
        with pytest.raises(ValueError, match="EVERGRANT_URL") as refused:
            EvergrantAuth("user-42/buddy", url=url, key="canary")
        assert "canary" not in str(refused.value)
    for wrong in (None, "two words canary", "canary\x00", "cänary"):
        with pytest.raises(ValueError, match="EVERGRANT_KEY") as refused:
            EvergrantAuth("user-42/buddy", url="https://evergrant.example", key=wrong)
        assert "canary" not in str(refused.value)


def test_nothing_starts_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGRANT_URL", "https://evergrant.example/")
    monkeypatch.setenv("EVERGRANT_KEY", "canary-key\n")  # as a file gives it
    before = threading.active_count()

    auth = EvergrantAuth("user-42/buddy")

    assert threading.active_count() == before
    assert "canary" not in repr(auth)
