"""`evergrant grants`: list, show, pause, resume, delete; what else is printed where."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.callables import Line
from tests.support.command import Cli


def test_a_list_can_be_narrowed_to_a_status_and_to_a_client(cli: Cli, line: Line) -> None:
    both = cli.having(
        CLIENTS__DUTY__PROVIDER="pagerduty", CLIENTS__DUTY__CLIENT_ID="c", CLIENTS__DUTY__CLIENT_SECRET="s"
    )
    both.take_in(
        line("a"),
        line("b", status="paused"),
        line("c", client="duty"),
        line("d", client="duty", status="failed"),
    )

    def ids(*options: str) -> set[str]:
        return {document["id"] for document in both("grants", "list", "--json", *options).documents}

    assert ids() == {"a", "b", "c", "d"}
    assert ids("--status", "paused") == {"b"}
    assert ids("--client", "duty") == {"c", "d"}
    assert ids("--client", "duty", "--status", "active") == {"c"}
    assert ids("--client", "nobody") == set()


def test_a_list_for_people_has_one_line_a_grant_under_its_header(cli: Cli, line: Line) -> None:
    cli.take_in(line("user-42/buddy"), line("endless", expires_in=None, refresh_token=None))

    header, *rows = cli("grants", "list").out.splitlines()

    assert header.split()[:3] == ["ID", "CLIENT", "STATUS"]
    by_id = {row.split()[0]: row for row in rows}
    assert by_id.keys() == {"user-42/buddy", "endless"}
    column = slice(header.index("TOKEN ENDS IN"), header.index("DUE IN"))
    assert by_id["user-42/buddy"][column].startswith(("8h", "7h 59m"))
    assert by_id["endless"][column].strip() == "never"


def test_show_says_all_of_a_grant_but_its_tokens(cli: Cli, line: Line) -> None:
    cli.take_in(line("one", labels={"tenant": "acme"}, scope="WORKSPACE", version=7))

    shown, text = cli("grants", "show", "one", "--json"), cli("grants", "show", "one")

    (document,) = shown.documents
    expected = {"id": "one", "client": "buddy", "status": "active", "version": 7, "scope": "WORKSPACE"}
    assert document.items() >= (expected | {"failures": 0, "reason": None}).items()
    assert document["labels"] == {"tenant": "acme"}
    assert {"expires_at", "issued_at", "refresh_token_expires_at", "next_due_at"} <= document.keys()
    assert document["next_due_reason"] == "access_token_share"
    rows = dict(row.split(maxsplit=1) for row in text.out.splitlines())
    assert rows.keys() == document.keys()
    assert rows["labels"] == "tenant=acme"
    assert rows["next_due_reason"] == "about 2/3 of its access token's life is over then"
    assert "access-one" not in shown.out + text.out


def test_an_id_that_nobody_has_is_one_line_and_exit_1(cli: Cli) -> None:
    verbs = ["show", "refresh", "pause", "resume", "delete"]
    with ThreadPoolExecutor(2) as two:
        said = list(two.map(lambda verb: cli("grants", verb, "nobody"), verbs))

    assert {(done.code, done.out) for done in said} == {(1, "")}
    assert {done.complaint for done in said} == {"evergrant: no grant has the id 'nobody'"}


def test_an_id_that_is_no_utf8_is_a_usage_error(cli: Cli) -> None:
    done = cli("grants", "show", b"\xff")

    assert done.code == 2
    assert "takes UTF-8" in done.complaint


def test_pausing_takes_a_grant_out_of_work_and_resuming_puts_it_back_however_often(
    cli: Cli, line: Line
) -> None:
    cli.take_in(line("one"))
    calls = ["pause", "pause", "resume", "resume"]

    said = [(done.code, done.out) for done in (cli("grants", verb, "one") for verb in calls[:2])]
    paused = cli.grants()["one"]
    said += [(done.code, done.out) for done in (cli("grants", verb, "one") for verb in calls[2:])]
    resumed = cli.grants()["one"]

    assert said == [
        (0, "paused one\n"),
        (0, "one is paused already\n"),
        (0, "resumed one\n"),
        (0, "one is active already\n"),
    ]
    assert (paused["status"], paused["next_due_at"], paused["next_due_reason"]) == ("paused", None, None)
    assert resumed["status"] == "active"
    assert resumed["next_due_at"] is not None


def test_resuming_a_failed_grant_gives_it_another_bout_of_tries(cli: Cli, line: Line) -> None:
    cli.take_in(line("one", status="failed"))

    assert cli("grants", "resume", "one").code == 0
    resumed = cli.grants()["one"]
    assert (resumed["status"], resumed["next_due_reason"]) == ("failing", "retry")


def test_a_deleted_grant_is_gone_and_cannot_be_deleted_again(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"), line("two"))

    assert cli("grants", "delete", "one").out == "deleted one\n"
    assert cli.grants().keys() == {"two"}
    assert cli("grants", "delete", "one").code == 1


def test_json_is_utf8_whatever_the_terminal_speaks(cli: Cli, line: Line) -> None:
    cli.take_in(line("grün/☃"))
    cli.environment["PYTHONIOENCODING"] = "ascii"

    assert cli("grants", "list", "--json").documents[0]["id"] == "grün/☃"


def test_a_reader_that_goes_away_early_is_no_error(cli: Cli) -> None:
    with cli.running("keys", "new") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()

        assert (process.wait(), told) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_backup_on_a_full_disk_is_an_error(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"))
    full = ["sh", "-c", 'exec "$0" grants export --with-tokens > /dev/full', cli.command]

    done = subprocess.run(full, check=False, capture_output=True, cwd=cli.home, env=cli.environment)  # noqa: S603

    assert done.returncode == 1
    assert done.stderr == b"evergrant: standard output: No space left on device\n"


def test_an_export_names_what_it_cannot_unseal_and_exits_1(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"))
    other = cli.having(KEYS=cli("keys", "new").out.strip())

    done = other("grants", "export", "--with-tokens")

    assert (done.code, done.out) == (1, "")
    assert "one: sealed with the key 'k1', which is not in EVERGRANT_KEYS" in done.complaint
    assert json.loads(other("grants", "export").out)["id"] == "one"
