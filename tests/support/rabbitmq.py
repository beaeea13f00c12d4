"""A RabbitMQ of its own for a test: Debian's, in a temporary directory, as whoever runs the tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import CertificateFiles, issue_certificate
from tests.support.servers import free_port
from tests.support.waiting import eventually

# Not /usr/sbin/rabbitmq-server, which changes to a user and a directory of the system's.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
START_SECONDS = 180.0
STOP_SECONDS = 60.0


def is_installed() -> bool:
    """Whether this machine has it."""
    return SERVER.exists()


@dataclass
class RabbitMQ:
    """A server that can be stopped and started again with what it has stored.

    Attributes:
        port: without TLS.
        secure_port: with TLS.
        authority: of its certificate.
    """

    home: Path
    environment: dict[str, str]
    port: int
    secure_port: int
    authority: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its guest's URL."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def secure_url(self) -> str:
        """The same with TLS."""
        return f"amqps://guest:guest@127.0.0.1:{self.secure_port}//"

    def start(self) -> None:
        """Start it; returns once it takes connections."""
        log = self.home / "out"
        with log.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603 Debian's
                [SERVER], env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        eventually(lambda: "Starting broker... completed" in log.read_text(errors="replace"), START_SECONDS)

    def stop(self) -> None:
        """Stop it in order."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(STOP_SECONDS)


@contextmanager
def running_rabbitmq() -> Iterator[RabbitMQ]:
    """A server for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="egt-rabbit", ignore_cleanup_errors=True) as name:
        home = Path(name)
        port, secure_port, for_nodes, for_names = (free_port() for _ in range(4))
        certificate = issue_certificate(home / "tls", "rabbitmq")
        environment = _environment(home, port, for_nodes, for_names)
        server = RabbitMQ(home, environment, port, secure_port, certificate.authority)
        (home / "plugins").write_text("[].")
        _write_configuration(home, secure_port, certificate)
        try:
            server.start()
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                server.stop()
            _end_name_server(for_names)


def _write_configuration(home: Path, secure_port: int, certificate: CertificateFiles) -> None:
    lines = [
        f"listeners.ssl.default = 127.0.0.1:{secure_port}",
        f"ssl_options.cacertfile = {certificate.authority}",
        f"ssl_options.certfile = {certificate.certificate}",
        f"ssl_options.keyfile = {certificate.key}",
    ]
    (home / "rabbitmq.conf").write_text("\n".join(lines) + "\n")


def _environment(home: Path, port: int, for_nodes: int, for_names: int) -> dict[str, str]:
    files = {name: str(home / name.lower()) for name in ("MNESIA_BASE", "LOG_BASE", "PID_FILE")}
    own = {
        **files,
        "CONFIG_FILE": str(home / "rabbitmq"),  # without the ending .conf
        "HOME": str(home),
        "NODENAME": "evergrant-test@localhost",
        "NODE_IP_ADDRESS": "127.0.0.1",
        "NODE_PORT": str(port),
        "DIST_PORT": str(for_nodes),
        "ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "ADVANCED_CONFIG_FILE": str(home / "advanced"),
        "CONF_ENV_FILE": str(home / "environment"),
    }
    return {f"RABBITMQ_{name}": value for name, value in own.items()} | {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),  # Erlang keeps its cookie there
        "ERL_EPMD_PORT": str(for_names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def _end_name_server(port: int) -> None:
    """End Erlang's name server, which outlives the node that started it."""
    if epmd := shutil.which("epmd"):
        subprocess.run([epmd, "-port", str(port), "-kill"], check=False, stdout=subprocess.DEVNULL)  # noqa: S603 Erlang's
