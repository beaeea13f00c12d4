"""`evergrant`, run as an operator runs it: real processes, in an environment and a directory of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from tests.support import warm
from tests.support.waiting import PATIENCE_SECONDS

EVERGRANT = Path(sys.executable).with_name("evergrant")


@dataclass(frozen=True)
class Finished:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Standard output as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def complaint(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.splitlines()
        return line


@dataclass(frozen=True)
class Cli:
    """`evergrant` as one deployment's operator has it.

    Attributes:
        home: where its commands run.
        environment: theirs, and nothing else.
        warm: the socket of a process that has loaded it (`warm.py`); `None` starts each command cold.
    """

    home: Path
    environment: dict[str, str]
    warm: Path | None = None

    @property
    def command(self) -> str:
        return str(EVERGRANT)

    def __call__(self, *arguments: str | bytes, given: str | bytes | BinaryIO = b"") -> Finished:
        """Run one command to its end; a file that is given is its standard input itself."""
        if self.warm is not None:
            return self._run_warm(self.warm, arguments, given)
        standard_input: dict[str, Any] = {"stdin": given}
        if isinstance(given, str | bytes):
            standard_input = {"input": given.encode() if isinstance(given, str) else given}
        done = subprocess.run(  # noqa: S603 our own command
            [EVERGRANT, *arguments],
            check=False,
            capture_output=True,
            cwd=self.home,
            env=self.environment,
            timeout=PATIENCE_SECONDS,
            **standard_input,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def _run_warm(
        self, socket: Path, arguments: tuple[str | bytes, ...], given: str | bytes | BinaryIO
    ) -> Finished:
        request = {
            "arguments": [os.fsencode(each).hex() for each in arguments],
            "environment": self.environment,
            "directory": str(self.home),
        }
        with ExitStack() as opened:
            out, err = (opened.enter_context(TemporaryFile()) for _ in range(2))
            if isinstance(given, str | bytes):
                text = given
                given = opened.enter_context(TemporaryFile())
                given.write(text.encode() if isinstance(text, str) else text)
                given.seek(0)
            code = warm.run(socket, request, (given.fileno(), out.fileno(), err.fileno()))
            out.seek(0)
            err.seek(0)
            return Finished(code, out.read().decode(), err.read().decode())

    @contextmanager
    def running(self, *arguments: str, output: BinaryIO | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command that goes on; it is gone when the block ends."""
        pipe = subprocess.PIPE
        with subprocess.Popen(  # noqa: S603 our own command
            [EVERGRANT, *arguments],
            cwd=self.home,
            env=self.environment,
            stdin=pipe,
            stdout=output or pipe,
            stderr=output or pipe,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def having(self, **settings: str | None) -> "Cli":
        """The same with other settings; `None` takes one away."""
        environment = dict(self.environment)
        for name, value in settings.items():
            environment.pop(f"EVERGRANT_{name}", None)
            if value is not None:
                environment[f"EVERGRANT_{name}"] = value
        return replace(self, environment=environment)

    def take_in(self, *lines: dict[str, Any]) -> None:
        """Import grants, all of them good."""
        done = self("grants", "import", "-", given="".join(json.dumps(line) + "\n" for line in lines))
        assert done.code == 0, done.err

    def grants(self) -> dict[str, dict[str, Any]]:
        """What `grants list --json` says, by id."""
        listed = self("grants", "list", "--json")
        assert listed.code == 0
        return {line["id"]: line for line in listed.documents}
