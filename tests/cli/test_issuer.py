"""A client that names its issuer in place of addresses."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Cli
from worker.sandbox.client import Sandbox

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def public_server() -> Iterator[Sandbox]:
    """It takes public clients alone, and wants a resource."""
    with Sandbox.start("oauth2", authentication="none", require=("resource=https://mcp.test/mcp",)) as server:
        yield server


@pytest.fixture
def discovered(cli: Cli, public_server: Sandbox, tmp_path: Path) -> Cli:
    return cli.having(
        DATA_DIR=str(tmp_path / "data"),
        CLIENTS__MCP__PROVIDER="oauth2",
        CLIENTS__MCP__CLIENT_ID="sandbox-client",
        CLIENTS__MCP__ISSUER=public_server.url,
        CLIENTS__MCP__PARAMETERS__RESOURCE="https://mcp.test/mcp",
    )


def test_a_public_client_needs_its_id_its_issuer_and_its_resource(
    discovered: Cli, public_server: Sandbox
) -> None:
    (line,) = public_server.issue(1, client="mcp", prefix="by-issuer")

    assert discovered("grants", "import", "-", given=json.dumps(line)).code == 0
    done = discovered("grants", "refresh", line["id"])

    assert done.code == 0, done.err
    assert public_server.grant(line["id"])["rotations"] == 1
    assert f"client mcp: {public_server.token_url} answers" in discovered("doctor").out


def test_an_issuer_that_was_heard_once_may_be_away(discovered: Cli, tmp_path: Path) -> None:
    discovered("status")
    (kept,) = (tmp_path / "data" / "issuers").iterdir()
    document = json.loads(kept.read_text())
    away = discovered.having(CLIENTS__MCP__ISSUER=NOWHERE)

    assert "client mcp" in away("status").err
    name = hashlib.sha256(NOWHERE.encode()).hexdigest()[:32]
    document["document"]["issuer"] = NOWHERE
    kept.with_name(f"{name}.json").write_text(json.dumps(document))
    assert "client mcp" not in away("status").err


def test_an_issuer_that_was_never_heard_stops_its_own_client_alone_and_is_named(
    discovered: Cli, sandbox: Sandbox
) -> None:
    away = discovered.having(CLIENTS__MCP__ISSUER=NOWHERE)
    problem = f"client mcp: its issuer {NOWHERE} cannot be reached: Connection refused"
    (line,) = sandbox.issue(1, client="buddy", prefix="beside")

    doctor = away("doctor")
    taken = away("grants", "import", "-", given=json.dumps(line))
    refused = away("grants", "import", "-", given=json.dumps(line | {"client": "mcp"}))

    assert doctor.code == 1
    assert f"bad      {problem}" in doctor.out
    assert taken.code == 0
    assert refused.code == 1
    assert refused.err.splitlines()[:2] == [
        f"evergrant: {problem}",
        "line 1: client is not configured; known: buddy",
    ]
