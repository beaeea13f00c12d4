"""Room is set aside before the answers come."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.integration.journal.files import Clock, Syncs, answer, fences, segments
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.segments import ANSWER_BYTES, SEGMENT_BYTES, Segments


async def test_a_new_segment_is_begun_when_the_present_one_has_too_little_room(
    journal: Journal, journal_path: Path
) -> None:
    usual = ANSWER_BYTES // 2
    await journal.reserve(100)
    written = (SEGMENT_BYTES - 100 * ANSWER_BYTES) // usual
    await asyncio.gather(*(journal.write(answer(fence, size=usual)) for fence in range(1, written + 1)))
    assert len(segments(journal_path)) == 1
    await journal.reserve(100)
    assert len(segments(journal_path)) == 2
    await journal.write(answer(written + 1))
    assert fences(journal.read()) == list(range(1, written + 2))


async def test_answers_take_the_room_that_was_reserved_for_them(journal: Journal, journal_path: Path) -> None:
    await journal.reserve(100)
    await journal.write(answer(0))
    await asyncio.gather(*(journal.write(answer(fence, size=ANSWER_BYTES - 1024)) for fence in range(1, 200)))
    assert len(segments(journal_path)) == 1


async def test_what_waits_to_be_written_is_not_counted_as_room(
    journal: Journal, syncs: Syncs, journal_path: Path
) -> None:
    await journal.reserve(1)
    first = asyncio.create_task(journal.write(answer(1)))
    async with syncs.blocked_from(first):
        large = asyncio.create_task(journal.write(answer(2, size=SEGMENT_BYTES - 2 * ANSWER_BYTES)))
        await asyncio.sleep(0)
        reserve = asyncio.create_task(journal.reserve(10))
        await asyncio.sleep(0)
        assert not reserve.done()
    await asyncio.gather(first, large, reserve)
    assert len(segments(journal_path)) == 2


async def test_an_answer_larger_than_all_room_begins_a_segment_that_holds_it(
    journal: Journal, journal_path: Path
) -> None:
    await journal.reserve(1)
    await journal.write(answer(1))
    await journal.write(answer(2, size=3 * SEGMENT_BYTES))
    assert len(segments(journal_path)) == 2
    assert journal.read() == [answer(1), answer(2, size=3 * SEGMENT_BYTES)]


async def test_an_oversized_answer_takes_none_of_the_room_reserved_for_others(
    journal: Journal, journal_path: Path
) -> None:
    await journal.reserve(SEGMENT_BYTES // ANSWER_BYTES // 2)
    await journal.write(answer(1))
    await journal.write(answer(2, size=SEGMENT_BYTES // 2))
    assert len(segments(journal_path)) == 2


async def test_the_names_of_new_directories_and_segments_are_on_the_disk(
    journal: Journal, journal_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose name was not synced may be gone when the machine is back, whatever was synced in it."""
    real, synced = os.fsync, set()

    def sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    await journal.reserve(1)
    with_new_names = [journal_path, *journal_path.parents[:4]]
    assert {directory.stat().st_ino for directory in with_new_names} <= synced


def test_a_list_of_segments_that_was_taken_is_never_changed(journal_path: Path, clock: Clock) -> None:
    """Another thread may be reading the segments in it."""
    present = Segments(journal_path, clock)
    present.reserve(1)
    taken = [present.all]
    present.append([b"frame"], 0)
    present.roll(1)
    taken.append(present.all)
    present.remove(present.all[:1])
    present.close()
    assert [len(segments_then) for segments_then in taken] == [1, 2]


async def test_a_segment_left_behind_keeps_no_more_room_than_it_uses(
    journal: Journal, journal_path: Path
) -> None:
    await journal.write(answer(1))
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    left, present = segments(journal_path)
    assert left.stat().st_size < ANSWER_BYTES
    assert present.stat().st_size >= 2 * SEGMENT_BYTES


async def test_a_segment_left_behind_empty_is_removed(journal: Journal, journal_path: Path) -> None:
    await journal.reserve(1)
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    assert len(segments(journal_path)) == 1
