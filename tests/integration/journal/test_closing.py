"""What a journal leaves behind when it is closed."""
# ruff: noqa: ASYNC240 - what a test does to its files may hold up its own loop

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.integration.journal.files import KEEP, Clock, Syncs, answer, fences, segments
from worker.adapters.journal import journal as journal_module
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal
from worker.core.ports import JournalError


async def test_closing_waits_for_what_is_being_written(
    journal: Journal, syncs: Syncs, directory: JournalDirectory
) -> None:
    await journal.reserve(2)
    writes = [asyncio.create_task(journal.write(answer(1)))]
    async with syncs.blocked_from(writes[0]):
        writes.append(asyncio.create_task(journal.write(answer(2))))
        await asyncio.sleep(0)
        close = asyncio.create_task(journal.close())
        await asyncio.sleep(0)
        assert directory.take_over("me") == []
    await asyncio.gather(close, *writes)
    (abandoned,) = directory.take_over("me")
    assert fences(abandoned.read()) == [1, 2]


async def test_an_answer_given_just_before_the_closing_is_written(
    journal: Journal, directory: JournalDirectory
) -> None:
    await journal.reserve(1)
    await asyncio.gather(journal.write(answer(1)), journal.close())
    (abandoned,) = directory.take_over("me")
    assert fences(abandoned.read()) == [1]


async def test_a_disk_that_hangs_does_not_hold_up_the_closing_and_keeps_the_lock(
    journal: Journal, syncs: Syncs, directory: JournalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "CLOSE_SECONDS", 0.01)
    await journal.reserve(1)
    write = asyncio.create_task(journal.write(answer(1)))
    async with syncs.blocked_from(write):
        with capture_logs() as logs:
            await journal.close()
        assert [log["event"] for log in logs] == ["journal.not_closed"]
        assert directory.take_over("me") == []
    await write


async def test_a_journal_without_answers_leaves_nothing(journal: Journal, root: Path) -> None:
    await journal.reserve(1)
    await journal.close()
    assert list(root.iterdir()) == []


async def test_a_journal_whose_answers_are_past_the_retention_leaves_nothing(
    journal: Journal, root: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    clock.at += KEEP
    await journal.close()
    assert list(root.iterdir()) == []


async def test_an_acknowledged_answer_is_left_to_the_next_owner_for_the_retention(
    journal: Journal, directory: JournalDirectory
) -> None:
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    await journal.close()
    await journal.close()
    (abandoned,) = directory.take_over("me")
    assert fences(abandoned.read()) == [1]


async def test_a_closed_journal_takes_nothing_more(journal: Journal, root: Path) -> None:
    await journal.close()
    with pytest.raises(JournalError, match="closed"):
        await journal.reserve(1)
    with pytest.raises(JournalError, match="closed"):
        await journal.write(answer(1))
    assert not root.exists()


async def test_a_journal_opened_again_keeps_what_was_in_it(
    open_journal: Callable[..., Journal], journal_path: Path, clock: Clock
) -> None:
    first = open_journal()
    await first.write(answer(1))
    await first.close()
    second = open_journal()
    await second.write(answer(2))
    clock.at += 10 * KEEP
    await second.sweep()
    assert fences(second.read()) == [1, 2]
    assert [path.name for path in segments(journal_path)][:2] == ["00000001.segment", "00000002.segment"]


async def test_a_closed_journal_leaves_its_files_to_the_next_owner(
    journal: Journal, journal_path: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    await journal.close()
    clock.at += KEEP
    await journal.sweep()
    assert len(segments(journal_path)) == 1
