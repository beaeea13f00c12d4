"""A primary, a replica and three Sentinels: real processes that fail over by themselves."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from tests.support.pairs import Pair, running_pair
from tests.support.servers import directory_for_sockets, free_port, server_binary
from tests.support.waiting import eventually

NAME = "main"


class Sentinels:
    """Attributes:
    pair: what they watch.
    url: as the settings take it.
    """

    def __init__(self, pair: Pair, ports: list[int]) -> None:
        self.pair = pair
        self._ports = ports
        self.url = f"sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{NAME}"

    def are_ready(self) -> bool:
        """Whether each of them knows the others, and the replica as one that is connected."""
        return all(self._is_ready(port) for port in self._ports)

    def have_promoted(self) -> bool:
        """Whether each of them names the pair's present primary."""
        return all(self._named(port) == self.pair.primary.port for port in self._ports)

    def _is_ready(self, port: int) -> bool:
        with redis.Redis(port=port) as sentinel:
            known = sentinel.sentinel_master(NAME)
            replicas = sentinel.sentinel_slaves(NAME)
        faults = ("is_sdown", "is_odown", "is_disconnected")
        return known["num-other-sentinels"] == 2 and [
            replica["port"] for replica in replicas if not any(replica[fault] for fault in faults)
        ] == [self.pair.replica.port]

    def _named(self, port: int) -> int:
        with redis.Redis(port=port) as sentinel:
            _, named = sentinel.sentinel_get_master_addr_by_name(NAME)
        return int(named)


@contextmanager
def running_sentinels(*, data: Path | None = None, binary: str | None = None) -> Iterator[Sentinels]:
    """They run as long as the block lasts; a primary that ended is missed after a second.

    Args:
        data: a directory for the servers' files; `None` for a temporary one.
        binary: another server than the tests' usual one, for the Sentinels too.
    """
    with (
        running_pair(data=data, binary=binary) as pair,
        directory_for_sockets() as home,
        ExitStack() as ended,
    ):
        ports = [free_port() for _ in range(3)]
        for port in ports:
            _sentinel(home, port, pair.primary.port, binary or server_binary(), ended)
        trio = Sentinels(pair, ports)
        eventually(trio.are_ready)
        yield trio


def _sentinel(home: Path, port: int, primary: int, binary: str, ended: ExitStack) -> None:
    written = home / f"{port}.conf"
    written.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {home}\n"
        f"sentinel monitor {NAME} 127.0.0.1 {primary} 2\n"
        f"sentinel down-after-milliseconds {NAME} 1000\n"
        f"sentinel failover-timeout {NAME} 5000\n"
    )
    command = [binary, str(written), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 as in servers.py
    ended.callback(process.wait)
    ended.callback(process.kill)
    eventually(lambda: _answers(port))


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as sentinel:
            return bool(sentinel.ping())
    except redis.RedisError:
        return False
