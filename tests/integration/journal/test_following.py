"""What the journals of other processes show to be used up, whoever holds them."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.integration.journal.files import KEEP, Clock, answer, segments
from worker.adapters.journal import following
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.format import BLOCK_BYTES
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.places import segments_in
from worker.core.ports import Commit, JournalError


def _answer_to(lineage: bytes, fence: int = 1) -> Commit:
    return replace(answer(fence), base_lineage=lineage)


async def test_the_answer_of_a_living_process_is_known_from_the_next_look_on(
    journal: Journal, directory: JournalDirectory
) -> None:
    first, second = _answer_to(b"first"), _answer_to(b"second", 2)
    directory.look("me")
    await journal.write(first)
    assert await directory.answer_to(b"first") is None

    directory.look("me")
    await journal.write(second)
    assert await directory.answer_to(b"first") == first
    assert await directory.answer_to(b"second") is None

    directory.look("me")
    assert await directory.answer_to(b"first") == first
    assert await directory.answer_to(b"second") == second


async def test_the_answer_in_a_journal_that_another_has_taken_over_is_known(
    journal: Journal, directory: JournalDirectory, root: Path, clock: Clock
) -> None:
    await journal.write(_answer_to(b"first"))
    await journal.close()
    other = JournalDirectory(root, KEEP, clock)
    assert other.take_over("another")
    assert directory.take_over("me") == []

    directory.look("me")

    assert await directory.answer_to(b"first") == _answer_to(b"first")
    other.close()


async def test_the_last_of_two_answers_to_one_token_is_given(
    journal: Journal, directory: JournalDirectory
) -> None:
    await journal.write(_answer_to(b"first", 1))
    directory.look("me")
    await journal.write(_answer_to(b"first", 2))

    assert await directory.answer_to(b"first") == _answer_to(b"first", 2)


async def test_the_journal_of_this_process_is_not_followed(
    journal: Journal, directory: JournalDirectory
) -> None:
    await journal.write(_answer_to(b"first"))

    directory.look("host:1:a")

    assert await directory.answer_to(b"first") is None


async def test_an_answer_that_is_half_written_is_known_once_it_is_whole(
    journal: Journal, directory: JournalDirectory, journal_path: Path
) -> None:
    await journal.write(_answer_to(b"first"))
    directory.look("me")
    await journal.write(_answer_to(b"second", 2))
    (segment,) = segments(journal_path)
    whole = segment.read_bytes()
    end = len(whole.rstrip(b"\0"))
    segment.write_bytes(whole[: end - 100].ljust(len(whole), b"\0"))

    directory.look("me")
    assert await directory.answer_to(b"second") is None

    segment.write_bytes(whole)
    directory.look("me")
    assert await directory.answer_to(b"second") == _answer_to(b"second", 2)


@pytest.fixture
def blocks_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each block that is read, by its offset."""
    offsets: list[int] = []
    pread = os.pread

    def note(descriptor: int, length: int, offset: int) -> bytes:
        offsets.append(offset)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", note)
    return offsets


async def test_a_look_reads_only_what_is_new(
    journal: Journal, directory: JournalDirectory, blocks_read: list[int]
) -> None:
    for fence in range(1, 50):
        await journal.write(answer(fence))
    directory.look("me")
    await journal.write(_answer_to(b"first", 50))
    blocks_read.clear()
    directory.look("me")

    assert len(blocks_read) == 2  # one has the answer, and one shows that nothing follows
    assert await directory.answer_to(b"first") == _answer_to(b"first", 50)


async def test_the_room_that_nobody_has_written_to_is_not_read(
    journal: Journal, directory: JournalDirectory, journal_path: Path, blocks_read: list[int]
) -> None:
    await journal.write(_answer_to(b"first"))
    (segment,) = segments(journal_path)

    directory.look("me")

    assert len(blocks_read) == 2  # as before
    assert segment.stat().st_size > 100 * BLOCK_BYTES


async def test_a_journal_without_an_answer_yet_is_not_read_whole_again_and_again(
    journal: Journal, directory: JournalDirectory, blocks_read: list[int]
) -> None:
    await journal.reserve(1)
    directory.look("me")
    blocks_read.clear()

    directory.look("me")

    assert len(blocks_read) == 1


async def test_a_file_that_is_gone_is_forgotten(
    journal: Journal, directory: JournalDirectory, journal_path: Path
) -> None:
    await journal.write(_answer_to(b"first"))
    directory.look("me")
    (segment,) = segments(journal_path)
    segment.unlink()

    assert await directory.answer_to(b"first") is None
    directory.look("me")
    assert await directory.answer_to(b"first") is None


async def test_an_answer_that_cannot_be_read_any_more_is_an_error_for_its_token_was_used(
    journal: Journal, directory: JournalDirectory, journal_path: Path
) -> None:
    await journal.write(_answer_to(b"first"))
    directory.look("me")
    (segment,) = segments(journal_path)
    segment.write_bytes(bytes(100))

    with pytest.raises(JournalError, match=r"00000001\.segment: an answer cannot be read any more$"):
        await directory.answer_to(b"first")


async def test_a_directory_that_cannot_be_read_is_told_once_and_hides_no_other(
    open_journal: Callable[..., Journal],
    directory: JournalDirectory,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, sound = open_journal("host:1:broken"), open_journal("host:1:sound")
    await broken.write(_answer_to(b"broken"))
    directory.look("me")
    await sound.write(_answer_to(b"sound"))

    def refuse(path: Path) -> list[Path]:
        if path == root / "host:1:broken":
            raise PermissionError(13, "Permission denied")
        return segments_in(path)

    with capture_logs() as logs, monkeypatch.context() as patched:
        patched.setattr(following, "segments_in", refuse)
        directory.look("me")
        directory.look("me")

    assert await directory.answer_to(b"sound") == _answer_to(b"sound")
    assert await directory.answer_to(b"broken") == _answer_to(b"broken")
    told = [(line["event"], line["file"]) for line in logs]
    assert told == [("journal.unreadable", str(root / "host:1:broken"))]


async def test_a_file_that_cannot_be_read_is_told_once_and_hides_no_other(
    open_journal: Callable[..., Journal],
    directory: JournalDirectory,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, sound = open_journal("host:1:broken"), open_journal("host:1:sound")
    await broken.write(_answer_to(b"broken"))
    await sound.write(_answer_to(b"sound"))
    (file,) = segments(root / "host:1:broken")
    really_open = os.open

    def refuse(path: Any, *arguments: Any) -> int:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return really_open(path, *arguments)

    with capture_logs() as logs, monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        directory.look("me")
        directory.look("me")

    assert await directory.answer_to(b"sound") == _answer_to(b"sound")
    assert [(line["event"], line["file"]) for line in logs] == [("journal.unreadable", str(file))]
    directory.look("me")
    assert await directory.answer_to(b"broken") == _answer_to(b"broken")
