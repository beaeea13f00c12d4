"""Weeks of a fleet in a minute: a real Valkey runs the real scripts, and its clock jumps to the next sweep.

Everything succeeds here. What is of interest is when refreshes happen: schedule, claims, budgets and policy
are the product's. `make weeks` compares what was planned for DAYS of a FLEET with what came.
"""

import asyncio
import os
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from tests.simulation.deployment import SimulatedClients, clients_of
from tests.simulation.redis import sha_of as named
from tests.simulation.redis import simulated_source
from tests.simulation.world import dice
from tests.support.servers import running_valkey
from worker.adapters.clock import RedisClock
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.schedules import RedisSchedules
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.sources import NAMES, source
from worker.core import lifecycle
from worker.core.grant import NO_END, Grant, Status, TokenPair, lineage_of
from worker.core.outcomes import Refreshed
from worker.core.policy import Rules
from worker.core.ports import Commit, Lease, Verdict
from worker.core.providers import Client
from worker.core.registry import ImportVerdict
from worker.fleet.forecasting import Forecast, Forecasting

APART = 0.05  # of an hour's refreshes: so much may planned and done differ
BEGINS_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
SWEEP_MS = 5_000
REQUEST_MS = 100
IN_FLIGHT = 50
LIMITS = StoreLimits(
    lease_ms=60_000,
    events_kept=100,
    first_probe_ms=1_000,
    longest_probe_ms=1_000,
    first_endpoint_probe_ms=1_000,
    longest_endpoint_probe_ms=1_000,
)
_NAME_OF = {named(source(name)): name for name in NAMES}
_SILENCE = "local SILENCE_MS = 3000", "local SILENCE_MS = 10^12"  # other processes have sent heartbeats


@cache
def _timed(name: str) -> str:
    text = simulated_source(name)
    assert text.count(_SILENCE[0]) == 1
    return text.replace(*_SILENCE)


@cache
def _sha_of_timed(name: str) -> str:
    return named(_timed(name))


class Calendar:
    """What time it is."""

    def __init__(self) -> None:
        self.now_ms = BEGINS_MS

    def read_ms(self) -> int:
        return self.now_ms


class TimedPipeline(Pipeline):
    """Commands to a server that takes the time from them."""

    calendar: Calendar

    def execute_command(self, *args: Any, **options: Any) -> Any:
        now_us = self.calendar.now_ms * 1_000
        if args[0] == "TIME":
            said = "return {ARGV[1], ARGV[2]}"
            return super().execute_command("EVAL", said, 0, *divmod(now_us, 1_000_000))
        if args[0] == "EVALSHA":
            _, sha, _, prefix, *rest = args
            simulated = _sha_of_timed(_NAME_OF[sha])
            args = ("EVALSHA", simulated, 3, prefix, str(now_us), "run1", *rest)
        return super().execute_command(*args, **options)


class TimedRedis(Redis):
    """A connection to a server whose clock shows what the calendar says."""

    calendar: Calendar

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> TimedPipeline:
        pipeline = TimedPipeline(self.connection_pool, self.response_callbacks, bool(transaction), shard_hint)
        pipeline.calendar = self.calendar
        return pipeline

    async def script_load(self, script: Any) -> Any:
        return await super().script_load(_timed(_NAME_OF[named(script)]))


