"""A primary and its replica: real servers that take turns, as those of a deployment that fails over do."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.support.servers import Valkey, directory_for_sockets, free_port, start_valkey
from tests.support.waiting import eventually

KEPT = {"appendonly": "yes", "appendfsync": "always", "bind": "127.0.0.1", "repl_diskless_sync_delay": "0"}


@dataclass
class Node:
    """One of the two servers.

    Attributes:
        home: where its socket is.
        data: where it keeps its files.
        port: on 127.0.0.1.
        process: as it was started last.
    """

    home: Path
    data: Path
    port: int
    binary: str | None
    process: Valkey | None = None

    @property
    def socket(self) -> Path:
        return self.home / "s"

    def start(self, **options: str) -> None:
        """Start it with what it has on disk; returns once it answers."""
        self.process = start_valkey(
            self.home, binary=self.binary, port=str(self.port), dir=str(self.data), **KEPT, **options
        )

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()

    def operator(self) -> redis.Redis:
        """A connection to it."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def is_primary(self) -> bool:
        """Whether it calls itself a primary."""
        with self.operator() as operator:
            return bool(_replication(operator)["role"] == "master")

    def is_in_step(self) -> bool:
        """Whether it follows a primary and has all of its data."""
        with self.operator() as operator:
            return bool(_replication(operator).get("master_link_status") == "up")


class Pair:
    """Attributes:
    primary: takes the writes.
    replica: follows it.
    """

    def __init__(self, primary: Node, replica: Node) -> None:
        self.primary = primary
        self.replica = replica

    def kill_primary(self) -> None:
        """`kill -9` for the primary; the replica is to take its place, which is somebody else's affair."""
        self.primary.kill()
        self.primary, self.replica = self.replica, self.primary

    def hand_over(self) -> None:
        """Have the two change places, nothing killed and no connection closed; returns once that is done."""
        eventually(self.replica.is_in_step)
        with self.primary.operator() as old, self.replica.operator() as new:
            old.replicaof("127.0.0.1", str(self.replica.port))  # first: nobody writes to both
            new.replicaof("NO", "ONE")
        self.primary, self.replica = self.replica, self.primary

    def bring_back(self) -> None:
        """Start the one that was killed as the other's replica; returns once it has all data."""
        self.replica.start(replicaof=f"127.0.0.1 {self.primary.port}")
        eventually(self.replica.is_in_step)


@contextmanager
def running_pair(*, data: Path | None = None, binary: str | None = None) -> Iterator[Pair]:
    """Two servers for as long as the block lasts.

    Args:
        data: a directory for their files; `None` for a temporary one.
        binary: another server than the tests' usual one.
    """
    with directory_for_sockets() as home, ExitStack() as ended:
        nodes = []
        for name in ("a", "b"):
            node = Node(home / name, (data or home) / name, free_port(), binary)
            node.home.mkdir()
            node.data.mkdir(parents=True, exist_ok=True)
            ended.callback(node.kill)
            nodes.append(node)
        pair = Pair(*nodes)
        pair.primary.start()
        pair.bring_back()
        yield pair


def _replication(operator: redis.Redis) -> dict[str, Any]:
    said: dict[str, Any] = operator.info("replication")
    return said
