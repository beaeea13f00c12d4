"""Stories of promised tokens: as in `stories.py`, for invariant 10."""

from typing import Final

import msgpack

from tests.simulation.judge import FIELD
from tests.simulation.provider import Mode
from tests.simulation.stories import Story, Tale
from tests.simulation.terms import Terms
from tests.simulation.world import Process
from worker.core.registry import Operation

MINUTE_S: Final = 60
PATIENCE_S: Final = 72  # with a holder that died with a lease, at the age that the story's token has


def _version(story: Story) -> int:
    return int(_record(story)[FIELD["VERSION"]])


def _record(story: Story) -> list[int]:
    packed = story.server.look().records["g0"]
    assert packed is not None
    record: list[int] = msgpack.unpackb(packed, raw=True)
    return record


def _until_refreshed(story: Story, worker: Process, version: int = 1) -> None:
    """Let a worker look for due grants until one refresh has been stored."""
    for _ in range(MINUTE_S):
        if _version(story) >= version:
            return
        story.drain(worker)
        story.wait(1)
    story.judge.fail(10, "a promise has ended, and the grant is not refreshed")


def _due(story: Story) -> None:
    """A token is due while it is promised."""
    story.bring([0.5])
    worker = story.worker()
    story.take_token(worker, min_ttl_s=20)
    story.wait(15)
    story.drain(worker)
    story.wait(1)
    _until_refreshed(story, worker)


def _resumed(story: Story) -> None:
    """A person pauses a grant whose token is promised, and resumes it."""
    story.bring([0.5])
    worker = story.worker()
    story.take_token(worker, min_ttl_s=20)

    async def act(process: Process) -> None:
        registry = story.deployment.registry(process)
        await registry.operate("g0", Operation.PAUSE)
        await registry.operate("g0", Operation.RESUME)

    operator = story.deployment.begin("op", act)
    story.until(lambda: not operator.tasks)
    story.drain(worker)
    story.wait(1)
    _until_refreshed(story, worker)


def _on_demand(story: Story) -> None:
    """A caller needs a refresh just when another was promised the token."""
    story.bring([0.5])
    worker, other = story.worker(), story.worker()
    story.take_token(worker, min_ttl_s=8)
    story.refresh_for_a_caller(other, "g0")
    story.wait(1)
    story.take_token(other, min_ttl_s=30)  # after the promise
    if _version(story) != 1:
        story.judge.fail(10, "no refresh came after the promise")


def _probed(story: Story) -> None:
    """A client is rejected and accepted again, while each of its tokens is promised."""
    story.bring([0.75, 0.1])
    worker = story.worker()
    story.bank.weather.refuses_client = True
    story.drain(worker)
    story.until(lambda: story.judge.counts.get("client.rejected", 0) > 0)
    story.wait(1)
    for grant_id in story.grants:
        story.take_token(worker, grant_id, min_ttl_s=30)
    story.bank.weather.refuses_client = False
    for _ in range(25):
        story.drain(worker)
        story.wait(1)
    _until_refreshed(story, worker)


def _under_way(story: Story) -> None:
    """A caller asks while a refresh is on its way."""
    story.bring([0.75])
    worker, other = story.worker(), story.worker()
    story.drain(worker)
    story.until(lambda: story.judge.under_way > 0)
    story.take_token(other, min_ttl_s=1)
    story.until_stored(1)


def _in_doubt(story: Story) -> None:
    """A process dies with the only answer; then a caller asks for the token that the answer ended."""
    story.bring([0.75])
    worker, other = story.worker(), story.worker()
    story.drain(worker)
    story.until_answered(worker)
    story.deployment.crash(worker, loses_unsynced=True)
    story.wait(story.lease_s + PATIENCE_S)
    story.take_token(other, min_ttl_s=1)


def _forgotten_lease(story: Story) -> None:
    """Redis forgets the lease of a request that is on its way, and a caller asks at once."""
    story.bring([0.75])
    worker, other = story.worker(), story.worker()
    story.wait(1)
    early = story.snapshot()
    story.bank.weather.is_slow = True
    story.drain(worker)
    story.until(lambda: story.judge.under_way > 0)
    story.restart(early)
    story.take_token(other, min_ttl_s=1)
    story.until_claims_pass()


def _put_off(story: Story) -> None:
    """A caller asks all the time: the refresh comes while the old token has some life left."""
    story.bring([0.5])
    worker = story.worker()
    ends_at = _record(story)[FIELD["ACCESS_EXPIRES_AT"]]
    while _version(story) == 0 and story.world.redis_ms < ends_at:
        story.take_token(worker, min_ttl_s=1)
        story.wait(0.5)
    if _record(story)[FIELD["ISSUED_AT"]] > ends_at - 3_000:
        story.judge.fail(10, "promises put a refresh off until the token had ended")


def _refused(story: Story) -> None:
    """An API refuses a token, and the next one, to many callers."""
    story.bring([0.1])
    workers = [story.worker(), story.worker()]
    story.take_token(workers[0], min_ttl_s=20)
    for version in (0, 0, 1, 0, 1):
        for worker in workers:
            story.ask_for_token(worker, min_ttl_s=1, refused_version=version)
        story.wait(2)
    if len(story.judge.books.presentations) != 1:
        story.judge.fail(10, "a grant is refreshed more than once a minute because an API refuses its tokens")


def _forgotten(story: Story) -> None:
    """Redis forgets a promise, and comes back before the grant is due."""
    story.bring([0.5])
    giver, other = story.worker(), story.worker()
    story.wait(1)
    early = story.snapshot()
    story.take_token(giver, min_ttl_s=20)
    story.wait(1)
    story.restart(early)
    story.wait(14)
    story.drain(other)
    story.wait(1)
    _until_refreshed(story, other)


DUE: Final = Tale("a promised token is due", Terms(Mode.STRICT, grants=1, lifetime_s=60), _due)
RESUMED: Final = Tale("a promised grant is resumed", Terms(Mode.STRICT, grants=1, lifetime_s=60), _resumed)
ON_DEMAND: Final = Tale(
    "a caller needs a refresh of a promised token", Terms(Mode.STRICT, grants=1, lifetime_s=60), _on_demand
)
PROBED: Final = Tale(
    "a client is probed whose tokens are promised", Terms(Mode.STRICT, grants=2, lifetime_s=600), _probed
)
UNDER_WAY: Final = Tale(
    "a token is asked for under a refresh", Terms(Mode.STRICT, grants=1, lifetime_s=600), _under_way
)
IN_DOUBT: Final = Tale(
    "a token is asked for after a lost answer", Terms(Mode.STRICT, grants=1, lifetime_s=600), _in_doubt
)
FORGOTTEN_LEASE: Final = Tale(
    "a token is asked for while the store recovers",
    Terms(Mode.STRICT, grants=1, lifetime_s=600),
    _forgotten_lease,
)
PUT_OFF: Final = Tale(
    "a token is asked for all the time", Terms(Mode.STRICT, grants=1, lifetime_s=60), _put_off
)
REFUSED: Final = Tale("an API refuses every token", Terms(Mode.STRICT, grants=1, lifetime_s=600), _refused)
FORGOTTEN: Final = Tale("a promise is forgotten", Terms(Mode.STRICT, grants=1, lifetime_s=60), _forgotten)

PROMISE_STORIES: Final = (
    *(DUE, RESUMED, ON_DEMAND, PROBED, UNDER_WAY, IN_DOUBT, FORGOTTEN_LEASE, PUT_OFF, REFUSED, FORGOTTEN),
)
