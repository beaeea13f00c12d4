"""Random runs: everything is drawn from a seed; faults strike between any two effects."""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

from tests.simulation.provider import Mode
from tests.simulation.redis import Valkey
from tests.simulation.scene import UNBROKEN, Break, Report, Scene
from tests.simulation.terms import Terms
from tests.simulation.world import Process, Step, dice
from worker.core.grant import TokenPair
from worker.core.registry import Operation

DELAYS_US: Final = {  # (usual, most)
    "store": (400, 20_000),
    "disk": (300, 30_000),
    "provider": (60_000, 700_000),
    "lost reply": (2_000, 5_000_000),
    "late": (100_000, 8_000_000),
}
SLOW_SHARE: Final = 0.08
UNDER_WAY_SHARE: Final = 0.6  # of the faults strike while a refresh token is being presented
CLOCK_SHARE: Final = 0.15
CLAIMS_WORTH: Final = 4  # a step of a refresh is this many times as worthy of a fault as one of a claim


class RandomSchedule:
    """The step whose time comes first; how long each leg takes is drawn."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._heap: list[Step] = []
        self.slow_share = SLOW_SHARE

    def delay_us(self, kind: str) -> int:
        usual, most = DELAYS_US[kind]
        random = self._rng.random()
        if random < self.slow_share:
            return int(self._rng.random() * most)
        return int(usual * (0.5 + random))

    def put(self, step: Step) -> None:
        heapq.heappush(self._heap, step)

    def take(self) -> Step | None:
        while self._heap:
            step = heapq.heappop(self._heap)
            process = step.process
            if process is None or step.at_us >= process.thaws_at_us:
                return step
            step.at_us = process.thaws_at_us
            heapq.heappush(self._heap, step)
        return None


@dataclass(slots=True)
class Strike:
    """A fault to come: after so many steps, and perhaps not before a request is under way."""

    after: int
    act: Callable[[], object]
    waits_for_a_request: bool


class Run(Scene):
    """One seed's run.

    Args:
        valkey: where the scripts run.
        seed: everything follows from it.
        broken: a rule broken on purpose.
        faults: those to choose from.
        clock_share: of the runs in which somebody sets Redis's clock, beside everything else.
    """

    def __init__(
        self,
        valkey: Valkey,
        seed: int,
        broken: Break = UNBROKEN,
        faults: Sequence[str] | None = None,
        *,
        clock_share: float = CLOCK_SHARE,
    ) -> None:
        rng = dice(seed)
        self.seed = seed
        self._random = RandomSchedule(dice(rng.random()))
        terms = Terms(
            mode=rng.choice([Mode.STRICT, Mode.STRICT, Mode.GRACE, Mode.FAMILY, Mode.FAMILY, Mode.STATIC]),
            grants=rng.randint(1, 5),
            clients=rng.choice([1, 1, 2]),
            disks=rng.choice([1, 1, 2]),
            lifetime_s=rng.choice([6, 9, 15, 40]),
            request_ms=rng.choice([1_000, 1_000, 4_000]),
            lies=rng.random() < 0.15,
            ambiguous=rng.random() < 0.25,
            drains_twice=0.1,
        )
        super().__init__(valkey, terms, self._random, rng, broken)
        self.workers = rng.randint(2, 4)
        self.faults = [rng.choice(faults or list(FAULTS)) for _ in range(rng.choice([1, 1, 2, 2, 3, 4]))]
        clocks = dice(seed + 0.5)  # of their own: without them a run is what it would be
        if clocks.random() < clock_share:
            self.faults += [clocks.choice(list(CLOCK_FAULTS)) for _ in range(clocks.choice([1, 1, 2]))]
        self.callers = rng.choice([0, 1, 1, 2, 3])
        self.strikes: list[Strike] = []
        self.generation = dict.fromkeys(self.grants, 0)

    def simulate(self) -> Report:
        """Run it to its end."""
        return self.go(
            self.seed,
            f"{self.terms}, {self.workers} workers, {self.callers} callers; {', '.join(self.faults)}",
        )

    def play(self) -> None:
        rng = self.rng
        self.bring([rng.uniform(0.2, 0.9) for _ in self.grants])
        for _ in range(self.workers):
            self.deployment.start_worker(rng.choice(self.disks))
        for _ in range(self.callers):
            self.deployment.start_caller(rng.choice(self.deployment.started()), self.grants)
        self.strikes = [
            Strike(
                rng.randint(1, 50 * CLAIMS_WORTH),
                partial(ALL_FAULTS[name], self),
                rng.random() < UNDER_WAY_SHARE,
            )
            for name in self.faults
        ]
        end_us = self.world.now_us + int(rng.uniform(4, 14) * 1e6)
        self.world.run(lambda: self.world.now_us >= end_us)
        self.strikes.clear()
        self.deployment.takes_tokens = False
        self._random.slow_share = 0.0

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        if step.is_timer or not self.strikes or step.name in DULL:
            return
        weight = 1 if "claim" in step.name else CLAIMS_WORTH
        for strike in list(self.strikes):
            strike.after -= weight
            if strike.after <= 0 and (self.judge.under_way or not strike.waits_for_a_request):
                self.strikes.remove(strike)
                strike.act()

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """Let something happen after a while."""
        self.world.add(int(seconds * 1e6), "fault", None, act, timer=True)

    def some_worker(self) -> Process | None:
        """One of the living."""
        workers = self.deployment.workers()
        return self.rng.choice(workers) if workers else None


DULL = frozenset({"disk", "store heartbeat", "reply heartbeat", "store reserve_runners", "fault"})


def _crash(run: Run) -> None:
    process = run.some_worker()
    if process is None:
        return
    run.deployment.crash(process, loses_unsynced=run.rng.random() < 0.5)
    run.judge.count("crashes")
    if run.rng.random() < 0.6:
        disk = run.disk_of(process)
        run.later(run.rng.choice([0.0, 0.5, 5.0]), lambda: run.deployment.start_worker(disk))


def _crash_all(run: Run) -> None:
    for process in run.deployment.workers():
        run.deployment.crash(process, loses_unsynced=run.rng.random() < 0.5)
    for disk in run.disks:
        run.later(run.rng.random(), partial(run.deployment.start_worker, disk))


def _stop(run: Run) -> None:
    process = run.some_worker()
    if process is not None:
        process.leaving = True
        run.world.note(process, "is told to stop")


def _freeze(run: Run) -> None:
    process = run.some_worker()
    if process is not None:
        run.world.freeze(process, int(run.rng.choice([0.5, 3.0, 8.0, 12.0, 20.0]) * 1e6))


def _lose_store_replies(run: Run) -> None:
    for process in run.deployment.workers():
        if run.rng.random() < 0.6:
            run.server.faults.lose_replies[process.name] = run.rng.choice([1, 1, 2, 3])


def _lose_store_requests(run: Run) -> None:
    for process in run.deployment.workers():
        if run.rng.random() < 0.6:
            run.server.faults.lose_requests[process.name] = run.rng.choice([1, 2, 2, 3])


def _late_store_requests(run: Run) -> None:
    process = run.some_worker()
    if process is not None:
        run.server.faults.late_requests[process.name] = run.rng.choice([1, 2])


def _store_away(run: Run) -> None:
    seconds = run.rng.choice([0.3, 1.0, 2.5, 4.0, 9.0, 13.0])
    run.server.faults.away_until_us = run.world.now_us + int(seconds * 1e6)
    run.world.note("redis", f"is AWAY for {seconds} s")


def _cut_off(run: Run) -> None:
    process = run.some_worker()
    if process is not None:
        seconds = run.rng.choice([1.0, 4.0, 12.0, 20.0])
        process.cut_off_until_us = run.world.now_us + int(seconds * 1e6)
        run.world.note(process, f"is CUT OFF from the store for {seconds} s")


def _restart(run: Run) -> None:
    away_us = int(run.rng.choice([0.0, 0.5, 4.0]) * 1e6)
    run.judge.restarted(None, run.server.seen)
    run.server.restart(None, away_us)
    run.world.note("redis", f"RESTARTS with all it had, away for {away_us / 1e6:.1f} s")


def _forget(run: Run) -> None:
    """Redis restarts, or a replica that was behind takes over, without the last writes."""
    snapshot, memory = run.server.snapshot(), run.judge.memory()
    run.world.note("redis", "takes the snapshot that it will come back with")
    away_us = int(run.rng.choice([0.0, 0.0, 0.5, 4.0]) * 1e6)
    lost = run.rng.randint(1, 12 * CLAIMS_WORTH)

    def restart() -> None:
        run.judge.restarted(snapshot, run.server.seen, memory)
        run.server.restart(snapshot, away_us)
        run.world.note("redis", f"RESTARTS WITHOUT its last writes, away for {away_us / 1e6:.1f} s")

    run.strikes.append(Strike(lost, restart, run.rng.random() < UNDER_WAY_SHARE))


def _outage(kind: str) -> Callable[[Run], None]:
    def begin(run: Run) -> None:
        weather = run.bank.weather
        setattr(weather, kind, True)
        run.world.note("bank", f"{kind} from now on")

        def end() -> None:
            setattr(weather, kind, False)
            run.world.note("bank", f"{kind} no more")

        run.later(run.rng.choice([0.5, 2.0, 6.0, 15.0]), end)

    return begin


def _lose_provider_replies(run: Run) -> None:
    run.bank.weather.lose_replies = run.rng.choice([1, 1, 1, 2, 3])


def _lose_provider_requests(run: Run) -> None:
    run.bank.weather.lose_requests = run.rng.choice([1, 2, 3])


def _disk_full(run: Run) -> None:
    disk = run.rng.choice(run.disks)
    disk.full = True
    run.world.note("disk", "is FULL")

    def end() -> None:
        disk.full = False
        run.world.note("disk", "has room again")

    run.later(run.rng.choice([1.0, 4.0, 10.0]), end)


def _revoke(run: Run) -> None:
    """The person takes the consent back."""
    family = run.judge.families.get(run.rng.choice(run.grants))
    if family is not None and family.revoked_by is None:
        family.revoked_by, family.revoked_at_us = "person", run.world.now_us
        run.world.note("bank", f"{family.grant_id} is REVOKED by its person")


def _operate(run: Run) -> None:
    grant_id, verb = run.rng.choice(run.grants), run.rng.choice(["pause", "resume", "delete", "pause"])

    async def act(process: Process) -> None:
        registry = run.deployment.registry(process)
        await registry.operate(grant_id, Operation(verb))
        if verb == "pause":
            await asyncio.sleep(run.rng.random() * 2)
            await registry.operate(grant_id, Operation.RESUME)

    run.deployment.begin("op", act)


def _connect_again(run: Run) -> None:
    """The person connects anew, and the new pair takes the old one's place."""
    grant_id = run.rng.choice(run.grants)
    run.generation[grant_id] += 1
    pair = run.bank.consent(grant_id, run.generation[grant_id])

    async def act(process: Process) -> None:
        await run.deployment.import_pair(
            process,
            grant_id,
            run.client_of[grant_id],
            pair,
            replace=True,
            age_s=0.0,
            lifetime_s=run.terms.lifetime_s,
        )

    run.deployment.begin("op", act)


