"""A deployment, a server and a judge, put together for one run; and how every run ends.

At the end the faults are lifted, dead processes are started again, and the run goes on until every grant is
at rest, which is checked too. Then the judge sums up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgpack

from tests.simulation.deployment import Mutation, SimulatedDeployment, clients_of
from tests.simulation.disk import Disk
from tests.simulation.judge import FIELD, Judge, ViolationError
from tests.simulation.logs import ProductErrors
from tests.simulation.provider import URL, Bank, Weather
from tests.simulation.redis import Patch, Server, Valkey
from tests.simulation.terms import Terms
from tests.simulation.world import Process, RanAwayError, Schedule, Step, World, dice
from worker.core.registry import Operation

QUIET_LIMIT_US: Final = 240_000_000
DOUBT_US: Final = 30_000_000
HEARTBEATS_US: Final = 2_000_000


@dataclass(slots=True)
class Report:
    """The result of a run."""

    seed: int
    violation: ViolationError | None
    trace: list[tuple[int, str, str]]
    setup: str
    counts: dict[str, int] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)
    steps: int = 0

    def story(self, last: int | None = None) -> str:
        """The seed, the invariant and the effects in order."""
        lines = [f"{at / 1e6:10.5f} {who:>6} {what}" for at, who, what in self.trace]
        if last is not None:
            lines = lines[-last:]
        return "\n".join(
            [
                f"seed {self.seed}: {self.setup}",
                *lines,
                f"seed {self.seed}: {self.violation or 'every invariant holds'}",
            ]
        )


@dataclass(frozen=True, slots=True)
class Break:
    """A rule broken on purpose."""

    mutate: Mutation | None = None
    patch: Patch | None = None


UNBROKEN: Final = Break()


class Scene:
    """One run.

    Args:
        valkey: where the scripts run.
        terms: what the deployment looks like.
        schedule: who goes on.
        rng: whatever is left to chance.
        broken: a rule broken on purpose.
    """

    def __init__(
        self, valkey: Valkey, terms: Terms, schedule: Schedule, rng: Random, broken: Break = UNBROKEN
    ) -> None:
        self.terms = terms
        self.rng = rng
        self.world = World(schedule)
        self.bank = Bank(
            self.world,
            terms.mode,
            dice(rng.random()),
            lifetime_s=terms.lifetime_s,
            lies=terms.lies,
            ambiguous=terms.ambiguous,
        )
        self.grants = [f"g{i}" for i in range(terms.grants)]
        self.clients = clients_of(terms.clients, ambiguous=terms.ambiguous)
        self.client_of = {grant_id: rng.choice(self.clients).name for grant_id in self.grants}
        self.disks = [Disk(self.world) for _ in range(terms.disks)]
        names = [client.name for client in self.clients]
        self.server = Server(
            valkey, self.world, grants=self.grants, clients=names, urls=[URL], patch=broken.patch
        )
        self.judge = Judge(self.world, self.bank, self.disk_of, terms.lease_ms * 1000)
        self.deployment = SimulatedDeployment(
            self.world,
            self.server,
            self.bank,
            self.judge,
            clients=self.clients,
            terms=terms,
            rng=dice(rng.random()),
            mutate=broken.mutate,
        )
        self.server.observe = self.judge.observe
        self.judge.read_clock = lambda: self.server.clock_ms
        self.world.after_step = self.after_step
        self._lifted_at_us = 0

    def disk_of(self, process: Process) -> Disk:
        """A process's machine."""
        parts = self.deployment.parts.get(process)
        return self.disks[0] if parts is None else parts.disk

    def play(self) -> None:
        """What happens before the faults are lifted."""
        raise NotImplementedError

    def after_step(self, step: Step) -> None:
        """Look at what a step has done."""
        del step
        if self.judge.violation is not None:
            raise self.judge.violation

    def go(self, seed: int, setup: str) -> Report:
        """Run it to its end."""
        report = Report(seed, None, self.world.trace, setup)
        ProductErrors.listener = lambda text: self.judge.fail(0, f"the product is surprised: {text}")
        try:
            self.play()
            self._recover()
        except ViolationError as violation:
            report.violation = violation
        except RanAwayError:
            report.violation = ViolationError(0, "the run does not end")
        finally:
            ProductErrors.listener = None
            self._end()
        report.counts, report.notes, report.steps = (
            self.judge.counts,
            self.judge.books.notes,
            self.world.steps,
        )
        return report

    def bring(self, ages: Sequence[float]) -> None:
        """Import every grant, at once; `ages` are shares of a token's life."""

        async def act(process: Process) -> None:
            for grant_id, age in zip(self.grants, ages, strict=True):
                await self.deployment.import_pair(
                    process,
                    grant_id,
                    self.client_of[grant_id],
                    self.bank.consent(grant_id),
                    replace=False,
                    age_s=self.terms.lifetime_s * age,
                    lifetime_s=self.terms.lifetime_s,
                )

        operator = self.deployment.begin("op", act)
        self.world.run(lambda: not operator.tasks)

    def _recover(self) -> None:
        """Lift every fault, and wait until all is quiet."""
        self._lift()
        for disk in self.disks:
            if not any(self.disk_of(process) is disk for process in self.deployment.workers()):
                self.deployment.start_worker(disk)
        self.deployment.begin("op", self._resume_all)
        limit_us = self.world.now_us + QUIET_LIMIT_US
        looked_at = [self.world.now_us]

        def settled() -> bool:
            if self.world.now_us < looked_at[0]:
                return False
            looked_at[0] = self.world.now_us + 1_000_000
            if self.world.now_us > limit_us:
                raise ViolationError(
                    5, f"after {QUIET_LIMIT_US / 1e6:.0f} s it has not settled: {self._unsettled()}"
                )
            return not self._unsettled()

        self.world.run(settled)
        if self.judge.violation is not None:
            raise self.judge.violation
        self.judge.sum_up(self.server.look())
        if self.judge.violation is not None:
            raise self.judge.violation

    def _lift(self) -> None:
        now_us = self._lifted_at_us = self.world.now_us
        self.world.note("world", "the faults are LIFTED")
        self.bank.weather = Weather()
        self.server.lift(now_us)
        for disk in self.disks:
            disk.full = False
        for process in self.world.processes:
            process.cut_off_until_us = min(process.cut_off_until_us, now_us)

    async def _resume_all(self, process: Process) -> None:
        registry = self.deployment.registry(process)
        for grant_id in self.grants:
            await registry.operate(grant_id, Operation.RESUME)

    def _unsettled(self) -> list[str]:
        """What is still at work, or waits to be."""
        busy = [
            f"{process} thaws" for process in self.world.processes if process.thaws_at_us > self.world.now_us
        ]
        busy += [
            f"answers wait in {process}"
            for process, parts in self.deployment.parts.items()
            if process.alive and parts.answers.waiting
        ]
        busy += [
            f"{process} has yet to confirm"
            for process in self.deployment.workers()
            if self.judge.agreed.get(process.name) != self.judge.epoch
        ]
        if self.world.now_us < self._lifted_at_us + HEARTBEATS_US:
            busy.append("heartbeats are to come")
        for disk in self.disks:
            busy += [f"{file.owner} is not taken over" for file in disk.files if file.is_free()]
        now = self.judge.store_ms
        in_doubt_yet = (
            self.world.now_us < self._lifted_at_us + DOUBT_US
        )  # a grant that is not due may stay in doubt
        for grant_id, packed in self.server.seen.records.items():
            if packed is None:
                continue
            r = msgpack.unpackb(packed, raw=True)
            status = r[FIELD["STATUS"]]
            if status == b"failing" or r[FIELD["LEASE_UNTIL"]] > now or (in_doubt_yet and r[FIELD["INTENT"]]):
                busy.append(f"{grant_id} is {status.decode()}")
        return busy

    def _end(self) -> None:
        self.world.trace = []
        for process in self.world.processes:
            if process.alive:
                self.world.crash(process)
