"""Worker, service and `evergrant up` in containers: a read-only file system, and as process 1."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.command import EVERGRANT
from tests.support.strangers import (
    AS_FIRST_PROCESS,
    SHARED_MEMORY,
    needs_first_process,
    needs_own_mounts,
    on_read_only_files,
)
from tests.support.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.slow

WORKER = (sys.executable, "-m", "celery", "-A", "worker", "worker", "--concurrency", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def environment(data: Path) -> Mapping[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/root",
        "EVERGRANT_DATA_DIR": str(data),
        "EVERGRANT_HTTP_PORT": "0",
    }


@contextmanager
def _started(
    command: tuple[str, ...], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@needs_own_mounts
def test_a_worker_needs_to_write_only_its_data_directory(
    data: Path, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    log = tmp_path / "log"
    command = on_read_only_files(WORKER, data, SHARED_MEMORY)

    with _started(command, log, environment) as worker:
        eventually(lambda: " ready." in log.read_text() or worker.poll() is not None)

        assert worker.poll() is None, log.read_text()


@needs_own_mounts
@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        ((SHARED_MEMORY,), "EVERGRANT_DATA_DIR takes a directory that can be written: Read-only file system"),
        (("DATA",), f"{SHARED_MEMORY} cannot be used: Read-only file system"),
    ],
)
def test_a_worker_that_can_write_too_little_says_so_in_one_line(
    data: Path, tmp_path: Path, environment: Mapping[str, str], kept: tuple[str, ...], problem: str
) -> None:
    """With a store and a key of its own: the embedded server and its key file are refused earlier."""
    key = "k1:" + "A" * 43 + "="
    environment = {**environment, "EVERGRANT_REDIS_URL": "redis://127.0.0.1:1/0", "EVERGRANT_KEYS": key}
    command = on_read_only_files(WORKER, *(data if each == "DATA" else each for each in kept))
    log = tmp_path / "log"

    with _started(command, log, environment) as worker:
        assert worker.wait(PATIENCE_SECONDS) == 2

    (line,) = log.read_text().splitlines()
    assert line.startswith(f"evergrant: {problem}")


@needs_first_process
def test_as_process_1_up_buries_orphans_and_ends_by_sigterm(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    log = tmp_path / "log"
    orphans = "( ( sleep 0.1 & ) ; sleep 0.1 ) &"  # what process 1 gets to bury

    script = f"{orphans} exec {EVERGRANT} up"
    with _started((*AS_FIRST_PROCESS, "sh", "-c", script), log, environment) as outside:
        eventually(lambda: "worker and beat are running" in log.read_text() or outside.poll() is not None)
        first = _only_child(outside.pid)
        eventually(lambda: _states_below(first).count("Z") == 0 and _states_below(first))
        os.kill(first, signal.SIGTERM)

        assert outside.wait(PATIENCE_SECONDS) == 0
    assert log.read_text().endswith("evergrant: stopped\n")


@needs_own_mounts
@needs_first_process
def test_as_process_1_on_a_read_only_file_system_the_service_serves_and_ends_by_sigterm(
    data: Path, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    log = tmp_path / "log"
    command = on_read_only_files((EVERGRANT, "serve"), data)

    with _started((*AS_FIRST_PROCESS, *command), log, environment) as outside:
        eventually(lambda: "http.listening" in log.read_text() or outside.poll() is not None)
        os.kill(_only_child(outside.pid), signal.SIGTERM)

        assert outside.wait(PATIENCE_SECONDS) == 0, log.read_text()
    assert "http.stopped" in log.read_text()


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _states_below(pid: int) -> list[str]:
    """The states of a process's children, as the kernel letters them; Z is one that nobody has buried."""
    states = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):  # it was buried since
            states.append(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0])
    return states
