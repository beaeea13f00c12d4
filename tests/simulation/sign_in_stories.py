"""Stories of sign-ins: as in `stories.py`, for invariant 12.

A person and an application are no part of the world: what happens to a process happens to none of them. They
try again as people do.

`strike_at` makes no story: it strikes at one effect of a sign-in, and `test_sign_ins.py` tries each.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgpack

from tests.simulation.deployment import Parts
from tests.simulation.judge import FIELD
from tests.simulation.provider import Mode
from tests.simulation.redis import PREFIX
from tests.simulation.seeds import DULL
from tests.simulation.stories import Story, Tale
from tests.simulation.terms import Terms
from tests.simulation.world import Process, Step
from worker.core.audit import By
from worker.core.connecting import CodeProblem, ConnectError, Wanted
from worker.core.grant import TokenPair
from worker.core.ports import StoreUnavailableError
from worker.fleet.confirming import CodeError, OutdatedConsentError
from worker.fleet.connecting import Arrival, Departure, Homecoming, Link

T = TypeVar("T")

APPLICATION: Final = By("key:shop", "10.0.0.7")
WANTED: Final = Wanted("g0", "c0", (), {}, None, APPLICATION)
CONSENTS: Final = PREFIX + "consents"
TRIES: Final = 4
ON_DISK_S: Final = 1.0  # an answer has come, and is on the disk, within this
TAKEN_OVER_S: Final = 4.0  # a dead process's journal is, within this

Refusal = ConnectError | CodeError | OutdatedConsentError | StoreUnavailableError


def ask(
    story: Story, process: Process, work: Callable[[Parts], Coroutine[Any, Any, T]]
) -> T | Refusal | None:
    """What a process answers; `None` where it dies before it does."""
    task = start(story, process, work)
    story.until(lambda: task.done() or not process.alive)
    return task.result() if process.alive else None


def start(story: Story, process: Process, work: Callable[[Parts], Coroutine[Any, Any, T]]) -> Any:
    """Ask a process, and do not wait for its answer."""

    async def act() -> T | Refusal:
        try:
            return await work(story.deployment.parts[process])
        except (ConnectError, CodeError, OutdatedConsentError, StoreUnavailableError) as refusal:
            return refusal

    story.world.loop.run_ready()  # it may have started just now
    task = process.context.run(story.world.loop.create_task, act())
    story.world.loop.run_ready()
    return task


@dataclass(frozen=True, slots=True)
class Visit:
    """A person at the provider, who has consented there.

    Attributes:
        arrival: with what the browser goes back.
        browser: its cookie.
    """

    arrival: Arrival
    browser: str

    @property
    def code(self) -> str:
        """The provider's."""
        assert self.arrival.code is not None
        return self.arrival.code

    async def come_back(self, parts: Parts) -> Homecoming:
        """Go back to a service."""
        return await parts.connecting.come_back(self.arrival, self.browser, "10.0.0.8")


def visit(story: Story, process: Process) -> Visit | None:
    """Send a person to the provider; `None` where something is wrong."""
    link = ask(story, process, lambda parts: parts.connecting.begin(WANTED))
    if not isinstance(link, Link):
        return None
    text = urlsplit(link.url).path.rpartition("/")[2]
    departure = ask(story, process, lambda parts: parts.connecting.depart(text, None))
    if not isinstance(departure, Departure):
        return None
    (state,) = parse_qs(urlsplit(departure.url).query)["state"]
    return Visit(Arrival(state, story.bank.allow("g0")), departure.browser)


def confirm(story: Story, process: Process, visited: Visit, code: str) -> bool | None:
    """Whether somebody is connected, as the application is told; `None` where it is told nothing."""
    answer = ask(story, process, lambda parts: parts.confirming.confirm(code, lambda _: True, APPLICATION))
    is_used = isinstance(answer, CodeError) and answer.problem is CodeProblem.USED
    if answer == "g0" or is_used:
        story.judge.connected(visited.code)
        return True
    return None if answer is None or isinstance(answer, StoreUnavailableError) else False


def come_home(story: Story, process: Process) -> tuple[Visit, str]:
    """A sign-in of which nothing is left but to confirm it: the visit, and the code for that."""
    visited = visit(story, process)
    assert visited is not None
    back = ask(story, process, visited.come_back)
    assert isinstance(back, Homecoming)
    return visited, back.code


def connect(story: Story, process: Process) -> Visit:
    """A whole sign-in."""
    visited, code = come_home(story, process)
    assert confirm(story, process, visited, code)
    return visited