@dataclass
class Fleet:
    """A fleet and its calendar.

    Attributes:
        done: refreshes by client and the hour since the beginning in which their requests left.
        late: refreshes that came after the end of the access token before.
        quiet_at: when a client had nothing due any more for the first time.
    """

    calendar: Calendar
    redis: TimedRedis
    prefix: str
    registry: RedisRegistry
    store: RedisStore
    clients: SimulatedClients
    rules: Rules
    done: Counter[tuple[str, int]] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    quiet_at: dict[str, int] = field(default_factory=dict)
    _dues: list[tuple[int, str]] = field(default_factory=list)  # when clients have work

    @classmethod
    @asynccontextmanager
    async def on(cls, socket: Path, clients: Sequence[Client], rules: Rules) -> "AsyncIterator[Fleet]":
        """A fleet without grants, on an empty server."""
        calendar = Calendar()
        async with TimedRedis(unix_socket_path=str(socket)) as redis:
            redis.calendar = calendar
            prefix = f"{{{uuid.uuid4().hex}}}:"
            scripts, clock = Scripts(redis, prefix), RedisClock(calendar.read_ms)
            store = RedisStore(scripts, clock, LIMITS, source="evergrant/sim", owner="w1")
            await store.finish_recovery(await store.heartbeat(""))
            for client in clients:
                proof: dict[Any, Any] = {"proved": client.registration, "proved_at": BEGINS_MS - HOUR_MS}
                await redis.hset(f"{prefix}client:{client.name}", mapping=proof)
            registry = RedisRegistry(redis, scripts, prefix)
            yield cls(calendar, redis, prefix, registry, store, SimulatedClients(clients), rules)

    async def enroll(self, client: str, number: int, *, life_ms: int) -> None:
        """Put grants in, whose tokens were issued within the last two thirds of their life."""
        rng = dice(number + life_ms)
        known, now = self.clients.get(client, 0), self.calendar.now_ms
        changes = []
        for n in range(number):
            issued_at = now - int(life_ms * rng.random() * 2 / 3)
            grant_id = f"{client}-{life_ms}-{n}"
            grant = Grant(
                id=grant_id,
                client=client,
                status=Status.ACTIVE,
                version=0,
                lineage=lineage_of(grant_id, "r0"),
                sealed=b"sealed",
                issued_at=issued_at,
                access_expires_at=issued_at + life_ms,
                refresh_issued_at=issued_at,
                refresh_expires_at=None,
                authorized_at=None,
                stated_life_ms=life_ms,
            )
            changes.append(lifecycle.admit(grant, known, self.rules, now))
        imports = (self.registry.import_grant(change, replaces=None) for change in changes)
        results = await asyncio.gather(*imports)
        assert {result.verdict for result in results} == {ImportVerdict.STORED}
        for change in changes:
            self._note_due(change)

    async def forecast(self, *, hours: int, most_sampled: int = 10**9) -> Forecast:
        """What the product foretells at this moment."""
        forecasting = Forecasting(
            schedules=RedisSchedules(self.redis, self.prefix),
            fleet_state=RedisFleetState(self.redis, self.prefix),
            clients=self.clients,
            rules=self.rules,
            lag_ms=SWEEP_MS // 2 + REQUEST_MS,
            most_sampled=most_sampled,
        )
        return await forecasting.forecast(hours=hours)

    async def live(self, *, until_ms: int) -> None:
        """Let time pass, with a sweep every few seconds."""
        while (sweep_at := self._next_sweep()) < until_ms:
            self.calendar.now_ms = max(self.calendar.now_ms, sweep_at)
            has_work = set[str]()
            while self._dues and self._dues[0][0] <= self.calendar.now_ms:
                has_work.add(heappop(self._dues)[1])
            for name in sorted(has_work):
                await self._drain(self.clients.get(name, 0))
        self.calendar.now_ms = max(self.calendar.now_ms, until_ms)

    def _note_due(self, change: lifecycle.Change) -> None:
        if change.due_at is not None:
            heappush(self._dues, (change.due_at, change.grant.client))

    def outage(self, length_ms: int) -> None:
        """Let time pass in which nothing can be refreshed."""
        self.calendar.now_ms += length_ms

    def done_by_hour(self, hours: int) -> list[int]:
        """How many refreshes each hour brought, of all clients."""
        return [sum(self.done[client.name, hour] for client in self.clients) for hour in range(hours)]

    def _next_sweep(self) -> int:
        """The first sweep at which something is due."""
        due_at = self._dues[0][0] if self._dues else NO_END
        sweeps = -((BEGINS_MS - max(due_at, self.calendar.now_ms + 1)) // SWEEP_MS)
        return BEGINS_MS + sweeps * SWEEP_MS

    async def _drain(self, client: Client) -> None:
        """Refresh what is due; with a backlog there is always a task at it."""
        while True:
            claim = await self.store.claim(client, IN_FLIGHT, "")
            assert not claim.recovering
            await asyncio.gather(*(self._refresh(lease, client) for lease in claim.leases))
            if claim.drained:
                break
            self.calendar.now_ms += claim.wait_ms
        self.quiet_at.setdefault(client.name, self.calendar.now_ms)

    async def _refresh(self, lease: Lease, client: Client) -> None:
        grant, now = lease.grant, self.calendar.now_ms
        sent_at = now + REQUEST_MS
        assert grant.stated_life_ms is not None
        change = lifecycle.succeed(
            grant,
            TokenPair("a", f"r{grant.version}"),
            Refreshed("a", f"r{grant.version + 1}", grant.stated_life_ms, None, None),
            client,
            self.rules,
            sealed=b"sealed",
            attempt=lease.fence,
            sent_at=sent_at,
            now=sent_at,
        )
        commit = Commit(lease.fence, grant.lineage, grant.version, grant.status, change)
        assert (await self.store.commit(commit)).verdict is Verdict.STORED
        self._note_due(change)
        self.late[client.name] += grant.access_expires_at is not None and sent_at > grant.access_expires_at
        self.done[client.name, (sent_at - BEGINS_MS) // HOUR_MS] += 1


async def compare(grants: int, days: int) -> float:
    """Print what was planned beside what came; returns by how much an hour differed at most."""
    (client,) = clients_of(1, ambiguous=False)
    hours = 24 * days
    with running_valkey() as socket:
        async with Fleet.on(socket, [client], Rules()) as fleet:
            await fleet.enroll(client.name, grants * 2 // 3, life_ms=8 * HOUR_MS)
            await fleet.enroll(client.name, grants // 3, life_ms=24 * HOUR_MS)
            planned = [hour.refreshes for hour in (await fleet.forecast(hours=hours)).total]
            sampled = (await fleet.forecast(hours=hours, most_sampled=grants // 10)).total
            await fleet.live(until_ms=BEGINS_MS + hours * HOUR_MS)
            done = fleet.done_by_hour(hours)
    for hour, (plan, sample, came) in enumerate(zip(planned, sampled, done, strict=True)):
        sys.stdout.write(
            f"hour {hour:4}: planned {plan:6.0f}, from a tenth {sample.refreshes:6.0f}, done {came:6}\n"
        )
    apart = max(abs(came / plan - 1) for plan, came in zip(planned, done, strict=True))
    apart_sampled = max(abs(came / plan.refreshes - 1) for plan, came in zip(sampled, done, strict=True))
    sys.stdout.write(f"{sum(done)} refreshes; an hour differs by at most {apart:.1%}")
    sys.stdout.write(f", planned from a tenth of the grants by at most {apart_sampled:.1%}\n")
    return apart


if __name__ == "__main__":
    grants, days = (int(os.environ.get(name) or usual) for name, usual in (("FLEET", 3_000), ("DAYS", 7)))
    sys.exit(asyncio.run(compare(grants, days)) > APART)
