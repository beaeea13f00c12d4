"""Journals whose owners died, and the lock that says so."""
# ruff: noqa: ASYNC240 - what a test does to its files may hold up its own loop

import asyncio
import errno
import fcntl
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.integration.journal.files import KEEP, Clock, answer, fences, make_old, segments
from tests.integration.journal.processes import line_of, tell
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.segments import ANSWER_BYTES, SEGMENT_BYTES
from worker.core.ports import JournalError


@pytest.fixture
async def acknowledged_before(journal: Journal, root: Path, journal_path: Path, clock: Clock) -> Path:
    """The note that says when a dead process, which had taken over a journal, had it acknowledged."""
    await journal.write(answer(1))
    await journal.close()
    first = JournalDirectory(root, KEEP, clock)
    (abandoned,) = first.take_over("another")
    abandoned.read()
    abandoned.acknowledge(repaired=True)
    first.close()
    return journal_path / "acknowledged"


async def test_a_directory_cannot_have_two_owners(open_journal: Callable[..., Journal]) -> None:
    first, second = open_journal(), open_journal()
    await first.write(answer(1))
    with pytest.raises(JournalError, match=r"/host:1:a: another process uses it$"):
        await second.reserve(1)
    await first.close()
    await second.reserve(1)


async def test_the_journal_of_a_living_process_is_not_taken_over(
    journal: Journal, directory: JournalDirectory, journal_path: Path
) -> None:
    await journal.reserve(1)
    assert directory.take_over("me") == []
    await journal.write(answer(1))
    assert directory.take_over("me") == []
    assert segments(journal_path)


def test_where_no_journal_ever_was_there_is_nothing_to_take_over(directory: JournalDirectory) -> None:
    assert directory.take_over("me") == []


