"""Worker and beat as child processes of one command.

Rules:
- Only what was started here is ended here: in order first (SIGTERM; a worker finishes what is in flight), by
  force after a bound.
- A child that dies is started again, at most `MOST_RESTARTS` times in a window; then the command ends.
- Children have a session of their own: a Ctrl-C in the terminal reaches this process alone, which stops them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Final

from worker.cli.session import SETTINGS

MOST_RESTARTS: Final = 5  # within the window
RESTART_WINDOW_SECONDS: Final = 600.0

WORKER: Final = (
    *("-m", "celery", "-A", "worker", "worker", "--concurrency", "2"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)
BEAT: Final = ("-m", "celery", "-A", "worker", "beat")


class ChildGaveUpError(Exception):
    """A child died too often; the message is one line that names it."""


@dataclass
class Child:
    """One process that is kept running."""

    name: str
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes]
    restarted_at: list[float] = field(default_factory=list)


@dataclass
class Children:
    """The processes of one command.

    Args:
        stop_seconds: how long they may take to end in order.
        environment: of the children.
        output: where their output goes; `None` is this process's own.
    """

    stop_seconds: float
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    output: IO[bytes] | None = None
    running: list[Child] = field(default_factory=list)

    def start(self, name: str, arguments: tuple[str, ...]) -> Child:
        """Start one more Python process."""
        child = Child(name, arguments, self._launch(arguments))
        self.running.append(child)
        return child

    def look_after(self) -> None:
        """Start dead children again.

        Raises:
            ChildGaveUpError: one died too often.
        """
        for child in self.running:
            code = child.process.poll()
            if code is None:
                continue
            now = time.monotonic()
            child.restarted_at = [at for at in child.restarted_at if now - at < RESTART_WINDOW_SECONDS]
            if len(child.restarted_at) == MOST_RESTARTS or code == SETTINGS:  # the same will happen again
                raise ChildGaveUpError(f"{child.name} ended with exit code {code}")
            child.restarted_at.append(now)
            child.process = self._launch(child.arguments)

    def stop(self) -> None:
        """End them all: in order, and by force what has not ended in time."""
        for child in self.running:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + self.stop_seconds
        for child in self.running:
            try:
                child.process.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
        self.running.clear()

    def _launch(self, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 our own interpreter with our own arguments
            [sys.executable, *arguments],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,
        )
