"""Answers are written and read: whole, together in one sync, and even if a writer is cancelled."""

import asyncio
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.integration.journal.files import Syncs, answer, fences, segments
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.segments import ANSWER_BYTES, SEGMENT_BYTES
from worker.core.ports import Journal as JournalPort
from worker.core.ports import JournalError


async def test_an_answer_is_read_as_it_was_written(journal: Journal) -> None:
    port: JournalPort = journal
    await port.reserve(1)
    await port.write(answer(1))
    assert port.read() == [answer(1)]


async def test_a_servers_string_that_no_encoding_allows_comes_back(journal: Journal) -> None:
    change = answer(1).change
    odd = replace(answer(1), change=replace(change, grant=replace(change.grant, scope="\ud800")))
    await journal.write(odd)
    assert journal.read() == [odd]


async def test_nothing_is_made_before_the_first_reserve(journal: Journal, root: Path) -> None:
    assert journal.read() == []
    await journal.sweep()
    await journal.close()
    assert not root.parent.parent.exists()


async def test_a_reserve_that_there_is_room_for_asks_nothing_of_the_disk(
    journal: Journal, journal_path: Path, syncs: Syncs
) -> None:
    await journal.reserve(128)
    await asyncio.gather(*(journal.write(answer(fence, size=10_000)) for fence in range(150)))
    (before,) = segments(journal_path)
    count = syncs.count
    for _ in range(100):
        await journal.reserve(128)
    assert (segments(journal_path), syncs.count) == ([before], count)


async def test_reserved_room_is_on_the_disk_already(journal: Journal, journal_path: Path) -> None:
    await journal.reserve(1_000)
    (segment,) = segments(journal_path)
    assert segment.stat().st_blocks * 512 >= 1_000 * ANSWER_BYTES


async def test_only_this_user_can_read_it(journal: Journal, journal_path: Path, root: Path) -> None:
    await journal.reserve(1)
    for directory in (journal_path, root, root.parent, root.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for file in (journal_path / "lock", *segments(journal_path)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_of_each_grant_the_last_answer_is_read_and_the_oldest_comes_first(journal: Journal) -> None:
    for commit in (
        answer(5, "one"),
        answer(7, "two"),
        answer(3, "two"),
        answer(6, "one"),
        answer(1, "three"),
    ):
        await journal.write(commit)
    assert journal.read() == [answer(1, "three"), answer(6, "one"), answer(7, "two")]


async def test_an_answer_made_again_for_a_later_record_replaces_the_first(
    journal: Journal,
) -> None:
    anew = replace(answer(5, "one"), base_version=8)
    await journal.write(answer(5, "one"))
    await journal.write(anew)
    assert journal.read() == [anew]


async def test_what_is_written_while_a_sync_runs_goes_together_into_the_next_one(
    journal: Journal, syncs: Syncs
) -> None:
    await journal.reserve(101)
    before = syncs.count
    first = asyncio.create_task(journal.write(answer(1)))
    async with syncs.blocked_from(first):
        others = [asyncio.create_task(journal.write(answer(fence))) for fence in range(2, 102)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in others)
    await asyncio.gather(first, *others)
    assert syncs.count == before + 2
    assert fences(journal.read()) == list(range(1, 102))


async def test_writes_asked_for_at_once_need_one_sync(journal: Journal, syncs: Syncs) -> None:
    await journal.reserve(100)
    before = syncs.count
    await asyncio.gather(*(journal.write(answer(fence)) for fence in range(1, 101)))
    assert syncs.count == before + 1


async def test_an_answer_that_is_not_synced_is_not_read(journal: Journal, syncs: Syncs) -> None:
    await journal.reserve(2)
    await journal.write(answer(1))
    second = asyncio.create_task(journal.write(answer(2)))
    async with syncs.blocked_from(second):
        with capture_logs() as logs:
            assert fences(await asyncio.to_thread(journal.read)) == [1]
        assert logs == []
    await second
    assert fences(journal.read()) == [1, 2]


async def test_a_cancelled_writer_changes_nothing_for_the_others_and_its_answer_is_written(
    journal: Journal, syncs: Syncs
) -> None:
    await journal.reserve(3)
    first = asyncio.create_task(journal.write(answer(1)))
    async with syncs.blocked_from(first):
        waiting = [asyncio.create_task(journal.write(answer(fence))) for fence in (2, 3)]
        await asyncio.sleep(0)
        first.cancel()
        waiting[0].cancel()
        await asyncio.wait([first, waiting[0]])
    await waiting[1]
    assert first.cancelled()
    assert waiting[0].cancelled()
    assert fences(journal.read()) == [1, 2, 3]


async def test_a_cancelled_reserve_is_finished_before_the_next_answer_is_written(
    journal: Journal, syncs: Syncs
) -> None:
    reserve = asyncio.create_task(journal.reserve(1))
    async with syncs.blocked_from(reserve):
        reserve.cancel()
        await asyncio.wait([reserve])
        write = asyncio.create_task(journal.write(answer(1)))
        await asyncio.sleep(0.1)  # another thread would begin
    await write
    assert syncs.most_at_once == 1
    assert fences(journal.read()) == [1]


async def test_an_answer_that_has_no_bytes_is_refused_without_being_quoted(journal: Journal) -> None:
    change = answer(1).change
    unheard_of = replace(answer(1), change=replace(change, due_at=2**70))
    with pytest.raises(JournalError) as caught:
        await journal.write(unheard_of)
    assert str(caught.value).endswith("an answer has no bytes: TypeError")
    assert caught.value.__cause__ is None
    await journal.write(answer(2))
    assert fences(journal.read()) == [2]


async def test_writers_that_never_pause_leave_the_others_their_turn(journal: Journal) -> None:
    """While one group is written the next one already waits, so there is always something to write."""
    stopped = False

    async def write_on_and_on(grant_id: str) -> None:
        fence = 0
        while not stopped:
            fence += 1
            await journal.write(answer(fence, grant_id))

    await journal.reserve(1)
    writers = [asyncio.create_task(write_on_and_on("one"))]
    await asyncio.sleep(0.01)
    writers.append(asyncio.create_task(write_on_and_on("another")))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    finally:
        stopped = True
        await asyncio.gather(*writers)
