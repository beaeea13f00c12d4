"""How settings become what libraries take, and when they are read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config import load_settings
from worker.runtime.deployment import deploy
from worker.runtime.timing import longest_run_seconds

ROOT = Path(__file__).parents[2]
WRONG = "EVERGRANT_NONSENSE is no setting; .env.example lists them all\n"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run Python in a process of its own, where a setting is wrong."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 our own interpreter
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "EVERGRANT_NONSENSE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_what_a_deployment_shows_of_itself_holds_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", "redis://:swordfish@127.0.0.1:1/0")
    monkeypatch.setenv("EVERGRANT_KEYS", "k1:" + "A" * 43 + "=")
    deployment = deploy(load_settings(), lambda _: None)
    assert "swordfish" not in repr(deployment)


def test_no_task_is_ended_before_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_HTTP_TIMEOUT_SECONDS", "60")
    settings = load_settings()
    # Claims for ten seconds, then two requests and a check, then three outcomes for a store that is away.
    assert longest_run_seconds(settings) > 10 + 3 * 60 + 3 * 15


def test_the_app_and_its_tasks_can_be_imported_whatever_the_settings_say(run: Run) -> None:
    done = run("-c", "import worker.celery, tasks.refresh, tasks.sweep")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_worker_and_beat_say_in_one_line_which_setting_is_wrong(run: Run, command: str) -> None:
    done = run("-m", "celery", "-A", "worker", command)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", WRONG)


def test_whoever_publishes_a_task_under_a_wrong_setting_gets_an_exception_and_is_not_ended(run: Run) -> None:
    program = """
from tasks.refresh import refresh
try:
    refresh.delay("acme")
except Exception as problem:
    print(problem.message)
"""
    done = run("-c", program)

    assert (done.returncode, done.stdout, done.stderr) == (0, WRONG, "")
