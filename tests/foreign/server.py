"""Authorization servers that others wrote, as processes on loopback: see servers/README.md."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.servers import free_port
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "servers"
PYTHON = ROOT / ".venv-foreign" / "bin" / "python"
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Kind:
    """One server: how it is started, and where its endpoints are."""

    command: tuple[str | Path, ...]
    token: str
    revoke: str
    introspect: str
    authentication: str = "client_secret_post"


KINDS = {
    "oidc-provider": Kind(
        ("node", SCRIPTS / "oidc_provider.js"), "/token", "/token/revocation", "/token/introspection"
    ),
    "django-oauth-toolkit": Kind(
        (PYTHON, SCRIPTS / "django_oauth_toolkit.py"), "/o/token/", "/o/revoke_token/", "/o/introspect/"
    ),
    "canaille": Kind(
        (PYTHON, SCRIPTS / "canaille_server.py"),
        "/oauth/token",
        "/oauth/revoke",
        "/oauth/introspect",
        authentication="client_secret_basic",  # its revocation endpoint takes no other
    ),
}
RESOURCE_SERVER = ("api", "the-api-s-secret")


class ForeignServer:
    """A server that runs, or is down for a while; its state stays in its directory."""

    def __init__(self, kind: Kind, home: Path) -> None:
        self.kind = kind
        self.home = home
        self.log = home / "server.log"
        self._port = free_port()
        self.issuer = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def token_url(self) -> str:
        return self.issuer + self.kind.token

    def start(self) -> None:
        """Start it; returns once it answers."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 our own scripts
                [*self.kind.command, self.home, str(self._port)], stdout=log, stderr=log
            )
        self._process = process
        eventually(lambda: self._answers(process))

    def stop(self) -> None:
        """End it as a supervisor does; what it is answering is answered first."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        finally:
            self._process.kill()
            self._process = None

    def register(self, client_id: str, **metadata: Any) -> None:
        """Register a client, or replace its secret: members as in RFC 7591."""
        defaults = {"client_id": client_id, "token_endpoint_auth_method": self.kind.authentication}
        self._control("clients", defaults | metadata)

    def consent(self, client_id: str, count: int, **order: str) -> dict[str, dict[str, Any]]:
        """Let so many people consent; their token responses by grant id."""
        ids = [f"{client_id}-{number}" for number in range(count)]
        issued: dict[str, dict[str, Any]] = self._control(
            "grants", {"client_id": client_id, "ids": ids, **order}
        )
        return issued

    def pairs(self) -> dict[str, dict[str, str]]:
        """Each living grant's two tokens, as the server has them stored."""
        pairs: dict[str, dict[str, str]] = self._control("pairs", {})
        return pairs

    def revoke(self, grant_id: str, client_id: str, secret: str) -> None:
        """Revoke a grant (RFC 7009); again where it was refreshed meanwhile."""
        by_basic = self.kind.authentication == "client_secret_basic"
        known_by = {} if by_basic else {"client_id": client_id, "client_secret": secret}
        while pair := self.pairs().get(grant_id):
            httpx.post(
                self.issuer + self.kind.revoke,
                data={"token": pair["refresh_token"], "token_type_hint": "refresh_token"} | known_by,
                auth=(client_id, secret) if by_basic else None,
                timeout=STOP_SECONDS,
            ).raise_for_status()

    def introspect(self, access_token: str) -> dict[str, Any]:
        """What the server tells an API of an access token (RFC 7662)."""
        reply = httpx.post(
            self.issuer + self.kind.introspect,
            data={"token": access_token},
            auth=RESOURCE_SERVER,
            timeout=STOP_SECONDS,
        ).raise_for_status()
        said: dict[str, Any] = reply.json()
        return said

    def _control(self, name: str, body: dict[str, Any]) -> Any:
        url = f"{self.issuer}/control/{name}"
        return httpx.post(url, json=body, timeout=STOP_SECONDS).raise_for_status().json()

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log.read_text(errors="replace")
        try:
            self.pairs()
        except httpx.TransportError:
            return False
        return True


@contextmanager
def running(name: str, home: Path) -> Iterator[ForeignServer]:
    """A server for as long as the block lasts, in a new directory; it knows the API that introspects."""
    home.mkdir()
    server = ForeignServer(KINDS[name], home)
    try:
        server.start()
        client_id, secret = RESOURCE_SERVER
        server.register(client_id, client_secret=secret, token_endpoint_auth_method="client_secret_basic")
        yield server
    finally:
        server.stop()
