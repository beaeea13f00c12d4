"""`evergrant health`: what a probe is told of this host's processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import Cli
from tests.support.waiting import eventually
from worker.runtime.liveness import SILENT_SECONDS, directory_of

BEATING = """
import signal, sys, time
from pathlib import Path
from worker.runtime.liveness import Heartbeat
heartbeat = Heartbeat(Path(sys.argv[1]), "worker")
heartbeat.begin()
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    print("beating", flush=True)
    while True:
        heartbeat.beat()
        time.sleep(0.1)
finally:
    heartbeat.end()
"""


@pytest.fixture
def deployment(cli: Cli, tmp_path: Path) -> Cli:
    return cli.having(DATA_DIR=str(tmp_path))


@pytest.fixture
def directory(deployment: Cli, tmp_path: Path) -> Path:
    return directory_of(tmp_path, deployment.environment["EVERGRANT_NAMESPACE"])


@contextmanager
def _beating(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a heartbeat, and its file."""
    with subprocess.Popen(  # noqa: S603 this very Python
        [sys.executable, "-c", BEATING, str(directory)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "beating\n"
            yield process, directory / f"worker.{os.uname().nodename}.{process.pid}"
        finally:
            process.kill()


def _age(file: Path) -> None:
    """Make a heartbeat older than a living process's can be."""
    then = time.time() - SILENT_SECONDS - 60
    os.utime(file, (then, then))


def test_a_process_with_a_heartbeat_is_alive(deployment: Cli, directory: Path) -> None:
    with _beating(directory):
        done = deployment("health", "worker")

    assert (done.code, done.out, done.err) == (0, "", "")


def test_a_role_without_a_process_on_this_host_is_not(deployment: Cli, directory: Path) -> None:
    with _beating(directory):
        done = deployment("health", "beat")

    assert done.code == 1
    assert done.complaint == f"evergrant: beat: no process on this host has a heartbeat in {directory}"


def test_a_heartbeat_is_renewed(directory: Path) -> None:
    with _beating(directory) as (_, file):
        _age(file)
        eventually(lambda: time.time() - file.stat().st_mtime < SILENT_SECONDS)


def test_a_frozen_process_is_named_though_another_one_lives(deployment: Cli, directory: Path) -> None:
    with _beating(directory), _beating(directory) as (frozen, file):
        frozen.send_signal(signal.SIGSTOP)
        os.waitpid(frozen.pid, os.WUNTRACED)  # it is frozen
        _age(file)
        done = deployment("health", "worker")

    assert done.code == 1
    assert done.complaint.startswith(f"evergrant: worker: process {frozen.pid} has been silent for ")


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "a-zombie"])
def test_a_killed_process_is_not_alive(deployment: Cli, directory: Path, *, reaped: bool) -> None:
    with _beating(directory) as (process, file):
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
        done = deployment("health", "worker")

    assert done.code == 1
    assert file.exists()


def test_a_process_that_got_the_id_of_a_dead_one_is_not_taken_for_it(
    deployment: Cli, directory: Path
) -> None:
    with _beating(directory) as (_, file):
        file.write_text("1")
        done = deployment("health", "worker")

    assert done.code == 1


def test_processes_of_other_hosts_do_not_count(deployment: Cli, directory: Path) -> None:
    with _beating(directory) as (process, file):
        file.rename(directory / f"worker.another-host.{process.pid}")
        done = deployment("health", "worker")

    assert done.code == 1


def test_a_process_that_ends_in_order_leaves_no_file_and_the_next_one_removes_a_dead_ones(
    directory: Path,
) -> None:
    with _beating(directory) as (killed, left):
        killed.kill()
        killed.wait()
    assert left.exists()

    with _beating(directory) as (process, _):
        assert not left.exists()
        process.terminate()
        process.wait()

    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("source", ["dotenv", "secrets"])
def test_the_directory_is_found_where_the_settings_name_it(
    deployment: Cli, directory: Path, tmp_path: Path, source: str
) -> None:
    variables = {name: deployment.environment[f"EVERGRANT_{name}"] for name in ("DATA_DIR", "NAMESPACE")}
    elsewhere = deployment.having(DATA_DIR=None, NAMESPACE=None, SECRETS_DIR=str(tmp_path / "secrets"))
    if source == "dotenv":
        lines = [f"EVERGRANT_{name}={value}\n" for name, value in variables.items()]
        (elsewhere.home / ".env").write_text("".join(lines))
    else:
        (tmp_path / "secrets").mkdir()
        for name, value in variables.items():
            (tmp_path / "secrets" / f"EVERGRANT_{name}").write_text(f"{value}\n")

    with _beating(directory):
        assert elsewhere("health", "worker").code == 0


def test_a_probe_loads_the_standard_library_alone(deployment: Cli) -> None:
    program = (
        "import sys\n"
        "sys.argv = ['evergrant', 'health', 'worker']\n"
        "before = set(sys.modules)\n"
        "from worker.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "    print(sorted(new - sys.stdlib_module_names))\n"
    )

    done = subprocess.run(  # noqa: S603 this very Python
        [sys.executable, "-c", program],
        env=deployment.environment,
        cwd=deployment.home,
        capture_output=True,
        check=True,
        text=True,
    )

    assert done.stdout == "['worker']\n"
