"""A journal on a real disk, and processes that are really killed.

What stands in for a failing disk is the system call that fails, never a part of the journal.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.journal.files import KEEP, Clock, Syncs
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal

REPOSITORY = Path(__file__).parents[3]


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
def journal_path(root: Path) -> Path:
    """The directory of `journal`."""
    return root / "host:1:a"


@pytest.fixture
def directory(root: Path, clock: Clock) -> Iterator[JournalDirectory]:
    opened = JournalDirectory(root, KEEP, clock)
    yield opened
    opened.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that plays one of the parts in `processes.py`."""
    processes = []

    def start(part: str, *arguments: object) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(  # noqa: S603 our own module
                [sys.executable, "-m", "tests.integration.journal.processes", part, *map(str, arguments)],
                cwd=REPOSITORY,
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
