"""The clients of a running process, as their issuers speak, fall silent and change."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from config import load_settings
from tests.support.issuer import Issuer
from tests.support.waiting import until
from worker.adapters import discovery
from worker.adapters.sealing import KeyRing
from worker.runtime.clients import ConfiguredClients
from worker.runtime.deployment import Deployment
from worker.runtime.issuers import clients_kept


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer().running() as running:
        yield running


@pytest.fixture
def deployment(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """One client that names its issuer, and one that names its token URL; retries come quickly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(discovery, "AGAIN_SECONDS", 0.01)
    settings = {
        "DATA_DIR": str(tmp_path / "data"),
        "SECRETS_DIR": str(tmp_path / "none"),
        "CLIENTS__MCP__PROVIDER": "oauth2",
        "CLIENTS__MCP__CLIENT_ID": "id",
        "CLIENTS__MCP__AUTHENTICATION": "none",
        "CLIENTS__MCP__ISSUER": issuer.url,
        "CLIENTS__ACME__PROVIDER": "oauth2",
        "CLIENTS__ACME__CLIENT_ID": "id",
        "CLIENTS__ACME__AUTHENTICATION": "none",
        "CLIENTS__ACME__TOKEN_URL": "https://acme.test/token",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"EVERGRANT_{name}", value)
    return Deployment(load_settings(), "redis://nowhere", KeyRing({"k1": bytes(32)}))


async def _until_known(clients: ConfiguredClients, token_url: str) -> None:
    async def is_known() -> bool:
        return "mcp" in clients and clients.get("mcp", 0).token_url == token_url

    await until(is_known)


async def test_a_worker_waits_for_no_issuer_and_takes_its_client_in_once_it_speaks(
    issuer: Issuer, deployment: Deployment
) -> None:
    issuer.speaks.clear()

    async with clients_kept(deployment, is_worker=True) as clients:
        assert [client.name for client in clients] == ["acme"]
        assert clients.not_discovered == {"mcp": f"its issuer {issuer.url} has not been asked yet"}
        issuer.speaks.set()
        await _until_known(clients, f"{issuer.url}/token/")
        assert clients.not_discovered == {}


async def test_a_command_waits_for_an_issuer_that_nobody_has_heard(
    issuer: Issuer, deployment: Deployment
) -> None:
    async with clients_kept(deployment, is_worker=False) as clients:
        assert clients.get("mcp", 0).token_url == f"{issuer.url}/token/"


async def test_a_secret_is_read_again_without_asking_the_issuer(
    issuer: Issuer, deployment: Deployment
) -> None:
    async with clients_kept(deployment, is_worker=False) as clients:
        asked = len(issuer.asked)
        assert clients.reread("mcp").token_url == f"{issuer.url}/token/"
        assert len(issuer.asked) == asked


async def test_an_endpoint_that_the_issuer_moves_is_followed_without_a_restart(
    issuer: Issuer, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "FRESH_SECONDS", 0.0)

    async with clients_kept(deployment, is_worker=True) as clients:
        await _until_known(clients, f"{issuer.url}/token/")
        issuer.says(token_endpoint=f"{issuer.url}/moved")
        await _until_known(clients, f"{issuer.url}/moved")


async def test_a_method_that_the_issuer_no_longer_takes_leaves_the_client_as_it_was(
    issuer: Issuer, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document may be wrong; the server itself says what it takes at the next refresh."""
    monkeypatch.delenv("EVERGRANT_CLIENTS__MCP__AUTHENTICATION")
    issuer.says(token_endpoint_auth_methods_supported=["none"])
    open_settings = load_settings()
    kept = Deployment(open_settings, deployment.redis_url, deployment.keys)
    monkeypatch.setattr(discovery, "FRESH_SECONDS", 0.0)

    async with clients_kept(kept, is_worker=False) as clients:
        assert clients.get("mcp", 0).credentials[0].method == "none"
        issuer.says(token_endpoint_auth_methods_supported=["private_key_jwt"])

        async def is_named() -> bool:
            return "mcp" in clients.not_discovered

        await until(is_named)
        assert clients.get("mcp", 0).credentials[0].method == "none"


# The clients file


def _client(issuer_url: str = "", *, at: str = "https://acme.test/token") -> str:
    where = f'issuer = "{issuer_url}"' if issuer_url else f'token_url = "{at}"'
    return f'provider = "oauth2"\nclient_id = "id"\nauthentication = "none"\n{where}\n'


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a clients file in place, as its page asks."""
    path, beside = tmp_path / "clients.toml", tmp_path / "beside"
    monkeypatch.setenv("EVERGRANT_CLIENTS_FILE", str(path))
    monkeypatch.setenv("EVERGRANT_SWEEP_SECONDS", "0.1")

    def write(content: str) -> None:
        beside.write_text(content)
        beside.rename(path)

    return write


@pytest.fixture
def of_file(deployment: Deployment, put: Callable[[str], None]) -> Deployment:
    """The deployment with a third client in its file."""
    put(f"[clients.filed]\n{_client()}")
    return Deployment(load_settings(), deployment.redis_url, deployment.keys)


async def test_what_the_file_says_is_taken_up_while_the_process_runs(
    of_file: Deployment, put: Callable[[str], None]
) -> None:
    async with clients_kept(of_file, is_worker=True) as clients:
        put(f"[clients.new]\n{_client()}")

        async def is_taken_up() -> bool:
            return "new" in clients.names() and "filed" not in clients.names()

        await until(is_taken_up)


async def test_a_new_client_s_new_issuer_is_asked_at_once(
    of_file: Deployment, put: Callable[[str], None], issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "AGAIN_SECONDS", 3600)
    async with Issuer().running() as other, clients_kept(of_file, is_worker=True) as clients:
        put(f"[clients.new]\n{_client(other.url)}")

        async def is_discovered() -> bool:
            return "new" in clients and clients.get("new", 0).token_url == f"{other.url}/token/"

        await until(is_discovered)
        assert clients.not_discovered == {}
    assert issuer.asked


async def test_a_broken_file_is_said_once_and_the_clients_stay(
    of_file: Deployment, put: Callable[[str], None]
) -> None:
    with capture_logs() as logs:
        async with clients_kept(of_file, is_worker=True) as clients:
            put(f"[clients.filed]\n{_client(at='nonsense')}")

            async def is_said() -> bool:
                return bool(logs)

            await until(is_said)
            assert clients.get("filed", 0).token_url == "https://acme.test/token"
            put(f"[clients.last]\n{_client()}")

            async def is_mended() -> bool:
                return "last" in clients.names()

            await until(is_mended)

    assert [line["event"] for line in logs] == ["clients.not_read", "clients.read"]
    assert "line 5: clients.filed.token_url takes an https:// URL" in logs[0]["problem"]
