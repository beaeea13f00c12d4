"""Reads what is measured: a few keys of each client, many clients a call, however many grants they have."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from worker.adapters.store import signatures
from worker.adapters.store.fleet_state import ALIVE_SECONDS, SEEN_LATELY_SECONDS, untaken_in
from worker.adapters.store.reads import Reads, read_memory
from worker.adapters.store.store_clock import store_now
from worker.core.grant import Status
from worker.core.measures import ClientMeasures, FleetMeasures, Histogram, Spread

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.store.scripts import Scripts

LOOKED_AT: Final = 50  # grants of a client, among which the soonest expiry is sought
LOOKED_AT_IN_ALL: Final = 5_000
AT_ONCE: Final = 100  # clients in one call: the server does nothing else meanwhile

STATUSES: Final = (Status.ACTIVE, Status.FAILING, Status.FAILED, Status.PAUSED)  # as survey.lua has them


class RedisMeasures:
    """What is measured, as `core.measures.Measures` asks for it.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
    """

    def __init__(self, redis: "Redis", scripts: "Scripts", prefix: str) -> None:
        self._redis: Any = Reads(redis)
        self._scripts = scripts
        self._prefix = prefix

    async def read(self, configured: Mapping[str, str]) -> FleetMeasures:
        """All of it, of every client that is configured or ever had a grant."""
        now = await store_now(self._redis, self._prefix)
        lately = now - SEEN_LATELY_SECONDS * 1000
        members, known, workers, unreadable, seen, untaken = await self._redis.together(
            [
                ("smembers", (self._prefix + "clients",), {}),
                ("hgetall", (self._prefix + "measures",), {}),
                ("zcount", (self._prefix + "workers", now - ALIVE_SECONDS * 1000, "+inf"), {}),
                ("scard", (self._prefix + "unreadable",), {}),
                ("zrangebyscore", (self._prefix + "processes", lately, "+inf"), {}),
                ("hgetall", (self._prefix + "untaken",), {}),
            ]
        )
        measures = _numbers(known)
        names = sorted({*configured, *(name.decode() for name in members)})
        found = await self._survey([(name, configured.get(name, "")) for name in names], now)
        used, limit = await read_memory(self._redis)
        surveyed = [_client(name, each) for name, each in zip(names, found, strict=True)]
        clients = [client for client in surveyed if client is not None]
        return FleetMeasures(
            clients=clients,
            unread_clients=len(names) - len(clients),
            served=_under(measures, "served"),
            lateness=_histogram(measures, Spread.LATENESS),
            duration=_histogram(measures, Spread.DURATION),
            workers=workers,
            swept_at=measures.get("swept_at"),
            unreadable=unreadable,
            untaken=len(untaken_in(untaken, seen)),
            unsealed=_under(measures, "unsealed"),
            memory_used=used,
            memory_limit=limit,
        )

    async def _survey(self, clients: Sequence[tuple[str, str]], now: int) -> list[Any]:
        """One call after another, so that a refresh never waits for more than one."""
        looked_at = max(min(LOOKED_AT, LOOKED_AT_IN_ALL // max(len(clients), 1)), 1)
        found: list[Any] = []
        for begin in range(0, len(clients), AT_ONCE):
            some = tuple(clients[begin : begin + AT_ONCE])
            found += await self._scripts.run(signatures.Survey(some, now, looked_at))
        return found


def _client(name: str, found: Sequence[Any] | None) -> ClientMeasures | None:
    """What the script found of a client; `None` where something of it cannot be read."""
    try:
        return None if found is None else _read(name, found)
    except ValueError:  # where a number should be, there is none
        return None


def _read(name: str, found: Sequence[Any]) -> ClientMeasures:
    state, endpoint, endpoint_state, refreshed, late, grants, counters, due, first_due, soonest = found
    counted = _numbers(dict(zip(counters[::2], counters[1::2], strict=True)))
    return ClientMeasures(
        name=name,
        is_accepted=state != b"rejected",
        endpoint=endpoint.decode(),
        is_available=endpoint_state != b"unavailable",
        grants={status: int(number) for status, number in zip(STATUSES, grants, strict=True)},
        due=due,
        first_due_at=int(float(first_due)) or None,
        soonest_expiry_at=int(soonest) or None,
        refreshed=int(refreshed),
        late=int(late),
        refreshes=_under(counted, "refreshes"),
        served=_under(counted, "served"),
    )


def _numbers(known: Mapping[bytes, bytes]) -> dict[str, int]:
    """The counters of a hash; one that holds no number is passed over."""
    return {name.decode(): int(value) for name, value in known.items() if value.isdigit()}


def _under(counters: Mapping[str, int], kind: str) -> dict[str, int]:
    return {
        name.partition(":")[2]: number
        for name, number in counters.items()
        if name.partition(":")[0] == kind and number
    }


def _histogram(counters: Mapping[str, int], what: Spread) -> Histogram:
    counts = _under(counters, what.value)
    return Histogram(what, counts, counts.pop("sum", 0))