def _import_old_file(run: Run) -> None:
    """The line of the first import once more, to replace the stored grant."""
    grant_id = run.rng.choice(run.grants)
    token = f"{grant_id}.0.r0"
    pair = run.bank.families[token]

    async def act(process: Process) -> None:
        await run.deployment.import_pair(
            process,
            grant_id,
            run.client_of[grant_id],
            TokenPair(f"{grant_id}.0.a0", pair.root),
            replace=True,
            age_s=run.world.now_us / 1e6 + 60,
            lifetime_s=run.terms.lifetime_s,
        )

    run.deployment.begin("op", act)


def _freeze_before_a_retry(run: Run) -> None:
    """The next process that hears no reply stands still before it asks once more."""
    run.bank.weather.lose_replies += 1

    def freeze(process: Process) -> None:
        run.judge.on_unknown = lambda _: None
        run.world.freeze(process, int(run.rng.choice([3.0, 15.0, 30.0]) * 1e6))

    run.judge.on_unknown = freeze


def _on_demand(run: Run) -> None:
    process = run.some_worker()
    grant_id = run.rng.choice(run.judge.presented() or run.grants)
    if process is not None and process in run.deployment.parts:
        process.context.run(run.world.loop.create_task, run.deployment.refresh_on_demand(process, grant_id))


