"""The applications of docs/examples: the same one in FastAPI and in Node, run as a reader would run them."""

import json
import os
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.http.browser import Browser
from tests.http.conftest import LOCAL_APP, Web
from tests.support.waiting import PATIENCE_SECONDS, until
from worker.adapters.webhook_sender import signature
from worker.core.api_keys import Scope
from worker.core.webhooks import Message

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
GRANT = "user-42/buddy"  # whom both applications know
WEBHOOK_SECRET = "whsec_" + b64encode(bytes(range(32))).decode()

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
EVERY = ["fastapi_app.py", pytest.param("node_app.mjs", marks=needs_node)]


def command_of(name: str, port: str) -> list[str]:
    if name.endswith(".mjs"):
        return [str(shutil.which("node")), str(EXAMPLES / name)]
    served_by = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", port, "--log-level", "warning"]
    return [sys.executable, *served_by, name.removesuffix(".py") + ":app"]


@asynccontextmanager
async def running(name: str, evergrant: str, key: str, api: str) -> AsyncIterator[httpx.AsyncClient]:
    """An example, and a browser that looks at it."""
    url, port = LOCAL_APP, LOCAL_APP.rpartition(":")[2]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "clients" / "python"),
        "EVERGRANT_URL": evergrant,
        "EVERGRANT_KEY": key,
        "API_URL": api,
        "APP_URL": url,
        "PORT": port,
        "SESSION_SECRET": "a-secret-of-the-application",
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
    }
    command = command_of(name, port)
    with subprocess.Popen(command, env=environment) as process:  # noqa: ASYNC220, S603 our own example
        try:
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as browser:

                async def answers() -> bool:
                    assert process.poll() is None
                    try:
                        return (await browser.get("/")).is_success
                    except httpx.ConnectError:
                        return False

                await until(answers)
                yield browser
        finally:
            process.kill()


@pytest.mark.parametrize("name", EVERY)
async def test_an_example_calls_the_api_and_tries_once_more_after_a_401(web: Web, name: str) -> None:
    (line,) = web.enroll()
    await web.put({**line, "id": GRANT, "access_token": "that-the-api-refuses"})
    async with running(name, web.url, await web.key(Scope.TOKENS), web.sandbox.api_url) as browser:
        answers = [await browser.get("/me") for _ in range(2)]

    assert [answer.json()["ok"] for answer in answers] == [True] * 2
    assert len(list(web.sandbox.log(line["id"]))) == 1


@pytest.mark.parametrize("name", EVERY)
async def test_an_example_says_that_the_person_must_connect_where_there_is_no_grant(
    web: Web, name: str
) -> None:
    async with running(name, web.url, await web.key(Scope.TOKENS), web.sandbox.api_url) as browser:
        answer = await browser.get("/me")

    assert answer.status_code == 409
    assert "no_such_grant" in answer.text


@pytest.mark.parametrize("name", EVERY)
async def test_an_example_signs_a_person_in_and_calls_the_api_for_them(web: Web, name: str) -> None:
    web.sandbox.consent(decision="allow", person="alice")
    key = await web.key(Scope.CONNECT, Scope.TOKENS)
    async with running(name, web.url, key, web.sandbox.api_url) as app, Browser(web) as browser:
        sent = await app.post("/connect")
        returned = (await browser.sign_in(sent.headers["location"])).headers["location"]
        back = await app.get(returned)
        again = await app.get(returned)
        me = await app.get("/me")

    assert (sent.status_code, back.status_code, back.headers["location"]) == (303, 303, "/me")
    assert again.status_code == 400
    assert me.json() == {"ok": True, "person": "alice"}


@pytest.mark.parametrize("name", EVERY)
async def test_an_example_confirms_nobody_whom_it_did_not_send(web: Web, name: str) -> None:
    web.sandbox.consent(decision="allow", person="mallory")
    key = await web.key(Scope.CONNECT, Scope.TOKENS)
    async with running(name, web.url, key, web.sandbox.api_url) as app, Browser(web) as browser:
        sent = await app.post("/connect")
        returned = (await browser.sign_in(sent.headers["location"])).headers["location"]
        async with httpx.AsyncClient(base_url=app.base_url, timeout=PATIENCE_SECONDS) as victim:
            await victim.post("/connect")  # who is on the way with a sign-in of their own
            of_a_stranger = await victim.get(returned)

    assert of_a_stranger.status_code == 400
    assert await web.runtime.registry.find(GRANT) is None


@pytest.mark.parametrize("name", EVERY)
async def test_an_example_believes_signed_webhooks_alone_and_each_event_once(name: str) -> None:
    def event(kind: str, number: int) -> tuple[bytes, dict[str, str]]:
        event_id, data = f"{number}-grant-{kind}", {"access_token_expires_at": "2026-11-22T07:26:10.070Z"}
        document = {"id": event_id, "type": f"evergrant.grant.{kind}", "subject": GRANT, "data": data}
        body = json.dumps(document).encode()
        secrets = [bytes(32), bytes(range(32))]  # one is being replaced
        return body, signature(Message("", event_id, body, int(time.time() * 1000), secrets))

    failed, headers = event("failed", 1)
    of_another = signature(Message("", "1-grant-failed", failed, int(time.time() * 1000), [bytes(32)]))
    old = signature(Message("", "1-grant-failed", failed, int(time.time() - 600) * 1000, [bytes(range(32))]))
    recovered, recovered_headers = event("recovered", 2)
    async with running(name, "http://127.0.0.1:9", "", "http://127.0.0.1:9") as app:

        async def told() -> object:
            return (await app.get("/to-connect-again")).json()

        refused = [
            (await app.post("/hooks", content=body, headers=each)).status_code
            for body, each in ((failed + b" ", headers), (failed, of_another), (failed, old), (failed, {}))
        ]
        nobody = await told()
        taken = (await app.post("/hooks", content=failed, headers=headers)).status_code
        somebody = await told()
        await app.post("/hooks", content=recovered, headers=recovered_headers)
        await app.post("/hooks", content=failed, headers=headers)

        assert (refused, nobody, taken) == ([400] * 4, {}, 204)
        assert somebody == {GRANT: "2026-11-22T07:26:10.070Z"}
        assert await told() == {}
