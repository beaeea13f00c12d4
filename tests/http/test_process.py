"""`evergrant serve` as a real process: where it listens, what its log holds, how it stops."""

import os
import re
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import KEYS
from tests.support.command import Cli
from tests.support.servers import SECRET
from tests.support.waiting import PATIENCE_SECONDS, eventually
from worker.http.operations import OPERATIONS
from worker.sandbox.client import Sandbox


@pytest.fixture
def cli(tmp_path: Path, valkey_socket: Path, sandbox: Sandbox) -> Cli:
    return Cli(tmp_path, {"PATH": os.defpath, "HOME": str(tmp_path)}).having(
        REDIS_URL=f"unix://{valkey_socket}",
        NAMESPACE=uuid.uuid4().hex,
        KEYS=KEYS,
        DATA_DIR=str(tmp_path / "data"),
        SECRETS_DIR=str(tmp_path / "none"),
        HTTP_PORT="0",
        LOG_LEVEL="debug",
        CLIENTS__BUDDY__PROVIDER="buddy",
        CLIENTS__BUDDY__CLIENT_ID="sandbox-client",
        CLIENTS__BUDDY__CLIENT_SECRET=SECRET,
        CLIENTS__BUDDY__TOKEN_URL=sandbox.token_url,
    )


@contextmanager
def serving(cli: Cli, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The service and its URL."""
    with log.open("wb") as output, cli.running("serve", output=output) as process:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            return "http.listening" in log.read_text()

        eventually(listens)
        (port,) = re.findall(r'"port": (\d+)', log.read_text())
        yield process, f"http://127.0.0.1:{port}"


@contextmanager
def caller(cli: Cli, url: str, key: str | None = None) -> Iterator[httpx.Client]:
    key = key or cli("api-keys", "new", uuid.uuid4().hex, "--scopes", "admin").out.strip()
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False) as client:
        yield client


def enroll(sandbox: Sandbox) -> dict[str, Any]:
    (line,) = sandbox.issue(1, prefix=uuid.uuid4().hex, access_seconds=3_600)
    return line


def test_told_to_stop_it_finishes_what_is_in_flight_and_leaves_nothing_behind(
    cli: Cli, sandbox: Sandbox, tmp_path: Path
) -> None:
    log, grant = tmp_path / "log", enroll(sandbox)
    with serving(cli, log) as (process, url), caller(cli, url) as client, ThreadPoolExecutor(2) as threads:
        assert client.post("/v1/grants", json=grant).status_code == 201
        health = cli("health", "web")
        with sandbox.fault("latency", ms=1_500):
            refreshing = threads.submit(client.post, f"/v1/refresh/{grant['id']}")
            with caller(cli, url) as another:
                waiting = threads.submit(another.get, "/v1/events?wait=30")
                eventually(lambda: list(sandbox.log(grant["id"])))
                process.send_signal(signal.SIGTERM)
                eventually(lambda: "http.stopping" in log.read_text())
                answers = [refreshing.result(), waiting.result()]
        assert process.wait(PATIENCE_SECONDS) == 0
        with pytest.raises(httpx.ConnectError):
            client.get("/livez")

    assert (answers[0].status_code, answers[0].json()["version"]) == (200, 1)
    assert answers[1].status_code == 200
    assert health.code == 0
    assert cli("health", "web").code == 1
    assert '"event": "http.stopped"' in log.read_text()
    shown = cli("grants", "show", grant["id"], "--json").documents[0]
    assert (shown["version"], shown["next_due_reason"]) == (1, "access_token_share")


def test_no_token_secret_or_key_is_in_a_log_a_problem_or_the_openapi_document(
    cli: Cli, sandbox: Sandbox, tmp_path: Path
) -> None:
    log, grant = tmp_path / "log", enroll(sandbox)
    key = cli("api-keys", "new", "canary", "--scopes", "admin").out.strip()
    wrong = key[:-4] + "AAAA"
    said: list[str] = []
    with serving(cli, log) as (process, url), caller(cli, url, key) as client:
        said.append(client.post("/v1/grants", json=grant).text)
        said.append(client.post(f"/v1/refresh/{grant['id']}").text)
        tokens = sandbox.grant(grant["id"])
        secrets = [grant["access_token"], grant["refresh_token"], tokens["access_token"], SECRET, key, wrong]
        secrets += [each.split("_", 2)[2] for each in (key, wrong)]
        for place in secrets:  # a token in the wrong place
            said += [
                client.post("/v1/grants", content=place).text,
                client.post("/v1/grants", json={**grant, "expires_in": place}).text,
                client.get("/v1/grants", params={"limit": place}).text,
                client.get("/v1/grants", params={place: "1"}).text,
                client.get("/v1/grants", params={"cursor": place}).text,
                client.get(f"/v1/{place}").text,
                client.get("/v1/grants", headers={"Authorization": f"Bearer {wrong}"}).text,
                client.get("/v1/grants", headers={"Authorization": f"Basic {place}"}).text,
            ]
        sandbox.set_secret("another")
        said.append(client.post(f"/v1/refresh/{grant['id']}").text)
        for operation in OPERATIONS:
            said.append(client.request(operation.method, operation.path.replace("{id}", grant["id"])).text)
        said.append(client.get("/openapi.json").text)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)
    said.append(log.read_text())

    assert [(each, text[:300]) for each in secrets for text in said if each in text] == []
    assert "http.call" in log.read_text()


def test_an_address_that_is_taken_is_one_line_that_names_the_settings(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cli.having(HTTP_PORT=str(taken.getsockname()[1]))("serve")

    assert done.code == 1
    assert done.complaint.startswith("evergrant: EVERGRANT_HTTP_HOST and _PORT: 127.0.0.1:")


@pytest.mark.parametrize(
    ("name", "value"), [("HTTP_PORT", "65536"), ("HTTP_PORT", "http"), ("HTTP_HOST", "a b"), ("KEYS", None)]
)
def test_a_setting_that_cannot_be_is_one_line_that_names_it(cli: Cli, name: str, value: str | None) -> None:
    done = cli.having(**{name: value})("serve")

    assert done.code == 2
    assert done.complaint.startswith(f"evergrant: EVERGRANT_{name}")


def test_beyond_this_machine_it_warns_that_keys_leave_in_the_clear(cli: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(cli.having(HTTP_HOST="0.0.0.0"), log):  # noqa: S104 what is warned of
        assert "put TLS in front of it" in log.read_text()
