"""`python -m bench.clients_file`: what thousands of clients in one file cost a process, in its own CPU time.

Wall time says little here: all of it is one thread's work, and other processes lengthen it.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from config import load_settings
from worker.runtime.clients import ConfiguredClients

T = TypeVar("T")

CLIENTS = int(os.environ.get("BENCH_CLIENTS", "5000"))


def main() -> None:
    """Measure both forms of the file."""
    for form in ("json", "toml"):
        with tempfile.TemporaryDirectory() as directory:
            os.environ["EVERGRANT_CLIENTS_FILE"] = str(_write(Path(directory), form))
            _measure(form)


def _measure(form: str) -> None:
    settings = _timed(f"{form}: {CLIENTS} clients read and validated", load_settings)
    clients = _timed(f"{form}: the clients made of them", lambda: ConfiguredClients(settings))
    _timed(
        f"{form}: a thousand looks at an unchanged file", lambda: [clients.read_file() for _ in range(1000)]
    )
    _write(Path(os.environ["EVERGRANT_CLIENTS_FILE"]).parent, form, changed=True)
    changed = _timed(f"{form}: read again after one change", clients.read_file)
    if changed is not None:
        _timed(f"{form}: the change taken up", lambda: clients.take(changed))


def _timed(what: str, work: Callable[[], T]) -> T:
    began = time.process_time()
    result = work()
    sys.stdout.write(f"{what}: {(time.process_time() - began) * 1000:.0f} ms\n")
    return result


def _write(directory: Path, form: str, *, changed: bool = False) -> Path:
    clients = {f"tenant-{number:05}": _fields(number) for number in range(CLIENTS)}
    if changed:
        clients["tenant-00000"]["client_id"] = "another"
    beside, path = directory / "beside", directory / f"clients.{form}"
    beside.write_text(json.dumps({"clients": clients}) if form == "json" else _toml(clients))
    return beside.rename(path)


def _fields(number: int) -> dict[str, object]:
    return {
        "provider": "oauth2",
        "client_id": f"id-{number}",
        "client_secret": f"secret of {number}",
        "token_url": f"https://id{number}.example.com/oauth/token",
        "scopes": ["read", "write"],
        "rate_per_second": 5,
    }


def _toml(clients: dict[str, dict[str, object]]) -> str:
    tables = (
        [f"[clients.{name}]", *(f"{field} = {json.dumps(value)}" for field, value in fields.items())]
        for name, fields in clients.items()
    )
    return "\n".join(line for table in tables for line in table) + "\n"


if __name__ == "__main__":
    main()
