"""An answer stays until the store has it, and a while longer."""

import asyncio
import errno
import os
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.integration.journal.files import KEEP, Clock, Syncs, answer, fences, reply, segments
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.segments import ANSWER_BYTES, SEGMENT_BYTES


async def test_an_acknowledged_answer_stays_for_the_retention_and_then_goes(
    journal: Journal, journal_path: Path, clock: Clock
) -> None:
    await journal.reserve(1)
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    clock.at += KEEP - 1
    await journal.sweep()
    assert fences(journal.read()) == [1]
    clock.at += 1
    await journal.sweep()
    assert journal.read() == []
    assert len(segments(journal_path)) == 1


async def test_an_answer_stays_until_it_is_acknowledged_and_for_the_retention_from_then(
    journal: Journal, clock: Clock
) -> None:
    await journal.write(answer(1))
    await journal.write(answer(2))
    journal.acknowledge(answer(1))
    clock.at += 10 * KEEP
    await journal.sweep()
    assert fences(journal.read()) == [1, 2]
    journal.acknowledge(answer(2))
    clock.at += KEEP - 1
    await journal.sweep()
    assert fences(journal.read()) == [1, 2]
    clock.at += 1
    await journal.sweep()
    assert journal.read() == []


async def test_an_answer_acknowledged_late_keeps_no_segment_but_its_own(
    journal: Journal, clock: Clock
) -> None:
    for fence in (1, 2):
        await journal.write(answer(fence))
        await journal.reserve(2 * fence * SEGMENT_BYTES // ANSWER_BYTES)
    journal.acknowledge(answer(1))
    clock.at += KEEP
    journal.acknowledge(answer(2))
    await journal.sweep()
    assert fences(journal.read()) == [2]


async def test_an_answer_acknowledged_again_is_kept_no_longer(journal: Journal, clock: Clock) -> None:
    """As it is in each new epoch: a store that keeps beginning them would keep everything."""
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    clock.at += KEEP - 1
    journal.acknowledge(answer(1))
    clock.at += 1
    await journal.sweep()
    assert journal.read() == []


async def test_the_retention_counts_from_a_segments_last_answer(journal: Journal, clock: Clock) -> None:
    for fence in (1, 2):
        await journal.write(answer(fence))
        journal.acknowledge(answer(fence))
        clock.at += KEEP / 2 - 1
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    clock.at += KEEP / 2
    await journal.sweep()
    assert fences(journal.read()) == [1, 2]
    clock.at += 1
    await journal.sweep()
    assert journal.read() == []


async def test_old_segments_go_when_a_new_one_is_begun(
    journal: Journal, journal_path: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    journal.acknowledge(answer(1))
    clock.at += KEEP
    await journal.reserve(8 * SEGMENT_BYTES // ANSWER_BYTES)
    assert journal.read() == []
    assert len(segments(journal_path)) == 1


async def test_a_young_segment_is_not_left_by_a_sweep(
    journal: Journal, journal_path: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    clock.at += KEEP / 2 - 1
    await journal.write(answer(2))
    await journal.sweep()
    assert len(segments(journal_path)) == 1
    clock.at += 1
    await journal.sweep()
    assert len(segments(journal_path)) == 2


async def test_a_sweep_that_finds_no_room_for_a_new_segment_keeps_the_reserved_one(
    journal: Journal, journal_path: Path, clock: Clock, syncs: Syncs
) -> None:
    await journal.reserve(2)
    await journal.write(answer(1))
    clock.at += KEEP
    syncs.failing = [errno.ENOSPC]
    with capture_logs() as logs:
        await journal.sweep()
    assert [log["event"] for log in logs] == ["journal.not_rolled"]
    before = segments(journal_path)
    await journal.write(answer(2))
    assert segments(journal_path) == before
    assert len(before) == 1


async def test_a_sweep_keeps_as_much_room_as_was_reserved(
    journal: Journal, clock: Clock, syncs: Syncs
) -> None:
    await journal.reserve(1_000)
    await journal.write(answer(1))
    clock.at += KEEP
    await journal.sweep()
    count = syncs.count
    await journal.reserve(1_000)
    assert syncs.count == count


async def test_an_acknowledgement_covers_the_grants_earlier_answers_and_no_later_one(
    journal: Journal, clock: Clock
) -> None:
    for fence in (1, 2, 3):
        await journal.write(answer(fence, "one"))
    journal.acknowledge(answer(2, "one"))
    clock.at += KEEP
    await journal.sweep()
    assert fences(journal.read()) == [3]
    journal.acknowledge(answer(3, "one"))
    journal.acknowledge(answer(3, "one"))
    clock.at += KEEP
    await journal.sweep()
    assert journal.read() == []


async def test_an_acknowledgement_of_an_answer_made_again_covers_the_first_in_an_earlier_segment(
    journal: Journal, clock: Clock
) -> None:
    await journal.write(answer(1))
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    clock.at += KEEP
    await journal.sweep()
    assert journal.read() == []


async def test_an_answer_acknowledged_before_it_is_on_the_disk_is_acknowledged(
    journal: Journal, syncs: Syncs, clock: Clock
) -> None:
    await journal.reserve(1)
    write = asyncio.create_task(journal.write(answer(1)))
    async with syncs.blocked_from(write):
        journal.acknowledge(answer(1))
    await write
    clock.at += KEEP
    await journal.sweep()
    assert journal.read() == []


async def test_a_segment_that_cannot_be_removed_is_tried_again(
    journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    clock.at += KEEP
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, "unlink", refuse)
        patch.setattr(Path, "unlink", refuse)
        await journal.sweep()
    assert [log["event"] for log in logs] == ["journal.not_removed"]
    assert fences(journal.read()) == [1]
    await journal.sweep()
    assert journal.read() == []


async def test_a_segment_that_is_removed_while_the_journal_is_read_is_no_problem(
    journal: Journal, journal_path: Path
) -> None:
    await journal.write(answer(1))
    segments(journal_path)[0].unlink()
    with capture_logs() as logs:
        assert journal.read() == []
    assert logs == []


@pytest.mark.parametrize("done_meanwhile", ["reserve", "sweep"])
async def test_an_answer_is_not_removed_before_the_journal_knows_where_it_is(
    root: Path, clock: Clock, syncs: Syncs, done_meanwhile: str
) -> None:
    """Its segment is written and left while the event loop is busy, which hears of both at once."""
    journal = Journal(root, "host:1:a", 0.0, clock)  # no retention that would protect it
    await journal.reserve(1)
    write = asyncio.create_task(journal.write(answer(1)))
    async with syncs.blocked_from(write):
        if done_meanwhile == "reserve":
            other = asyncio.create_task(journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES))
        else:
            other = asyncio.create_task(journal.sweep())
        await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 the loop is to be busy
    await asyncio.gather(write, other)
    assert fences(journal.read()) == [1]
    await journal.close()


async def test_a_kept_reply_is_read_beside_its_grants_answers_whichever_came_later(journal: Journal) -> None:
    for entry in (answer(1, "one"), reply(2, "one"), answer(3, "one"), reply(4, "one")):
        await journal.write(entry)

    assert journal.read() == [reply(2, "one"), answer(3, "one"), reply(4, "one")]


async def test_an_acknowledged_reply_covers_no_answer_and_a_later_answer_covers_the_reply(
    journal: Journal, clock: Clock
) -> None:
    """The tokens of answer 1 may still be on their way; those of answer 3 replace whatever reply 2 has."""
    await journal.write(answer(1, "one"))
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    await journal.write(reply(2, "one"))
    journal.acknowledge(reply(2, "one"))
    clock.at += KEEP
    await journal.sweep()
    assert 1 in fences(journal.read())

    await journal.write(answer(3, "one"))
    journal.acknowledge(answer(3, "one"))
    clock.at += KEEP
    await journal.sweep()
    assert journal.read() == []