def end_consents(story: Story) -> None:
    """Let the time be over in which consents may be confirmed, as waiting would."""
    for sign_in in story.server.read("ZRANGE", CONSENTS, 0, -1):
        story.server.read("HSET", f"{PREFIX}signin:{sign_in.decode()}", "until_at", 1)
        story.server.read("ZADD", CONSENTS, "XX", 1, sign_in)


def revoke_discarded(story: Story, process: Process) -> None:
    """Let a process do what `tasks.discard` does."""
    ask(story, process, lambda parts: parts.discarding.revoke_discarded())


def end(story: Story, process: Process) -> None:
    """Revoke what nobody will confirm any more."""
    end_consents(story)
    revoke_discarded(story, process)


# Stories


def _unheard(story: Story) -> None:
    """A process dies with what a provider gave on its disk, and cannot reach the store before."""
    service, other = story.worker(), story.worker()
    visited = visit(story, service)
    assert visited is not None
    start(story, service, visited.come_back)
    story.until(lambda: story.judge.counts.get("exchanges", 0) > 0)
    story.cut_off(service, 5)
    story.wait(ON_DISK_S)
    story.deployment.crash(service, loses_unsynced=True)
    story.wait(TAKEN_OVER_S)
    end(story, other)
    if story.bank.given[visited.code].revoked_by != "us":
        story.judge.fail(12, "nobody revokes what a process had for a second before it died")


def _forgotten_confirmation(story: Story) -> None:
    """Redis forgets a confirmation that was answered."""
    service = story.worker()
    visited, code = come_home(story, service)
    early = story.snapshot()
    confirm(story, service, visited, code)
    story.restart(early)
    story.wait(TAKEN_OVER_S)
    end(story, service)


def _ended_meanwhile(story: Story) -> None:
    """The same at the end of the consent's time: a sweep comes before the journal has given it back."""
    service, other = story.worker(), story.worker()
    visited, code = come_home(story, service)
    for sign_in in story.server.read("ZRANGE", CONSENTS, 0, -1):
        story.server.read("ZADD", CONSENTS, 1, sign_in)
    early = story.snapshot()
    confirm(story, service, visited, code)
    story.cut_off(service, 1.5)
    story.restart(early)
    for _ in range(10):
        story.wait(0.1)
        revoke_discarded(story, other)
    story.wait(TAKEN_OVER_S)
    end(story, other)


def _imported(story: Story) -> None:
    """Redis begins anew, an operator imports an export, and a journal offers the consent of a grant in it.

    The machine with the confirmation is away meanwhile.
    """
    service, other = story.worker(machine=0), story.worker(machine=1)
    empty = story.snapshot()
    visited, code = come_home(story, service)
    confirm(story, other, visited, code)
    packed = story.server.look().records["g0"]
    assert packed is not None
    issued_at = msgpack.unpackb(packed, raw=True)[FIELD["ISSUED_AT"]]
    family = story.bank.given[visited.code]
    story.deployment.crash(other, loses_unsynced=True)
    story.cut_off(service, 2)
    story.restart(empty)

    async def act(process: Process) -> None:
        await story.deployment.import_pair(
            process,
            "g0",
            "c0",
            TokenPair("exported", family.live),
            replace=False,
            age_s=(story.world.true_ms - issued_at) / 1000 - 0.0003,
            lifetime_s=story.terms.lifetime_s,
        )

    operator = story.deployment.begin("op", act)
    story.until(lambda: not operator.tasks)
    story.wait(2 + TAKEN_OVER_S)
    story.until_claims_pass()
    end(story, service)


def _same_token(story: Story) -> None:
    """A provider gives a person who connects again the refresh token that it gave before."""
    story.bring([0.1])
    service = story.worker()
    story.wait(1)
    connect(story, service)
    end(story, service)


def _same_token_unconfirmed(story: Story) -> None:
    """The same, and nobody confirms it."""
    story.bring([0.1])
    service = story.worker()
    story.wait(1)
    come_home(story, service)
    end(story, service)


def _replaced(story: Story) -> None:
    """A person connects again, and the old pair is nobody's any more."""
    story.bring([0.1])
    service = story.worker()
    story.wait(1)
    connect(story, service)
    end(story, service)
    if story.bank.families["g0.0.r0"].revoked_by != "us":
        story.judge.fail(12, "nobody revokes a pair that another one replaced")


def _state_twice(story: Story) -> None:
    """A browser goes back twice with the same state and code."""
    service, other = story.worker(), story.worker()
    visited = visit(story, service)
    assert visited is not None
    back = ask(story, service, visited.come_back)
    again = ask(story, other, visited.come_back)
    if not isinstance(again, ConnectError):
        story.judge.fail(12, f"a state is used twice: {again!r}")
    assert isinstance(back, Homecoming)
    confirm(story, service, visited, back.code)
    end(story, service)


