"""The real service in the test's event loop: a real store, a sandbox as provider, real HTTP."""

import os
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from config import load_settings
from tests.support.servers import CALLBACK, SECRET, free_port, lent
from worker.core.api_keys import Scope
from worker.http import openapi
from worker.http.app import service_of
from worker.http.calls import Service
from worker.http.operations import OPERATIONS
from worker.http.serving import listen, running
from worker.runtime.assembly import Runtime
from worker.runtime.deployment import deploy
from worker.runtime.process import as_member
from worker.sandbox.client import Sandbox

LOCAL_APP = f"http://127.0.0.1:{free_port()}"  # where a test may start an application of its own
KEYS = "k1:" + b64encode(bytes(range(32))).decode()
DOCUMENT = openapi.document_of(OPERATIONS)


@pytest.fixture
def sandbox(buddy_server: Sandbox) -> Iterator[Sandbox]:
    """The session's authorization server, as new."""
    yield from lent(buddy_server)


@pytest.fixture
def deployment(
    tmp_path: Path, valkey_socket: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of a deployment of its own."""
    for name in [name for name in os.environ if name.startswith("EVERGRANT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    settings = {
        "REDIS_URL": f"unix://{valkey_socket}",
        "NAMESPACE": uuid.uuid4().hex,
        "KEYS": KEYS,
        "DATA_DIR": str(tmp_path / "data"),
        "SECRETS_DIR": str(tmp_path / "none"),
        "PUBLIC_URL": CALLBACK.removesuffix("/integration-callback"),
        "CLIENTS__BUDDY__PROVIDER": "buddy",
        "CLIENTS__BUDDY__CLIENT_ID": "sandbox-client",
        "CLIENTS__BUDDY__CLIENT_SECRET": SECRET,
        "CLIENTS__BUDDY__TOKEN_URL": sandbox.token_url,
        "CLIENTS__BUDDY__REVOKE_URL": sandbox.revoke_url,
        "CLIENTS__BUDDY__AUTHORIZE_URL": sandbox.authorize_url,
        "CLIENTS__BUDDY__SCOPES": "WORKSPACE,EXECUTION_RUN",
        "RETURN_URLS": f"https://app.example/,{LOCAL_APP}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"EVERGRANT_{name}", value)


@dataclass
class Web:
    """The service under test.

    Attributes:
        url: where it is.
        answers: every answer so far, checked against the OpenAPI document as it came.
    """

    url: str
    port: int
    runtime: Runtime
    service: Service
    sandbox: Sandbox
    opened: AsyncExitStack = field(repr=False)
    answers: list[httpx.Response] = field(default_factory=list)

    async def key(
        self, *scopes: Scope, labels: Mapping[str, str] | None = None, name: str | None = None
    ) -> str:
        """A new key."""
        wanted = scopes or (Scope.TOKENS, Scope.GRANTS, Scope.FLEET)
        return await self.runtime.api_keys.make(name or uuid.uuid4().hex, wanted, labels or {})

    async def caller(self, *scopes: Scope, labels: Mapping[str, str] | None = None) -> httpx.AsyncClient:
        """A client of the service with a key of its own."""
        return await self.with_key(await self.key(*scopes, labels=labels))

    async def with_key(self, key: str | None) -> httpx.AsyncClient:
        """A client of the service that shows this key."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}

        async def note(response: httpx.Response) -> None:
            await response.aread()
            self.answers.append(response)
            assert_as_documented(response)

        client = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=60,
            trust_env=False,
            event_hooks={"response": [note]},
        )
        return await self.opened.enter_async_context(client)

    def enroll(self, count: int = 1, *, labels: Mapping[str, str] | None = None, **order: Any) -> list[Any]:
        """Import lines of grants that the sandbox has just issued."""
        lines = self.sandbox.issue(count, prefix=uuid.uuid4().hex, access_seconds=3_600, **order)
        return [{**line, "labels": dict(labels)} if labels else line for line in lines]

    async def put(self, *lines: Mapping[str, Any]) -> None:
        """Put grants in, as a caller who may."""
        admin = await self.caller(Scope.ADMIN)
        for line in lines:
            assert (await admin.post("/v1/grants", json=line)).status_code == 201


@pytest.fixture
async def web(deployment: None, sandbox: Sandbox) -> AsyncIterator[Web]:  # noqa: ARG001
    """The service, for as long as the test lasts. It may still be recovering: whoever refreshes waits."""
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    async with AsyncExitStack() as opened:
        runtime = await opened.enter_async_context(as_member(deploy(load_settings(), print), [], "web"))
        service = service_of(runtime)
        await opened.enter_async_context(running(service, listening))
        yield Web(f"http://127.0.0.1:{port}", port, runtime, service, sandbox, opened)


def assert_as_documented(response: httpx.Response) -> None:
    """Check an answer against the OpenAPI document: its status, its kind, its body."""
    described = _described(response.request)
    if response.request.url.path == "/openapi.json":
        return
    if described is None:
        assert response.status_code in {404, 405}
        return
    answers = described["responses"]
    assert str(response.status_code) in answers, (response.request.url.path, response.status_code)
    content = answers[str(response.status_code)].get("content")
    if content is None:
        assert response.content == b""
        return
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in content, (response.status_code, kind)
    if not kind.endswith("json"):
        return
    schema = {**content[kind]["schema"], "components": DOCUMENT["components"]}
    documents = response.text.splitlines() if kind.endswith("ndjson") else [response.text]
    for text in documents:
        jsonschema.Draft202012Validator(schema).validate(httpx.Response(200, text=text).json())


def _described(request: httpx.Request) -> Any:
    path, method = request.url.path, request.method.lower()
    for known, methods in DOCUMENT["paths"].items():
        front = known.removesuffix("{id}")
        if path == known or (front != known and path.startswith(front)):
            return methods.get(method)
    return None
