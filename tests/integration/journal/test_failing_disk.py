"""A disk that is full, fails or hangs."""
# ruff: noqa: ASYNC240 - what a test does to its files may hold up its own loop

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.journal.files import KEEP, Clock, Syncs, answer, fences, segments
from tests.integration.journal.processes import line_of
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.journal import journal as journal_module
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.segments import ANSWER_BYTES, SEGMENT_BYTES
from worker.core.ports import JournalError


def test_on_a_full_disk_reserved_answers_are_written_and_no_more_is_promised(
    spawn: Callable[..., subprocess.Popen[str]], root: Path, directory: JournalDirectory
) -> None:
    process = spawn("on_a_full_disk", root)
    refusal = f"refused journal: {root}/full/00000002.segment: File too large"
    assert line_of(process) == refusal
    assert line_of(process) == "00000001.segment"
    assert line_of(process) == f"written 1 {'refused ' + refusal[8:].replace('02.', '03.')}"
    assert line_of(process) == "goes on"
    process.kill()
    process.wait()
    (abandoned,) = directory.take_over("me")
    assert fences(abandoned.read()) == [1, 3]


async def test_a_directory_that_cannot_be_made_is_named_and_tried_again(journal: Journal, root: Path) -> None:
    root.parent.mkdir(parents=True)
    root.touch()
    with pytest.raises(JournalError, match=r"^journal: \S+/evergrant/host:1:a: Not a directory$"):
        await journal.reserve(1)
    with pytest.raises(JournalError):
        await journal.write(answer(1))
    root.unlink()
    await journal.reserve(1)
    await journal.write(answer(2))
    assert fences(journal.read()) == [2]


async def test_a_directory_removed_under_a_living_owner_is_made_again(
    journal: Journal, journal_path: Path, directory: JournalDirectory
) -> None:
    await journal.reserve(1)
    for file in (journal_path / "lock", *segments(journal_path)):
        file.unlink()
    journal_path.rmdir()
    with pytest.raises(JournalError, match="No such file or directory"):
        await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    await journal.write(answer(1))
    assert directory.take_over("me") == []
    assert fences(journal.read()) == [1]


async def test_after_a_failed_sync_its_segment_is_never_written_again(
    journal: Journal, journal_path: Path, syncs: Syncs
) -> None:
    await journal.reserve(3)
    await journal.write(answer(1))
    syncs.failing = [errno.EIO]
    failed = await asyncio.gather(journal.write(answer(2)), journal.write(answer(3)), return_exceptions=True)
    assert [type(problem) for problem in failed] == [JournalError, JournalError]
    assert failed[0] is not failed[1]
    assert str(failed[0]) == f"journal: {segments(journal_path)[0]}: Input/output error"
    failed_segment = segments(journal_path)[0].read_bytes()
    await journal.write(answer(4))
    assert segments(journal_path)[0].read_bytes() == failed_segment
    assert len(segments(journal_path)) == 2
    assert fences(journal.read()) == [1, 4]


async def test_a_segment_begun_in_place_of_a_failed_one_has_the_room_that_was_reserved(
    journal: Journal, syncs: Syncs
) -> None:
    await journal.reserve(1_000)
    syncs.failing = [errno.EIO]
    with pytest.raises(JournalError):
        await journal.write(answer(1))
    await journal.write(answer(2))
    count = syncs.count
    await journal.reserve(1_000)
    assert syncs.count == count


