"""The image and the compose file: what goes in, who may do what, and where they meet."""

import os
import tomllib
from pathlib import Path

import pytest
import redis

from config import Settings
from tests.support.deploy_kit import (
    DEPLOY,
    INSTALLED,
    ROLES,
    ROOT,
    admitted_to_image,
    build_steps,
    compose,
    dockerfile,
    image_variables,
    of_compose,
)
from tests.support.servers import directory_for_sockets, start_valkey

SERVICES = compose()["services"]
DATA = image_variables()["EVERGRANT_DATA_DIR"]


def _last(name: str) -> str:
    return dict(dockerfile())[name]


def test_the_image_is_made_of_what_the_wheel_is_made_of_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = [project["project"]["readme"], *project["project"]["license-files"]]

    assert "\n*\n" in (ROOT / ".dockerignore").read_text()
    assert sorted(admitted_to_image()) == sorted([*packages, *files, "pyproject.toml", "requirements.lock"])


def test_the_image_installs_the_lock_files_versions_by_their_hashes() -> None:
    of_the_lock, ours = build_steps()

    assert "--require-hashes --requirement requirements.lock" in of_the_lock
    assert "--only-binary :all:" in of_the_lock
    assert "--no-deps" in ours


def test_the_image_has_one_python_throughout() -> None:
    """The environment of the first stage links to an interpreter, which the last stage must have, too."""
    assert len({rest.split()[0] for name, rest in dockerfile() if name == "FROM"}) == 1
    assert _last("COPY") == f"--from=build {INSTALLED} {INSTALLED}"
    assert image_variables()["PATH"].startswith(f"{INSTALLED}/bin:")


def test_the_image_runs_as_a_numbered_user_who_owns_the_data_directory() -> None:
    user, _, group = _last("USER").partition(":")

    assert int(user) >= 10_000
    assert int(group) >= 10_000
    assert f"--owner {user} --group {group} {DATA}" in _last("RUN")


def test_no_secret_and_no_setting_of_one_deployment_is_in_the_image() -> None:
    settings = {name for name in image_variables() if name.startswith("EVERGRANT_")}

    assert settings == {"EVERGRANT_DATA_DIR", "EVERGRANT_HTTP_HOST"}
    assert [name for name, _ in dockerfile() if name in {"ARG", "ADD", "VOLUME"}] == []


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_no_rights_and_a_read_only_file_system(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]


@pytest.mark.parametrize("role", ROLES)
def test_our_services_share_one_image_wait_for_redis_and_have_an_init(role: str) -> None:
    service = SERVICES[role]

    assert service["image"] == SERVICES["web"]["image"]
    assert service["pull_policy"] == "never"
    assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert service["init"] is True
    assert "store" in service["networks"]


def test_a_missing_directory_of_secrets_is_an_error_not_an_empty_directory_of_roots() -> None:
    (secrets,) = [each for each in SERVICES["web"]["volumes"] if isinstance(each, dict)]

    assert secrets["read_only"] is True
    assert secrets["bind"]["create_host_path"] is False


def test_what_holds_secrets_on_the_host_is_never_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()

    assert {"/deploy/evergrant.env", "/deploy/secrets/"} <= set(ignored)


def test_the_ports_are_the_services_own_and_reachable_from_this_machine_alone() -> None:
    port = Settings(data_dir=Path(DATA)).http_port
    metrics = of_compose()["web"].variables["EVERGRANT_METRICS_PORT"]

    assert SERVICES["web"]["ports"] == [f"127.0.0.1:{each}:{each}" for each in (port, metrics)]
    assert _last("EXPOSE") == str(port)
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["web"]


def test_redis_is_reached_by_its_name_on_a_network_without_a_way_out() -> None:
    (url,) = {each.variables["EVERGRANT_REDIS_URL"] for each in of_compose().values()}

    assert url == "redis://redis:6379/0"
    assert SERVICES["redis"]["networks"] == ["store"]
    assert compose()["networks"]["store"]["internal"] is True


def test_redis_keeps_every_write_and_evicts_nothing() -> None:
    """A server takes these very options."""
    program, *words = SERVICES["redis"]["command"]
    given = dict(zip([word.removeprefix("--") for word in words[::2]], words[1::2], strict=True))
    directory = given.pop("dir")
    with directory_for_sockets() as home:
        server = start_valkey(home, **given)
        try:
            with redis.Redis(unix_socket_path=str(server.socket), decode_responses=True) as connection:
                kept = {name: connection.config_get(name)[name] for name in given}
        finally:
            server.kill()

    assert program == "valkey-server"
    assert SERVICES["redis"]["volumes"] == [f"redis:{directory}"]
    assert kept == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "protected-mode": "no",
    }


def test_everything_that_must_outlive_a_container_is_on_a_named_volume() -> None:
    assert set(compose()["volumes"]) == {"journals", "redis"}
    assert {each.mounts["data"] for each in of_compose().values()} == {DATA}


def test_the_examples_are_files_that_the_compose_file_names() -> None:
    assert (DEPLOY / f"{SERVICES['web']['env_file']}.example").is_file()
    assert not os.access(DEPLOY / "evergrant.env.example", os.X_OK)
