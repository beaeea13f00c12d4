"""Stories: each provokes one mechanism whose loss random runs would hardly ever notice.

A story says in code what happens; only how long each step takes is drawn. It runs in several orders, and the
judge finds no violation in any. Without its mechanism the judge finds one in every order. `mutants.py` names
the words that are taken away, and `test_stories.py` runs each story with them and without.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgpack

from tests.simulation.judge import FIELD
from tests.simulation.provider import Mode
from tests.simulation.redis import Look, Snapshot, Valkey
from tests.simulation.scene import UNBROKEN, Break, Report, Scene
from tests.simulation.seeds import RandomSchedule
from tests.simulation.terms import Terms
from tests.simulation.world import Process, dice
from worker.core.outcomes import Unread
from worker.core.ports import Lease
from worker.core.salvage import Directions
from worker.fleet.tokens import TokenError

if TYPE_CHECKING:
    import asyncio

LONG_ENOUGH_S: Final = 60.0
SLOW_SHARE: Final = 0.25  # of the legs take up to 20 or 30 ms in place of half a millisecond
LEAST_PATIENCE_S: Final = 3.0  # with a process that is not known to be gone
REPLY_S: Final = 0.05  # in which the store's reply arrives


class StuckError(Exception):
    """A story does not go on: what it waits for does not happen."""


class Pace(RandomSchedule):
    """Each leg to the store and the disk takes another time in each order; the provider is steady.

    Attributes:
        disk_us: how long whatever is asked of a disk takes, where the story says so.
    """

    disk_us: int | None = None

    def delay_us(self, kind: str) -> int:
        if kind == "disk" and self.disk_us is not None:
            return self.disk_us
        self.slow_share = SLOW_SHARE if kind in {"store", "disk"} else 0.0
        return super().delay_us(kind)


class Story(Scene):
    """One story in one order.

    Workers claim when the story says so, and by themselves once it has ended.

    Args:
        valkey: where the scripts run.
        tale: what happens.
        order: decides how long each step takes.
        broken: a rule broken on purpose.
    """

    def __init__(self, valkey: Valkey, tale: "Tale", order: int, broken: Break = UNBROKEN) -> None:
        self.pace = Pace(dice(order))
        super().__init__(valkey, tale.terms, self.pace, dice(order), broken)
        self.tale = tale
        self.order = order
        self.deployment.sweeps = False

    def tell(self) -> Report:
        """Tell it to its end."""
        return self.go(self.order, f"{self.tale.name}; {self.terms}")

    def play(self) -> None:
        self.tale.happens(self)
        self.deployment.sweeps = True

    @property
    def lease_s(self) -> float:
        """How long a lease lasts."""
        return self.terms.lease_ms / 1000

    def until(self, happened: Callable[[], bool]) -> None:
        """Let the world go on until something has happened.

        Raises:
            StuckError: it does not.
        """
        limit_us = self.world.now_us + int(LONG_ENOUGH_S * 1e6)
        self.world.run(lambda: happened() or self.world.now_us > limit_us)
        if not happened():
            raise StuckError(self.tale.name)

    def wait(self, seconds: float) -> None:
        """Let the world go on for so long."""
        until_us = self.world.now_us + int(seconds * 1e6)
        self.world.add(int(seconds * 1e6), "wait", None, lambda: None, timer=True)
        self.world.run(lambda: self.world.now_us >= until_us)

    def worker(self, machine: int = 0) -> Process:
        """Start a worker process, and wait until it may claim."""
        process = self.deployment.start_worker(self.disks[machine])
        self.until_recovered(process)
        return process

    def until_recovered(self, process: Process) -> None:
        """Wait until a process has recovered in the store's present epoch."""
        self.until(lambda: self.judge.agreed.get(process.name) == self.judge.epoch)
        self.wait(REPLY_S)

    def last_heartbeat(self, process: Process) -> int:
        """When the store last heard of a process, in microseconds."""
        return self.judge.memory().present[process.name]

    def until_claims_pass(self) -> None:
        """Wait until claims pass again, after an epoch began."""
        self.wait(self.lease_s)

    def drain(self, process: Process) -> None:
        """Let a process refresh what is due."""
        self.world.loop.run_ready()  # it may have started just now
        parts = self.deployment.parts[process]
        process.context.run(self.world.loop.create_task, self.deployment.drain(parts))
        self.world.loop.run_ready()

    def adopt_all(self, process: Process) -> None:
        """Let a person adopt every kept reply."""
        adopted: list[str] = []

        async def act() -> None:
            kept_replies = self.deployment.kept_replies(process)
            for reply in await kept_replies.all():
                await kept_replies.adopt(reply.number, Directions())
                adopted.append(reply.grant)

        task = process.context.run(self.world.loop.create_task, act())
        self.until(task.done)
        if not adopted:
            self.judge.fail(9, "a reply that nobody could read is lost")

    def refresh_on_demand(self, process: Process, grant_id: str) -> None:
        """Let a process refresh one grant, due or not."""
        task = self.deployment.refresh_on_demand(process, grant_id)
        process.context.run(self.world.loop.create_task, task)
        self.world.loop.run_ready()

    def ask_for_token(
        self, process: Process, grant_id: str = "g0", *, min_ttl_s: int, refused_version: int | None = None
    ) -> "asyncio.Task[int | None]":
        """Let a caller ask a process for a token."""
        asked = self.deployment.take_token(
            process, grant_id, min_ttl_ms=min_ttl_s * 1000, refused_version=refused_version
        )
        task = process.context.run(self.world.loop.create_task, asked)
        self.world.loop.run_ready()
        return task

    def take_token(self, process: Process, grant_id: str = "g0", *, min_ttl_s: int) -> None:
        """The same, and wait for the answer."""
        self.until(self.ask_for_token(process, grant_id, min_ttl_s=min_ttl_s).done)

    def refresh_for_a_caller(self, process: Process, grant_id: str) -> None:
        """Let a process refresh one grant for a caller who needs that, if it is promised to nobody."""

        async def act() -> None:
            with suppress(TokenError):
                await self.deployment.parts[process].tokens.refresh(grant_id, keeps_promise=True)

        process.context.run(self.world.loop.create_task, act())
        self.world.loop.run_ready()

    def lease_at_once(self, process: Process, grant_id: str) -> None:
        """Let a process refresh one grant, due or not, before it has looked at anything else."""
        parts = self.deployment.parts[process]

        async def act() -> None:
            lease = await parts.store.lease(grant_id)
            if isinstance(lease, Lease):
                await parts.refresher.refresh_one(lease)

        process.context.run(self.world.loop.create_task, act())
        self.world.loop.run_ready()

    def until_answered(self, process: Process) -> None:
        """Wait until a process has read an answer; it has done nothing with it yet."""
        self.until(lambda: any(held.process is process for held in self.judge.books.held))

    def until_stored(self, answers: int) -> None:
        """Wait until the store has taken so many answers in all."""
        self.until(lambda: self.judge.counts.get("commits", 0) >= answers)

    def store_is_away(self, seconds: float) -> None:
        """Nobody reaches the store for a while."""
        self.server.faults.away_until_us = self.world.now_us + int(seconds * 1e6)
        self.world.note("redis", f"is AWAY for {seconds} s")

    def cut_off(self, process: Process, seconds: float) -> None:
        """One process does not reach the store for a while."""
        process.cut_off_until_us = self.world.now_us + int(seconds * 1e6)
        self.world.note(process, f"is CUT OFF from the store for {seconds} s")

    def snapshot(self) -> tuple[Snapshot, Any]:
        """What the store could come back with, and what the judge knows with it."""
        return self.server.snapshot(), self.judge.memory()

    def restart(self, kept: tuple[Snapshot, Any]) -> None:
        """Redis restarts, and comes back with what it had then."""
        snapshot, memory = kept
        self.judge.restarted(snapshot, self.server.seen, memory)
        self.server.restart(snapshot, 0)
        self.world.note("redis", "RESTARTS WITHOUT its last writes")

    def lose_next_reply(self, process: Process, script: str) -> None:
        """The next time a process runs this script, it is acted on and the reply is lost."""
        observe = self.server.observe
        assert observe is not None

        def lose(who: Process, name: str, call: Any, reply: Any, before: Look, after: Look) -> None:
            observe(who, name, call, reply, before, after)
            if who is process and name == script:
                self.server.observe = observe
                self.server.faults.lose_replies[who.name] = 1

        self.server.observe = lose


