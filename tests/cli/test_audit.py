"""`evergrant audit`: who did what, to which grant, and from where."""

import signal
import socket
from pathlib import Path

from tests.support.callables import Line
from tests.support.command import Cli
from tests.support.waiting import eventually


def test_what_commands_change_is_told_by_whom_and_where(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"), line("two"))
    cli("grants", "pause", "one")
    cli("token", "two")
    cli("grants", "resume", "--client", "buddy", "--status", "paused", "--yes")
    cli("grants", "delete", "two")
    cli("api-keys", "new", "shop", "--scopes", "admin")
    cli("api-keys", "revoke", "shop")

    said = cli("audit", "--json").documents

    assert [(entry["what"], entry.get("grant") or entry.get("key")) for entry in said] == [
        ("put", "one"),
        ("put", "two"),
        ("pause", "one"),
        ("token", "two"),
        ("resume", "one"),
        ("delete", "two"),
        ("key_made", "shop"),
        ("key_revoked", "shop"),
    ]
    assert {entry["from"] for entry in said} == {socket.gethostname()}
    assert len({entry["actor"] for entry in said}) == 1
    assert said[3]["promised_until"] > said[3]["at"]
    assert "refresh-one" not in cli("audit").out


def test_a_grant_an_actor_and_a_place_narrow_it(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"), line("two"))
    cli("grants", "pause", "one")
    first = cli("audit", "--json").documents[0]

    assert [entry["what"] for entry in cli("audit", "--grant", "one", "--json").documents] == ["put", "pause"]
    assert len(cli("audit", "--actor", first["actor"], "--json").documents) == 3
    assert cli("audit", "--actor", "nobody").out == ""
    assert len(cli("audit", "--since", first["streamid"], "--json").documents) == 2
    told = cli("audit", "--grant", "two").out
    assert "put" in told
    assert first["actor"] in told


def test_a_bad_place_is_refused(cli: Cli) -> None:
    done = cli("audit", "--since", "yesterday")

    assert (done.code, done.complaint) == (
        2,
        "evergrant: --since takes a stream id such as 1795322840527-0",
    )


def test_followed_it_tells_what_is_still_to_come(cli: Cli, line: Line, tmp_path: Path) -> None:
    cli.take_in(line("one"))
    log = tmp_path / "audit.log"
    with log.open("wb") as output, cli.running("audit", "--follow", "--since", "0", output=output) as process:
        eventually(lambda: " put " in log.read_text())
        cli("grants", "pause", "one")
        eventually(lambda: " pause " in log.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
