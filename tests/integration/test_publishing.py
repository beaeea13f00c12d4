"""A task that publishes to a broker that is away."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.live import KEY
from tests.support.waiting import PATIENCE_SECONDS

PUBLISH = """
from kombu.exceptions import OperationalError
from tasks.refresh import refresh
try:
    refresh.apply_async()
except OperationalError:
    print("given up")
"""


def test_publishing_gives_up_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 this very Python
        [sys.executable, "-c", PUBLISH],
        cwd=tmp_path,
        env={
            "PATH": os.defpath,
            "HOME": str(tmp_path),
            "EVERGRANT_KEYS": KEY,
            "EVERGRANT_BROKER_URL": f"unix://{tmp_path}/nobody-listens",
        },
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.stdout == "given up\n"