async def test_an_abandoned_journal_is_taken_over_once_and_kept(
    journal: Journal, directory: JournalDirectory, root: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    await journal.close()
    other = JournalDirectory(root, KEEP, clock)
    assert directory.take_over("host:1:a") == []
    (abandoned,) = directory.take_over("me")
    assert abandoned.owner == "host:1:a"
    assert directory.take_over("me") == []
    assert other.take_over("other") == []
    directory.close()
    assert [again.owner for again in other.take_over("other")] == ["host:1:a"]
    other.close()


async def test_a_journal_taken_over_stays_until_it_was_offered_and_for_the_retention_from_then(
    journal: Journal, directory: JournalDirectory, root: Path, journal_path: Path, clock: Clock
) -> None:
    """Its age does not matter: the machine may have been away, and the store may have got them just now."""
    await journal.write(answer(1))
    await journal.close()
    make_old(segments(journal_path)[0])
    (abandoned,) = directory.take_over("me")
    abandoned.read()
    clock.at += KEEP
    directory.sweep()
    assert segments(journal_path)
    abandoned.acknowledge(repaired=False)
    clock.at += KEEP - 1
    directory.sweep()
    assert fences(abandoned.read()) == [1]
    clock.at += 1
    directory.sweep()
    assert list(root.iterdir()) == []
    assert directory.take_over("me") == []


@pytest.mark.parametrize("repaired", [False, True])
async def test_a_journal_offered_again_is_kept_longer_only_if_the_store_had_forgotten_it(
    journal: Journal, directory: JournalDirectory, root: Path, clock: Clock, *, repaired: bool
) -> None:
    await journal.write(answer(1))
    await journal.close()
    (abandoned,) = directory.take_over("me")
    abandoned.read()
    abandoned.acknowledge(repaired=True)
    clock.at += KEEP - 1
    abandoned.read()
    abandoned.acknowledge(repaired=repaired)
    clock.at += 1
    directory.sweep()
    assert bool(list(root.iterdir())) == repaired
    clock.at += KEEP - 1
    directory.sweep()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("repaired", [False, True])
async def test_the_next_owner_goes_on_with_a_retention_unless_the_store_had_forgotten_an_answer(
    acknowledged_before: Path, directory: JournalDirectory, root: Path, clock: Clock, *, repaired: bool
) -> None:
    """A command that runs each minute takes over too: if each began a retention, no journal would ever go."""
    os.utime(acknowledged_before, (time.time() - KEEP + 100,) * 2)
    (abandoned,) = directory.take_over("me")
    abandoned.read()
    abandoned.acknowledge(repaired=repaired)
    clock.at += 50
    directory.sweep()
    assert list(root.iterdir())
    clock.at += 51
    directory.sweep()
    assert bool(list(root.iterdir())) == repaired
    clock.at += KEEP - 101
    directory.sweep()
    assert list(root.iterdir()) == []


async def test_the_owner_after_a_repair_counts_from_the_repair(
    acknowledged_before: Path, directory: JournalDirectory, root: Path, clock: Clock
) -> None:
    make_old(acknowledged_before)
    (abandoned,) = directory.take_over("me")
    abandoned.read()
    abandoned.acknowledge(repaired=True)
    directory.close()
    (again,) = directory.take_over("me")
    again.read()
    again.acknowledge(repaired=False)
    clock.at += KEEP - 50
    directory.sweep()
    assert list(root.iterdir())


async def test_a_wall_clock_that_was_wrong_does_not_keep_a_journal_for_ever(
    acknowledged_before: Path, directory: JournalDirectory, root: Path, clock: Clock
) -> None:
    os.utime(acknowledged_before, (time.time() + 10 * KEEP,) * 2)
    (abandoned,) = directory.take_over("me")
    abandoned.read()
    abandoned.acknowledge(repaired=False)
    clock.at += KEEP - 1
    directory.sweep()
    assert list(root.iterdir())
    clock.at += 1
    directory.sweep()
    assert list(root.iterdir()) == []


async def test_a_disk_on_which_nothing_can_be_noted_keeps_a_journal_no_longer(
    journal: Journal, directory: JournalDirectory, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await journal.write(answer(1))
    await journal.close()
    (abandoned,) = directory.take_over("me")
    abandoned.read()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", refuse)
        abandoned.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert list(root.iterdir()) == []


async def test_a_removal_that_is_refused_leaves_the_newest_answers_and_is_tried_again(
    journal: Journal,
    directory: JournalDirectory,
    root: Path,
    journal_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for fence in (1, 2, 3):
        await journal.write(answer(fence))
        await journal.reserve(2 * fence * SEGMENT_BYTES // ANSWER_BYTES)
    await journal.close()
    (abandoned,) = directory.take_over("me")
    abandoned.read()
    abandoned.acknowledge(repaired=False)
    clock.at += KEEP

    unlink = Path.unlink
    outcomes: list[OSError | None] = [None, OSError(errno.EROFS, "Read-only file system")]

    def unlink_or_fail(path: Path, *, missing_ok: bool = False) -> None:
        outcome = outcomes.pop(0) if outcomes else None
        if outcome is not None:
            raise outcome
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_or_fail)
    with capture_logs() as logs:
        directory.sweep()
    assert [(log["event"], log["problem"]) for log in logs] == [
        ("journal.not_removed", f"journal: {journal_path}: Read-only file system")
    ]
    assert fences(abandoned.read()) == [2, 3]
    directory.sweep()
    assert list(root.iterdir()) == []


async def test_a_journal_whose_directory_cannot_be_listed_is_kept(
    journal: Journal,
    directory: JournalDirectory,
    journal_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: Path) -> Iterator[Path]:
        raise OSError(errno.EIO, "Input/output error")

    await journal.write(answer(1))
    await journal.close()
    (abandoned,) = directory.take_over("me")
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(Path, "iterdir", refuse)
        assert abandoned.read() == []
    assert [log["event"] for log in logs] == ["journal.unreadable"]
    abandoned.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segments(journal_path)


async def test_a_journal_that_was_not_read_is_not_removed(
    journal: Journal, directory: JournalDirectory, journal_path: Path, clock: Clock
) -> None:
    await journal.write(answer(1))
    await journal.close()
    (abandoned,) = directory.take_over("me")
    abandoned.acknowledge(repaired=False)
    clock.at += KEEP
    directory.sweep()
    assert segments(journal_path)


def test_an_old_directory_without_answers_is_removed(root: Path, directory: JournalDirectory) -> None:
    (root / "without a lock").mkdir(parents=True)
    (root / "with a lock").mkdir()
    (root / "with a lock" / "lock").touch()
    for sub in root.iterdir():
        make_old(sub)
    assert directory.take_over("me") == []
    assert list(root.iterdir()) == []


def test_an_empty_directory_from_a_wall_clock_that_was_ahead_is_removed(
    root: Path, directory: JournalDirectory
) -> None:
    (root / "host:1:a").mkdir(parents=True)
    tomorrow = time.time() + 86_400
    os.utime(root / "host:1:a", (tomorrow, tomorrow))
    assert directory.take_over("me") == []
    assert list(root.iterdir()) == []


def test_a_directory_that_another_process_removes_meanwhile_is_no_problem(
    root: Path, directory: JournalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "host:1:a").mkdir(parents=True)
    is_dir = Path.is_dir

    def removed_then(path: Path) -> bool:
        it_was = is_dir(path)
        path.rmdir()
        return it_was

    monkeypatch.setattr(Path, "is_dir", removed_then)
    with capture_logs() as logs:
        assert directory.take_over("me") == []
    assert (list(root.iterdir()), logs) == ([], [])


def test_files_of_earlier_releases_go_with_their_directory(root: Path, directory: JournalDirectory) -> None:
    path = root / "host:1:a"
    path.mkdir(parents=True)
    for name in ("lock", "held", "held.new", "settled"):
        (path / name).touch()
    make_old(path)
    assert directory.take_over("me") == []
    assert list(root.iterdir()) == []


def test_a_file_that_is_not_the_journals_keeps_the_directory(root: Path, directory: JournalDirectory) -> None:
    path = root / "host:1:a"
    path.mkdir(parents=True)
    (path / "notes").touch()
    for _ in range(2):
        make_old(path)
        with capture_logs() as logs:
            assert directory.take_over("me") == []
        assert ([file.name for file in path.iterdir()], logs) == (["notes"], [])


def test_a_new_directory_is_left_alone_because_its_owner_may_be_about_to_lock_it(
    root: Path, directory: JournalDirectory
) -> None:
    (root / "new").mkdir(parents=True)
    assert directory.take_over("me") == []
    assert list((root / "new").iterdir()) == []


def test_a_file_among_the_journals_is_left_alone(root: Path, directory: JournalDirectory) -> None:
    root.mkdir(parents=True)
    (root / "notes").touch()
    assert directory.take_over("me") == []
    assert (root / "notes").exists()


def test_a_directory_that_cannot_be_taken_over_is_logged_and_does_not_hide_the_others(
    root: Path, directory: JournalDirectory
) -> None:
    (root / "a" / "lock").mkdir(parents=True)
    make_old(root / "a")
    (root / "b").mkdir()
    (root / "b" / "00000001.segment").touch()
    with capture_logs() as logs:
        assert [abandoned.owner for abandoned in directory.take_over("me")] == ["b"]
    assert [log["problem"] for log in logs] == [f"journal: {root}/a: Is a directory"]


async def test_a_directory_that_could_not_be_listed_is_not_left_locked(
    journal: Journal, directory: JournalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that nobody remembers would keep the journal from everybody until this process ends."""
    iterdir = Path.iterdir
    outcomes: list[OSError | None] = []

    def list_or_fail(path: Path) -> Iterator[Path]:
        outcome = outcomes.pop(0) if outcomes else None
        if outcome is not None:
            raise outcome
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", list_or_fail)
    refusal = OSError(errno.EIO, "Input/output error")
    outcomes[:] = [refusal]
    with pytest.raises(JournalError, match="Input/output error"):
        await journal.reserve(1)
    await journal.write(answer(1))
    await journal.close()

    outcomes[:] = [None, None, refusal]  # the journals, the segments before the lock is taken and after
    with capture_logs() as logs:
        assert directory.take_over("me") == []
    assert [log["event"] for log in logs] == ["journal.not_taken_over"]
    assert len(directory.take_over("me")) == 1


async def test_a_program_that_the_owner_executes_does_not_keep_the_lock(
    journal: Journal, directory: JournalDirectory
) -> None:
    await journal.write(answer(1))
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, close_fds=False) as program:  # noqa: ASYNC220
        await journal.close()
        assert len(directory.take_over("me")) == 1
        program.kill()


async def test_an_owner_whose_new_directory_is_removed_before_it_is_locked_makes_it_again(
    journal: Journal, directory: JournalDirectory, journal_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []
    lock = fcntl.flock

    def after_another_process_looked(descriptor: int, kind: int) -> None:
        """The other process finds the directory made and the lock not yet taken."""
        if not removed:
            removed.append(journal_path)
            make_old(journal_path)
            assert directory.take_over("me") == []
            assert not journal_path.exists()
        lock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", after_another_process_looked)
    await journal.write(answer(1))
    assert removed
    assert fences(journal.read()) == [1]
    assert directory.take_over("me") == []


async def test_an_owner_waits_for_a_process_that_is_looking_into_its_new_directory(
    journal: Journal, journal_path: Path
) -> None:
    journal_path.mkdir(parents=True)
    other = os.open(journal_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    reserve = asyncio.create_task(journal.reserve(1))
    try:
        done, _ = await asyncio.wait([reserve], timeout=0.02)
        assert not done
    finally:
        os.close(other)
    await reserve


def test_of_many_processes_one_takes_each_journal_over_and_when_it_dies_another_does(
    spawn: Callable[..., subprocess.Popen[str]], root: Path
) -> None:
    writer = spawn("write", root, 20)
    written = [line_of(writer) for _ in range(20)]
    writer.kill()
    writer.wait()
    living = [spawn("take_over", root) for _ in range(4)]
    assert [line_of(process) for process in living] == ["ready"] * 4
    for _ in range(3):
        for process in living:
            tell(process, "take over")
        got = [line_of(process).split() for process in living]
        assert sorted(fence for its_fences in got for fence in its_fences) == sorted(written)
        for process in [process for process, its_fences in zip(living, got, strict=True) if its_fences]:
            process.kill()
            process.wait()
            living.remove(process)
            if not living:
                return


def test_new_owners_are_never_disturbed_by_processes_that_keep_looking(
    spawn: Callable[..., subprocess.Popen[str]], root: Path, directory: JournalDirectory
) -> None:
    starting = spawn("start_new", root, 60)
    lookers = [spawn("keep_looking", root) for _ in range(2)]
    assert [line_of(looker) for looker in lookers] == ["ready"] * 2
    tell(starting, "go")
    assert line_of(starting) == "60 started"
    for looker in lookers:
        tell(looker, "stop")
        assert line_of(looker) == "0 taken over"
    starting.kill()
    starting.wait()
    journals = directory.take_over("me")
    assert sorted(fence for abandoned in journals for fence in fences(abandoned.read())) == list(range(60))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_killed_process_reported_as_written_the_next_owner_reads(
    spawn: Callable[..., subprocess.Popen[str]], root: Path, directory: JournalDirectory, seed: int
) -> None:
    writer = spawn("write_on_and_on", root)
    assert writer.stdout is not None
    reported = [line_of(writer) for _ in range(random.Random(seed).randrange(1, 3_000))]  # noqa: S311
    writer.kill()
    lines = writer.stdout.read()
    # The last line may be torn as well.
    reported += lines[: lines.rfind("\n") + 1].split()
    (abandoned,) = directory.take_over("me")
    with capture_logs() as logs:
        read = {commit.fence: commit for commit in abandoned.read()}
    missing = {int(fence) for fence in reported} - set(read)
    assert missing == set()
    assert all(commit == answer(fence) for fence, commit in read.items())
    assert {log["event"] for log in logs} <= {"journal.damaged"}  # a write torn by the kill
