"""`Evergrant` and `AsyncEvergrant`: the calls, their results, and what is said where one fails."""

import asyncio
import pickle
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from evergrant_client import AsyncEvergrant, Evergrant, EvergrantError, Token
from tests.client.conftest import served
from tests.http.browser import Browser, query_of
from tests.http.conftest import Web
from tests.support.servers import free_port
from worker.core.api_keys import Scope

Make = Callable[[str, str], Any]


class Threaded:
    """What blocks, with the face of what does not: each call runs in a thread."""

    def __init__(self, target: Any) -> None:
        self._target = target

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._target.close()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        return partial(asyncio.to_thread, attribute) if callable(attribute) else Threaded(attribute)


def in_threads(url: str, key: str) -> Threaded:
    return Threaded(Evergrant(url, key))


@pytest.fixture(params=[in_threads, AsyncEvergrant])
def make(request: pytest.FixtureRequest) -> Make:
    """The client of threads and the one of asyncio."""
    chosen: Make = request.param
    return chosen


async def test_a_grant_is_put_in_replaced_and_shown_and_gives_tokens(web: Web, key: str, make: Make) -> None:
    (line,) = web.enroll(labels={"tenant": "acme"})
    async with make(web.url, key) as evergrant:
        put = await evergrant.grants.put(line)
        with pytest.raises(EvergrantError, match="grant_exists") as refused:
            await evergrant.grants.put(line)
        await evergrant.grants.put(line, replace=True)
        shown = await evergrant.grants.get(line["id"])
        token = await evergrant.token(line["id"], min_ttl=90)
        next_token = await evergrant.token(line["id"], refused_version=token.version)

    assert (put["id"], shown["labels"], refused.value.status) == (line["id"], {"tenant": "acme"}, 409)
    assert (token.access_token, token.token_type) == (line["access_token"], "Bearer")
    assert (token.grant, token.version, next_token.version) == (line["id"], 0, 1)
    assert token.expires_in >= 90


@pytest.mark.parametrize("grant_id", ["user-42/buddy", "a/../b", "..", "100%/?#", "ключ ключ"])
async def test_an_id_is_sent_as_it_is(web: Web, key: str, make: Make, grant_id: str) -> None:
    (line,) = web.enroll()
    await web.put({**line, "id": grant_id})
    async with make(web.url, key) as evergrant:
        assert (await evergrant.grants.get(grant_id))["id"] == grant_id
        assert (await evergrant.token(grant_id)).grant == grant_id


async def test_a_sign_in_is_begun_and_confirmed(web: Web, make: Make) -> None:
    web.sandbox.consent(decision="allow")
    key = await web.key(Scope.CONNECT)
    async with make(web.url, key) as evergrant, Browser(web) as browser:
        sign_in = await evergrant.connect(
            grant="user-42/buddy",
            client="buddy",
            scopes=["WORKSPACE"],
            labels={"tenant": "acme"},
            return_to="https://app.example/connected",
        )
        back = await browser.sign_in(sign_in.url)
        grant = await evergrant.confirm(query_of(back)["code"])
        unnamed = await evergrant.connect(grant="user-43/buddy", client="buddy")

    assert sign_in.expires_at.endswith("Z")
    assert (grant["id"], grant["scope"], grant["labels"]) == (
        "user-42/buddy",
        "WORKSPACE",
        {"tenant": "acme"},
    )
    assert unnamed.url != sign_in.url


async def test_a_failure_has_the_services_code_its_facts_and_when_to_try_again(
    web: Web, key: str, make: Make, grant: dict[str, Any]
) -> None:
    async with make(web.url, key) as evergrant:
        with pytest.raises(EvergrantError) as too_long:
            await evergrant.token(grant["id"], min_ttl=86_400)
        token = await evergrant.token(grant["id"])
        token = await evergrant.token(grant["id"], refused_version=token.version)
        with pytest.raises(EvergrantError) as too_soon:
            await evergrant.token(grant["id"], refused_version=token.version)

    assert (too_long.value.code, too_long.value.retry_after) == ("ttl_unreachable", None)
    assert too_long.value.problem["longest_ttl"] > 0
    assert (too_soon.value.code, too_soon.value.status) == ("too_many_requests", 429)
    assert 1 <= (too_soon.value.retry_after or 0) <= 60
    assert str(too_soon.value) == f"too_many_requests: {too_soon.value.detail}"
    again = pickle.loads(pickle.dumps(too_soon.value))  # noqa: S301 our own
    assert vars(again) == vars(too_soon.value)


@pytest.mark.parametrize("status", [200, 307, 404, 502])
async def test_what_is_no_answer_of_the_service_is_an_error_and_the_key_goes_no_further(
    make: Make, status: int
) -> None:
    seen: list[str] = []

    async def answer(request: Request) -> Response:
        seen.append(request.url.path)
        if status == 307:
            return RedirectResponse("/elsewhere")
        return PlainTextResponse("canary", status)

    with served(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])) as url:
        async with make(url + "/behind/a/proxy", "the-key") as evergrant:
            with pytest.raises(EvergrantError) as failed:
                await evergrant.token("user-42/buddy")

    assert (failed.value.code, failed.value.status) == ("unexpected_answer", status)
    assert "canary" not in str(failed.value) + repr(failed.value)
    assert seen == ["/behind/a/proxy/v1/token/user-42/buddy"]


async def test_a_token_that_no_header_can_hold_is_not_quoted(make: Make) -> None:
    given = {"access_token": "canary\r\n", "token_type": "Bearer", "expires_in": 60, "scope": None}

    async def answer(_: Request) -> Response:
        return JSONResponse({**given, "grant": "a", "version": 0})

    with served(Starlette(routes=[Route("/v1/token/a", answer, methods=["POST"])])) as url:
        async with make(url, "the-key") as evergrant:
            with pytest.raises(EvergrantError, match="unexpected_answer") as failed:
                await evergrant.token("a")

    assert "canary" not in "".join(traceback.format_exception(failed.value))


async def test_no_text_holds_a_key_or_a_token(web: Web, make: Make, grant: dict[str, Any]) -> None:
    key = await web.key(Scope.TOKENS)
    wrong = key[:-4] + "AAAA"
    said: list[str] = []
    calls: list[tuple[str, str]] = [(web.url, wrong), (f"http://127.0.0.1:{free_port()}", key)]
    for url, shown in calls:
        async with make(url, shown) as evergrant:
            with pytest.raises(EvergrantError) as failed:
                await evergrant.token(grant["id"])
            said += [str(failed.value), repr(failed.value), *traceback.format_exception(failed.value)]
    async with make(web.url, key) as evergrant:
        token: Token = await evergrant.token(grant["id"])
        said.append(repr(token))
        with pytest.raises(EvergrantError, match="forbidden") as failed:
            await evergrant.grants.put(grant)
        said += [str(failed.value), repr(failed.value), *traceback.format_exception(failed.value)]

    secrets = [key, wrong, grant["access_token"], grant["refresh_token"]]
    assert [text for text in said for secret in secrets if secret in text] == []
    assert [said[0].partition(":")[0], "unreachable" in "".join(said)] == ["unauthorized", True]
