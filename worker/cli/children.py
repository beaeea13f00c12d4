"""Worker, beat and the HTTP service as child processes of one command.

Rules:
- Only what was started here is ended here: in order first (SIGTERM; a worker finishes what is in flight), by
  force after a bound.
- A child that ends is started again, however often, after a pause that grows while its lives are short. The
  one exception is a child that refuses its settings the first time it starts: the command ends with it.
- Children have a session of their own: a Ctrl-C in the terminal reaches this process alone, which stops them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Final

from worker.cli.session import SETTINGS

PAUSES_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)  # after the first short life, the second, ...
CALM_SECONDS: Final = 60.0  # a life this long is no short one

WORKER: Final = (
    *("-m", "celery", "-A", "worker", "worker", "--concurrency", "2"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)
BEAT: Final = ("-m", "celery", "-A", "worker", "beat")
WEB: Final = ("-m", "worker.cli", "serve")


class SettingsRefusedError(Exception):
    """A child refused its settings when it first started; it has said why. The message names the child."""


@dataclass
class Child:
    """One process that is kept running.

    Attributes:
        process: the last that was started.
        started_at: when it was started, by the monotonic clock.
        restart_at: when the next one is due; `None` while it runs.
        short_lives: how many it had in a row.
    """

    name: str
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes]
    started_at: float
    restart_at: float | None = None
    short_lives: int = 0


@dataclass
class Children:
    """The processes of one command.

    Args:
        stop_seconds: how long they may take to end in order.
        tell: called with a line when a child has ended.
        environment: of the children.
        output: where their output goes; `None` is this process's own.
    """

    stop_seconds: float
    tell: Callable[[str], None]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    output: IO[bytes] | None = None
    running: list[Child] = field(default_factory=list)

    def start(self, name: str, arguments: tuple[str, ...]) -> Child:
        """Start one more Python process."""
        child = Child(name, arguments, self._launch(arguments), time.monotonic())
        self.running.append(child)
        return child

    def look_after(self) -> None:
        """Notice children that have ended, and start those again whose pause is over.

        Raises:
            SettingsRefusedError: one refused its settings when it first started.
        """
        for child in self.running:
            now = time.monotonic()
            if child.restart_at is None:
                code = child.process.poll()
                if code is not None:
                    self._note_end(child, code, now)
            elif now >= child.restart_at:
                self._restart(child, now)

    def _note_end(self, child: Child, code: int, now: float) -> None:
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        if code == SETTINGS and child.short_lives == 0 and now - child.started_at < CALM_SECONDS:
            raise SettingsRefusedError(f"{child.name} {how}")
        if now - child.started_at >= CALM_SECONDS:
            child.short_lives = 0
        self._put_off(child, how, now)

    def _restart(self, child: Child, now: float) -> None:
        try:
            child.process = self._launch(child.arguments)
        except OSError as problem:  # too many processes, no memory
            self._put_off(child, f"cannot be started ({problem.strerror})", now)
            return
        child.started_at, child.restart_at = now, None

    def _put_off(self, child: Child, how: str, now: float) -> None:
        pause = PAUSES_SECONDS[min(child.short_lives, len(PAUSES_SECONDS) - 1)]
        child.short_lives += 1
        child.restart_at = now + pause
        self.tell(f"{child.name} {how}; it is started again in {pause:g} s")

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
