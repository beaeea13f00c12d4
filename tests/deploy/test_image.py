"""What the image holds, made by its own steps, runs as a container runs it.

No container runtime is needed: the steps of the Dockerfile's first stage are carried out in a directory. The
processes are started by the command lines of the manifests, as a user whom nobody knows, without a home, on a
file system that is read-only but for what the manifests mount.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.deploy_kit import (
    INSTALLED,
    ROLES,
    ROOT,
    admitted_to_image,
    build_steps,
    of_kubernetes,
)
from tests.support.live import KEY, SECRET
from tests.support.servers import directory_for_sockets, free_port, start_valkey
from tests.support.strangers import (
    AS_STRANGER,
    SHARED_MEMORY,
    STRANGER,
    needs_own_mounts,
    needs_stranger,
    on_read_only_files,
)
from tests.support.waiting import PATIENCE_SECONDS, eventually
from worker.sandbox.client import Sandbox

pytestmark = pytest.mark.slow

BUILD_SECONDS = 600.0  # it downloads every package


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has in /opt/evergrant, made of what `.dockerignore` lets in."""
    context, installed = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("opt") / "evergrant"
    for name in admitted_to_image():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context)
    for step in build_steps():
        done = subprocess.run(  # noqa: S602 our own Dockerfile
            step.replace(INSTALLED, str(installed)),
            check=False,
            capture_output=True,
            cwd=context,
            shell=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
        assert done.returncode == 0, done.stderr
    shutil.rmtree(context)
    return installed


@dataclass(frozen=True)
class Container:
    """Where processes run as in a container: their directory that can be written, and their environment."""

    data: Path
    environment: Mapping[str, str]

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        return on_read_only_files((*AS_STRANGER, *words), self.data, SHARED_MEMORY)

    def run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 our own command
            self.command(words),
            check=False,
            capture_output=True,
            env=self.environment,
            input=given,
            text=True,
            timeout=PATIENCE_SECONDS,
        )


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.start("buddy", access_seconds=40) as sandbox:
        sandbox.set_secret(SECRET)
        yield sandbox


@pytest.fixture
def container(installed: Path, tmp_path: Path, sandbox: Sandbox) -> Iterator[Container]:
    """A container's surroundings: a Redis, secrets as files, the manifests' variables, and no home."""
    data, secrets, store = tmp_path / "data", tmp_path / "secrets", free_port()
    data.mkdir()
    secrets.mkdir()
    os.chown(data, STRANGER, STRANGER)
    for name, value in {
        "EVERGRANT_KEYS": KEY,
        "EVERGRANT_REDIS_URL": f"redis://127.0.0.1:{store}/0",
        "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET": SECRET,
    }.items():
        (secrets / name).write_text(value)
    environment = of_kubernetes()["worker"].variables | {
        "PATH": f"{installed / 'bin'}:{os.defpath}",
        "EVERGRANT_DATA_DIR": str(data),
        "EVERGRANT_SECRETS_DIR": str(secrets),
        "EVERGRANT_HTTP_HOST": "127.0.0.1",
        "EVERGRANT_HTTP_PORT": str(free_port()),
        "EVERGRANT_CLIENTS__BUDDY__CLIENT_ID": "sandbox-client",
        "EVERGRANT_CLIENTS__BUDDY__TOKEN_URL": sandbox.token_url,
    }
    with directory_for_sockets() as home:
        valkey = start_valkey(home, port=str(store), appendonly="yes", maxmemory_policy="noeviction")
        try:
            yield Container(data, environment)
        finally:
            valkey.kill()


@contextmanager
def _started(
    container: Container, commands: Mapping[str, Sequence[str]], log: Path
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with log.open("wb") as output:
        try:
            for role, words in commands.items():
                processes[role] = subprocess.Popen(  # noqa: S603 our own command
                    container.command(words),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=container.environment,
                    start_new_session=True,
                )
            yield processes
        finally:
            for process in processes.values():
                process.kill()
                process.wait()


def test_nothing_that_the_packages_hold_is_missing_in_the_image(installed: Path) -> None:
    (site,) = installed.glob("lib/python3.*/site-packages")
    packages = ("config", "tasks", "worker")

    def files(root: Path) -> set[Path]:
        found = {
            path.relative_to(root) for name in packages for path in (root / name).rglob("*") if path.is_file()
        }
        return {path for path in found if "__pycache__" not in path.parts}

    assert files(site) == files(ROOT)
    assert any(path.suffix == ".lua" for path in files(site))
    assert not (site / "pip").exists()


@needs_stranger
@needs_own_mounts
def test_worker_beat_and_web_of_the_manifests_live_refresh_and_end_in_order(
    container: Container, sandbox: Sandbox, tmp_path: Path
) -> None:
    started = of_kubernetes()
    url = f"http://127.0.0.1:{container.environment['EVERGRANT_HTTP_PORT']}"
    log = tmp_path / "log"

    with _started(container, {role: started[role].command for role in ROLES}, log) as processes:

        def comes_about(holds: Callable[[], object]) -> None:
            eventually(lambda: holds() or any(process.poll() is not None for process in processes.values()))
            assert holds(), log.read_text()

        probes = [probe for each in started.values() for probe in each.probes]
        comes_about(lambda: all(container.run(*probe).returncode == 0 for probe in probes))
        comes_about(lambda: _is_ready(url))
        taken = container.run("evergrant", "grants", "import", "-", given="".join(sandbox.issue_lines(1)))
        assert taken.returncode == 0, taken.stderr
        comes_about(lambda: _version(container) > 1)
        for process in processes.values():
            process.terminate()

        assert {role: process.wait(PATIENCE_SECONDS) for role, process in processes.items()} == dict.fromkeys(
            ROLES, 0
        )
    assert container.run(*started["worker"].probes[0]).returncode == 1


def _is_ready(url: str) -> bool:
    try:
        return all(httpx.get(url + path, trust_env=False).is_success for path in ("/livez", "/readyz"))
    except httpx.TransportError:
        return False


def _version(container: Container) -> int:
    listed = container.run("evergrant", "grants", "list", "--json")
    (grant,) = [json.loads(line) for line in listed.stdout.splitlines()]
    return int(grant["version"])
