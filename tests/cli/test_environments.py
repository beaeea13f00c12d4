"""`evergrant` wherever somebody starts it: without a home, as a user that nobody knows, in any locale."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.callables import Line
from tests.support.command import EVERGRANT, Cli, Finished
from tests.support.strangers import AS_STRANGER, STRANGER, needs_stranger
from tests.support.waiting import PATIENCE_SECONDS

# Turkish writes the small letter of I without a dot.
NAME = "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}\N{LATIN SMALL LETTER DOTLESS I}Ii/buddy"
TENANT = "A\N{LATIN SMALL LETTER G WITH BREVE}r\N{LATIN SMALL LETTER DOTLESS I}"


def _as_stranger(directory: Path, *words: str, **environment: str) -> Finished:
    """`evergrant doctor`, or another command, as a user without an entry in any list of users."""
    done = subprocess.run(  # noqa: S603 our own command
        [*AS_STRANGER, EVERGRANT, *(words or ["doctor"])],
        check=False,
        capture_output=True,
        cwd=directory,
        env={"PATH": os.defpath, **environment},
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@needs_stranger
def test_a_user_without_a_home_is_asked_for_the_data_directory(tmp_path: Path) -> None:
    done = _as_stranger(tmp_path)

    assert (done.code, done.out) == (2, "")
    assert done.complaint == (
        "evergrant: EVERGRANT_DATA_DIR is missing: this user has no home directory;"
        " it takes a directory that outlives the process"
    )


@needs_stranger
@pytest.mark.parametrize("written", ["~/data", "~nobody-of-that-name/data"])
def test_a_home_that_is_not_there_is_no_directory_called_tilde(tmp_path: Path, written: str) -> None:
    done = _as_stranger(tmp_path, EVERGRANT_DATA_DIR=written)

    assert done.code == 2
    assert done.complaint == (
        "evergrant: EVERGRANT_DATA_DIR takes a path without ~: that user has no home directory here"
    )


@needs_stranger
def test_a_user_without_a_home_needs_nothing_but_a_data_directory(tmp_path: Path) -> None:
    for directory in (*tmp_path.parents[:2], tmp_path):
        directory.chmod(0o755)
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, STRANGER, STRANGER)

    done = _as_stranger(tmp_path, EVERGRANT_DATA_DIR=str(data))

    assert done.code == 0, done.err
    assert "answers are on disk before they are stored" in done.out


@needs_stranger
def test_a_probe_needs_no_home_where_the_data_directory_is_named(tmp_path: Path) -> None:
    done = _as_stranger(tmp_path, "health", "web", EVERGRANT_DATA_DIR=str(tmp_path))

    assert done.code == 1
    assert done.complaint == (
        f"evergrant: web: no process on this host has a heartbeat in {tmp_path}/heartbeats/evergrant"
    )


@needs_stranger
def test_a_probe_that_cannot_know_where_to_look_says_so_in_one_line(tmp_path: Path) -> None:
    done = _as_stranger(tmp_path, "health", "web")

    assert done.code == 1
    assert done.complaint == "evergrant: EVERGRANT_DATA_DIR is missing: this user has no home directory"


@needs_stranger
def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    done = _as_stranger(tmp_path, HOME="/")

    assert done.code == 2
    assert done.complaint.endswith("/.local: Permission denied")


@pytest.mark.parametrize(
    ("locale", "zone"),
    [("C", "America/St_Johns"), ("tr_TR.UTF-8", "Nowhere/Here"), ("nonsense", "")],
)
def test_no_locale_and_no_time_zone_changes_what_is_kept_and_shown(
    cli: Cli, line: Line, locale: str, zone: str
) -> None:
    cold = replace(cli, warm=None, environment={**cli.environment, "LC_ALL": locale, "TZ": zone})
    grant = line(NAME, issued_at="2026-11-22T08:00:00Z", labels={"tenant": TENANT})

    cold.take_in(grant)
    here, there = (
        cold("grants", "show", NAME, "--json"),
        cli("grants", "show", NAME, "--json"),
    )

    assert here.code == 0, here.err
    assert here.documents == there.documents
    assert here.documents[0]["labels"] == {"tenant": TENANT}


def test_what_the_readme_starts_after_make_install_is_installed_by_it() -> None:
    root = Path(__file__).parents[2]
    assert "\n$ honcho start" in (root / "README.md").read_text()

    assert "\nhoncho==" in (root / "requirements.lock").read_text()
    assert Path(sys.executable).with_name("honcho").exists()
