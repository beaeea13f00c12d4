"""`evergrant_client` against the real service and the sandbox's API. What blocks runs in threads."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp

from evergrant_client import EvergrantAuth
from tests.http.conftest import Web, deployment, sandbox, web
from worker.core.api_keys import Scope
from worker.http.serving import listen

__all__ = ["deployment", "sandbox", "web"]


@pytest.fixture
async def key(web: Web) -> str:
    """Of an application, which takes tokens and puts grants in."""
    return await web.key(Scope.TOKENS, Scope.GRANTS, name="shop")


@pytest.fixture
async def grant(web: Web) -> dict[str, Any]:
    """An import line of a grant that is stored."""
    line: dict[str, Any] = web.enroll()[0]
    await web.put(line)
    return line


@pytest.fixture
def auth(web: Web, key: str, grant: dict[str, Any]) -> EvergrantAuth:
    return EvergrantAuth(grant["id"], url=web.url, key=key)


async def tokens_taken(web: Web) -> int:
    """How often the service gave a token away, by its own audit."""
    redis: Any = web.runtime.redis
    entries = await redis.xrange(web.runtime.deployment.prefix + "audit")
    return sum(json.loads(fields[b"entry"])["what"] == "token" for _, fields in entries)


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """An application at a URL for as long as the block lasts."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
