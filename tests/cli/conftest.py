"""The real `evergrant` against real servers, in one namespace a test.

A command runs in an environment and a directory of its own: nothing that is set outside reaches it.
"""

import os
import uuid
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.callables import Issue, Line, MakeDue, NewCli
from tests.support.command import Cli
from tests.support.servers import SECRET, lent
from tests.support.warm import warm_process
from worker.sandbox.client import Sandbox

ACCESS_SECONDS = 3600
KEYS = "k1:" + b64encode(bytes(range(32))).decode()


@pytest.fixture
def sandbox(buddy_server: Sandbox) -> Iterator[Sandbox]:
    """The session's authorization server, as new."""
    yield from lent(buddy_server)


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """A process that has loaded `evergrant`."""
    with warm_process() as socket:
        yield socket


@pytest.fixture(scope="session")
def new_cli(
    valkey_socket: Path, buddy_server: Sandbox, warm: Path, tmp_path_factory: pytest.TempPathFactory
) -> NewCli:
    """Make a deployment of its own: a namespace, a directory, one client `buddy`."""

    def make() -> Cli:
        home = tmp_path_factory.mktemp("cli")
        return Cli(home, {"PATH": os.defpath, "HOME": str(home)}, warm).having(
            REDIS_URL=f"unix://{valkey_socket}",
            NAMESPACE=uuid.uuid4().hex,
            KEYS=KEYS,
            CLIENTS__BUDDY__PROVIDER="buddy",
            CLIENTS__BUDDY__CLIENT_ID="sandbox-client",
            CLIENTS__BUDDY__CLIENT_SECRET=SECRET,
            CLIENTS__BUDDY__TOKEN_URL=buddy_server.token_url,
            SECRETS_DIR=str(home / "none"),
            HTTP_PORT="0",
        )

    return make


@pytest.fixture
def cli(new_cli: NewCli) -> Cli:
    return new_cli()


@pytest.fixture
def embedded(cli: Cli, tmp_path: Path) -> Cli:
    """The same on the embedded server, with a sealing key in its file."""
    return cli.having(REDIS_URL=None, KEYS=None, DATA_DIR=str(tmp_path / "data"))


@pytest.fixture
def connection(valkey_socket: Path) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(valkey_socket), decode_responses=True) as connected:
        yield connected


@pytest.fixture
def make_due(connection: redis.Redis) -> MakeDue:
    """Bring a grant's due time forward to now, as waiting would."""

    def bring(cli: Cli, grant_id: str) -> None:
        namespace = cli.environment["EVERGRANT_NAMESPACE"]
        assert connection.zadd(f"{{{namespace}}}:schedule:buddy", {grant_id: 1}, xx=True, ch=True) == 1

    return bring


@pytest.fixture
def line() -> Line:
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
def enroll(sandbox: Sandbox) -> Issue:
    """An import line of a grant that the sandbox has just issued."""

    def make(*, age_seconds: float = 0, access_seconds: int = ACCESS_SECONDS, **order: Any) -> dict[str, Any]:
        (issued,) = sandbox.issue(1, prefix=uuid.uuid4().hex, access_seconds=access_seconds, **order)
        if age_seconds:
            at = datetime.now(UTC) - timedelta(seconds=age_seconds)
            issued["issued_at"] = issued["authorized_at"] = at.isoformat()
        return issued

    return make
