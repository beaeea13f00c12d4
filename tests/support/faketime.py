"""A Redis whose clock a test sets while it runs: libfaketime under Debian's server."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.redis_server import binary_of
from tests.support.servers import directory_for_sockets, start_valkey

# The C library's malloc: Debian's server has another, which asks for the time before libfaketime is ready.
# The monotonic clock stays what it is, as on a machine whose clock is set.
PROGRAM = """#!/bin/sh
export LD_PRELOAD='{preload} libc.so.6' FAKETIME_TIMESTAMP_FILE='{offset}'
export FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1
exec '{server}' "$@"
"""


@dataclass(frozen=True, slots=True)
class ServerWithAClock:
    """Attributes:
    url: as the settings take it.
    """

    url: str
    _offset: Path

    def set_clock(self, seconds: float) -> None:
        """Set the server's clock so far from this machine's, back where that is negative."""
        aside = self._offset.with_suffix(".new")
        aside.write_text(f"{seconds:+g}\n")
        aside.replace(self._offset)


@contextmanager
def running_with_a_clock() -> Iterator[ServerWithAClock]:
    """A server for as long as the block lasts; the test is skipped, and says so, where it cannot be."""
    faketime, redis_server = shutil.which("faketime"), binary_of("redis")
    if faketime is None:
        pytest.skip("NOT TESTED with a clock that jumps: install faketime (Debian's package)")
    preload = subprocess.run(  # noqa: S603 found on the path
        [faketime, "-m", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
    with directory_for_sockets() as home:
        server = ServerWithAClock(f"unix://{home / 's'}", home / "offset")
        server.set_clock(0)
        program = home / "redis-server"
        program.write_text(PROGRAM.format(preload=preload, offset=home / "offset", server=redis_server))
        program.chmod(0o700)
        valkey = start_valkey(home, binary=str(program), appendonly="yes")
        try:
            yield server
        finally:
            valkey.kill()
