"""A store that was flushed, restored or exchanged is named, as far as the journals know better."""

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

import pytest
from structlog.testing import capture_logs

from tests.integration.journal.files import answer, reply
from tests.support.callables import OpenMember, SealedAnswer, Seed, SeedSealed
from tests.support.member import Member
from worker.adapters.journal import reading
from worker.adapters.journal.format import FIRST_LINE, framed, pack
from worker.adapters.journal.reading import JournalsOnDisk
from worker.adapters.sealing import KeyRing
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import TokenPair
from worker.core.ports import Commit, Entry, Lease
from worker.core.registry import Operation, StoreLife
from worker.fleet import losses as module
from worker.fleet.losses import Losses, find_losses, is_worth_a_look
from worker.fleet.report import of_losses
from worker.recovery import recovery

Look = Callable[..., Awaitable[Losses | None]]
Step = Callable[[], Awaitable[None]]
NOW = 1_700_000_000_000
PLENTY = 60.0  # seconds to look at a few answers


@pytest.fixture
def flush(redis: Any, prefix: str) -> Step:
    async def run() -> None:
        await redis.delete(*[key async for key in redis.scan_iter(match=prefix + "*")])

    return run


@pytest.fixture
def look(registry: RedisRegistry, fleet_state: RedisFleetState, journals: Path) -> Look:
    async def run(*, seconds: float | None = None) -> Losses | None:
        return await find_losses(registry, fleet_state, JournalsOnDisk(journals).entries, seconds=seconds)

    return run


@pytest.fixture
async def worker(open_member: OpenMember) -> Member:
    """A living process that takes everything off the disk as soon as it may."""
    member = await open_member([], keep_seconds=0)
    await _beat(member)
    return member


async def _beat(member: Member) -> None:
    await member.membership.beat()
    await member.membership.recover()


async def _rotate(worker: Member, sealed_answer: SealedAnswer, grant_id: str = "one") -> None:
    lease = await worker.store.lease(grant_id)
    assert isinstance(lease, Lease)
    await worker.answers.keep(sealed_answer(lease, "r1", by=worker))


def _reading(*answers: Entry) -> Callable[[int | None], Iterator[Entry]]:
    """Journals that hold these answers."""
    return lambda _before: iter(answers)


def _told(losses: Losses | None) -> dict[str, str]:
    assert losses is not None
    return {incident.kind: incident.problem for incident in of_losses(losses)}


async def test_an_empty_store_is_named_with_what_the_journals_hold(
    worker: Member, seed_sealed: SeedSealed, sealed_answer: SealedAnswer, look: Look, flush: Step
) -> None:
    for grant_id in ("one", "two"):
        await seed_sealed(grant_id)
        await _rotate(worker, sealed_answer, grant_id)
    assert await look() is None

    await flush()

    assert _told(await look(seconds=PLENTY)) == {
        "store_lost": "it is empty, and this machine's journals hold answers of 2 grants that it lacks:"
        " was it flushed, restored from a backup, or is it another one?"
    }


async def test_a_store_that_began_anew_is_named_as_long_as_it_lacks_a_grant(
    worker: Member, seed_sealed: SeedSealed, sealed_answer: SealedAnswer, look: Look, flush: Step
) -> None:
    for grant_id in ("one", "two"):
        await seed_sealed(grant_id)
        await _rotate(worker, sealed_answer, grant_id)
    await flush()
    await _beat(worker)
    await seed_sealed("one", version=1, holds="r1")

    assert "began anew at 20" in _told(await look(seconds=PLENTY))["store_lost"]
    assert "of 1 grants" in _told(await look())["store_lost"]
    await seed_sealed("two", version=1, holds="r1")
    assert await look() is None


async def test_a_grant_that_somebody_deleted_is_not_lost(
    worker: Member,
    seed_sealed: SeedSealed,
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    look: Look,
) -> None:
    await seed_sealed()
    await _rotate(worker, sealed_answer)

    await registry.operate("one", Operation.DELETE)

    assert await look() is None


