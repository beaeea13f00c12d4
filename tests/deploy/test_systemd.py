"""The systemd units: what systemd itself says of them, and what they share."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deploy_kit import DEPLOY, INSTALLED, ROLES, unit

DIRECTORY = DEPLOY / "systemd"
UNITS = sorted(DIRECTORY.glob("*.service"))
OWN = {"Description", "ExecStart", "TimeoutStopSec"}  # what differs from unit to unit
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def _analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 it only reads
        [str(shutil.which("systemd-analyze")), *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as for this test's own environment: systemd wants to see the programs that they start."""
    for path in DIRECTORY.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace(INSTALLED, sys.prefix))
    return tmp_path


@needs_systemd
def test_systemd_finds_nothing_wrong_with_any_unit(installed: Path) -> None:
    done = _analyze("verify", *sorted(installed.glob("*.service")), installed / "evergrant.target")

    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_counts_each_unit_among_the_well_protected(path: Path, installed: Path) -> None:
    """Its figure goes from 0 to 10, here in tenths."""
    done = _analyze("security", "--offline=yes", "--threshold=20", installed / path.name)

    assert done.returncode == 0, done.stdout[-500:]


def test_the_units_differ_in_what_they_start_alone() -> None:
    shared = []
    for path in UNITS:
        told = [(name, value) for name, value in unit(path) if name not in OWN]
        shared.append(
            [(name, value) for name, value in told if "WORKER_CONCURRENCY" not in value and "%i" not in value]
        )

    assert len(UNITS) == len(ROLES)
    assert shared[0] == shared[1] == shared[2]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_stopped_and_restarted_with_the_target_and_not_for_wrong_settings(path: Path) -> None:
    said = dict(unit(path))

    assert said["PartOf"] == said["WantedBy"] == "evergrant.target"
    assert said["Restart"] == "always"
    assert said["RestartPreventExitStatus"] == "2"
    assert said["KillMode"] == "mixed"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_reads_its_secrets_as_credentials(path: Path) -> None:
    """A credential is named after its directory and its file: EVERGRANT and KEYS are EVERGRANT_KEYS."""
    said = unit(path)

    assert ("LoadCredential", "EVERGRANT:/etc/evergrant/secrets") in said
    assert any("EVERGRANT_SECRETS_DIR=%d" in value for name, value in said if name == "Environment")


def test_commands_are_given_what_the_units_are() -> None:
    script = (DIRECTORY / "evergrant").read_text()
    said = dict(unit(UNITS[0]))

    for name in ("User", "StateDirectory", "StateDirectoryMode", "EnvironmentFile", "LoadCredential"):
        assert f"--property={name}={said[name]}" in script
    assert f"--setenv=EVERGRANT_DATA_DIR=/var/lib/{said['StateDirectory']}" in script
    assert subprocess.run(["/bin/sh", "-n", DIRECTORY / "evergrant"], check=False).returncode == 0  # noqa: S603 it only reads


def test_the_user_of_the_units_is_made_beside_them() -> None:
    users = {dict(unit(path))["User"] for path in UNITS}
    made = [line.split()[:2] for line in (DIRECTORY / "evergrant.sysusers").read_text().splitlines()]

    assert [["u", user] for user in users] == [line for line in made if line[0] != "#"]
