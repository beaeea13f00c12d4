"""The simulated world: its time, the effects on their way, and the processes they belong to.

Rules:
- An effect is a chain of steps: it leaves, it is acted on, its reply arrives. Between any two steps
  anything else may happen; which step is next is the schedule's choice, never the effect's.
- A process that crashes is gone between two steps: its tasks are unwound, and nothing they still do has an
  effect. What it had sent is acted on all the same; replies to it are dropped.
- A frozen process gets no reply and no timer until it thaws."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, TypeVar

from tests.simulation.loop import PROCESS, Loop

T = TypeVar("T")

STEP_US = 20  # every step takes a moment, so that no two scripts see one microsecond
BEGAN_AT_US = 1_800_000_000_000_000  # Redis's clock when a run begins


class ProcessDiedError(BaseException):
    """Ends the tasks of a dead process. No product code may catch it."""


class RanAwayError(Exception):
    """A run did not end."""


@dataclass(slots=True, eq=False)
class Step:
    """One thing that can happen next, in `process`; `None` is a server."""

    at_us: int
    order: int
    name: str
    process: "Process | None"
    act: Callable[[], object]
    is_timer: bool = False
    owner: "Process | None" = None  # who caused it

    def __lt__(self, other: "Step") -> bool:
        return (self.at_us, self.order) < (other.at_us, other.order)


class Schedule(Protocol):
    """Decides which step is next."""

    def delay_us(self, kind: str) -> int:
        """How long a leg of an effect takes."""

    def put(self, step: Step) -> None:
        """Add a step."""

    def take(self) -> Step | None:
        """Take the next step; `None` where there is none."""


@dataclass(eq=False)
class Process:
    """One process of ours, or the operator's."""

    name: str
    rng: Random
    context: contextvars.Context = field(default_factory=contextvars.Context)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    alive: bool = True
    leaving: bool = False
    thaws_at_us: int = 0
    cut_off_until_us: int = 0

    def out_of_reach_until_us(self) -> int:
        """Until when it could not run, or not reach the store."""
        return max(self.thaws_at_us, self.cut_off_until_us)

    def __repr__(self) -> str:
        return self.name


class World:
    """Time, steps and processes of one run."""

    def __init__(self, schedule: Schedule) -> None:
        self.now_us = 0
        self.schedule = schedule
        self.loop = Loop(self)  # type: ignore[abstract] # nothing else is ever asked of it
        self.processes: list[Process] = []
        self.trace: list[tuple[int, str, str]] = []
        self.steps = 0
        self.after_step: Callable[[Step], None] = lambda _: None
        self.clock_set_by_us = 0  # Redis's, in all
        self.clock_was_set = False
        self._orders = 0

    @property
    def redis_us(self) -> int:
        """What Redis's clock says."""
        return BEGAN_AT_US + self.now_us + self.clock_set_by_us

    @property
    def true_ms(self) -> int:
        """What a clock says that nobody sets, in milliseconds."""
        return (BEGAN_AT_US + self.now_us) // 1000

    def note(self, who: object, what: str) -> None:
        """Keep a line of what happened."""
        self.trace.append((self.now_us, str(who), what))

    def add(
        self,
        delay_us: int,
        name: str,
        process: Process | None,
        act: Callable[[], object],
        *,
        timer: bool = False,
        owner: Process | None = None,
    ) -> None:
        """Let something happen, not before `delay_us` have passed."""
        self._orders += 1
        at_us = self.now_us + max(delay_us, 0)
        self.schedule.put(Step(at_us, self._orders, name, process, act, timer, owner or process))

    def add_timer(self, at_us: int, handle: asyncio.TimerHandle, process: Process | None) -> None:
        """A timer of asyncio's."""

        def fire() -> None:
            if not handle.cancelled():
                self.loop.put(handle)

        self.add(at_us - self.now_us, "timer", process, fire, timer=True)

    def run(self, done: Callable[[], bool], limit: int = 200_000) -> None:
        """Let things happen until `done` says so."""
        self.loop.run_ready()
        for _ in range(limit):
            if done():
                return
            step = self.schedule.take()
            if step is None:
                return
            self.happen(step)
        raise RanAwayError

    def happen(self, step: Step) -> None:
        """Let one step happen, and everything that follows from it without another effect."""
        self.now_us = max(self.now_us, step.at_us)
        if step.process is None or step.process.alive:
            if not step.is_timer:
                self.now_us += STEP_US
                self.steps += 1
            step.act()
            self.loop.run_ready()
        self.after_step(step)

    # Processes

    def start(
        self, name: str, rng: Random, life: "Callable[[Process], Coroutine[Any, Any, None]]"
    ) -> Process:
        """Start a process."""
        process = Process(name, rng)
        process.context.run(PROCESS.set, process)
        self.processes.append(process)
        self.note(process, "starts")
        process.context.run(self.loop.create_task, life(process))
        return process

    def crash(self, process: Process) -> None:
        """End a process between two effects."""
        process.alive = False
        self.note(process, "CRASHES")
        while process.tasks:
            for task in list(process.tasks):
                task.cancel()
            self.loop.run_ready()

    def freeze(self, process: Process, us: int) -> None:
        """Stop a process for a while, as SIGSTOP does."""
        process.thaws_at_us = self.now_us + us
        self.note(process, f"FREEZES for {us / 1e6:.1f} s")

    def set_clock(self, by_s: float) -> None:
        """Set Redis's clock, back where `by_s` is negative."""
        self.clock_set_by_us += int(by_s * 1e6)
        self.clock_was_set = True
        self.note("redis", f"its CLOCK IS SET by {by_s} s")

    # Effects

    async def arrival(self, process: Process, future: "asyncio.Future[T]") -> T:
        """Wait for a reply; a dead process never hears one."""
        if not process.alive:
            raise ProcessDiedError
        return await future

    def reply(
        self, process: Process, future: "asyncio.Future[Any]", value: Any, *, name: str, delay_us: int
    ) -> None:
        """Send a reply on its way to a process: a value, or an exception to be raised there."""

        self.add(delay_us, name, process, lambda: give(future, value))

    def in_thread(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Do work on the disk: one step, and the reply at once."""
        process = current()
        future = self.loop.create_future()

        def act() -> None:
            try:
                value = work()
            except Exception as problem:  # noqa: BLE001 it is the caller's
                value = problem
            give(future, value)

        if process.alive:
            self.add(self.schedule.delay_us("disk"), "disk", process, act)
        else:
            future.set_exception(ProcessDiedError())
        return future


def give(future: "asyncio.Future[Any]", value: Any) -> None:
    """A value, or an exception to be raised; the waiting task may have given up."""
    if future.done():
        return
    if isinstance(value, BaseException):
        future.set_exception(value)
    else:
        future.set_result(value)


def dice(seed: float) -> Random:
    """A random generator that a seed decides."""
    return Random(seed)  # noqa: S311 nothing here is secret


def current() -> Process:
    """The process that runs."""
    process = PROCESS.get()
    if process is None:
        raise RuntimeError("an effect outside of every process")
    return process
