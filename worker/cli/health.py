"""`evergrant health`: is this host's worker, beat or HTTP service alive? Probes want to know at once.

Loading the settings would take longer than that, so the two that say where the heartbeats are are looked up
here. `main` in this package's `__init__` comes here before it loads any other command.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Final

from worker.runtime.liveness import directory_of, trouble_of

NO_DIRECTORY: Final = "EVERGRANT_DATA_DIR is missing: this user has no home directory"


class Role(StrEnum):
    """Which processes."""

    worker = "worker"
    beat = "beat"
    web = "web"


def health(role: Role) -> None:
    """Whether this host's worker, beat or HTTP service (web) is alive: exit 0, or 1 and what is wrong.

    Meant for a container's or a supervisor's probe. It asks neither Redis nor a provider: a restart mends
    neither. `evergrant status` says whether grants are refreshed.

    Example: evergrant health worker
    """
    sys.exit(probe(role))


def probe(role: str) -> int:
    """Look at the heartbeats; returns the exit code."""
    directory = _directory()
    trouble = trouble_of(directory, role) if directory else NO_DIRECTORY
    if trouble:
        sys.stderr.write(f"evergrant: {trouble}\n")
    return int(bool(trouble))


def _directory() -> Path | None:
    """Where the heartbeats are; `None` where no setting says it, and this user has no home."""
    named = _setting("EVERGRANT_DATA_DIR")
    try:
        data_dir = Path(os.path.expanduser(named)) if named else _data_home() / "evergrant"  # noqa: PTH111 as in settings.py
    except RuntimeError:
        return None
    return directory_of(data_dir, _setting("EVERGRANT_NAMESPACE") or "evergrant")


def _data_home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _setting(name: str) -> str | None:
    """One variable from the sources of config/settings.py, in their order."""
    if name in os.environ:
        return os.environ[name]
    if Path(".env").exists():
        from dotenv import dotenv_values

        if value := dotenv_values(".env").get(name):
            return value
    try:
        return (Path(os.environ.get("EVERGRANT_SECRETS_DIR") or "/run/secrets") / name).read_text().strip()
    except OSError:
        return None
