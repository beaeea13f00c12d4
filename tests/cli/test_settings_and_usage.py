"""What is wrong with settings, servers and command lines is one line that says what to do."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.callables import Line, NewCli, StartValkey
from tests.support.command import Cli

COMMANDS = (
    *("up", "serve", "demo", "token", "events", "audit", "status", "doctor", "keys new"),
    *("api-keys new", "api-keys list", "api-keys revoke"),
    *(
        f"grants {verb}"
        for verb in ("import", "list", "show", "export", "refresh", "pause", "resume", "delete")
    ),
)
WRONG = {
    "REDIS_URL": ("http://canary-value/", "redis://canary-value:port"),
    "KEYS": ("canary-value", "a:canary-value", "a:c2hvcnQ=", "a:", ",:"),
    "NAMESPACE": ("canary value", "{}"),
    "SWEEP_SECONDS": ("0", "canary-value", "NaN"),
    "REFRESH_AT": ("1", "0", "canary-value"),
    "HTTP_TIMEOUT_SECONDS": ("0", "inf"),
    "CLIENTS": ("canary-value",),
    "CLIENTS__BUDDY__PROVIDER": ("canary-value", ""),
    "CLIENTS__BUDDY__CLIENT_SECRET": ("",),
    "CLIENTS__BUDDY__TOKEN_URL": (
        "http://example.com/canary-value",
        "https://u:canary-value@example.com",
        "x",
    ),
    "CLIENTS__BUDDY__RATE_PER_SECOND": ("0", "canary-value"),
    "CLIENTS__BUDDY__COLOUR": ("canary-value",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    done = cli(*command.split(), "--help")

    assert (done.code, done.err) == (0, "")
    assert f"Usage: evergrant {command}" in done.out
    assert "Example: " in done.out
    assert f"evergrant {command}" in done.out.partition("Example: ")[2]


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("fly", "`evergrant --help`"),
        ("grants fly", "`evergrant grants --help`"),
        ("--fly", "`evergrant --help`"),
        ("grants list --fly", "`evergrant grants list --help`"),
        ("grants show", "`evergrant grants show --help`"),
        ("grants show one two", "`evergrant grants show --help`"),
        ("token one --min-ttl soon", "`evergrant token --help`"),
        ("token one --min-ttl inf", "`evergrant token --help`"),
        ("demo --grants 1", "`evergrant demo --help`"),
    ],
)
def test_a_command_line_that_is_wrong_is_one_line_with_a_hint(cli: Cli, typed: str, hint: str) -> None:
    done = cli(*typed.split())

    assert (done.code, done.out) == (2, "")
    assert done.complaint.startswith("evergrant: ")
    assert hint in done.complaint


@pytest.mark.parametrize("typed", ["", "grants", "keys"])
def test_a_group_without_a_command_is_answered_with_its_help(cli: Cli, typed: str) -> None:
    done = cli(*typed.split())

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Usage: evergrant {typed}".rstrip() + " ")
    assert "Commands:" in done.err


def test_a_status_that_does_not_exist_is_a_usage_error_that_names_those_that_do(cli: Cli) -> None:
    done = cli("grants", "list", "--status", "splendid")

    assert done.code == 2
    assert done.complaint == "evergrant: --status takes active, failing, failed, paused"


@pytest.fixture(scope="module")
def complaints(new_cli: NewCli) -> dict[tuple[str, str], Any]:
    """What a command says to each wrong setting; asked two at a time, as each is a process."""
    cli = new_cli()
    wrong = [(name, value) for name, values in WRONG.items() for value in values]
    with ThreadPoolExecutor(2) as two:
        done = two.map(lambda setting: cli.having(**dict([setting]))("grants", "list"), wrong)
        return dict(zip(wrong, done, strict=True))


@pytest.mark.parametrize(
    ("name", "value"), [(name, each) for name, values in WRONG.items() for each in values]
)
def test_a_wrong_setting_is_one_line_that_names_the_variable_and_not_its_value(
    complaints: dict[tuple[str, str], Any], name: str, value: str
) -> None:
    done = complaints[name, value]

    assert (done.code, done.out) == (2, "")
    assert f"EVERGRANT_{name}" in done.complaint
    assert "canary" not in done.complaint


def test_a_server_of_ones_own_asks_for_a_sealing_key(cli: Cli) -> None:
    done = cli.having(KEYS=None)("status")

    assert done.code == 2
    assert done.complaint.startswith("evergrant: EVERGRANT_KEYS is missing")


def test_a_dot_env_file_in_the_directory_is_read_and_the_environment_wins(cli: Cli) -> None:
    (cli.home / ".env").write_text("EVERGRANT_NAMESPACE=from-the-file\nEVERGRANT_SWEEP_SECONDS=wrong\n")

    assert "EVERGRANT_SWEEP_SECONDS" in cli("status").complaint
    assert "namespace from-the-file" in cli.having(NAMESPACE=None, SWEEP_SECONDS="5")("doctor").out


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1", "unix:///nowhere", "redis://u:canary-value@127.0.0.1:1"]
)
def test_a_redis_that_cannot_be_reached_is_one_line_and_exit_3(cli: Cli, url: str) -> None:
    done = cli.having(REDIS_URL=url)("status")

    assert (done.code, done.out) == (3, "")
    assert done.complaint.startswith("evergrant: EVERGRANT_REDIS_URL cannot be reached: ")
    assert "canary" not in done.err


def test_a_redis_that_refuses_to_write_is_one_line_and_exit_3(
    cli: Cli, line: Line, start_valkey: StartValkey
) -> None:
    full = start_valkey(appendonly="no")
    with redis.Redis(unix_socket_path=str(full)) as connection:
        connection.config_set("maxmemory", 1)
    refusing = cli.having(REDIS_URL=f"unix://{full}")
    (cli.home / "one.jsonl").write_text(str(line("one")).replace("'", '"'))

    done = refusing("grants", "import", "one.jsonl")

    assert (done.code, done.out) == (3, "")
    assert "EVERGRANT_REDIS_URL" in done.complaint


def test_the_embedded_server_makes_a_private_key_once_and_says_so(
    embedded: Cli, tmp_path: Path, line: Line
) -> None:
    key = tmp_path / "data" / "keys"

    first, second = (
        embedded("grants", "import", "-", given=str(line("one")).replace("'", '"')),
        embedded("token", "one"),
    )

    assert first.err.splitlines()[0].startswith(f"evergrant: made a sealing key in {key}: keep a copy")
    assert key.stat().st_mode & 0o777 == 0o600
    assert (second.code, second.out, second.err) == (0, "access-one\n", "")
    assert key.read_text().strip().partition(":")[2] not in first.out + first.err


def test_a_data_directory_that_cannot_be_used_is_one_line(embedded: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, no directory")

    without_key, with_key = embedded("status"), embedded.having(KEYS="a:" + "A" * 43 + "=")("status")

    assert (without_key.code, with_key.code) == (2, 3)
    assert str(tmp_path / "data") in without_key.complaint
    assert str(tmp_path / "data") in with_key.complaint
