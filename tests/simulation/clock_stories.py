"""Stories of Redis's clock: it is set back or forward, while nothing happens or under a request."""

from typing import Final

from tests.simulation.provider import Mode
from tests.simulation.stories import Story, Tale
from tests.simulation.terms import Terms

FAR_S: Final = 3_600.0
SECONDS: Final = 6.0  # in which refreshes are to go on


def _goes_on(story: Story, answers: int) -> None:
    """Refreshes go on within seconds."""
    for _ in range(int(SECONDS)):
        for process in story.deployment.workers():
            story.drain(process)
        story.wait(1)
    stored = story.judge.counts.get("commits", 0)
    if stored < answers:
        story.judge.fail(10, f"{stored} answers of {answers} are stored {SECONDS:.0f} s later")


def _in_flight(story: Story) -> None:
    """One process has presented a token, and nobody has an answer yet."""
    story.until(lambda: story.judge.under_way > 0)


def _back_while_idle(story: Story) -> None:
    """The clock is set back by an hour while no grant is due; they are due soon."""
    story.bring([0.5] * len(story.grants))
    for _ in range(2):
        story.worker()
    story.world.set_clock(-FAR_S)
    story.wait(0.4 * story.terms.lifetime_s)
    _goes_on(story, len(story.grants))


def _back_in_flight(story: Story) -> None:
    """The clock is set back while a token is being presented."""
    story.bring([0.9])
    holder, _ = story.worker(), story.worker()
    story.drain(holder)
    _in_flight(story)
    story.world.set_clock(-FAR_S)
    _goes_on(story, 1)


def _forward_in_flight(story: Story) -> None:
    """The clock is set forward while a token is being presented: its lease ends at once for others."""
    story.bring([0.9])
    holder, other = story.worker(), story.worker()
    story.bank.weather.is_slow = True
    story.drain(holder)
    _in_flight(story)
    story.world.set_clock(FAR_S)
    for _ in range(int(story.lease_s)):
        story.drain(other)
        story.wait(0.5)
    story.bank.weather.is_slow = False
    story.until_claims_pass()


def _back_with_a_restart(story: Story) -> None:
    """A replica takes over without the last writes, and its clock is behind."""
    story.bring([0.9])
    worker = story.worker()
    early = story.snapshot()
    story.drain(worker)
    story.until_stored(1)
    story.wait(1)
    story.restart(early)
    story.world.set_clock(-FAR_S)
    story.wait(0.8 * story.terms.lifetime_s)
    _goes_on(story, 3)  # the forgotten one is stored again


def _back_beside_a_frozen_process(story: Story) -> None:
    """The clock is set back while a process stands still with an answer in its hands."""
    story.bring([0.9, 0.5])
    holder, other = story.worker(), story.worker()
    story.drain(holder)
    story.until_answered(holder)
    story.world.freeze(holder, int(2 * story.lease_s * 1e6))
    story.world.set_clock(-FAR_S)
    story.wait(0.4 * story.terms.lifetime_s)
    story.drain(other)
    story.wait(SECONDS)
    if story.judge.counts.get("commits", 0) < 1:
        story.judge.fail(10, "nothing is refreshed beside a frozen process after Redis's clock was set")
    story.wait(2 * story.lease_s)


BACK_WHILE_IDLE: Final = Tale(
    "the clock is set back while nothing is due",
    Terms(Mode.STRICT, grants=3, lifetime_s=15),
    _back_while_idle,
)
BACK_IN_FLIGHT: Final = Tale(
    "the clock is set back under a request", Terms(Mode.FAMILY, grants=1, lifetime_s=600), _back_in_flight
)
FORWARD_IN_FLIGHT: Final = Tale(
    "the clock is set forward under a request",
    Terms(Mode.FAMILY, grants=1, request_ms=4_000, lifetime_s=600),
    _forward_in_flight,
)
BACK_WITH_A_RESTART: Final = Tale(
    "a server with a clock that is behind takes over",
    Terms(Mode.STRICT, grants=1, lifetime_s=20),
    _back_with_a_restart,
)
BACK_BESIDE_A_FROZEN_PROCESS: Final = Tale(
    "the clock is set back beside a frozen process",
    Terms(Mode.FAMILY, grants=2, lifetime_s=60),
    _back_beside_a_frozen_process,
)

CLOCK_STORIES: Final = (
    *(BACK_WHILE_IDLE, BACK_IN_FLIGHT, FORWARD_IN_FLIGHT, BACK_WITH_A_RESTART),
    BACK_BESIDE_A_FROZEN_PROCESS,
)
