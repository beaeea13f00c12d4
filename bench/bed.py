"""A deployment for one measurement: a Redis and a token endpoint of its own, grants, and clocks.

Rules:
- Everything is real and runs as it is deployed: the embedded server with every write fsynced, the commands of
  the Procfile, imported grants.
- Processes and files end with the block that started them.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch
from urllib.request import urlopen

import psutil
import redis

from config import load_settings
from worker.adapters.embedded import EmbeddedServer
from worker.adapters.key_file import new_key_line
from worker.runtime.clients import client_of

ROOT: Final = Path(__file__).parents[1]
BIN: Final = Path(sys.executable).parent
CLIENT: Final = "buddy"
PREFIX: Final = "{evergrant}:"
PATIENCE_SECONDS: Final = 600.0
ACCESS_SECONDS: Final = 28_800


class Bed:
    """A deployment on this machine, and the endpoint its one client talks to.

    Attributes:
        directory: for files; removed at the end.
        redis: a connection to the store.
        environment: the settings of every process of the deployment.
        endpoint_url: where tokens are asked for.
    """

    def __init__(
        self, directory: Path, server: EmbeddedServer, endpoint_url: str, **settings: object
    ) -> None:
        self.directory = directory
        self.redis_url = server.url
        self.broker_url = server.broker_url
        self.redis: Any = redis.Redis.from_url(server.url)
        self.endpoint_url = endpoint_url
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "EVERGRANT_REDIS_URL": server.url,
            "EVERGRANT_BROKER_URL": server.url,
            "EVERGRANT_DATA_DIR": str(directory / "data"),
            "EVERGRANT_KEYS": new_key_line(),
            "EVERGRANT_LOG_LEVEL": "warning",
            "EVERGRANT_SWEEP_SECONDS": "1",
            f"EVERGRANT_CLIENTS__{CLIENT.upper()}__PROVIDER": "buddy",
            f"EVERGRANT_CLIENTS__{CLIENT.upper()}__CLIENT_ID": "bench",
            f"EVERGRANT_CLIENTS__{CLIENT.upper()}__CLIENT_SECRET": "bench",
            f"EVERGRANT_CLIENTS__{CLIENT.upper()}__TOKEN_URL": endpoint_url,
            **{f"EVERGRANT_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def import_grants(self, number: int, *, due: bool) -> float:
        """Store grants, all of them due or none for hours; returns the seconds it took, start-up included."""
        lines = self.directory / "grants.jsonl"
        issued_at = datetime.now(UTC) - timedelta(seconds=ACCESS_SECONDS * 7 / 8 if due else 0)
        with lines.open("w") as file:
            file.writelines(json.dumps(line_of(count, issued_at)) + "\n" for count in range(number))
        began = time.perf_counter()
        self.run("evergrant", "grants", "import", str(lines))
        took = time.perf_counter() - began
        self.prove_client()
        return took

    def prove_client(self) -> None:
        """As if a grant had been refreshed long ago: a new registration starts slowly, one grant first."""
        with patch.dict(os.environ, self.environment, clear=True):
            registration = client_of(CLIENT, load_settings().clients[CLIENT]).registration
        self.redis.hset(f"{PREFIX}client:{CLIENT}", "proved", registration)

    def run(self, command: str, *args: str) -> str:
        """Run a command of the environment to its end and return what it printed."""
        done = subprocess.run(  # noqa: S603 our own commands
            [BIN / command, *args],
            env=self.environment,
            cwd=self.directory,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    @contextmanager
    def process(self, command: str, *args: str, **extra: str) -> Iterator[psutil.Process]:
        """Keep a command running for the length of the block."""
        with (self.directory / f"{command}.log").open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 our own commands
                [BIN / command, *args],
                env=self.environment | extra,
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        try:
            yield psutil.Process(child.pid)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(PATIENCE_SECONDS)

    @contextmanager
    def workers(self, processes: int = 1) -> Iterator[psutil.Process]:
        """Keep a worker running, as the Procfile starts it; it is ready when the block begins."""
        options = (
            "--concurrency",
            str(processes),
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        )
        with self.process("celery", "-A", "worker", "worker", *options) as main:
            self.wait_until(lambda: self.redis.zcard(PREFIX + "processes") >= processes)
            yield main

    @contextmanager
    def beat(self) -> Iterator[psutil.Process]:
        """Keep the scheduler running."""
        schedule = ("celery", "-A", "worker", "beat", "--pidfile", "")
        with self.process(*schedule) as main:
            yield main

    def refreshed(self) -> int:
        """Rotations that the store has."""
        return int(self.redis.hget(f"{PREFIX}client:{CLIENT}", "refreshed") or 0)

    def committed_at(self) -> float:
        """When the last one was stored, Unix seconds."""
        ((entry_id, _),) = self.redis.xrevrange(PREFIX + "events", count=1)
        return int(entry_id.split(b"-")[0]) / 1000

    def tally(self) -> dict[str, float]:
        """How many requests the endpoint has answered, and from when until when."""
        with urlopen(self.endpoint_url) as reply:  # noqa: S310 loopback
            tally: dict[str, float] = json.load(reply)
        return tally

    def wait_until(self, what: Callable[[], bool]) -> None:
        """Poll until it is true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not what():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE_SECONDS:g} s; see the logs in {self.directory}")
            time.sleep(0.02)


@contextmanager
def made_up(
    *, latency_ms: float = 0.0, expires_in: int = ACCESS_SECONDS, **settings: object
) -> Iterator[Bed]:
    """A fresh bed.

    Args:
        latency_ms: of the endpoint's answers.
        expires_in: seconds, of the tokens that it gives out.
        settings: the deployment's, without their prefix.
    """
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = opened.enter_context(EmbeddedServer(directory / "data"))
        url = opened.enter_context(_endpoint(latency_ms, expires_in))
        yield Bed(directory, server, url, **settings)


@contextmanager
def _endpoint(latency_ms: float, expires_in: int) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.endpoint", str(latency_ms), str(expires_in)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603
        assert child.stdout is not None  # noqa: S101 it is a pipe
        try:
            yield child.stdout.readline().strip()
        finally:
            child.terminate()


def line_of(number: int, issued_at: datetime) -> dict[str, object]:
    """An import line like those of Buddy's users: tokens of 36 and 80 characters, two scopes, one label."""
    return {
        "id": f"user-{number:07d}/buddy",
        "client": CLIENT,
        "access_token": str(uuid.uuid4()),
        "refresh_token": secrets.token_urlsafe(60)[:80],
        "expires_in": ACCESS_SECONDS,
        "refresh_token_expires_in": 15_811_200,
        "issued_at": issued_at.isoformat(),
        "scope": "WORKSPACE EXECUTION_RUN",
        "labels": {"tenant": "acme"},
    }


def cpu_seconds(main: psutil.Process) -> float:
    """Processor time of a process and its children, user and system."""
    family = [main, *main.children(recursive=True)]
    return sum(times.user + times.system for times in (each.cpu_times() for each in family))
