"""Connections to a server that may be replaced: by Sentinels, or in a cluster.

Rules:
- Each new connection asks where the primary is. A deployment's keys share one hash slot, so in a cluster
  its primary is the one node that has that slot.
- A server that says READONLY or MOVED is not the primary any more: the connection is closed, and the command
  is repeated on a new one, as after any lost connection.
- ASK is not followed. While a slot moves, its keys are in two places, and a script would find half of them:
  the store counts as away until the slot has arrived.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Connection, Redis, Sentinel, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, ReadOnlyError, RedisError

Address = tuple[str, int]
Locate = Callable[[], Awaitable[Address]]


class FollowingConnection(Connection):
    """A connection to the present primary.

    Args:
        locate: finds it.
        options: of redis-py's connection.
    """

    def __init__(self, *, locate: Locate, **options: Any) -> None:
        super().__init__(**options)
        self._locate = locate

    async def _connect(self) -> None:
        self.host, self.port = await self._locate()
        await super()._connect()  # type: ignore[no-untyped-call] # redis-py leaves it untyped

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """A reply; errors as redis-py raises them.

        Raises:
            ConnectionError: this server is not the primary any more.
        """
        try:
            return await super().read_response(*args, **options)
        except (ReadOnlyError, MovedError) as problem:
            await self.disconnect()
            raise RedisConnectionError(f"another server is the primary now ({problem})") from None


class FollowingTlsConnection(FollowingConnection, SSLConnection):
    """The same over TLS."""


class BySentinels:
    """Asks Sentinels which server is the primary.

    Args:
        sentinels: where they are.
        name: what they call it.
        options: of redis-py's connections to them.
    """

    def __init__(self, sentinels: Sequence[Address], name: str, options: dict[str, Any]) -> None:
        self._sentinels = sentinels
        self._name = name
        self._options = options

    async def __call__(self) -> Address:
        """Where the primary is.

        Raises:
            ConnectionError: no Sentinel that answers knows one.
        """
        sentinels: Any = Sentinel  # redis-py leaves it untyped
        asked = sentinels(self._sentinels, sentinel_kwargs=self._options)
        try:
            host, port = await asked.discover_master(self._name)
        except RedisError as problem:
            if not isinstance(problem, RedisConnectionError):
                raise RedisConnectionError(f"a Sentinel refused to answer: {problem}") from None
            raise RedisConnectionError(f"no Sentinel knows a living primary {self._name}") from None
        finally:
            for sentinel in asked.sentinels:
                await sentinel.aclose()
        return host, port


class BySlot:
    """Asks a cluster's nodes which of them has a hash slot.

    Args:
        nodes: some of them.
        slot: the number of the slot.
        options: of redis-py's connections to them.
    """

    def __init__(self, nodes: Sequence[Address], slot: int, options: dict[str, Any]) -> None:
        self._given = tuple(nodes)
        self._learnt: tuple[Address, ...] = ()
        self._slot = slot
        self._options = options

    async def __call__(self) -> Address:
        """Where the slot's primary is.

        Raises:
            ConnectionError: no node that answers knows one.
        """
        why: Exception | None = None
        for node in dict.fromkeys(self._given + self._learnt):
            try:
                client: Any = Redis(host=node[0], port=node[1], **self._options)
                async with client as asked:
                    ranges = await asked.execute_command("CLUSTER", "SLOTS")
            except RedisError as problem:
                why = problem
                continue
            found = self._primary_in(ranges, node[0])
            if found is not None:
                return found
        raise RedisConnectionError(f"no node of the cluster knows who has slot {self._slot}" + _because(why))

    def _primary_in(self, ranges: Any, host: str) -> Address | None:
        """Learn the primaries in a reply to CLUSTER SLOTS; a node without a name of its own has `host`."""
        primaries = [((name or b"").decode() or host, int(port)) for _, _, (name, port, *_), *_ in ranges]
        self._learnt = tuple(primaries)
        for (first, last, *_), address in zip(ranges, primaries, strict=True):
            if first <= self._slot <= last:
                return address
        return None


def _because(problem: Exception | None) -> str:
    return "" if problem is None else f" ({problem})"
