"""The application of the demo counts every 401 that breaks a promise, and the demo fails with one."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.waiting import PATIENCE_SECONDS
from worker.cli.demo import Summary
from worker.cli.demo_application import Application
from worker.sandbox.client import Sandbox

GOOD = Summary(
    grants=2,
    seconds=8,
    rotations=3,
    failures=1,
    expired=0,
    lost=0,
    superseded_presented=0,
    overlapping=0,
    calls=9,
    refused=0,
    revoked=True,
)


@contextmanager
def _promising(token: str, expires_in: float) -> Iterator[str]:
    """A service that promises one token to everybody, whatever becomes of it; gives its URL."""

    class Promise(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps({"access_token": token, "expires_in": expires_in}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Promise) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


async def _after_calls(application: Application, number: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), application.at_work():
        while application.calls < number:  # noqa: ASYNC110 it tells nobody
            await asyncio.sleep(0.01)


async def test_a_token_that_the_api_takes_is_kept_while_it_is_promised(buddy_server: Sandbox) -> None:
    (grant,) = buddy_server.issue(1, prefix="demo-taken")
    with _promising(grant["access_token"], 60) as service:
        application = Application(service, "key", buddy_server.api_url, [grant["id"]])
        await _after_calls(application, 3)

    assert (application.refused, application.tokens) == (0, 1)


async def test_a_401_to_a_promised_token_is_counted(buddy_server: Sandbox) -> None:
    with _promising("dead", 60) as service:
        application = Application(service, "key", buddy_server.api_url, ["one"])
        await _after_calls(application, 2)

    assert application.refused == application.calls


async def test_nothing_is_called_with_a_token_that_is_not_promised_or_of_a_person_who_is_gone(
    buddy_server: Sandbox,
) -> None:
    with _promising("dead", 0) as service:
        application = Application(service, "key", buddy_server.api_url, ["one", "two"])
        application.forget("one")
        async with asyncio.timeout(PATIENCE_SECONDS), application.at_work():
            while application.tokens < 2:  # noqa: ASYNC110 it tells nobody
                await asyncio.sleep(0.01)

    assert application.calls == 0


@pytest.mark.parametrize("seen", [{"refused": 1}, {"calls": 0}, {"expired": 1}, {"failures": 0}])
def test_the_demo_is_no_good_with_a_401_without_a_call_or_with_a_fault(seen: dict[str, Any]) -> None:
    assert GOOD.good
    assert not replace(GOOD, **seen).good
