"""Worker and beat as a supervisor keeps them, and what can be done to them from outside (Linux).

Rules:
- Only processes that were started here are touched.
- A post that is taken is being dealt with: nobody else strikes its process or starts it again.
"""

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

WARM_SECONDS = 4.0  # a worker that has been up so long refreshes by now
DEATH_SECONDS = 5.0


@dataclass
class Post:
    """A place where one process is kept running; it leads a group of its own, its children in it."""

    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)
    taken: bool = False

    def start_again(self) -> None:
        """Put a new process in the place of one that ended."""
        self.process, self.since = self.start(), time.monotonic()


class Posts:
    """The posts of one kind.

    Args:
        start: starts one process.
        count: how many are kept.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]], count: int) -> None:
        self._posts = [Post(start, start()) for _ in range(count)]
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, number: int) -> Iterator[Post]:
        """One of the posts for as long as the block lasts, of those that are at work if there are any."""
        with self._lock:
            free = [post for post in self._posts if not post.taken]
            warm = [post for post in free if time.monotonic() - post.since > WARM_SECONDS] or free
            post = warm[number % len(warm)]
            post.taken = True
        try:
            yield post
        finally:
            post.taken = False

    def replace_dead(self) -> list[int]:
        """Start again what ended by itself; returns the exit codes."""
        with self._lock:
            dead = [post for post in self._posts if not post.taken and post.process.poll() is not None]
            codes = [post.process.returncode for post in dead]
            for post in dead:
                post.start_again()
            return codes


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` for a process and its children; returns when they are dead."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not _group_of(process.pid))


def kill_child(pid: int, number: int) -> int | None:
    """`kill -9` for one child of a group's leader; returns which once it is dead, `None` if there is none."""
    children = _group_of(pid)[1:]
    if not children:
        return None
    victim = children[number % len(children)]
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    _wait_for(lambda: victim not in _group_of(pid))
    return victim


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """SIGSTOP for a process, or for a group by its negative number; SIGCONT at the end of the block."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def writing_no_file(pid: int) -> Iterator[None]:
    """A disk that takes nothing more, as a group sees it: writes to files fail, pipes and sockets go on.

    A limit on the size of files does that to a running process. Python ignores its signal, so writes fail.
    """
    _limit_files(pid, 0)
    try:
        yield
    finally:
        _limit_files(pid, None)


def _limit_files(pid: int, limit: int | None) -> None:
    """The leader first: what it forks from then on inherits the limit."""
    for member in _group_of(pid):
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(member, resource.RLIMIT_FSIZE)
            resource.prlimit(member, resource.RLIMIT_FSIZE, (hard if limit is None else limit, hard))


def _group_of(pid: int) -> list[int]:
    """The living processes of the group that a process leads, the leader first."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(group) == pid and state != "Z":
                    members.append(int(entry.name))
    return sorted(members, key=lambda member: (member != pid, member))


def _wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + DEATH_SECONDS
    while not happened() and time.monotonic() < end:
        time.sleep(0.005)
