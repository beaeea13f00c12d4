"""A live deployment: real processes, the embedded server, and the sandbox as provider and judge.

Its processes are the Procfile's. What is started here is ended here. To use one, import `build` into the
conftest.py beside the tests.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from config import load_settings
from tests.support.servers import free_port
from worker.adapters.embedded import EmbeddedServer
from worker.core.grant import TokenPair
from worker.core.registry import StoredGrant
from worker.fleet.importing import Importer
from worker.runtime.assembly import Runtime, open_runtime
from worker.runtime.deployment import deploy
from worker.sandbox.client import Sandbox

T = TypeVar("T")

DEADLINE_SECONDS = 90.0
SECRET = "canary-client-secret-7f3a"
KEY = "k1:Y2FuYXJ5LXNlYWxpbmcta2V5LWNhbmFyeS1rZXktMDE="


class LiveDeployment:
    """One deployment under test: its directory, its processes, its sandbox."""

    def __init__(self, directory: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.sandbox = sandbox
        self.secrets = directory / "secrets"
        self.log = directory / "processes.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._scribe = self._start_scribe()
        self._prepare(monkeypatch)
        self.server = EmbeddedServer(load_settings().data_dir)

    def _prepare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("EVERGRANT_")]:
            monkeypatch.delenv(name)
        monkeypatch.chdir(self.directory)
        self.secrets.mkdir()
        self.put_secret(SECRET)
        self.sandbox.set_secret(SECRET)
        environment = {
            "EVERGRANT_DATA_DIR": str(self.directory / "data"),
            "EVERGRANT_KEYS": KEY,
            "EVERGRANT_SECRETS_DIR": str(self.secrets),
            "EVERGRANT_SWEEP_SECONDS": "0.5",
            "EVERGRANT_HTTP_TIMEOUT_SECONDS": "2",
            "EVERGRANT_PROBE_SECONDS": "1",
            "EVERGRANT_LOG_LEVEL": "debug",
            "EVERGRANT_HTTP_PORT": "0",
            "EVERGRANT_CLIENTS__BUDDY__PROVIDER": "buddy",
            "EVERGRANT_CLIENTS__BUDDY__CLIENT_ID": "sandbox-client",
            "EVERGRANT_CLIENTS__BUDDY__TOKEN_URL": self.sandbox.token_url,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    def _start_scribe(self) -> subprocess.Popen[bytes]:
        """Write down the output of the processes, also of one that may not write files."""
        with self.log.open("ab") as log:
            return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log, start_new_session=True)  # noqa: S607

    def put_secret(self, secret: str) -> None:
        """Replace the client's secret, as an operator would."""
        path = self.secrets / "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET"
        aside = self.directory / "secret.new"
        aside.write_text(secret)
        aside.replace(path)

    def start_worker(self, *options: str, app: str = "worker") -> subprocess.Popen[bytes]:
        """The Procfile's worker, or one with other options, or of a module in this deployment's directory."""
        options = options or (
            "--concurrency",
            "2",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        )
        return self._start("celery", "-A", app, "worker", *options)

    def start_beat(self) -> subprocess.Popen[bytes]:
        """The Procfile's beat."""
        return self._start("celery", "-A", "worker", "beat")

    def start_web(self) -> str:
        """The Procfile's HTTP service; gives its URL once it listens."""
        port = free_port()
        os.environ["EVERGRANT_HTTP_PORT"] = str(port)
        self._start("worker.cli", "serve")
        url = f"http://127.0.0.1:{port}"
        self.wait_until(lambda: _answers(url), "the service listens")
        return url

    def start_service(self) -> subprocess.Popen[bytes]:
        """The Procfile's HTTP service."""
        return self._start("worker.cli", "serve")

    def _start(self, *module: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 our own interpreter
            [sys.executable, "-m", *module],
            stdin=subprocess.DEVNULL,
            stdout=self._scribe.stdin,
            stderr=self._scribe.stdin,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def children(self, worker: int) -> set[int]:
        """The child processes of a worker that are at work, by their heartbeat files."""
        files = (self.directory / "data" / "heartbeats" / "evergrant").glob("worker.*")
        return {int(file.suffix[1:]) for file in files} - {worker}

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """`kill -9` for a process and its children."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a process in order."""
        process.terminate()
        process.wait(DEADLINE_SECONDS)

    def stop(self) -> None:
        """End what was started here, in order."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill(process)
        self._scribe.communicate()

    def run(self, work: Callable[[Runtime], Awaitable[T]]) -> T:
        """Look at the deployment from inside."""

        async def look() -> T:
            deployment = deploy(load_settings(), lambda _: None)
            async with open_runtime(deployment) as runtime:
                return await work(runtime)

        return asyncio.run(look())

    def issue(self, count: int, **order: float) -> list[str]:
        """Mint grants at the sandbox and import them; returns their lines."""
        lines = list(self.sandbox.issue_lines(count, **order))
        self.take(lines)
        return lines

    def take(self, lines: Iterable[str]) -> None:
        """Import lines."""

        async def store(runtime: Runtime) -> None:
            numbered = enumerate((line.encode() for line in lines), 1)
            importer = Importer(
                registry=runtime.registry,
                sealer=runtime.deployment.keys,
                clients=runtime.clients,
                rules=runtime.rules,
                replace_existing=False,
            )
            async for taken in importer.take_all(numbered):
                assert not taken.refusals

        self.run(store)

    def grants(self) -> dict[str, StoredGrant]:
        """Every stored grant by id."""

        async def walk(runtime: Runtime) -> dict[str, StoredGrant]:
            return {stored.grant.id: stored async for stored in runtime.registry.walk()}

        return self.run(walk)

    def events(self) -> list[dict[str, Any]]:
        """Every event so far."""

        async def read(runtime: Runtime) -> list[dict[str, Any]]:
            events, last = [], "0-0"
            while entries := await runtime.event_stream.read(last):
                events += [dict(entry.event) for entry in entries]
                last = entries[-1].id
            return events

        return self.run(read)

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type, by the end of its name."""
        return [event for event in self.events() if event["type"] == f"evergrant.{kind}"]

    def refreshed(self) -> int:
        """Rotations so far."""
        return self.run(lambda runtime: runtime.fleet_state.of_client("buddy")).refreshed

    def kept_pairs(self) -> dict[str, TokenPair]:
        """Every stored pair by its grant's id, unsealed."""

        async def open_all(runtime: Runtime) -> dict[str, TokenPair]:
            keys = runtime.deployment.keys
            return {stored.grant.id: keys.open(stored.grant) async for stored in runtime.registry.walk()}

        return self.run(open_all)

    def living_tokens(self) -> set[str]:
        """The provider's live pairs: none of these may be found in a log or on a disk."""
        return {pair[name] for pair in self.sandbox.pairs() for name in ("access_token", "refresh_token")}

    def lost(self) -> list[str]:
        """Grants whose stored pair is not the provider's live pair, revoked ones aside."""
        live = {pair["id"]: pair for pair in self.sandbox.pairs()}
        return [
            grant_id
            for grant_id, kept in self.kept_pairs().items()
            if not live[grant_id]["revoked"] and kept != _pair_of(live[grant_id])
        ]

    def wait_until(
        self, happened: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS
    ) -> None:
        """Wait for something to happen, looking again and again."""
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > end:
                tail = self.log.read_text(errors="replace").splitlines()[-30:]
                pytest.fail(f"{what}: not within {seconds:g} s\n" + "\n".join(tail))
            time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url + "/livez", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _pair_of(line: dict[str, Any]) -> TokenPair:
    return TokenPair(line["access_token"], line["refresh_token"])


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LiveDeployment]]:
    """Makes a live deployment with a sandbox of the given options; everything ends with the test."""
    with ExitStack() as stack:

        @contextmanager
        def live_deployment(**options: Any) -> Iterator[LiveDeployment]:
            with Sandbox.start("buddy", **options) as sandbox:
                live = LiveDeployment(tmp_path, sandbox, monkeypatch)
                with live.server:
                    try:
                        yield live
                    finally:
                        live.stop()

        yield lambda **options: stack.enter_context(live_deployment(**options))
