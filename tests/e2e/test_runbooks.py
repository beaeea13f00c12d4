"""The sequences of docs/operations.md, "Moving and restoring", with every process real and a strict provider.

In each of them no grant may be lost and no dead token presented: the provider ends a grant for that.
"""

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from tests.support.callables import Build
from tests.support.command import EVERGRANT
from tests.support.live import LiveDeployment
from tests.support.servers import Valkey, directory_for_sockets, start_valkey

pytestmark = pytest.mark.slow

GRANTS = 12
TOKEN_SECONDS = 20
Start = Callable[[Path], Valkey]


@pytest.fixture
def serve() -> Iterator[Start]:
    """Start a Redis in a directory, with the dump that is there; it ends with the test."""
    running: list[Valkey] = []

    def start(home: Path) -> Valkey:
        running.append(start_valkey(home, maxmemory_policy="noeviction"))
        return running[-1]

    yield start
    for valkey in running:
        valkey.kill()


@pytest.fixture
def homes() -> Iterator[Callable[[], Path]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(directory_for_sockets())


@pytest.fixture
def redis(serve: Start, homes: Callable[[], Path]) -> Valkey:
    """The Redis of a deployment."""
    return serve(homes())


@pytest.fixture
def live(redis: Valkey, build: Build, monkeypatch: pytest.MonkeyPatch) -> LiveDeployment:
    deployment: LiveDeployment = build(access_seconds=TOKEN_SECONDS)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{redis.socket}")
    return deployment


def _evergrant(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 our own command
        [EVERGRANT, *arguments], check=False, capture_output=True, text=True, timeout=120
    )


def _work(live: LiveDeployment) -> list[subprocess.Popen[bytes]]:
    return [live.start_worker(), live.start_beat()]


def _end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        assert process.wait(60) == 0


def _ready(live: LiveDeployment) -> int:
    """How many workers have said that they are ready."""
    return live.log.read_bytes().count(b" ready.")


def _all_rotated(live: LiveDeployment, times: int = 1) -> bool:
    grants = live.grants()
    return len(grants) == GRANTS and min(stored.grant.version for stored in grants.values()) >= times


def _assert_unharmed(live: LiveDeployment) -> None:
    totals = live.sandbox.totals()
    # Whether a token ends while workers are stopped depends on how fast this machine starts them again.
    assert (totals["superseded"], totals["concurrent"]) == (0, 0)
    assert len(live.grants()) == GRANTS
    assert live.lost() == []


def test_a_rolling_restart(live: LiveDeployment) -> None:
    live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 0.5)
    first, beat = _work(live)
    second = live.start_worker()
    live.wait_until(lambda: _ready(live) == 2, "both workers")

    _end(first)
    third = live.start_worker()
    live.wait_until(lambda: _ready(live) == 3, "the third worker")
    _end(second)
    live.wait_until(lambda: _all_rotated(live), "every grant's rotation")

    _end(third, beat)
    _assert_unharmed(live)


def test_a_worker_host_is_taken_out_with_its_journal(
    live: LiveDeployment, redis: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last answers came while Redis was away, and only its journal has them."""
    live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 0.5)
    with live.sandbox.fault("latency", ms=1500):
        worker, beat = _work(live)
        live.wait_until(lambda: live.sandbox.totals()["refreshes"] > 0, "a request in flight")
        redis.process.send_signal(signal.SIGSTOP)
        journals = tmp_path / "data" / "journal"
        live.wait_until(
            lambda: any(b"grant.refreshed" in path.read_bytes() for path in journals.rglob("*.segment")),
            "an answer on the disk alone",
        )
        live.kill(worker)
        live.kill(beat)
        redis.process.send_signal(signal.SIGCONT)

    shutil.copytree(journals, tmp_path / "other" / "journal")
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "other"))
    worker, beat = _work(live)
    live.wait_until(lambda: _all_rotated(live), "every grant's rotation")

    _end(worker, beat)
    assert live.lost() == []
    assert live.sandbox.totals()["superseded"] == 0


def test_moving_to_another_redis(
    live: LiveDeployment,
    serve: Start,
    homes: Callable[[], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 0.5)
    processes = _work(live)
    live.wait_until(lambda: _all_rotated(live), "every grant's rotation")

    _end(*processes)
    exported = _evergrant("grants", "export", "--with-tokens")
    (tmp_path / "grants.jsonl").write_text(exported.stdout)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{serve(homes()).socket}")
    imported = _evergrant("grants", "import", str(tmp_path / "grants.jsonl"))
    processes = _work(live)
    live.wait_until(lambda: _all_rotated(live, 2), "every grant's second rotation")

    _end(*processes)
    assert (exported.returncode, imported.returncode) == (0, 0)
    assert imported.stderr.splitlines()[0] == f"stored {GRANTS}, refused 0"
    _assert_unharmed(live)


@pytest.mark.parametrize("workers", ["stopped", "running"])
def test_redis_lost_everything_and_the_newest_export_is_old(
    live: LiveDeployment, redis: Valkey, tmp_path: Path, workers: str
) -> None:
    lines = live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 0.5)
    (tmp_path / "old.jsonl").write_text("\n".join(lines))
    processes = _work(live)
    live.wait_until(lambda: _all_rotated(live), "every grant's rotation")

    if workers == "stopped":
        _end(*processes)
    with Redis(unix_socket_path=str(redis.socket)) as connection:
        connection.flushall()
    status = _evergrant("status", "--json")
    imported = _evergrant("grants", "import", str(tmp_path / "old.jsonl"))
    if workers == "stopped":
        processes = _work(live)
    live.wait_until(lambda: _all_rotated(live, 2), "every grant's next rotation")

    _end(*processes)
    assert status.returncode == 1
    assert "store_lost" in {json.loads(line).get("incident") for line in status.stdout.splitlines()}
    assert f"answers of {GRANTS} grants" in status.stdout
    assert f"{GRANTS} of the stored lines had dead tokens" in imported.stderr
    assert live.sandbox.totals()["superseded"] == 0
    assert live.lost() == []
    if workers == "running":
        assert b"store.lost_grants" in live.log.read_bytes()


def test_a_backup_is_restored(live: LiveDeployment, redis: Valkey, serve: Start) -> None:
    live.issue(GRANTS, spread_seconds=TOKEN_SECONDS * 0.5)
    with Redis(unix_socket_path=str(redis.socket)) as connection:
        connection.save()
    processes = _work(live)
    live.wait_until(lambda: _all_rotated(live), "every grant's rotation")

    _end(*processes)
    redis.kill()
    serve(redis.socket.parent)
    assert not _all_rotated(live)
    processes = _work(live)
    live.wait_until(lambda: _all_rotated(live), "what the journals give back")

    _end(*processes)
    assert live.lost() == []
    assert live.sandbox.totals()["superseded"] == 0
    assert b"journal.repaired_the_store" in live.log.read_bytes()
