"""The journal: real files, real processes, real kills.

What stands in for a failing disk is the system call that fails, never a part of the journal. A process is
this file run as a script: its first argument is what it does.
"""
# ruff: noqa: ASYNC240 - what a test does to its files may hold up its own loop

import asyncio
import errno
import fcntl
import os
import random
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from structlog.testing import capture_logs

from worker.adapters.journal import journal as journal_module
from worker.adapters.journal.directory import AbandonedJournal, JournalDirectory
from worker.adapters.journal.format import FIRST_LINE, entries_in, framed
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.segments import ANSWER_BYTES, SEGMENT_BYTES
from worker.core.events import Event, EventType
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.ports import Commit, JournalError
from worker.core.ports import Journal as JournalPort

KEEP = 900.0
PATIENCE_SECONDS = 20.0
SEALED = b"sealed and yet not for a log"


def answer(fence: int, grant_id: str | None = None, *, size: int = 0) -> Commit:
    """An answer for a grant of its own, unless one is named."""
    grant_id = f"grant-{fence}" if grant_id is None else grant_id
    grant = Grant(
        id=grant_id,
        client="acme",
        status=Status.ACTIVE,
        version=fence,
        lineage=b"l" * 16,
        sealed=SEALED + bytes(range(256)) + b"." * size,
        issued_at=1,
        access_expires_at=None,
        refresh_issued_at=1,
        refresh_expires_at=None,
        authorized_at=None,
        labels={"team": "blue"},
    )
    event = Event(EventType.GRANT_REFRESHED, f"{fence}.grant.refreshed", grant_id, 1, {"client": "acme"})
    return Commit(fence, b"b" * 16, fence - 1, Status.ACTIVE, Change(grant, 2, None, event))


def fences(commits: list[Commit]) -> list[int]:
    return [commit.fence for commit in commits]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.at = 100.0  # a machine that has just been started

    def __call__(self) -> float:
        return self.at


class Syncs:
    """The system call that puts data on the disk: counted, held back, or failing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.begun = threading.Event()
        self.failing: list[int] = []
        self._may_end = threading.Event()
        self._may_end.set()
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        self.begun.set()
        self._may_end.wait()
        if self.failing:
            raise OSError(self.failing.pop(), "Input/output error")
        self._real(descriptor)

    @asynccontextmanager
    async def held(self, first: asyncio.Task[Any]) -> AsyncIterator[None]:
        """From `first`'s sync on until the block ends, no sync returns."""
        self.begun.clear()
        self._may_end.clear()
        try:
            assert await asyncio.to_thread(self.begun.wait, PATIENCE_SECONDS), "nothing is synced"
            assert not first.done()
            yield
        finally:
            self._may_end.set()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As a deployment has it: none of it is made yet."""
    return tmp_path / "data" / "journal" / "evergrant"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


@pytest.fixture
async def open_journal(root: Path, clock: Clock) -> AsyncIterator[Callable[..., Journal]]:
    opened = []

    def build(owner: str = "host:1:a") -> Journal:
        opened.append(Journal(root, owner, KEEP, clock))
        return opened[-1]

    yield build
    for journal in opened:
        await journal.close()


@pytest.fixture
def journal(open_journal: Callable[..., Journal]) -> Journal:
    return open_journal()


@pytest.fixture
def home(root: Path) -> Path:
    """The directory of `journal`."""
    return root / "host:1:a"


@pytest.fixture
def directory(root: Path, clock: Clock) -> Iterator[JournalDirectory]:
    opened = JournalDirectory(root, KEEP, clock)
    yield opened
    opened.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that plays one of the parts at the end of this file."""
    processes = []

    def start(part: str, *arguments: object) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(  # noqa: S603 - this very file
                [sys.executable, __file__, part, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], order: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{order}\n")
    process.stdin.flush()


def make_old(path: Path) -> None:
    os.utime(path, (0, 0))


def segments(home: Path) -> list[Path]:
    return sorted(home.glob("*.segment"))


# Written, read


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
    journal: Journal, home: Path, syncs: Syncs
) -> None:
    await journal.reserve(128)
    await asyncio.gather(*(journal.write(answer(fence, size=10_000)) for fence in range(150)))
    (before,) = segments(home)
    count = syncs.count
    for _ in range(100):
        await journal.reserve(128)
    assert (segments(home), syncs.count) == ([before], count)


async def test_what_is_reserved_is_on_the_disk_already(journal: Journal, home: Path) -> None:
    await journal.reserve(1_000)
    (segment,) = segments(home)
    assert segment.stat().st_blocks * 512 >= 1_000 * ANSWER_BYTES