@dataclass(frozen=True, slots=True)
class Tale:
    """What happens in a story.

    Attributes:
        name: in a few words.
        terms: what the deployment looks like.
        happens: tells it.
        orders: in how many orders.
    """

    name: str
    terms: Terms
    happens: Callable[[Story], None]
    orders: int = 5


def _frozen_holder(story: Story) -> None:
    """A process stands still with an answer in its hands, for much longer than its lease."""
    story.bring([0.9])
    holder, other = story.worker(), story.worker()
    story.drain(holder)
    story.until_answered(holder)
    story.world.freeze(holder, int(2 * story.lease_s * 1e6))
    for _ in range(int(1.5 * story.lease_s)):
        story.wait(1)
        story.drain(other)
    story.wait(story.lease_s)


def _silence(story: Story) -> None:
    """The store is away for longer than a lease; the holder of an answer reaches it later than the others."""
    story.bring([0.9])
    holder, other = story.worker(), story.worker()
    story.drain(holder)
    story.until_answered(holder)
    story.store_is_away(story.lease_s + 2)
    story.cut_off(holder, story.lease_s + 4)
    story.wait(story.lease_s + 2.5)
    for _ in range(3):
        story.drain(other)
        story.wait(0.4)
    story.until_stored(1)


def _forgotten_process(story: Story) -> None:
    """Redis comes back from before a process registered, and that process has the only answer."""
    story.bring([0.9])
    known = story.worker()
    early = story.snapshot()
    story.wait(0.5)
    unknown = story.worker(machine=1)
    story.drain(unknown)
    story.until_stored(1)
    story.wait(1)
    heartbeat = story.last_heartbeat(unknown)
    story.until(lambda: story.last_heartbeat(unknown) != heartbeat)
    story.restart(early)  # the known process looks up half a second before the other
    epoch = story.judge.epoch
    story.until(lambda: story.judge.epoch != epoch)
    story.until_recovered(known)
    story.drain(known)
    story.until_claims_pass()


