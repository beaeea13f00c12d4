"""What a dyno reads before it starts: Heroku's own variables become settings."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.deploy_kit import DEPLOY, ROOT
from tests.support.live import KEY

HEROKU = DEPLOY / "heroku"
DYNO_IS_KILLED_AFTER_SECONDS = 30
LOOK = """
from config import load_settings
from worker.runtime.timing import in_flight_seconds
settings = load_settings()
print(settings.http_host, settings.http_port, settings.redis_url.get_secret_value())
print(in_flight_seconds(settings))
"""


def _in_a_dyno(directory: Path, **variables: str) -> list[str]:
    done = subprocess.run(  # noqa: S603 our own script
        ["/bin/bash", "-c", '. "$0" && exec "$@"', HEROKU / "profile", sys.executable, "-c", LOOK],
        check=True,
        capture_output=True,
        cwd=directory,
        env={"PATH": os.defpath, "EVERGRANT_KEYS": KEY, **variables},
        text=True,
    )
    return done.stdout.split()


def test_a_dyno_listens_where_it_is_told_and_uses_the_add_ons_redis(tmp_path: Path) -> None:
    host, port, url, _ = _in_a_dyno(tmp_path, PORT="31234", REDIS_URL="rediss://:pw@redis.example.com:6380")

    assert (host, port) == ("0.0.0.0", "31234")  # noqa: S104 what a dyno must do
    assert url == "rediss://:pw@redis.example.com:6380?ssl_cert_reqs=none"


def test_another_redis_can_be_named(tmp_path: Path) -> None:
    _, _, url, _ = _in_a_dyno(
        tmp_path, REDIS_URL="rediss://add-on.example.com", EVERGRANT_REDIS_URL="rediss://own.example.com:6380"
    )

    assert url == "rediss://own.example.com:6380"


def test_what_is_in_flight_is_stored_before_a_dyno_is_killed(tmp_path: Path) -> None:
    *_, needed = _in_a_dyno(tmp_path, REDIS_URL="rediss://redis.example.com")

    assert float(needed) < DYNO_IS_KILLED_AFTER_SECONDS


def test_a_dyno_installs_what_the_lock_file_says_and_then_evergrant_alone() -> None:
    assert (HEROKU / "requirements.txt").read_text() == "-r requirements.lock\n"
    assert (ROOT / "requirements.lock").is_file()
    assert "pip install --no-deps --no-build-isolation" in (HEROKU / "post_compile").read_text()
