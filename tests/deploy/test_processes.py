"""Every platform starts the same processes, each with its settings, its time to end and its probes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config import ClientSettings, Settings, load_settings
from config.forms import SECRETS_DIR
from tests.support.deploy_kit import (
    DEPLOY,
    ROLES,
    ROOT,
    Started,
    dockerfile,
    image_command,
    image_variables,
    of_compose,
    of_kubernetes,
    of_procfile,
    of_systemd,
)
from tests.support.live import KEY
from worker.runtime.timing import longest_call_seconds, longest_run_seconds

PROCFILE = of_procfile(ROOT / "Procfile")
PLATFORMS = {"compose": of_compose(), "kubernetes": of_kubernetes(), "systemd": of_systemd()}
STARTED = [started for processes in PLATFORMS.values() for started in processes.values()]
SECRETS = {
    "EVERGRANT_KEYS": KEY,
    "EVERGRANT_REDIS_URL": "redis://store.example.com:6379/0",
    "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET": "a-secret",
}


def texts() -> Iterator[tuple[Path, str]]:
    """Everything that names a variable."""
    for path in [*DEPLOY.rglob("*"), ROOT / "docs" / "deploy.md", ROOT / ".dockerignore"]:
        if path.is_file() and path.suffix not in {".json", ".env"} and "secrets" not in path.parts:
            yield path, path.read_text()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_platform_starts_the_processes_of_the_procfile(platform: str) -> None:
    assert tuple(PROCFILE) == ROLES
    assert {role: each.command for role, each in PLATFORMS[platform].items()} == {
        role: each.command for role, each in PROCFILE.items()
    }


def test_the_image_by_itself_is_the_service() -> None:
    assert image_command() == PROCFILE[image_variables()["ROLE"]].command


def test_every_variable_that_is_named_is_a_setting() -> None:
    known = {name.upper() for name in Settings.model_fields} | {"SECRETS_DIR"}
    of_a_client = {name.upper() for name in ClientSettings.model_fields}
    unknown = set()
    for path, text in texts():
        for name in re.findall(r"\bEVERGRANT_([A-Z][A-Z0-9_]*)", text):
            _, _, setting = name.removeprefix("CLIENTS__").partition("__")
            if not (setting in of_a_client if name.startswith("CLIENTS__") else name in known):
                unknown.add((path.name, name))

    assert unknown == set()


@pytest.mark.parametrize("started", STARTED, ids=str)
def test_what_a_process_is_given_are_settings_that_it_takes(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the secrets that the pages ask for, and the id that each file leaves open."""
    for name, value in SECRETS.items():
        (tmp_path / name).write_text(value)
    monkeypatch.chdir(tmp_path)
    given = {name: value for name, value in started.variables.items() if name.startswith("EVERGRANT_")}
    for name, value in (given | {"EVERGRANT_SECRETS_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value or "an-id")

    settings = load_settings()

    assert str(settings.data_dir) == started.mounts["data"]
    assert started.variables.get("EVERGRANT_SECRETS_DIR", str(SECRETS_DIR)) == started.mounts["secrets"]
    assert settings.clients["buddy"].client_id == "an-id"
    assert not settings.uses_embedded_server


@pytest.mark.parametrize("started", STARTED, ids=str)
def test_nobody_is_killed_before_it_has_stored_what_is_in_flight(started: Started) -> None:
    settings = Settings(data_dir=Path("/var/lib/evergrant"))
    needed = {"worker": longest_run_seconds(settings), "beat": 10, "web": longest_call_seconds(settings)}

    assert started.stop_seconds is not None
    assert started.stop_seconds > needed[started.role]


@pytest.mark.parametrize("longest", [longest_run_seconds, longest_call_seconds])
def test_with_a_longer_timeout_as_much_more_time_is_needed_as_the_page_says(
    longest: Callable[[Settings], float],
) -> None:
    settings = Settings(data_dir=Path("/var/lib/evergrant"), http_timeout_seconds=10)
    longer = settings.model_copy(update={"http_timeout_seconds": 20})

    assert "add 6 s for each second more" in (ROOT / "docs" / "deploy.md").read_text()
    assert longest(longer) - longest(settings) == 6 * 10


@pytest.mark.parametrize("started", [each for each in STARTED if each.platform != "systemd"], ids=str)
def test_each_process_is_probed_by_the_command_for_its_role(started: Started) -> None:
    assert set(started.probes) == {("evergrant", "health", started.role)}


def test_the_image_is_probed_for_the_role_that_it_is_told() -> None:
    (probe,) = [rest for name, rest in dockerfile() if name == "HEALTHCHECK"]

    assert probe.endswith(r"""CMD ["sh", "-c", "exec evergrant health \"$ROLE\""]""")
    assert image_variables()["ROLE"] in ROLES


def test_in_a_container_the_service_listens_beyond_it_and_elsewhere_it_does_not() -> None:
    assert PLATFORMS["compose"]["web"].variables["EVERGRANT_HTTP_HOST"] == "0.0.0.0"  # noqa: S104 that is the point
    assert PLATFORMS["kubernetes"]["web"].variables["EVERGRANT_HTTP_HOST"] == "0.0.0.0"  # noqa: S104 the same
    assert "EVERGRANT_HTTP_HOST" not in PLATFORMS["systemd"]["web"].variables