def _new_process(story: Story) -> None:
    """A process dies with an answer on its disk; another starts there and claims before it has looked."""
    story.bring([0.9])
    story.worker(machine=1)  # keeps the store's epoch going
    holder = story.worker()
    story.drain(holder)
    story.until_answered(holder)
    story.cut_off(holder, 5)
    story.until(lambda: any(entry.synced for file in story.disks[0].files for entry in file.entries))
    story.deployment.crash(holder, loses_unsynced=True)
    story.wait(story.lease_s + LEAST_PATIENCE_S + 1)
    story.pace.disk_us = 300_000  # so that it asks before it has looked
    new = story.deployment.start_worker(story.disks[0])
    story.drain(new)
    story.lease_at_once(new, "g0")
    story.until_stored(1)


def _journal_in_other_hands(story: Story) -> None:
    """Redis comes back from before a rotation; who holds its journal stands still, and another claims."""
    story.bring([0.9])
    early = story.snapshot()
    dying = story.worker()
    story.drain(dying)
    story.until_stored(1)
    story.deployment.crash(dying, loses_unsynced=True)
    holder = story.deployment.start_worker(story.disks[0])
    story.until(lambda: story.disks[0].files[0].new_owner is holder)
    story.world.freeze(holder, int(2 * story.lease_s * 1e6))
    story.restart(early)
    claimer = story.worker()
    story.until_claims_pass()
    story.drain(claimer)
    story.wait(2 * story.lease_s)


def _failing_commit(story: Story) -> None:
    """The store fails at an answer until long after its lease has ended."""
    story.bring([0.9])
    worker = story.worker()
    story.server.faults.fails = "commit"
    story.drain(worker)
    story.until_answered(worker)
    for _ in range(int(2 * story.lease_s)):
        story.wait(1)
        story.drain(worker)
    story.server.faults.fails = ""
    story.until_stored(1)


def _two_rotations(story: Story) -> None:
    """Redis forgets two rotations of one grant; a journal on another machine offers the last of them."""
    story.bring([0.9])
    worker, other = story.worker(machine=0), story.worker(machine=1)
    early = story.snapshot()
    for refreshed in (1, 2):
        story.drain(worker)
        story.until_stored(refreshed)
        story.wait(0.8 * story.terms.lifetime_s)
    story.restart(early)
    story.until_claims_pass()
    story.drain(other)
    story.wait(2)


