"""Beat at the store: there while its loop turns, gone when it ends."""

import os
import socket
import subprocess
import sys
import uuid
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from config import load_settings
from tests.support.waiting import until
from worker.adapters.store.fleet_state import RedisFleetState
from worker.runtime import beat_presence
from worker.runtime.beat_presence import BeatPresence
from worker.runtime.deployment import Deployment, deploy

# A process that is a beat until it is seen at the store, and then ends.
AS_BEAT = """
import atexit, time
from redis import Redis
from config import load_settings
from worker.runtime.beat_presence import BeatPresence
from worker.runtime.deployment import deploy

deployment = deploy(load_settings(), print)
presence = BeatPresence(deployment)
presence.begin()
atexit.register(presence.end)
with Redis.from_url(deployment.redis_url) as redis:
    while not redis.zcard(deployment.prefix + "beats"):
        time.sleep(0.01)
    print(redis.zcard(deployment.prefix + "beats"))
"""


@pytest.fixture
def deployment(valkey_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    for name, value in {
        "REDIS_URL": f"unix://{valkey_socket}",
        "NAMESPACE": uuid.uuid4().hex,
        "KEYS": "k1:" + b64encode(bytes(32)).decode(),
        "DATA_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(f"EVERGRANT_{name}", value)
    return deploy(load_settings(), print)


async def test_a_beat_is_there_while_its_loop_turns_and_gone_when_it_has_ended(
    deployment: Deployment, valkey_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat_presence, "EVERY_SECONDS", 0.02)
    async with Redis(unix_socket_path=str(valkey_socket)) as redis:
        fleet_state = RedisFleetState(redis, deployment.prefix)

        async def last_heard() -> int:
            return next(iter((await fleet_state.workers()).beats.values()), 0)

        presence = BeatPresence(deployment)
        presence.begin()
        await until(last_heard)
        first = await last_heard()

        async def is_heard_again() -> bool:
            return await last_heard() > first

        await until(is_heard_again)
        (name,) = (await fleet_state.workers()).beats
        assert name == f"{socket.gethostname()}:{os.getpid()}"

        presence.end()

        async def is_gone() -> bool:
            return not (await fleet_state.workers()).beats

        await until(is_gone)


async def test_a_beat_whose_store_is_away_ends_all_the_same(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat_presence, "EVERY_SECONDS", 0.02)
    presence = BeatPresence(replace(deployment, redis_url=f"unix://{tmp_path / 'nobody'}"))

    presence.begin()
    presence.beat()
    presence.end()


def test_a_beat_whose_interpreter_ends_says_that_it_is_gone(
    deployment: Deployment, valkey_socket: Path
) -> None:
    beat = subprocess.run([sys.executable, "-c", AS_BEAT], check=False, capture_output=True)  # noqa: S603 our own

    assert (beat.returncode, beat.stderr) == (0, b"")
    with SyncRedis(unix_socket_path=str(valkey_socket)) as redis:
        assert beat.stdout.split() == [b"1"]
        assert redis.zcard(deployment.prefix + "beats") == 0
