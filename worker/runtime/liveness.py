"""The heartbeat that probes on this host look at: one file for each process, touched every few seconds.

`evergrant health` must answer within half a second, so this module loads next to nothing. The store is told
by a heartbeat of its own (worker/recovery/heartbeat.py): a worker without a broker or a store is alive, and a
probe that restarted it would only make an outage worse.

Rules:
- A file is named after role, host and process id: containers that share a directory see their own alone.
- A file of a process that is gone means nothing. Each file holds when its process was started, because the
  id of a dead process is given to another.
- A process that exists and has been silent for `SILENT_SECONDS` is frozen, or hangs.
- A process touches its file where its main loop turns, so a loop that hangs is noticed. It does so while it
  waits for a broker, too.
- A process that cannot write its file goes on without it.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

HEARTBEAT_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 60.0  # longer than any single wait for a broker


def directory_of(data_dir: Path, namespace: str) -> Path:
    """Where the processes of a deployment keep their files."""
    return data_dir / "heartbeats" / namespace


class Heartbeat:
    """One process's file.

    Args:
        directory: where the files are.
        role: `worker`, `beat` or `web`.
    """

    def __init__(self, directory: Path, role: str) -> None:
        self._directory = directory
        self._role = role
        self._path: Path | None = None

    def begin(self) -> None:
        """Make this process's file.

        Raises:
            OSError: it cannot be made.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        for other in _files(self._directory, self._role):
            if _is_gone(other):
                other.unlink(missing_ok=True)
        path = self._directory / f"{self._role}.{os.uname().nodename}.{os.getpid()}"
        unfinished = self._directory / f".{os.getpid()}"
        unfinished.write_text(_started(os.getpid()))
        unfinished.replace(path)  # nobody sees it empty
        self._path = path

    def beat(self) -> None:
        """Touch the file."""
        if self._path is not None:
            with suppress(OSError):
                os.utime(self._path)

    def end(self) -> None:
        """Remove the file, unless it is a parent's."""
        if self._path is not None and self._path.name.endswith(f".{os.getpid()}"):
            self._path.unlink(missing_ok=True)
        self._path = None


def trouble_of(directory: Path, role: str) -> str:
    """What is wrong with the processes of a role on this host, in one line; empty where they are alive.

    Args:
        directory: where the files are.
        role: `worker`, `beat` or `web`.
    """
    alive = False
    for path in _files(directory, role):
        try:
            silent = time.time() - path.stat().st_mtime
        except FileNotFoundError:  # its process has just ended
            continue
        if _is_gone(path):
            continue
        if silent > SILENT_SECONDS:
            return f"{role}: process {path.suffix[1:]} has been silent for {silent:.0f} s"
        alive = True
    return "" if alive else f"{role}: no process on this host has a heartbeat in {directory}"


def _files(directory: Path, role: str) -> list[Path]:
    """The files of a role on this host, those of dead processes included."""
    beginning = f"{role}.{os.uname().nodename}."
    try:
        return sorted(path for path in directory.iterdir() if path.stem + "." == beginning)
    except OSError:
        return []


def _is_gone(path: Path) -> bool:
    try:
        return _started(int(path.suffix[1:])) != path.read_text()
    except (OSError, ValueError):
        return True


def _started(pid: int) -> str:
    """When a process was started, as Linux counts it; elsewhere empty.

    Raises:
        OSError: there is no such process.
    """
    try:
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        os.kill(pid, 0)
        return ""
    if state in {"Z", "X"}:
        raise ProcessLookupError
    return others[18]  # the 22nd field of proc_pid_stat(5)