def _long_journal(story: Story) -> None:
    """Redis forgets the last answer of a long journal; its owner is too slow to offer all of it in time."""
    others = len(story.grants) - 1
    story.bring([0.9] * others + [0.6])
    owner, other = story.worker(machine=0), story.worker(machine=1)
    story.drain(owner)
    story.until_stored(others)
    story.wait(0.1 * story.terms.lifetime_s)
    early = story.snapshot()
    story.drain(owner)
    story.until_stored(others + 1)
    story.server.faults.slow_us[owner.name] = SLOW_US
    story.restart(early)
    for _ in range(int(2 * story.lease_s)):
        story.wait(1)
        story.drain(other)


def _lost_claim(story: Story) -> None:
    """The reply of a claim is lost, and redis-py asks again."""
    story.bring([0.9, 0.9])
    worker = story.worker()
    story.lose_next_reply(worker, "claim")
    story.drain(worker)
    story.until_stored(2)


def _lost_lease(story: Story) -> None:
    """The same on demand."""
    story.bring([0.9])
    worker = story.worker()
    story.lose_next_reply(worker, "lease")
    story.refresh_on_demand(worker, "g0")
    story.until_stored(1)


def _refused_alone(story: Story) -> None:
    """One grant alone is answered that the client is wrong, again and again."""
    story.bank.weather.refuses_as_client = frozenset({"g0"})
    _trouble_alone(story)


def _unanswered_alone(story: Story) -> None:
    """One grant alone is never answered."""
    story.bank.weather.never_answers = frozenset({"g0"})
    _trouble_alone(story)


def _refused_by_threes(story: Story) -> None:
    """Half of the grants are refused in words that name the client; it is well, and is not blamed."""
    dead = frozenset(story.grants[:3])
    story.bank.weather.refuses_vaguely = dead
    _trouble_alone(story, dead)
    if story.judge.counts.get("client.rejected"):
        story.judge.fail(6, "the client was paused for the sake of three grants")


def _refused_without_words(story: Story) -> None:
    """The same with refusals that say nothing."""
    dead = frozenset(story.grants[:3])
    story.bank.weather.refuses_without_words = dead
    _trouble_alone(story, dead)
    if story.judge.counts.get("client.rejected") or story.judge.counts.get("provider.unavailable"):
        story.judge.fail(6, "others were left alone for the sake of three grants")


def _trouble_alone(story: Story, dead: frozenset[str] = frozenset({"g0"})) -> None:
    story.bring([0.9 if grant_id in dead else 0.1 for grant_id in story.grants])
    story.worker()
    story.deployment.sweeps = True
    story.wait(SOON_S)
    soon = story.judge.counts.get("grant.failing", 0)
    if soon < len(dead) - 1:
        story.judge.fail(6, "nothing is told of grants that are refused again and again")
    story.wait(0.95 * story.terms.lifetime_s - SOON_S)
    for grant_id, packed in story.server.look().records.items():
        ends_at = msgpack.unpackb(packed or b"", raw=True)[FIELD["ACCESS_EXPIRES_AT"]]
        if grant_id not in dead and ends_at < story.judge.store_ms:
            story.judge.fail(6, f"{grant_id} had to wait for {sorted(dead)} until its token ended")


def _every_grant_rejected(story: Story) -> None:
    """Every grant is rejected for a while, though all are alive: the client's settings are wrong."""
    story.bring([0.9] * len(story.grants))
    story.bank.weather.rejects_everything = True
    story.worker()
    story.deployment.sweeps = True
    story.wait(30)
    story.bank.weather.rejects_everything = False
    story.wait(10)
    if story.judge.counts.get("client.rejected") != 1:
        story.judge.fail(6, "one incident of the client is told as none, or as several")
    if story.judge.counts.get("grant.failed"):
        story.judge.fail(6, "a grant failed for a fault of its client")


def _new_registration(story: Story) -> None:
    """A server that nobody has tried rotates each token, and its replies are lost."""
    story.bring([0.73] * len(story.grants))
    story.bank.weather.breaks_off = True
    story.worker()
    story.deployment.sweeps = True
    story.wait(20)
    if len({each.grant_id for each in story.judge.books.presentations}) > 1:
        story.judge.fail(9, "a registration that has brought no tokens yet risked a second grant")