# One effect after the other


def strike_at(effect: int, *, kills: bool, forgets: int) -> tuple[Tale, Callable[[], bool]]:
    """A sign-in at one effect of which something goes wrong; and whether the effect was reached.

    In every other order it replaces a pair that is stored already.

    Args:
        effect: counted from the sign-in's beginning.
        kills: whether the process dies that serves it.
        forgets: how many of its last changes Redis comes back without.
    """
    struck: list[bool] = []

    def happens(story: Story) -> None:
        if story.order % 2:
            story.bring([0.1])
        people = _People(story)
        story.wait(1)
        after_step, left = story.world.after_step, [effect]
        story.server.keep_snapshots(story.judge.memory)

        def count(step: Step) -> None:
            after_step(step)
            if step.is_timer or step.name in DULL:
                return
            left[0] -= 1
            if left[0] == 0:
                struck.append(True)
                _strike(story, people.service, kills=kills, forgets=forgets)

        story.world.after_step = count
        people.connect()
        story.world.after_step = after_step
        story.wait(TAKEN_OVER_S)
        end(story, people.living())

    words = ["its process dies"] * kills + [f"Redis forgets its last {forgets} changes"] * bool(forgets)
    name = f"{' and '.join(words)} at effect {effect} of a sign-in"
    return Tale(name, Terms(Mode.STRICT, grants=1, lifetime_s=600), happens), lambda: bool(struck)


def _strike(story: Story, service: Process, *, kills: bool, forgets: int) -> None:
    if kills:
        story.deployment.crash(service, loses_unsynced=True)
    if forgets:
        kept = story.server.kept
        story.restart(kept[max(len(kept) - 1 - forgets, 0)])


class _People:
    """A person and an application who go on until they are connected."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self.service = story.worker()

    def living(self) -> Process:
        """The service; another one where it has died."""
        if not self.service.alive:
            self.service = self._story.worker()
        return self.service

    def connect(self) -> None:
        """Try, be told, and start anew."""
        for _ in range(TRIES):
            visited = visit(self._story, self.living())
            if visited is not None and self._come_back(visited):
                return
            self._story.wait(1)
        self._story.judge.fail(12, "nobody can connect")

    def _come_back(self, visited: Visit) -> bool:
        for _ in range(TRIES):
            back = ask(self._story, self.living(), visited.come_back)
            if isinstance(back, Homecoming):
                return self._confirm(visited, back.code)
            if isinstance(back, ConnectError):
                return False  # the person is told so
            self._story.wait(1)
        return False

    def _confirm(self, visited: Visit, code: str) -> bool:
        for _ in range(TRIES):
            is_connected = confirm(self._story, self.living(), visited, code)
            if is_connected is not None:
                return is_connected
            self._story.wait(1)
        return False


UNHEARD: Final = Tale(
    "a journal alone has what a provider gave", Terms(Mode.STRICT, grants=1, lifetime_s=600), _unheard
)
FORGOTTEN_CONFIRMATION: Final = Tale(
    "a confirmation is forgotten", Terms(Mode.STRICT, grants=1, lifetime_s=600), _forgotten_confirmation
)
ENDED_MEANWHILE: Final = Tale(
    "a forgotten confirmation is swept over", Terms(Mode.STRICT, grants=1, lifetime_s=600), _ended_meanwhile
)
IMPORTED: Final = Tale(
    "a consent is offered beside its imported grant",
    Terms(Mode.STRICT, grants=1, disks=2, lifetime_s=600),
    _imported,
)
SAME_TOKEN: Final = Tale(
    "a sign-in brings the same refresh token", Terms(Mode.STATIC, grants=1, lifetime_s=600), _same_token
)
SAME_TOKEN_UNCONFIRMED: Final = Tale(
    "nobody confirms the same refresh token",
    Terms(Mode.STATIC, grants=1, lifetime_s=600),
    _same_token_unconfirmed,
)
REPLACED: Final = Tale("a sign-in replaces a pair", Terms(Mode.STRICT, grants=1, lifetime_s=600), _replaced)
STATE_TWICE: Final = Tale(
    "a state is brought back twice", Terms(Mode.STRICT, grants=1, lifetime_s=600), _state_twice
)

SIGN_IN_STORIES: Final = (
    *(UNHEARD, FORGOTTEN_CONFIRMATION, ENDED_MEANWHILE, IMPORTED),
    *(SAME_TOKEN, SAME_TOKEN_UNCONFIRMED, REPLACED, STATE_TWICE),
)