def _set_clock(run: Run) -> None:
    run.world.set_clock(run.rng.choice([-3600.0, -30.0, -5.0, -1.5, -0.3, 0.7, 2.0, 4.0, 8.0, 60.0, 3600.0]))


def _set_clock_for_a_while(run: Run) -> None:
    """Somebody sets it, and puts it right."""
    by_s = run.rng.choice([-600.0, -8.0, -2.0, 2.5, 6.0, 600.0])
    run.world.set_clock(by_s)
    run.later(run.rng.choice([0.2, 2.0, 7.0]), lambda: run.world.set_clock(-by_s))


def _restart_with_another_clock(run: Run) -> None:
    """A replica takes over whose clock is another."""
    run.rng.choice([_restart, _forget])(run)
    run.world.set_clock(run.rng.choice([-600.0, -5.0, -1.5, 2.5, 10.0, 600.0]))


FAULTS: dict[str, Callable[[Run], None]] = {
    "a crash": _crash,
    "another crash": _crash,
    "all crash": _crash_all,
    "a stop": _stop,
    "a freeze": _freeze,
    "a freeze before a retry": _freeze_before_a_retry,
    "store replies lost": _lose_store_replies,
    "store requests lost": _lose_store_requests,
    "store requests late": _late_store_requests,
    "store away": _store_away,
    "cut off": _cut_off,
    "restart": _restart,
    "restart without the last writes": _forget,
    "provider slow": _outage("is_slow"),
    "provider refuses connections": _outage("refuses_connections"),
    "provider answers 503": _outage("answers_503"),
    "provider answers 429": _outage("answers_429"),
    "provider breaks off": _outage("breaks_off"),
    "client refused": _outage("refuses_client"),
    "provider replies lost": _lose_provider_replies,
    "provider requests lost": _lose_provider_requests,
    "disk full": _disk_full,
    "revoked": _revoke,
    "operator": _operate,
    "connects again": _connect_again,
    "old file": _import_old_file,
    "on demand": _on_demand,
}

CLOCK_FAULTS: dict[str, Callable[[Run], None]] = {
    "clock set": _set_clock,
    "clock set for a while": _set_clock_for_a_while,
    "restart with another clock": _restart_with_another_clock,
}
ALL_FAULTS: Final = FAULTS | CLOCK_FAULTS