def _unread_reply(story: Story) -> None:
    """A server that nobody has tried answers in a way that nobody can read.

    The worker dies when the reply is on its disk, and the store does not have it yet. A person adopts it.
    """
    story.bring([0.73] * len(story.grants))
    story.bank.weather.garbles = True
    worker = story.worker()
    story.deployment.sweeps = True
    story.until(lambda: any(isinstance(each.heard, Unread) for each in story.judge.books.presentations))
    story.cut_off(worker, story.lease_s)
    story.wait(1)
    story.deployment.crash(worker, loses_unsynced=True)
    other = story.worker()
    story.wait(20)
    presented = [each.grant_id for each in story.judge.books.presentations]
    if len(presented) > 1:
        story.judge.fail(9, f"after a reply that nobody could read {presented[1]} was presented")
    story.bank.weather.garbles = False
    story.adopt_all(other)


SOON_S: Final = 15.0  # grants that are refused alone are known as that by then
SLOW_US: Final = 2_000_000  # a group of a hundred answers takes twice this

FROZEN_HOLDER: Final = Tale(
    "a holder is frozen", Terms(Mode.FAMILY, grants=1, lifetime_s=600), _frozen_holder
)
SILENCE: Final = Tale("the store is away from all", Terms(Mode.FAMILY, grants=1), _silence)
FORGOTTEN_PROCESS: Final = Tale(
    "a process is forgotten", Terms(Mode.STRICT, grants=1, disks=2), _forgotten_process
)
NEW_PROCESS: Final = Tale(
    "a process starts beside a journal", Terms(Mode.FAMILY, grants=1, disks=2), _new_process
)
JOURNAL_IN_OTHER_HANDS: Final = Tale(
    "a journal is in the hands of another", Terms(Mode.FAMILY, grants=1), _journal_in_other_hands
)
FAILING_COMMIT: Final = Tale(
    "the store fails at an answer for a while", Terms(Mode.FAMILY, grants=1), _failing_commit
)
TWO_ROTATIONS: Final = Tale(
    "two rotations are forgotten", Terms(Mode.STRICT, grants=1, disks=2), _two_rotations
)
LONG_JOURNAL: Final = Tale(
    "a long journal is offered slowly",
    Terms(Mode.STRICT, grants=206, disks=2, lifetime_s=600),
    _long_journal,
    orders=1,
)
LOST_CLAIM: Final = Tale("the reply of a claim is lost", Terms(Mode.STRICT, grants=2), _lost_claim)
LOST_LEASE: Final = Tale("the reply of a lease is lost", Terms(Mode.STRICT, grants=1), _lost_lease)
REFUSED_ALONE: Final = Tale(
    "one grant alone is refused as a client", Terms(Mode.STRICT, grants=4, lifetime_s=60), _refused_alone
)
UNANSWERED_ALONE: Final = Tale(
    "one grant alone is never answered", Terms(Mode.STRICT, grants=4, lifetime_s=60), _unanswered_alone
)

REFUSED_BY_THREES: Final = Tale(
    "half of the grants are refused as a client",
    Terms(Mode.STRICT, grants=6, lifetime_s=60),
    _refused_by_threes,
)
REFUSED_WITHOUT_WORDS: Final = Tale(
    "half of the grants are refused without words",
    Terms(Mode.STRICT, grants=6, lifetime_s=60),
    _refused_without_words,
)
EVERY_GRANT_REJECTED: Final = Tale(
    "every grant is rejected for a while", Terms(Mode.STRICT, grants=4, lifetime_s=600), _every_grant_rejected
)
NEW_REGISTRATION: Final = Tale(
    "a server that nobody has tried loses its replies",
    Terms(Mode.STRICT, grants=4, lifetime_s=6_000),
    _new_registration,
)

UNREAD_REPLY: Final = Tale(
    "a reply that nobody can read", Terms(Mode.STRICT, grants=4, lifetime_s=600), _unread_reply
)

STORIES: Final = (
    *(FROZEN_HOLDER, SILENCE, FORGOTTEN_PROCESS, NEW_PROCESS, TWO_ROTATIONS, LONG_JOURNAL),
    *(JOURNAL_IN_OTHER_HANDS, FAILING_COMMIT),
    *(LOST_CLAIM, LOST_LEASE, REFUSED_ALONE, UNANSWERED_ALONE),
    *(REFUSED_BY_THREES, REFUSED_WITHOUT_WORDS, EVERY_GRANT_REJECTED, NEW_REGISTRATION),
    UNREAD_REPLY,
)