async def test_a_record_that_was_put_back_is_named_and_an_answer_on_its_way_is_not(
    worker: Member,
    seed_sealed: SeedSealed,
    sealed_answer: SealedAnswer,
    look: Look,
    redis: Any,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await seed_sealed()
    before = await redis.get(f"{prefix}grant:one")
    await _rotate(worker, sealed_answer)
    await redis.set(f"{prefix}grant:one", before)

    assert await look() is None
    monkeypatch.setattr(module, "ON_ITS_WAY_MS", 0)
    assert _told(await look()) == {
        "store_behind": "it has older tokens of 1 grants than this machine's journals:"
        " was a backup restored, or a record put back?"
    }


async def test_journals_are_not_read_for_a_status_without_a_reason(
    seed: Seed, registry: RedisRegistry, fleet_state: RedisFleetState, redis: Any, prefix: str
) -> None:
    def unwanted(_before: int | None) -> Iterator[Entry]:
        raise AssertionError("the journals were read")

    await seed()
    await redis.hset(f"{prefix}epoch", mapping={"number": 1, "began_at": 1})

    assert await find_losses(registry, fleet_state, unwanted, seconds=PLENTY) is None


async def test_a_glance_at_long_journals_ends_in_time_and_says_that_there_may_be_more(
    registry: RedisRegistry, fleet_state: RedisFleetState
) -> None:
    journals = _reading(*(answer(fence) for fence in range(1, 3 * module.AT_ONCE + 1)))

    glance = await find_losses(registry, fleet_state, journals, seconds=0.0)
    thorough = await find_losses(registry, fleet_state, journals, seconds=None)

    assert f"answers of at least {module.AT_ONCE} grants that it lacks" in _told(glance)["store_lost"]
    assert f"answers of {3 * module.AT_ONCE} grants that it lacks" in _told(thorough)["store_lost"]


def _write(path: Path, written_at: int, *fences: int) -> None:
    """A file of a journal."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(FIRST_LINE + b"".join(framed(pack(answer(fence))) for fence in fences))
    os.utime(path, (written_at, written_at))


def test_answers_from_before_an_instant_are_read_those_that_were_written_about_then_first(
    tmp_path: Path,
) -> None:
    _write(tmp_path / "a" / "00000001.segment", 100, 10_000_000, 90_000_000)
    _write(tmp_path / "a" / "00000002.segment", 300, 110_000_000, 290_000_000)
    _write(tmp_path / "b" / "00000001.segment", 210, 20_000_000, 210_000_000)
    journals = JournalsOnDisk(tmp_path)

    def seconds(before: int | None) -> list[int]:
        return [entry.fence // 1_000_000 for entry in journals.entries(before)]

    assert seconds(None) == [10, 90, 110, 290, 20, 210]
    assert seconds(250_000) == [20, 210, 110, 10, 90]
    assert seconds(110_000) == [10, 90, 20]
    assert seconds(20_000) == [10]


def test_a_file_that_began_later_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a" / "00000001.segment", 100, 100_000_000)

    def unwanted(_path: Path) -> Never:
        raise AssertionError("the whole file was read")

    monkeypatch.setattr(reading, "read_file", unwanted)

    assert list(JournalsOnDisk(tmp_path).entries(100_000)) == []


@pytest.mark.usefixtures("worker")
async def test_a_glance_is_at_the_answers_from_before_the_store_last_may_have_lost_some(
    registry: RedisRegistry, fleet_state: RedisFleetState, redis: Any, prefix: str
) -> None:
    await redis.sadd(f"{prefix}clients", "acme")
    life = await fleet_state.life()
    asked: list[int | None] = []

    def journals(before: int | None) -> Iterator[Entry]:
        asked.append(before)
        return iter(())

    await find_losses(registry, fleet_state, journals, seconds=PLENTY)
    await find_losses(registry, fleet_state, journals, seconds=None)

    assert life.began_at is not None
    assert asked == [max(life.began_at, life.epoch or 0), None]


@pytest.fixture
async def answer_of_one(
    worker: Member, seed_sealed: SeedSealed, sealed_answer: SealedAnswer, monkeypatch: pytest.MonkeyPatch
) -> Commit:
    """The answer to a grant that the store has as it was before."""
    monkeypatch.setattr(module, "ON_ITS_WAY_MS", 0)
    await seed_sealed()
    lease = await worker.store.lease("one")
    assert isinstance(lease, Lease)
    return sealed_answer(lease, "r1", by=worker)


def _with(answer: Commit, **fields: Any) -> Commit:
    """The answer for a grant that differs in some fields."""
    return replace(answer, change=replace(answer.change, grant=replace(answer.change.grant, **fields)))


@pytest.mark.parametrize(
    ("differs", "behind"),
    [
        pytest.param({}, 1, id="newer"),
        pytest.param({"root": b"of another line."}, 0, id="imported-anew"),
        pytest.param({"version": 0}, 0, id="of-the-same-version"),
        pytest.param({"issued_at": 1}, 0, id="issued-before"),
    ],
)
async def test_a_record_is_behind_an_answer_of_its_own_line_that_is_newer_by_version_and_time(
    answer_of_one: Commit,
    registry: RedisRegistry,
    fleet_state: RedisFleetState,
    differs: dict[str, Any],
    behind: int,
) -> None:
    answer = _with(answer_of_one, **differs)

    losses = await find_losses(registry, fleet_state, _reading(answer), seconds=None)

    assert (losses.behind if losses else 0) == behind


async def test_a_record_is_behind_the_pair_to_which_an_unread_reply_came(
    answer_of_one: Commit, registry: RedisRegistry, fleet_state: RedisFleetState
) -> None:
    kept = replace(reply(answer_of_one.fence, "one"), change=answer_of_one.change)

    losses = await find_losses(registry, fleet_state, _reading(kept), seconds=None)

    assert losses is not None
    assert losses.behind == 1


async def test_the_newest_answer_of_a_grant_counts_in_whatever_order_they_are_read(
    answer_of_one: Commit, registry: RedisRegistry, fleet_state: RedisFleetState
) -> None:
    older = replace(_with(answer_of_one, version=0), fence=answer_of_one.fence - 1)

    for journaled in ([older, answer_of_one], [answer_of_one, older]):
        losses = await find_losses(registry, fleet_state, _reading(*journaled), seconds=None)
        assert losses is not None
        assert losses.behind == 1


async def test_a_record_that_cannot_be_read_is_neither_missing_nor_behind(
    answer_of_one: Commit, registry: RedisRegistry, fleet_state: RedisFleetState, redis: Any, prefix: str
) -> None:
    before = await redis.getset(f"{prefix}grant:one", "what no release has written")

    losses = await find_losses(registry, fleet_state, _reading(answer_of_one), seconds=None)

    await redis.set(f"{prefix}grant:one", before)
    assert losses is None


LIVES = {
    "at rest": StoreLife(began_at=1, epoch=1, is_empty=False),
    "empty": StoreLife(began_at=1, epoch=1, is_empty=True),
    "began lately": StoreLife(began_at=NOW - 3_600_000, epoch=1, is_empty=False),
    "recovered lately": StoreLife(began_at=1, epoch=NOW - 60_000, is_empty=False),
    "of a former release": StoreLife(began_at=None, epoch=None, is_empty=False),
}


def test_a_store_that_may_have_lost_something_lately_is_worth_a_look() -> None:
    worth_it = {name for name, life in LIVES.items() if is_worth_a_look(life, NOW)}

    assert worth_it == {"empty", "began lately", "recovered lately"}


# What a worker does that lives through it


async def test_a_worker_says_so_and_keeps_the_answers_until_their_grants_are_back(
    worker: Member,
    seed_sealed: SeedSealed,
    sealed_answer: SealedAnswer,
    registry: RedisRegistry,
    keys: KeyRing,
    flush: Step,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Imported elsewhere, with dead tokens and nobody to ask: this journal repairs it all the same."""
    monkeypatch.setattr(recovery, "OFFER_LOST_MS", 0)
    await seed_sealed()
    await _rotate(worker, sealed_answer)
    await flush()

    with capture_logs() as logs:
        for _ in range(3):
            await _beat(worker)
    said = [entry for entry in logs if entry["event"] == "store.lost_grants"]
    assert [(entry["log_level"], entry["grants"]) for entry in said] == [("error", 1)]
    assert len(worker.journal.read()) == 1

    await seed_sealed()
    await _beat(worker)

    stored = await registry.find("one")
    assert stored is not None
    assert keys.open(stored.grant) == TokenPair("access-r1", "r1")


async def test_lost_answers_are_kept_for_a_day_at_most(
    worker: Member,
    seed_sealed: SeedSealed,
    sealed_answer: SealedAnswer,
    flush: Step,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await seed_sealed()
    await _rotate(worker, sealed_answer)
    await flush()
    await _beat(worker)
    assert len(worker.journal.read()) == 1

    monkeypatch.setattr(recovery, "KEEP_LOST_MS", 0)
    for _ in range(2):  # the segment is left, then removed
        await _beat(worker)

    assert worker.journal.read() == []


async def test_the_answer_for_a_deleted_grant_is_not_kept(
    worker: Member, seed_sealed: SeedSealed, sealed_answer: SealedAnswer, registry: RedisRegistry
) -> None:
    await seed_sealed()
    await _rotate(worker, sealed_answer)
    await registry.operate("one", Operation.DELETE)

    for _ in range(2):
        await _beat(worker)

    assert worker.journal.read() == []
