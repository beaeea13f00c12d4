"""Stores that fail over: by Sentinels, by hand behind one address, or as planned, with nothing killed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.pairs import Pair, running_pair
from tests.support.proxy import OneAddress
from tests.support.sentinels import running_sentinels
from tests.support.servers import redis_binary
from tests.support.waiting import eventually


@dataclass(frozen=True)
class FailingOver:
    """A store whose replica takes the primary's place.

    Attributes:
        url: as the settings take it.
        pair: its servers.
        fail_over: ends the primary; returns once there is a new one. It takes how many seconds somebody who
            promotes by hand needs.
        bring_back: returns once the other server is the replica, and the next failover may come.
    """

    url: str
    pair: Pair
    fail_over: Callable[[float], None]
    bring_back: Callable[[], None]


@contextmanager
def with_sentinels(data: Path) -> Iterator[FailingOver]:
    """Three Sentinels promote the replica a second after the primary has gone."""
    with running_sentinels(data=data, binary=redis_binary()) as sentinels:
        pair = sentinels.pair

        def fail_over(_: float) -> None:
            pair.kill_primary()
            eventually(pair.primary.is_primary)

        def bring_back() -> None:
            pair.bring_back()
            eventually(sentinels.are_ready)

        yield FailingOver(sentinels.url, pair, fail_over, bring_back)


@contextmanager
def by_hand(data: Path) -> Iterator[FailingOver]:
    """Somebody promotes the replica of a primary that has gone, and has the one address lead to it."""
    with _behind_one_address(data) as (pair, address):

        def fail_over(seconds: float) -> None:
            pair.kill_primary()
            time.sleep(seconds)
            with pair.primary.operator() as operator:
                operator.replicaof("NO", "ONE")
            address.server = pair.primary.socket

        yield FailingOver(f"redis://127.0.0.1:{address.port}", pair, fail_over, pair.bring_back)


@contextmanager
def as_planned(data: Path) -> Iterator[FailingOver]:
    """Primary and replica change places behind one address. Connections to the old primary stay open."""
    with _behind_one_address(data) as (pair, address):

        def fail_over(_: float) -> None:
            pair.hand_over()
            address.server = pair.primary.socket

        def bring_back() -> None:
            eventually(pair.replica.is_in_step)

        yield FailingOver(f"redis://127.0.0.1:{address.port}", pair, fail_over, bring_back)


@contextmanager
def _behind_one_address(data: Path) -> Iterator[tuple[Pair, OneAddress]]:
    with running_pair(data=data, binary=redis_binary()) as pair:
        address = OneAddress(pair.primary.socket)
        with address.running_aside():
            yield pair, address