async def test_a_failed_sync_fails_every_write_that_still_waits(journal: Journal, syncs: Syncs) -> None:
    await journal.reserve(3)
    first = asyncio.create_task(journal.write(answer(1)))
    async with syncs.blocked_from(first):
        waiting = [asyncio.create_task(journal.write(answer(fence))) for fence in (2, 3)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        syncs.failing = [errno.EIO, errno.EIO]
    for write in waiting:
        with pytest.raises(JournalError):
            await asyncio.wait_for(write, PATIENCE_SECONDS)
    # The second failure was that of the segment that should have taken the place of the first.
    await journal.write(answer(4))
    assert fences(journal.read()) == [4]


async def test_an_unexpected_error_leaves_no_writer_waiting(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> int:
        raise MemoryError

    await journal.reserve(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", out_of_memory)
        with pytest.raises(JournalError, match="MemoryError"):
            await asyncio.wait_for(journal.write(answer(1)), PATIENCE_SECONDS)
    await journal.write(answer(2))
    assert fences(journal.read()) == [2]


async def test_an_answer_whose_sync_failed_is_read_by_the_next_owner_if_it_is_there(
    journal: Journal, syncs: Syncs, directory: JournalDirectory
) -> None:
    await journal.reserve(1)
    syncs.failing = [errno.EIO]
    with pytest.raises(JournalError):
        await journal.write(answer(1))
    await journal.close()
    (abandoned,) = directory.take_over("me")
    assert fences(abandoned.read()) == [1]


async def test_a_failed_answer_keeps_its_segment_for_the_retention_and_no_longer(
    journal: Journal, journal_path: Path, syncs: Syncs, clock: Clock
) -> None:
    clock.at += KEEP
    await journal.reserve(1)
    syncs.failing = [errno.EIO]
    with pytest.raises(JournalError):
        await journal.write(answer(1))
    clock.at += KEEP - 1
    await journal.sweep()
    assert len(segments(journal_path)) == 1
    clock.at += 1
    await journal.sweep()
    assert segments(journal_path) == []


async def test_a_segment_that_could_not_be_set_aside_leaves_no_file(
    journal: Journal, journal_path: Path, syncs: Syncs
) -> None:
    syncs.failing = [errno.EIO]
    with pytest.raises(JournalError, match=r"00000001.segment: Input/output error$"):
        await journal.reserve(1)
    assert segments(journal_path) == []
    await journal.reserve(1)
    assert len(segments(journal_path)) == 1


async def test_a_file_system_without_preallocation_is_written_full_of_zeros(
    journal: Journal, journal_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_supported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", not_supported)
    await journal.reserve(1)
    (segment,) = segments(journal_path)
    assert segment.stat().st_blocks * 512 >= SEGMENT_BYTES
    await journal.write(answer(1))
    assert fences(journal.read()) == [1]


async def test_a_write_that_the_system_takes_in_parts_is_written_whole(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwrite
    await journal.reserve(1)
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, data[:100], offset))
    await journal.write(answer(1))
    assert fences(journal.read()) == [1]


async def test_nobody_waits_for_a_disk_that_hangs_and_what_it_was_given_is_written(
    journal: Journal, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.write(answer(1))
    with monkeypatch.context() as impatient:
        impatient.setattr(journal_module, "HANGS_SECONDS", 0.05)
        on_its_way = asyncio.create_task(journal.write(answer(2)))
        async with syncs.blocked_from(on_its_way):
            queued = asyncio.create_task(journal.write(answer(3)))
            async with asyncio.timeout(PATIENCE_SECONDS):
                waiters = await asyncio.gather(on_its_way, queued, return_exceptions=True)
            for refused in (journal.write(answer(4)), journal.reserve(1)):
                with pytest.raises(JournalError, match="did not answer"):
                    await asyncio.wait_for(refused, PATIENCE_SECONDS)
            impatient.setattr(journal_module, "HANGS_SECONDS", 10 * PATIENCE_SECONDS)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await journal.sweep()

    await _until_it_answers(journal)
    await journal.write(answer(5))

    assert ["did not answer" in str(waiter) for waiter in waiters] == [True, True]
    assert fences(journal.read()) == [1, 2, 3, 5]


async def test_room_is_not_waited_for_on_a_disk_that_hangs(
    journal: Journal, syncs: Syncs, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.write(answer(1))
    clock.at += KEEP
    with monkeypatch.context() as impatient:
        impatient.setattr(journal_module, "HANGS_SECONDS", 0.05)
        larger = asyncio.create_task(journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES))
        async with syncs.blocked_from(larger), asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(JournalError, match="did not answer"):
                await larger
            await journal.sweep()
    await journal.write(answer(2))
    assert fences(journal.read()) == [1, 2]


async def _until_it_answers(journal: Journal) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(JournalError):
                return await journal.reserve(1)
            await asyncio.sleep(0.01)
