"""A process that has loaded `evergrant`, and forks itself for each command: hundreds take a second less.

A command still runs in a process, an environment and a directory of its own. What it does not show is how
long loading takes, or what loading does: `Cli.running` starts commands cold.

One request a connection, on a Unix socket: a JSON object with `arguments`, `environment` and `directory`, and
the three standard files as descriptors. The answer is the exit status, as text.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.servers import directory_for_sockets
from tests.support.waiting import PATIENCE_SECONDS

MOST_BYTES = 1 << 20


@contextmanager
def warm_process() -> Iterator[Path]:
    """Keep one for as long as the block lasts; gives its socket."""
    with directory_for_sockets() as home:
        path = home / "w"
        with subprocess.Popen(  # noqa: S603 this very Python
            [sys.executable, "-m", "tests.support.warm", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={"PATH": os.defpath, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"warm\n"
            try:
                yield path
            finally:
                process.kill()


def run(path: Path, request: dict[str, Any], files: tuple[int, int, int]) -> int:
    """Run one command to its end; returns its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(str(path))
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], list(files))
        return int(connection.recv(16) or b"-1")


def _serve(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
        sys.stdout.write("warm\n")
        sys.stdout.flush()
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """In a fork of its own: let another one be the command, wait for it, and tell."""
    text, files, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(MOST_BYTES)
    command = os.fork()
    if command == 0:
        connection.close()
        _be_the_command(json.loads(text), files)
    for file in files:
        os.close(file)
    _, status = os.waitpid(command, 0)
    with suppress(OSError):  # whoever asked has given up
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _be_the_command(request: dict[str, Any], files: list[int]) -> None:
    from worker.cli import main  # noqa: PLC0415 it is loaded already

    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv = ["evergrant", *map(os.fsdecode, map(bytes.fromhex, request["arguments"]))]
    status = 1
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 what an interpreter does at its end
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _load() -> None:
    """All that commands load when they need it."""
    import worker.adapters.token_endpoint  # noqa: PLC0415
    import worker.cli  # noqa: PLC0415 for its effect, as below
    import worker.fleet.kept_replies  # noqa: PLC0415
    import worker.fleet.report  # noqa: PLC0415
    import worker.fleet.revoking  # noqa: PLC0415
    import worker.fleet.selecting  # noqa: PLC0415
    import worker.runtime.assembly  # noqa: PLC0415
    import worker.runtime.store_checks  # noqa: F401, PLC0415


if __name__ == "__main__":
    _load()
    _serve(sys.argv[1])
