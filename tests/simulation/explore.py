"""Small cases, every interleaving: two workers, one grant, one fault.

A run is a path of choices: whenever more than one step could be next, each is tried, and so is the fault,
once. Time passes when nothing else can happen, and a given number of times although something could. A run
is replayed from its start, so that a path is all there is to remember.

Two orders of steps that cannot see each other are one interleaving: of these only one is run (sleep sets,
Godefroid 1996). Steps see each other when they touch the same thing: the store, the bank, or one process.

After `DEPTH` choices steps are taken in the order they came; by then the fault has struck or never will.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.provider import Mode
from tests.simulation.redis import Valkey
from tests.simulation.scene import UNBROKEN, Break, Report, Scene
from tests.simulation.terms import Terms
from tests.simulation.world import Process, Step, World, dice
from worker.core.registry import Operation

DEPTH: Final = 16
FAULT: Final = "fault"
TICK: Final = "tick"
OUT_US: Final = 20_000_000  # beyond a lease and the patience after it
SETTLED_US: Final = 2_500_000
AFTER_US: Final = 1_200_000  # in which every process has sent a heartbeat once


class RedundantError(Exception):
    """Every step that could be next was tried before, in an order that makes no difference."""


@dataclass(slots=True)
class Node:
    """One choice: what could be next, what of it is known to lead nowhere new, and what was tried."""

    options: dict[str, frozenset[str]]  # what each touches
    asleep: dict[str, frozenset[str]]
    chosen: str = ""
    tried: list[str] = field(default_factory=list)

    def untried(self) -> str | None:
        """The next option that is worth a run."""
        return next((key for key in self.options if key not in self.asleep and key not in self.tried), None)

    def asleep_after(self) -> dict[str, frozenset[str]]:
        """What leads nowhere new after the choice: what was tried before it and cannot see it."""
        touched = self.options[self.chosen]
        known = self.asleep | {key: self.options[key] for key in self.tried if key != self.chosen}
        return {key: touches for key, touches in known.items() if not _see_each_other(touches, touched)}


def _see_each_other(one: frozenset[str], other: frozenset[str]) -> bool:
    return "everything" in one or "everything" in other or not one.isdisjoint(other)


class PathSchedule:
    """Follows a path, and beyond its end takes the first option that is worth it."""

    def __init__(self, path: list[Node], depth: int, ticks: int) -> None:
        self.path = path
        self._depth = depth
        self.exploring = False
        self.fault: Callable[[], None] | None = None
        self.fault_touches: frozenset[str] = frozenset({"everything"})
        self.world: World | None = None
        self._ticks = ticks
        self._steps: list[Step] = []
        self._timers: list[Step] = []
        self._at = 0
        self._seen: dict[str, int] = {}
        self._keys: dict[int, str] = {}

    def strike_now(self) -> None:
        """Let the fault strike, if it has not."""
        if self.fault is not None:
            strike, self.fault = self.fault, None
            strike()

    def is_spent(self) -> bool:
        """Whether no choice is left."""
        return self._at >= self._depth

    def delay_us(self, kind: str) -> int:
        """Every step could be next."""
        del kind
        return 0

    def put(self, step: Step) -> None:
        if step.is_timer:
            heapq.heappush(self._timers, step)
            return
        name = f"{step.owner} {step.name}"
        self._seen[name] = self._seen.get(name, 0) + 1
        self._keys[step.order] = f"{name} {self._seen[name]}"
        self._steps.append(step)

    def take(self) -> Step | None:
        options = {
            self._keys[step.order]: step
            for step in self._steps
            if step.process is None or (step.process.alive and not _is_frozen(step.process, self._now_us()))
        }
        if not options:
            self._steps = [step for step in self._steps if step.process is not None and step.process.alive]
            return self._tick()
        if not self.exploring or self._at >= self._depth:
            return self._taken(next(iter(options.values())))
        chosen = self._choose({key: _touches(step) for key, step in options.items()})
        if chosen == FAULT:
            return Step(self._now_us(), 0, FAULT, None, self.strike_now)
        if chosen == TICK:
            self._ticks -= 1
            return self._tick()
        return self._taken(options[chosen])

    def _choose(self, options: dict[str, frozenset[str]]) -> str:
        if self.fault is not None:
            options[FAULT] = self.fault_touches
        if self._ticks and self._timers:
            options[TICK] = frozenset({"everything"})
        if self._at == len(self.path):
            asleep = self.path[-1].asleep_after() if self.path else {}
            self.path.append(Node(options, {key: asleep[key] for key in asleep if key in options}))
            node = self.path[-1]
            first = node.untried()
            if first is None:
                raise RedundantError
            node.chosen = first
            node.tried.append(first)
        node = self.path[self._at]
        if node.options.keys() != options.keys():
            raise RuntimeError(f"a path does not replay: {sorted(node.options)} and {sorted(options)}")
        self._at += 1
        return node.chosen

    def _tick(self) -> Step | None:
        while self._timers:
            step = heapq.heappop(self._timers)
            process = step.process
            if (
                process is None
                or not process.alive
                or not _is_frozen(process, max(step.at_us, self._now_us()))
            ):
                return step
            step.at_us = process.thaws_at_us
            heapq.heappush(self._timers, step)
        return None

    def _taken(self, step: Step) -> Step:
        self._steps.remove(step)
        return step

    def _now_us(self) -> int:
        assert self.world is not None
        return self.world.now_us


def _is_frozen(process: Process, now_us: int) -> bool:
    return now_us < process.thaws_at_us


def _touches(step: Step) -> frozenset[str]:
    if step.name.startswith("store"):
        return frozenset({"store"})
    if step.process is None:
        return frozenset({"bank"})
    touched = {str(step.process)}
    if step.name in {"reply claim", "reply lease"}:
        touched.add("bank")  # what it presents is on its way from then on
    if step.name == "disk":
        touched.add("disk")
    return frozenset(touched)


class Case(Scene):
    """One run of a small case: two workers, a due grant, and a fault that strikes where the path says.

    Args:
        valkey: where the scripts run.
        mode: the server's.
        kind: which fault.
        path: the choices.
        depth: how many there are; then steps are taken in the order they came.
        ticks: how often time may pass although something could happen.
        broken: a rule broken on purpose.
    """

    def __init__(
        self,
        valkey: Valkey,
        mode: Mode,
        kind: str,
        path: list[Node],
        *,
        depth: int,
        ticks: int,
        broken: Break = UNBROKEN,
    ) -> None:
        self.schedule = PathSchedule(path, depth, ticks)
        super().__init__(valkey, Terms(mode, grants=1), self.schedule, dice(0), broken)
        self.schedule.world = self.world
        self.kind = kind
        self._struck_at_us = 0

    def play(self) -> None:
        self.bring([0.9])
        one, other = (self.deployment.start_worker(self.disks[0]) for _ in range(2))
        # Both have agreed with the store, and would drain the grant at once.
        self.server.hold_claims = True
        self.world.run(lambda: self.world.now_us > SETTLED_US)
        self.server.hold_claims = False
        touches, strike = FAULTS[self.kind](self, one, other)
        self.schedule.fault, self.schedule.fault_touches = strike, touches
        drains = [
            process.context.run(
                self.world.loop.create_task, self.deployment.drain(self.deployment.parts[process])
            )
            for process in (one, other)
        ]
        self.schedule.exploring = True
        self.world.run(lambda: all(drain.done() for drain in drains))
        # It may as well strike last: other orders, left out as the same as this one, rely on it.
        self.schedule.strike_now()
        self.world.run(self._is_over)
        self.schedule.exploring = False

    def struck(self) -> None:
        """The fault has struck."""
        self._struck_at_us = self.world.now_us

    def _is_over(self) -> bool:
        """Whether the fault and its effects are over; the end of a run does the rest."""
        return self.schedule.is_spent() or self.world.now_us > self._struck_at_us + AFTER_US


def explore(
    valkey: Valkey,
    mode: Mode,
    kind: str,
    *,
    depth: int = DEPTH,
    ticks: int = 0,
    most: int | None = None,
    broken: Break = UNBROKEN,
) -> Iterator[Report]:
    """Run every interleaving of a case, one after the other; redundant ones are left out."""
    path: list[Node] = []
    number = 0
    while most is None or number < most:
        case = Case(valkey, mode, kind, path, depth=depth, ticks=ticks, broken=broken)
        try:
            report = case.go(number, f"{mode}, {kind}, {depth} choices, {ticks} ticks")
        except RedundantError:
            path.pop()
        else:
            number += 1
            yield report
        if not _next(path):
            return


def _next(path: list[Node]) -> bool:
    """The next path: the last choice that has something left to try."""
    while path:
        node = path[-1]
        untried = node.untried()
        if untried is not None:
            node.chosen = untried
            node.tried.append(untried)
            return True
        path.pop()
    return False


Strike = Callable[[], None]
Fault = Callable[[Case, Process, Process], tuple[frozenset[str], Strike]]
EVERYTHING: Final = frozenset({"everything"})


def _crash(which: int) -> Fault:
    def prepare(case: Case, *workers: Process) -> tuple[frozenset[str], Strike]:
        def strike() -> None:
            case.deployment.crash(workers[which], loses_unsynced=True)
            case.struck()
            case.world.add(
                500_000,
                "fault",
                None,
                lambda: case.deployment.start_worker(case.disks[0]),
                timer=True,
            )

        return frozenset({str(workers[which]), "disk", "bank"}), strike

    return prepare


def _simple(touches: frozenset[str], act: Callable[[Case, Process, Process], None]) -> Fault:
    def prepare(case: Case, one: Process, other: Process) -> tuple[frozenset[str], Strike]:
        def strike() -> None:
            case.struck()
            act(case, one, other)

        return touches, strike

    return prepare


def _lose(what: str, times: int) -> Fault:
    def act(case: Case, one: Process, other: Process) -> None:
        for process in (one, other):
            getattr(case.server.faults, what)[process.name] = times

    return _simple(EVERYTHING, act)


def _weather(what: str, value: int, seconds: float | None = None) -> Fault:
    def act(case: Case, one: Process, other: Process) -> None:
        del one, other
        setattr(case.bank.weather, what, value)
        if seconds is not None:
            case.world.add(
                int(seconds * 1e6), "fault", None, lambda: setattr(case.bank.weather, what, False), timer=True
            )

    return _simple(frozenset({"bank"}), act)


def _freeze(case: Case, one: Process, other: Process) -> None:
    del other
    case.world.freeze(one, OUT_US)


def _cut_off(case: Case, one: Process, other: Process) -> None:
    del other
    one.cut_off_until_us = case.world.now_us + OUT_US


def _restart(case: Case, one: Process, other: Process) -> None:
    del one, other
    case.judge.restarted(None, case.server.seen)
    case.server.restart(None, 0)


def _forget(lost: int) -> Fault:
    """Redis comes back without its last changes; how many, the case says."""

    def prepare(case: Case, one: Process, other: Process) -> tuple[frozenset[str], Strike]:
        del one, other
        case.server.keep_snapshots(case.judge.memory)

        def strike() -> None:
            case.struck()
            kept = case.server.kept
            snapshot, memory = kept[max(len(kept) - 1 - lost, 0)]
            case.judge.restarted(snapshot, case.server.seen, memory)
            case.server.restart(snapshot, 0)
            case.world.note("redis", f"RESTARTS WITHOUT its last {lost} changes")

        return frozenset({"store"}), strike

    return prepare


def _disk_full(case: Case, one: Process, other: Process) -> None:
    del one, other
    case.disks[0].full = True


def _operate(*verbs: str) -> Fault:
    def act(case: Case, one: Process, other: Process) -> None:
        del one, other

        async def work(process: Process) -> None:
            for verb in verbs:
                await case.deployment.registry(process).operate("g0", Operation(verb))

        case.deployment.begin("op", work)

    return _simple(frozenset({"operator"}), act)


def _connect_again(case: Case, one: Process, other: Process) -> None:
    del one, other
    pair = case.bank.consent("g0", 1)

    async def work(process: Process) -> None:
        await case.deployment.import_pair(
            process, "g0", "c0", pair, replace=True, age_s=0.0, lifetime_s=case.terms.lifetime_s
        )

    case.deployment.begin("op", work)


FAULTS: dict[str, Fault] = {
    "none": _simple(frozenset({"nothing"}), lambda *_: None),
    "the first crashes": _crash(0),
    "the second crashes": _crash(1),
    "store replies lost": _lose("lose_replies", 1),
    "store replies lost twice": _lose("lose_replies", 2),
    "store requests lost": _lose("lose_requests", 2),
    "store requests late": _lose("late_requests", 1),
    "cut off": _simple(frozenset({"store"}), _cut_off),
    "freeze": _simple(EVERYTHING, _freeze),
    "restart": _simple(frozenset({"store"}), _restart),
    "forgets one change": _forget(1),
    "forgets two changes": _forget(2),
    "forgets three changes": _forget(3),
    "provider reply lost": _weather("lose_replies", 1),
    "provider replies lost": _weather("lose_replies", 2),
    "provider request lost": _weather("lose_requests", 1),
    "provider answers 503": _weather("answers_503", 1, 3.0),
    "provider breaks off": _weather("breaks_off", 1, 0.3),
    "client refused": _weather("refuses_client", 1, 3.0),
    "disk full": _simple(EVERYTHING, _disk_full),
    "paused and resumed": _operate("pause", Operation.RESUME),
    "deleted": _operate("delete"),
    "connects again": _simple(frozenset({"operator"}), _connect_again),
}
