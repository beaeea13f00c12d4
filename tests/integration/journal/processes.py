"""The parts that other processes play: this module is run with the name of a part as its first argument."""

import asyncio
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

from tests.integration.journal.files import KEEP, answer, fences, segments
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.segments import SEGMENT_BYTES
from worker.core.ports import JournalError


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], order: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{order}\n")
    process.stdin.flush()


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
        journals = directory.take_over("me")
        say(" ".join(str(fence) for abandoned in journals for fence in fences(abandoned.read())))


async def start_new(root: str, number: str) -> None:
    journals = [Journal(Path(root), f"new:{fence}:x", KEEP) for fence in range(int(number))]
    heard()
    for fence, journal in enumerate(journals):
        await journal.reserve(1)
        await journal.write(answer(fence))
    say(f"{number} started")
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
    say(f"{taken_over} taken over")


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
