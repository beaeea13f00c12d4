"""What a stored grant costs: bytes in Redis and time to import, on a server of its own.

    python bench/memory.py [GRANTS]

Grants are Buddy's: 36- and 80-character tokens, two scopes, one label, an id of 18 characters. Memory is
Redis's `used_memory` after the import less before it, the schedule and every counter included.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import redis

from worker.adapters.embedded import EmbeddedServer
from worker.adapters.key_file import new_key_line

GRANTS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000


def _write_lines(path: Path) -> None:
    with path.open("w") as file:
        for number in range(GRANTS):
            line = {
                "id": f"user-{number:07d}/buddy",
                "client": "buddy",
                "access_token": str(uuid.uuid4()),
                "refresh_token": secrets.token_urlsafe(60)[:80],
                "expires_in": 28_800,
                "refresh_token_expires_in": 158_112_000,
                "scope": "WORKSPACE EXECUTION_RUN",
                "authorized_at": "2026-11-01T00:00:00Z",
                "labels": {"tenant": "acme"},
            }
            file.write(json.dumps(line) + "\n")


def main() -> None:
    """Import and measure."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _write_lines(directory / "grants.jsonl")
        environment = {
            "PATH": os.environ["PATH"],
            "EVERGRANT_DATA_DIR": str(directory / "data"),
            "EVERGRANT_KEYS": new_key_line(),
            "EVERGRANT_CLIENTS__BUDDY__PROVIDER": "buddy",
            "EVERGRANT_CLIENTS__BUDDY__CLIENT_ID": "bench",
            "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET": "bench",
        }
        with EmbeddedServer(directory / "data") as server:
            client = redis.Redis.from_url(server.url)
            before = client.info("memory")["used_memory"]
            began = time.perf_counter()
            subprocess.run(  # noqa: S603 our own command
                [Path(sys.executable).with_name("evergrant"), "grants", "import", directory / "grants.jsonl"],
                env=environment,
                cwd=directory,
                check=True,
            )
            seconds = time.perf_counter() - began
            used = client.info("memory")["used_memory"] - before
    sys.stdout.write(f"{used / GRANTS:.0f} bytes a grant at {GRANTS:,} grants\n")
    sys.stdout.write(
        f"{GRANTS / seconds:,.0f} grants a second imported ({seconds:.1f} s, start-up included)\n"
    )


if __name__ == "__main__":
    main()