async def test_only_this_user_can_read_it(journal: Journal, home: Path, root: Path) -> None:
    await journal.reserve(1)
    for directory in (home, root, root.parent, root.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for file in (home / "lock", *segments(home)):
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


async def test_an_answer_made_anew_for_a_record_that_moved_on_takes_the_place_of_the_first(
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
    async with syncs.held(first):
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


async def test_what_is_not_synced_is_not_read(journal: Journal, syncs: Syncs) -> None:
    await journal.reserve(2)
    await journal.write(answer(1))
    second = asyncio.create_task(journal.write(answer(2)))
    async with syncs.held(second):
        with capture_logs() as logs:
            assert fences(await asyncio.to_thread(journal.read)) == [1]
        assert logs == []
    await second
    assert fences(journal.read()) == [1, 2]


async def test_who_is_cancelled_while_waiting_leaves_the_others_and_the_answer_alone(
    journal: Journal, syncs: Syncs
) -> None:
    await journal.reserve(3)
    first = asyncio.create_task(journal.write(answer(1)))
    async with syncs.held(first):
        waiting = [asyncio.create_task(journal.write(answer(fence))) for fence in (2, 3)]
        await asyncio.sleep(0)
        first.cancel()
        waiting[0].cancel()
        await asyncio.wait([first, waiting[0]])
    await waiting[1]
    assert first.cancelled()
    assert waiting[0].cancelled()
    assert fences(journal.read()) == [1, 2, 3]


async def test_a_cancelled_reserve_leaves_the_journal_usable(journal: Journal, syncs: Syncs) -> None:
    reserve = asyncio.create_task(journal.reserve(1))
    async with syncs.held(reserve):
        reserve.cancel()
        await asyncio.wait([reserve])
        write = asyncio.create_task(journal.write(answer(1)))
    await write
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


# Room


async def test_a_new_segment_is_begun_when_the_present_one_has_too_little_room(
    journal: Journal, home: Path
) -> None:
    usual = ANSWER_BYTES // 2
    await journal.reserve(100)
    written = (SEGMENT_BYTES - 100 * ANSWER_BYTES) // usual
    await asyncio.gather(*(journal.write(answer(fence, size=usual)) for fence in range(1, written + 1)))
    assert len(segments(home)) == 1
    await journal.reserve(100)
    assert len(segments(home)) == 2
    await journal.write(answer(written + 1))
    assert fences(journal.read()) == list(range(1, written + 2))


async def test_what_waits_to_be_written_is_not_counted_as_room(
    journal: Journal, syncs: Syncs, home: Path
) -> None:
    await journal.reserve(1)
    first = asyncio.create_task(journal.write(answer(1)))
    async with syncs.held(first):
        large = asyncio.create_task(journal.write(answer(2, size=SEGMENT_BYTES - 2 * ANSWER_BYTES)))
        await asyncio.sleep(0)
        reserve = asyncio.create_task(journal.reserve(10))
        await asyncio.sleep(0)
        assert not reserve.done()
    await asyncio.gather(first, large, reserve)
    assert len(segments(home)) == 2


async def test_an_answer_larger_than_all_room_begins_a_segment_that_holds_it(
    journal: Journal, home: Path
) -> None:
    await journal.reserve(1)
    await journal.write(answer(1))
    await journal.write(answer(2, size=3 * SEGMENT_BYTES))
    assert len(segments(home)) == 2
    assert journal.read() == [answer(1), answer(2, size=3 * SEGMENT_BYTES)]


async def test_an_oversized_answer_takes_none_of_the_room_reserved_for_others(
    journal: Journal, home: Path
) -> None:
    await journal.reserve(SEGMENT_BYTES // ANSWER_BYTES // 2)
    await journal.write(answer(1))
    await journal.write(answer(2, size=SEGMENT_BYTES // 2))
    assert len(segments(home)) == 2


async def test_a_segment_left_behind_keeps_no_more_room_than_it_uses(journal: Journal, home: Path) -> None:
    await journal.write(answer(1))
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    left, present = segments(home)
    assert left.stat().st_size < ANSWER_BYTES
    assert present.stat().st_size >= 2 * SEGMENT_BYTES


async def test_a_segment_left_behind_empty_is_removed(journal: Journal, home: Path) -> None:
    await journal.reserve(1)
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    assert len(segments(home)) == 1


# A disk that fails


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
    (taken_over,) = directory.take_over("me")
    assert fences(taken_over.read()) == [1, 3]


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
    journal: Journal, home: Path, directory: JournalDirectory
) -> None:
    await journal.reserve(1)
    for file in (home / "lock", *segments(home)):
        file.unlink()
    home.rmdir()
    with pytest.raises(JournalError, match="No such file or directory"):
        await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    await journal.write(answer(1))
    assert directory.take_over("me") == []
    assert fences(journal.read()) == [1]


async def test_after_a_failed_sync_its_segment_is_never_written_again(
    journal: Journal, home: Path, syncs: Syncs
) -> None:
    await journal.reserve(3)
    await journal.write(answer(1))
    syncs.failing = [errno.EIO]
    failed = await asyncio.gather(journal.write(answer(2)), journal.write(answer(3)), return_exceptions=True)
    assert [type(problem) for problem in failed] == [JournalError, JournalError]
    assert failed[0] is not failed[1]
    assert str(failed[0]) == f"journal: {segments(home)[0]}: Input/output error"
    abandoned = segments(home)[0].read_bytes()
    await journal.write(answer(4))
    assert segments(home)[0].read_bytes() == abandoned
    assert len(segments(home)) == 2
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


async def test_a_failed_sync_is_told_to_everyone_who_still_waits(journal: Journal, syncs: Syncs) -> None:
    await journal.reserve(3)
    first = asyncio.create_task(journal.write(answer(1)))
    async with syncs.held(first):
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


async def test_a_problem_that_is_not_the_disks_leaves_nobody_waiting(
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


async def test_an_answer_whose_sync_failed_is_found_by_the_adopter_if_it_is_there(
    journal: Journal, syncs: Syncs, directory: JournalDirectory
) -> None:
    await journal.reserve(1)
    syncs.failing = [errno.EIO]
    with pytest.raises(JournalError):
        await journal.write(answer(1))
    await journal.close()
    (taken_over,) = directory.take_over("me")
    assert fences(taken_over.read()) == [1]


async def test_a_failed_answer_keeps_its_segment_for_the_retention_and_no_longer(
    journal: Journal, home: Path, syncs: Syncs, clock: Clock
) -> None:
    clock.at += KEEP
    await journal.reserve(1)
    syncs.failing = [errno.EIO]
    with pytest.raises(JournalError):
        await journal.write(answer(1))
    clock.at += KEEP - 1
    await journal.sweep()
    assert len(segments(home)) == 1
    clock.at += 1
    await journal.sweep()
    assert segments(home) == []


async def test_a_segment_that_could_not_be_set_aside_leaves_no_file(
    journal: Journal, home: Path, syncs: Syncs
) -> None:
    syncs.failing = [errno.EIO]
    with pytest.raises(JournalError, match=r"00000001.segment: Input/output error$"):
        await journal.reserve(1)
    assert segments(home) == []
    await journal.reserve(1)
    assert len(segments(home)) == 1


async def test_a_file_system_without_preallocation_is_written_full_of_zeros(
    journal: Journal, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_supported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", not_supported)
    await journal.reserve(1)
    (segment,) = segments(home)
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


# Damage


@pytest.fixture
async def three(
    journal: Journal, home: Path, directory: JournalDirectory
) -> tuple[Path, bytes, list[int], AbandonedJournal]:
    """Three answers of the dead: file, content, where each begins and the last ends, the new_owner."""
    for fence in (1, 2, 3):
        await journal.write(answer(fence))
    await journal.close()
    (taken_over,) = directory.take_over("me")
    (segment,) = segments(home)
    content = segment.read_bytes()
    offsets = [offset for offset, _ in entries_in(content)]
    return segment, content, [*offsets, len(content)], taken_over


def inverted(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


async def test_wherever_the_last_write_was_torn_the_answers_before_it_are_read(
    three: tuple[Path, bytes, list[int], AbandonedJournal],
) -> None:
    segment, content, (_, _, last, end), taken_over = three
    for cut in range(last, end):
        rest = content[cut:]
        for tail in (b"", bytes(len(rest)), inverted(rest), bytes(len(rest)) + bytes(5000)):
            segment.write_bytes(content[:cut] + tail)
            with capture_logs() as logs:
                read = taken_over.read()
            torn = content[:cut] + tail.rstrip(b"\0")
            if torn.rstrip(b"\0") == content.rstrip(b"\0"):
                continue  # the lost bytes were zeros
            assert read == [answer(1), answer(2)], (cut, tail[:1])
            if tail.strip(b"\0") or cut > last:
                assert [log["event"] for log in logs] == ["journal.damaged"]
                assert logs[0]["offset"] == last
            else:
                assert logs == []


async def test_whichever_byte_of_an_answer_is_flipped_the_others_are_read(
    three: tuple[Path, bytes, list[int], AbandonedJournal],
) -> None:
    segment, content, (_, second, third, end), taken_over = three
    for at in range(second, end):
        begin, others = (second, [answer(1), answer(3)]) if at < third else (third, [answer(1), answer(2)])
        for bit in (1, 0x80):
            segment.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            with capture_logs() as logs:
                assert taken_over.read() == others, at
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
async def test_a_lost_sector_costs_only_the_answers_in_it(
    three: tuple[Path, bytes, list[int], AbandonedJournal], lost: Callable[[int], bytes]
) -> None:
    segment, content, (first, second, third, _), taken_over = three
    segment.write_bytes(content[:second] + lost(third - second) + content[third:])
    assert fences(taken_over.read()) == [1, 3]
    segment.write_bytes(lost(second) + content[second:])
    assert fences(taken_over.read()) == [2, 3]
    segment.write_bytes(lost(first) + content[first:])
    assert fences(taken_over.read()) == [1, 2, 3]


async def test_a_block_that_the_disk_cannot_read_costs_only_the_answers_in_it(
    journal: Journal, directory: JournalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fence in range(1, 51):
        await journal.write(answer(fence))
    await journal.close()
    (taken_over,) = directory.take_over("me")
    whole = os.pread

    def broken(file: int, length: int, offset: int) -> bytes:
        if offset <= 8192 < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return whole(file, length, offset)

    monkeypatch.setattr(os, "pread", broken)
    read = fences(taken_over.read())
    lost = set(range(1, 51)) - set(read)
    assert 1 in read
    assert 50 in read
    assert 0 < len(lost) <= 12


async def test_nothing_of_an_answer_is_in_a_log_line_or_an_error(
    three: tuple[Path, bytes, list[int], AbandonedJournal], journal: Journal
) -> None:
    segment, content, (_, begin, _, _), taken_over = three
    segment.write_bytes(content[: begin + 20] + b"!" + content[begin + 21 :])
    with capture_logs() as logs:
        read = taken_over.read()
    told = f"{logs} {read} {taken_over!r} {journal!r}"
    assert "journal.damaged" in told
    assert "sealed and yet" not in told


async def test_nobody_waits_for_a_disk_that_hangs_and_what_it_was_given_is_written_all_the_same(
    journal: Journal, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.write(answer(1))
    with monkeypatch.context() as impatient:
        impatient.setattr(journal_module, "HANGS_SECONDS", 0.05)
        on_its_way = asyncio.create_task(journal.write(answer(2)))
        async with syncs.held(on_its_way):
            queued = asyncio.create_task(journal.write(answer(3)))
            async with asyncio.timeout(PATIENCE_SECONDS):
                waiters = await asyncio.gather(on_its_way, queued, return_exceptions=True)
            for refused in (journal.write(answer(4)), journal.reserve(1)):
                with pytest.raises(JournalError, match="did not answer"):
                    await refused
            await journal.sweep()

    await _until_it_answers(journal)
    await journal.write(answer(5))

    assert ["did not answer" in str(waiter) for waiter in waiters] == [True, True]
    assert fences(journal.read()) == [1, 2, 3, 5]


async def _until_it_answers(journal: Journal) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(JournalError):
                return await journal.reserve(1)
            await asyncio.sleep(0.01)


async def test_what_a_newer_release_wrote_is_kept_for_it(
    three: tuple[Path, bytes, list[int], AbandonedJournal], directory: JournalDirectory, clock: Clock
) -> None:
    segment, content, _, taken_over = three
    segment.write_bytes(content + framed(msgpack.packb([2, "of a newer release"])))
    with capture_logs() as logs:
        assert fences(taken_over.read()) == [1, 2, 3]
    assert [(log["event"], log["offset"], log["entries"]) for log in logs] == [
        ("journal.not_understood", len(content), 1)
    ]
    assert not taken_over.is_complete
    taken_over.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segment.exists()


async def test_a_file_of_a_newer_layout_is_kept_and_what_is_sound_in_it_read(
    three: tuple[Path, bytes, list[int], AbandonedJournal], directory: JournalDirectory, clock: Clock
) -> None:
    segment, content, _, taken_over = three
    segment.write_bytes(content.replace(b"journal 1\n", b"journal 27\n"))
    with capture_logs() as logs:
        assert fences(taken_over.read()) == [1, 2, 3]
    assert [log["event"] for log in logs] == ["journal.not_understood"]
    taken_over.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segment.exists()


async def test_a_file_that_cannot_be_opened_is_kept_and_the_others_read(
    three: tuple[Path, bytes, list[int], AbandonedJournal],
    home: Path,
    directory: JournalDirectory,
    clock: Clock,
) -> None:
    *_, taken_over = three
    (home / "00000000.segment").symlink_to("00000000.segment")
    with capture_logs() as logs:
        assert fences(taken_over.read()) == [1, 2, 3]
    assert [log["event"] for log in logs] == ["journal.unreadable"]
    taken_over.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segments(home)


@pytest.mark.parametrize("content", [b"", bytes(100), FIRST_LINE, FIRST_LINE[:7] + bytes(100)])
async def test_a_segment_that_was_never_written_to_holds_nothing(
    three: tuple[Path, bytes, list[int], AbandonedJournal], content: bytes
) -> None:
    segment, _, _, taken_over = three
    segment.write_bytes(content)
    assert taken_over.read() == []
    assert segment.exists()


# Retention


async def test_a_settled_answer_stays_for_the_retention_and_then_goes(
    journal: Journal, home: Path, clock: Clock
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
    assert len(segments(home)) == 1


async def test_an_answer_stays_until_it_is_settled_and_for_the_retention_from_then(
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


async def test_an_answer_that_is_settled_late_keeps_no_segment_but_its_own(
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


async def test_an_answer_that_is_offered_again_is_kept_no_longer(journal: Journal, clock: Clock) -> None:
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


async def test_old_segments_go_when_a_new_one_is_begun(journal: Journal, home: Path, clock: Clock) -> None:
    await journal.write(answer(1))
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    journal.acknowledge(answer(1))
    clock.at += KEEP
    await journal.reserve(8 * SEGMENT_BYTES // ANSWER_BYTES)
    assert journal.read() == []
    assert len(segments(home)) == 1


async def test_a_young_segment_is_not_left_by_a_sweep(journal: Journal, home: Path, clock: Clock) -> None:
    await journal.write(answer(1))
    clock.at += KEEP / 2 - 1
    await journal.write(answer(2))
    await journal.sweep()
    assert len(segments(home)) == 1
    clock.at += 1
    await journal.sweep()
    assert len(segments(home)) == 2


async def test_a_sweep_that_finds_no_room_for_a_new_segment_keeps_the_reserved_one(
    journal: Journal, home: Path, clock: Clock, syncs: Syncs
) -> None:
    await journal.reserve(2)
    await journal.write(answer(1))
    clock.at += KEEP
    syncs.failing = [errno.ENOSPC]
    with capture_logs() as logs:
        await journal.sweep()
    assert [log["event"] for log in logs] == ["journal.not_rolled"]
    before = segments(home)
    await journal.write(answer(2))
    assert segments(home) == before
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


async def test_a_stored_answer_settles_the_grants_earlier_ones_and_no_later_one(
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


async def test_an_answer_made_anew_settles_the_first_in_an_earlier_segment(
    journal: Journal, clock: Clock
) -> None:
    await journal.write(answer(1))
    await journal.reserve(2 * SEGMENT_BYTES // ANSWER_BYTES)
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    clock.at += KEEP
    await journal.sweep()
    assert journal.read() == []


async def test_an_answer_settled_before_it_is_on_the_disk_is_settled(
    journal: Journal, syncs: Syncs, clock: Clock
) -> None:
    await journal.reserve(1)
    write = asyncio.create_task(journal.write(answer(1)))
    async with syncs.held(write):
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


# Closing


async def test_closing_waits_for_what_is_being_written(
    journal: Journal, syncs: Syncs, directory: JournalDirectory
) -> None:
    await journal.reserve(2)
    writes = [asyncio.create_task(journal.write(answer(1)))]
    async with syncs.held(writes[0]):
        writes.append(asyncio.create_task(journal.write(answer(2))))
        await asyncio.sleep(0)
        close = asyncio.create_task(journal.close())
        await asyncio.sleep(0)
        assert directory.take_over("me") == []
    await asyncio.gather(close, *writes)
    (taken_over,) = directory.take_over("me")
    assert fences(taken_over.read()) == [1, 2]


async def test_what_was_asked_for_just_before_the_closing_is_written(
    journal: Journal, directory: JournalDirectory
) -> None:
    await journal.reserve(1)
    await asyncio.gather(journal.write(answer(1)), journal.close())
    (taken_over,) = directory.take_over("me")
    assert fences(taken_over.read()) == [1]


async def test_a_disk_that_hangs_does_not_hold_up_the_closing_and_keeps_the_lock(
    journal: Journal, syncs: Syncs, directory: JournalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "CLOSE_SECONDS", 0.01)
    await journal.reserve(1)
    write = asyncio.create_task(journal.write(answer(1)))
    async with syncs.held(write):
        with capture_logs() as logs:
            await journal.close()
        assert [log["event"] for log in logs] == ["journal.not_closed"]
        assert directory.take_over("me") == []
    await write


async def test_a_journal_without_answers_leaves_nothing(journal: Journal, root: Path) -> None:
    await journal.reserve(1)
    await journal.close()
    assert list(root.iterdir()) == []


async def test_a_journal_whose_answers_are_past_leaves_nothing(
    journal: Journal, root: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    clock.at += KEEP
    await journal.close()
    assert list(root.iterdir()) == []


async def test_a_settled_answer_is_left_to_the_adopter_for_the_retention(
    journal: Journal, directory: JournalDirectory
) -> None:
    await journal.write(answer(1))
    journal.acknowledge(answer(1))
    await journal.close()
    await journal.close()
    (taken_over,) = directory.take_over("me")
    assert fences(taken_over.read()) == [1]


async def test_a_closed_journal_takes_nothing_more(journal: Journal, root: Path) -> None:
    await journal.close()
    with pytest.raises(JournalError, match="closed"):
        await journal.reserve(1)
    with pytest.raises(JournalError, match="closed"):
        await journal.write(answer(1))
    assert not root.exists()


async def test_a_journal_opened_again_keeps_what_was_in_it(
    open_journal: Callable[..., Journal], home: Path, clock: Clock
) -> None:
    first = open_journal()
    await first.write(answer(1))
    await first.close()
    second = open_journal()
    await second.write(answer(2))
    clock.at += 10 * KEEP
    await second.sweep()
    assert fences(second.read()) == [1, 2]
    assert [path.name for path in segments(home)][:2] == ["00000001.segment", "00000002.segment"]


# Owners and new owners


@pytest.fixture
async def settled_before(journal: Journal, root: Path, home: Path, clock: Clock) -> Path:
    """The journal of a dead process, settled by an new_owner that is dead as well; what tells when."""
    await journal.write(answer(1))
    await journal.close()
    first = JournalDirectory(root, KEEP, clock)
    (taken_over,) = first.take_over("another")
    taken_over.read()
    taken_over.acknowledge(repaired=True)
    first.close()
    return home / "acknowledged"


async def test_two_owners_of_one_directory_cannot_be(open_journal: Callable[..., Journal]) -> None:
    first, second = open_journal(), open_journal()
    await first.write(answer(1))
    with pytest.raises(JournalError, match=r"/host:1:a: another process uses it$"):
        await second.reserve(1)
    await first.close()
    await second.reserve(1)


async def test_a_living_owners_journal_is_not_adopted(
    journal: Journal, directory: JournalDirectory, home: Path
) -> None:
    await journal.reserve(1)
    assert directory.take_over("me") == []
    await journal.write(answer(1))
    assert directory.take_over("me") == []
    assert segments(home)


def test_where_no_journal_ever_was_there_is_nothing_to_adopt(directory: JournalDirectory) -> None:
    assert directory.take_over("me") == []


async def test_a_dead_journal_is_adopted_once_and_held(
    journal: Journal, directory: JournalDirectory, root: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    await journal.close()
    other = JournalDirectory(root, KEEP, clock)
    assert directory.take_over("host:1:a") == []
    (taken_over,) = directory.take_over("me")
    assert taken_over.owner == "host:1:a"
    assert directory.take_over("me") == []
    assert other.take_over("other") == []
    directory.close()
    assert [again.owner for again in other.take_over("other")] == ["host:1:a"]
    other.close()


async def test_an_adopted_journal_stays_until_it_was_offered_and_for_the_retention_from_then(
    journal: Journal, directory: JournalDirectory, root: Path, home: Path, clock: Clock
) -> None:
    """However old it is: the machine may have been away, and the store have taken its answers just now."""
    await journal.write(answer(1))
    await journal.close()
    make_old(segments(home)[0])
    (taken_over,) = directory.take_over("me")
    taken_over.read()
    clock.at += KEEP
    directory.sweep()
    assert segments(home)
    taken_over.acknowledge(repaired=False)
    clock.at += KEEP - 1
    directory.sweep()
    assert fences(taken_over.read()) == [1]
    clock.at += 1
    directory.sweep()
    assert list(root.iterdir()) == []
    assert directory.take_over("me") == []


@pytest.mark.parametrize("repaired", [False, True])
async def test_an_adopted_journal_that_is_offered_again_is_kept_longer_only_if_the_store_had_forgotten_it(
    journal: Journal, directory: JournalDirectory, root: Path, clock: Clock, *, repaired: bool
) -> None:
    await journal.write(answer(1))
    await journal.close()
    (taken_over,) = directory.take_over("me")
    taken_over.read()
    taken_over.acknowledge(repaired=True)
    clock.at += KEEP - 1
    taken_over.read()
    taken_over.acknowledge(repaired=repaired)
    clock.at += 1
    directory.sweep()
    assert bool(list(root.iterdir())) == repaired
    clock.at += KEEP - 1
    directory.sweep()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("repaired", [False, True])
async def test_the_next_adopter_goes_on_with_a_retention_unless_the_store_had_forgotten_an_answer(
    settled_before: Path, directory: JournalDirectory, root: Path, clock: Clock, *, repaired: bool
) -> None:
    """Commands take over as well, one a minute perhaps: if each began anew, nothing would ever go."""
    os.utime(settled_before, (time.time() - KEEP + 100,) * 2)
    (taken_over,) = directory.take_over("me")
    taken_over.read()
    taken_over.acknowledge(repaired=repaired)
    clock.at += 50
    directory.sweep()
    assert list(root.iterdir())
    clock.at += 51
    directory.sweep()
    assert bool(list(root.iterdir())) == repaired
    clock.at += KEEP - 101
    directory.sweep()
    assert list(root.iterdir()) == []


async def test_the_adopter_after_a_repair_counts_from_the_repair(
    settled_before: Path, directory: JournalDirectory, root: Path, clock: Clock
) -> None:
    make_old(settled_before)
    (taken_over,) = directory.take_over("me")
    taken_over.read()
    taken_over.acknowledge(repaired=True)
    directory.close()
    (again,) = directory.take_over("me")
    again.read()
    again.acknowledge(repaired=False)
    clock.at += KEEP - 50
    directory.sweep()
    assert list(root.iterdir())


async def test_a_wall_clock_that_was_wrong_does_not_keep_an_adopted_journal_for_ever(
    settled_before: Path, directory: JournalDirectory, root: Path, clock: Clock
) -> None:
    os.utime(settled_before, (time.time() + 10 * KEEP,) * 2)
    (taken_over,) = directory.take_over("me")
    taken_over.read()
    taken_over.acknowledge(repaired=False)
    clock.at += KEEP - 1
    directory.sweep()
    assert list(root.iterdir())
    clock.at += 1
    directory.sweep()
    assert list(root.iterdir()) == []


async def test_a_disk_on_which_nothing_can_be_noted_keeps_an_adopted_journal_no_longer(
    journal: Journal, directory: JournalDirectory, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await journal.write(answer(1))
    await journal.close()
    (taken_over,) = directory.take_over("me")
    taken_over.read()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", refuse)
        taken_over.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert list(root.iterdir()) == []


async def test_a_journal_that_was_not_read_is_not_removed(
    journal: Journal, directory: JournalDirectory, home: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    await journal.close()
    (taken_over,) = directory.take_over("me")
    taken_over.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segments(home)


def test_a_directory_in_which_nothing_came_to_be_is_removed(root: Path, directory: JournalDirectory) -> None:
    (root / "without a lock").mkdir(parents=True)
    (root / "with a lock").mkdir()
    (root / "with a lock" / "lock").touch()
    for sub in root.iterdir():
        make_old(sub)
    assert directory.take_over("me") == []
    assert list(root.iterdir()) == []


def test_a_directory_that_may_be_an_owners_just_being_born_is_left_alone(
    root: Path, directory: JournalDirectory
) -> None:
    (root / "newborn").mkdir(parents=True)
    assert directory.take_over("me") == []
    assert list((root / "newborn").iterdir()) == []


def test_a_file_among_the_journals_is_left_alone(root: Path, directory: JournalDirectory) -> None:
    root.mkdir(parents=True)
    (root / "notes").touch()
    assert directory.take_over("me") == []
    assert (root / "notes").exists()


def test_a_directory_that_cannot_be_adopted_is_told_and_does_not_hide_the_others(
    root: Path, directory: JournalDirectory
) -> None:
    (root / "a" / "lock").mkdir(parents=True)
    make_old(root / "a")
    (root / "b").mkdir()
    (root / "b" / "00000001.segment").touch()
    with capture_logs() as logs:
        assert [taken_over.owner for taken_over in directory.take_over("me")] == ["b"]
    assert [log["problem"] for log in logs] == [f"journal: {root}/a: Is a directory"]


async def test_an_owner_whose_directory_is_removed_while_it_is_being_born_starts_again(
    journal: Journal, directory: JournalDirectory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []
    lock = fcntl.flock

    def after_an_adopter(descriptor: int, kind: int) -> None:
        """The new_owner finds the directory made and the lock not yet taken."""
        if not removed:
            removed.append(home)
            make_old(home)
            assert directory.take_over("me") == []
            assert not home.exists()
        lock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", after_an_adopter)
    await journal.write(answer(1))
    assert removed
    assert fences(journal.read()) == [1]
    assert directory.take_over("me") == []


async def test_an_owner_waits_for_an_adopter_that_is_looking_into_its_new_directory(
    journal: Journal, home: Path
) -> None:
    home.mkdir(parents=True)
    new_owner = os.open(home / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(new_owner, fcntl.LOCK_EX)
    reserve = asyncio.create_task(journal.reserve(1))
    try:
        done, _ = await asyncio.wait([reserve], timeout=0.02)
        assert not done
    finally:
        os.close(new_owner)
    await reserve


def test_of_many_adopters_one_gets_each_journal_and_when_it_dies_another_does(
    spawn: Callable[..., subprocess.Popen[str]], root: Path
) -> None:
    writer = spawn("write", root, 20)
    written = [line_of(writer) for _ in range(20)]
    writer.kill()
    writer.wait()
    heirs = [spawn("take_over", root) for _ in range(4)]
    assert [line_of(new_owner) for new_owner in heirs] == ["ready"] * 4
    for _ in range(3):
        for new_owner in heirs:
            tell(new_owner, "take over")
        got = [line_of(new_owner).split() for new_owner in heirs]
        assert sorted(fence for taken_over in got for fence in taken_over) == sorted(written)
        for new_owner in [new_owner for new_owner, taken_over in zip(heirs, got, strict=True) if taken_over]:
            new_owner.kill()
            new_owner.wait()
            heirs.remove(new_owner)
            if not heirs:
                return


def test_newborn_owners_are_never_disturbed_by_adopters_that_keep_looking(
    spawn: Callable[..., subprocess.Popen[str]], root: Path, directory: JournalDirectory
) -> None:
    newborns = spawn("be_born", root, 60)
    lookers = [spawn("keep_looking", root) for _ in range(2)]
    assert [line_of(looker) for looker in lookers] == ["ready"] * 2
    tell(newborns, "go")
    assert line_of(newborns) == "60 born"
    for looker in lookers:
        tell(looker, "stop")
        assert line_of(looker) == "taken_over 0"
    newborns.kill()
    newborns.wait()
    taken_over = directory.take_over("me")
    assert sorted(fence for journal in taken_over for fence in fences(journal.read())) == list(range(60))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_killed_process_was_told_is_written_its_adopter_reads(
    spawn: Callable[..., subprocess.Popen[str]], root: Path, directory: JournalDirectory, seed: int
) -> None:
    writer = spawn("write_on_and_on", root)
    assert writer.stdout is not None
    reported = [line_of(writer) for _ in range(random.Random(seed).randrange(1, 3_000))]  # noqa: S311
    writer.kill()
    lines = writer.stdout.read()
    # The last line may be torn as well.
    reported += lines[: lines.rfind("\n") + 1].split()
    (taken_over,) = directory.take_over("me")
    with capture_logs() as logs:
        read = {commit.fence: commit for commit in taken_over.read()}
    missing = {int(fence) for fence in reported} - set(read)
    assert missing == set()
    assert all(commit == answer(fence) for fence, commit in read.items())
    assert {log["event"] for log in logs} <= {"journal.damaged"}  # a write torn by the kill


# The parts that other processes play


def say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def heard() -> str:
    return sys.stdin.readline().strip()


async def write(root: str, number: str) -> None:
    journals = [Journal(Path(root), f"dead:{fence}:x", KEEP) for fence in range(int(number))]
    for fence, journal in enumerate(journals):
        await journal.write(answer(fence))
        say(str(fence))
    heard()


async def write_on_and_on(root: str) -> None:
    journal = Journal(Path(root), "killed", KEEP)
    every = iter(range(1, 10**9))

    async def work() -> None:
        for fence in every:
            await journal.reserve(20)
            await journal.write(answer(fence))
            say(str(fence))

    await asyncio.gather(*(work() for _ in range(20)))


async def take_over(root: str) -> None:
    directory = JournalDirectory(Path(root), KEEP)
    say("ready")
    while heard() == "take over":
        taken_over = directory.take_over("me")
        say(" ".join(str(fence) for journal in taken_over for fence in fences(journal.read())))


async def be_born(root: str, number: str) -> None:
    journals = [Journal(Path(root), f"newborn:{fence}:x", KEEP) for fence in range(int(number))]
    heard()
    for fence, journal in enumerate(journals):
        await journal.reserve(1)
        await journal.write(answer(fence))
    say(f"{number} born")
    heard()


async def keep_looking(root: str) -> None:
    directory = JournalDirectory(Path(root), KEEP)
    taken_over = 0
    stopped = threading.Event()
    say("ready")

    def wait_for_the_end() -> None:
        heard()
        stopped.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    while not stopped.is_set():
        taken_over += len(directory.take_over("me"))
    say(f"taken_over {taken_over}")


async def on_a_full_disk(root: str) -> None:
    """No file may be longer than one segment: to a preallocation of more that is a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal(Path(root), "full", KEEP)
    await journal.reserve(2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SEGMENT_BYTES, hard))
    try:
        await journal.reserve(1_000)
    except JournalError as error:
        say(f"refused {error}")
    say(" ".join(path.name for path in segments(Path(root) / "full")))
    outcomes = await asyncio.gather(
        journal.write(answer(1)), journal.write(answer(2, size=2 * SEGMENT_BYTES)), return_exceptions=True
    )
    say(" ".join(f"refused {each}" if each else "written 1" for each in outcomes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await journal.reserve(1_000)
    await journal.write(answer(3))
    say("goes on")
    heard()


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
