"""However a file was damaged, the answers that are still in it are read."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgpack
import pytest
from structlog.testing import capture_logs

from tests.integration.journal.files import KEEP, SEALED, Clock, answer, fences, segments
from worker.adapters.journal.directory import AbandonedJournal, JournalDirectory
from worker.adapters.journal.format import FIRST_LINE, VERSION, entries_in, framed
from worker.adapters.journal.journal import Journal


class Three(NamedTuple):
    """The journal of a dead process with three answers.

    Attributes:
        segment: their file.
        content: what is in it.
        offsets: where each answer begins, and where the last one ends.
        abandoned: the journal as its next owner has it.
    """

    segment: Path
    content: bytes
    offsets: list[int]
    abandoned: AbandonedJournal


@pytest.fixture
async def three(journal: Journal, journal_path: Path, directory: JournalDirectory) -> Three:
    """Three answers of a dead process."""
    for fence in (1, 2, 3):
        await journal.write(answer(fence))
    await journal.close()
    (abandoned,) = directory.take_over("me")
    (segment,) = segments(journal_path)
    content = segment.read_bytes()
    offsets = [offset for offset, _ in entries_in(content)]
    return Three(segment, content, [*offsets, len(content)], abandoned)


def inverted(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


async def test_wherever_the_last_write_was_torn_the_answers_before_it_are_read(three: Three) -> None:
    segment, content, (_, _, last, end), abandoned = three
    for cut in range(last, end):
        rest = content[cut:]
        for tail in (b"", bytes(len(rest)), inverted(rest), bytes(len(rest)) + bytes(5000)):
            segment.write_bytes(content[:cut] + tail)
            with capture_logs() as logs:
                read = abandoned.read()
            torn = content[:cut] + tail.rstrip(b"\0")
            if torn.rstrip(b"\0") == content.rstrip(b"\0"):
                continue  # the lost bytes were zeros
            assert read == [answer(1), answer(2)], (cut, tail[:1])
            if tail.strip(b"\0") or cut > last:
                assert [log["event"] for log in logs] == ["journal.damaged"]
                assert logs[0]["offset"] == last
            else:
                assert logs == []


async def test_whichever_byte_of_an_answer_is_flipped_the_others_are_read(three: Three) -> None:
    segment, content, (_, second, third, end), abandoned = three
    for at in range(second, end):
        begin, others = (second, [answer(1), answer(3)]) if at < third else (third, [answer(1), answer(2)])
        for bit in (1, 0x80):
            segment.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            with capture_logs() as logs:
                assert abandoned.read() == others, at
            assert logs == [
                {
                    "event": "journal.damaged",
                    "log_level": "warning",
                    "file": str(segment),
                    "offset": begin,
                    "places": 1,
                }
            ]


@pytest.mark.parametrize("lost", [bytes, lambda size: b"\xa5" * size], ids=["zeros", "garbage"])
async def test_a_lost_sector_costs_only_the_answers_in_it(three: Three, lost: Callable[[int], bytes]) -> None:
    segment, content, (first, second, third, _), abandoned = three
    segment.write_bytes(content[:second] + lost(third - second) + content[third:])
    assert fences(abandoned.read()) == [1, 3]
    segment.write_bytes(lost(second) + content[second:])
    assert fences(abandoned.read()) == [2, 3]
    segment.write_bytes(lost(first) + content[first:])
    assert fences(abandoned.read()) == [1, 2, 3]


async def test_a_block_that_the_disk_cannot_read_costs_only_the_answers_in_it(
    journal: Journal, directory: JournalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fence in range(1, 51):
        await journal.write(answer(fence))
    await journal.close()
    (abandoned,) = directory.take_over("me")
    whole = os.pread

    def broken(file: int, length: int, offset: int) -> bytes:
        if offset <= 8192 < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return whole(file, length, offset)

    monkeypatch.setattr(os, "pread", broken)
    read = fences(abandoned.read())
    lost = set(range(1, 51)) - set(read)
    assert 1 in read
    assert 50 in read
    assert 0 < len(lost) <= 12


async def test_nothing_of_an_answer_is_in_a_log_line_or_an_error(three: Three, journal: Journal) -> None:
    segment, content, (_, begin, _, _), abandoned = three
    segment.write_bytes(content[: begin + 20] + b"!" + content[begin + 21 :])
    with capture_logs() as logs:
        read = abandoned.read()
    seen = f"{logs} {read} {abandoned!r} {journal!r}"
    assert "journal.damaged" in seen
    assert SEALED.decode() not in seen


async def test_what_a_newer_release_wrote_is_kept_for_it(
    three: Three, directory: JournalDirectory, clock: Clock
) -> None:
    segment, content, _, abandoned = three
    segment.write_bytes(content + framed(msgpack.packb([VERSION + 1, "of a newer release"])))
    with capture_logs() as logs:
        assert fences(abandoned.read()) == [1, 2, 3]
    assert [(log["event"], log["offset"], log["entries"]) for log in logs] == [
        ("journal.not_understood", len(content), 1)
    ]
    assert not abandoned.is_complete
    abandoned.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segment.exists()


async def test_a_file_of_a_newer_layout_is_kept_and_what_is_sound_in_it_read(
    three: Three, directory: JournalDirectory, clock: Clock
) -> None:
    segment, content, _, abandoned = three
    segment.write_bytes(content.replace(b"journal 1\n", b"journal 27\n"))
    with capture_logs() as logs:
        assert fences(abandoned.read()) == [1, 2, 3]
    assert [log["event"] for log in logs] == ["journal.not_understood"]
    abandoned.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segment.exists()


async def test_a_file_that_cannot_be_opened_is_kept_and_the_others_read(
    three: Three,
    journal_path: Path,
    directory: JournalDirectory,
    clock: Clock,
) -> None:
    *_, abandoned = three
    (journal_path / "00000000.segment").symlink_to("00000000.segment")
    with capture_logs() as logs:
        assert fences(abandoned.read()) == [1, 2, 3]
    assert [log["event"] for log in logs] == ["journal.unreadable"]
    abandoned.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segments(journal_path)


@pytest.mark.parametrize("content", [b"", bytes(100), FIRST_LINE, FIRST_LINE[:7] + bytes(100)])
async def test_a_segment_that_was_never_written_to_holds_nothing(three: Three, content: bytes) -> None:
    segment, _, _, abandoned = three
    segment.write_bytes(content)
    assert abandoned.read() == []
    assert segment.exists()
