"""`evergrant answers`: what an operator does with a reply that could not be read."""

import json
import re
from typing import Any

import pytest

from tests.support.callables import Issue
from tests.support.command import Cli
from worker.sandbox.client import Sandbox


@pytest.fixture
def kept(cli: Cli, enroll: Issue, sandbox: Sandbox) -> dict[str, Any]:
    """A grant whose reply could not be read."""
    grant = enroll()
    cli.take_in(grant)
    with sandbox.fault("unreadable"):
        assert cli("grants", "refresh", grant["id"]).code == 1
    return grant


def test_a_refresh_whose_reply_cannot_be_read_says_where_to_look(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    cli.take_in(grant)

    with sandbox.fault("unreadable"):
        first = cli("grants", "refresh", grant["id"])
    again = cli("grants", "refresh", grant["id"])

    assert (first.code, again.code) == (1, 1)
    assert first.complaint == again.complaint
    assert first.complaint == (
        f"evergrant: {grant['id']}: a reply came whose tokens could not be read;"
        " it is kept, and the old token is not presented again: see `evergrant answers show 1`"
    )
    assert len(list(sandbox.log(grant["id"]))) == 1


def test_the_list_names_each_kept_reply(cli: Cli, kept: dict[str, Any]) -> None:
    listed, readable = cli("answers", "list", "--json"), cli("answers", "list")

    assert (listed.code, readable.code) == (0, 0)
    (document,) = listed.documents
    assert document["number"] == 1
    assert (document["grant"], document["client"]) == (kept["id"], "buddy")
    assert document["detail"] == "http_200_not_json"
    assert document["size"] > 40_000
    assert set(document) == {
        *("number", "grant", "client", "received_at", "detail", "size", "access_token_expires_at")
    }
    assert readable.out.splitlines()[1].split()[:3] == ["1", kept["id"], "buddy"]


def test_show_masks_every_value_and_with_tokens_prints_the_reply(
    cli: Cli, kept: dict[str, Any], sandbox: Sandbox
) -> None:
    masked, whole = cli("answers", "show", "1"), cli("answers", "show", "1", "--with-tokens")

    secret = sandbox.grant(kept["id"])["access_token"]
    assert (masked.code, whole.code) == (0, 0)
    assert f"access_token: text, {len(secret)} characters" in masked.out
    assert "status        200" in masked.out
    assert "content-type" in masked.out
    assert secret not in masked.out
    assert json.loads(whole.out.strip("[]"))["access_token"] == secret


def test_status_and_show_say_which_grant_since_when_until_when_and_what_to_do(
    cli: Cli, kept: dict[str, Any]
) -> None:
    status, shown = cli("status"), cli("grants", "show", kept["id"])
    incidents = [line for line in cli("status", "--json").documents if line["kind"] == "incident"]

    assert status.code == 1
    (line,) = [line for line in status.out.splitlines() if kept["id"] in line]
    assert line.startswith(f"! {kept['id']}: failing, reply_unread since 20")
    assert re.search(r"Time left: (1h|59m)", line)
    assert "`evergrant answers show 1`" in line
    assert [
        (each["incident"], each["needs_a_person"]) for each in incidents if each["subject"] == kept["id"]
    ] == [("reply_unread", True)]
    assert "kept_reply                1" in shown.out


def test_a_grant_with_a_kept_reply_is_not_resumed_but_told_what_can_be_done(
    cli: Cli, kept: dict[str, Any]
) -> None:
    resumed = cli("grants", "resume", kept["id"])

    assert resumed.code == 1
    assert "`evergrant answers adopt 1` takes its tokens in" in resumed.complaint
    assert "`evergrant answers drop 1` gives it up" in resumed.complaint


def test_an_adopted_reply_brings_the_grant_back_and_the_provider_with_it(
    cli: Cli, kept: dict[str, Any], sandbox: Sandbox
) -> None:
    adopted = cli("answers", "adopt", "1")

    assert (adopted.code, adopted.err) == (0, "")
    assert adopted.out.startswith(f"adopted 1: {kept['id']} is active, version 1, the access token ends in ")
    assert cli("token", kept["id"]).out.strip() == sandbox.grant(kept["id"])["access_token"]
    assert cli("status").code == 0
    assert cli("answers", "list", "--json").out == ""
    types = [event["type"].removeprefix("evergrant.") for event in cli("events", "--json").documents]
    assert types == ["grant.failing", "provider.unavailable", "grant.recovered", "provider.recovered"]
    assert cli("grants", "refresh", kept["id"]).code == 0
    assert cli("answers", "adopt", "1").complaint.startswith(
        "evergrant: no reply is kept under the number 1;"
    )


@pytest.mark.usefixtures("kept")
def test_a_person_says_where_the_tokens_are(cli: Cli) -> None:
    path = ".".join(["0"] * 20_000)

    wrong = cli("answers", "adopt", "1", "--access-token", "data.token")
    right = cli(
        *("answers", "adopt", "1", "--access-token", f"{path}.access_token"),
        *("--refresh-token", f"{path}.refresh_token", "--expires-in", "7200"),
    )

    assert wrong.code == 1
    assert wrong.complaint == (
        "evergrant: reply 1 was not adopted: --access-token: it has no text at 'data.token'"
    )
    assert right.code == 0
    assert re.search(r"the access token ends in (2h|1h 59m)", right.out)


def test_all_are_adopted_at_once(cli: Cli, enroll: Issue, sandbox: Sandbox) -> None:
    grants = [enroll() for _ in range(3)]
    cli.take_in(*grants)
    with sandbox.fault("unreadable"):
        for grant in grants:
            cli("grants", "refresh", grant["id"])

    done = cli("answers", "adopt", "--all")

    assert (done.code, len(done.out.splitlines())) == (0, 3)
    assert {grant["version"] for grant in cli.grants().values()} == {1}
    assert cli("answers", "adopt", "--all").out == "no reply is kept\n"


def test_a_reply_without_tokens_is_refused_in_one_line_and_stays(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    cli.take_in(grant)
    with sandbox.fault("not_json"):
        cli("grants", "refresh", grant["id"])

    done = cli("answers", "adopt", "1")

    assert done.code == 1
    assert done.complaint.startswith(
        "evergrant: reply 1 was not adopted: it has no access token by that name"
    )
    assert len(cli("answers", "list", "--json").documents) == 1


def test_a_dropped_reply_is_gone_and_the_old_token_is_tried_again(
    cli: Cli, kept: dict[str, Any], sandbox: Sandbox
) -> None:
    dropped = cli("answers", "drop", "1")

    assert (dropped.code, dropped.out) == (0, f"dropped 1: the stored token of {kept['id']} is tried again\n")
    assert cli("answers", "drop", "1").code == 1
    assert cli("grants", "refresh", kept["id"]).code == 1  # it was used up, which a second try confirms
    assert cli.grants()[kept["id"]]["reason"] == "rejected"
    assert len(list(sandbox.log(kept["id"]))) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["adopt"], "adopt takes a number, or --all"),
        (["adopt", "1", "--all"], "adopt takes a number, or --all"),
        (["adopt", "--all", "--access-token", "a"], "--all takes no other option"),
        (["adopt", "one"], "Input should be a valid integer"),
        (["adopt", "1", "--expires-in", "0"], "greater than or equal to 1"),
        (["show"], "Missing argument 'N'"),
    ],
)
def test_what_is_typed_wrong_is_one_line_and_exit_2(cli: Cli, arguments: list[str], complaint: str) -> None:
    done = cli("answers", *arguments)

    assert done.code == 2
    assert complaint in done.complaint


@pytest.mark.parametrize("command", ["show", "adopt", "drop"])
def test_a_number_that_is_not_kept_is_one_line_and_exit_1(cli: Cli, command: str) -> None:
    done = cli("answers", command, "7")

    assert done.code == 1
    assert (
        "no reply is kept under the number 7; `evergrant answers list` names those that are" in done.complaint
    )


@pytest.mark.parametrize("command", ["list", "show", "adopt", "drop"])
def test_each_command_has_an_example(cli: Cli, command: str) -> None:
    assert f"Example: evergrant answers {command}" in cli("answers", command, "--help").out


def test_no_token_is_printed_by_any_command_that_was_not_asked_for_it(
    cli: Cli, kept: dict[str, Any], sandbox: Sandbox
) -> None:
    issued = sandbox.grant(kept["id"])
    secrets = [*(kept[name] for name in ("access_token", "refresh_token")), issued["access_token"]]
    secrets.append(issued["refresh_token"])
    commands = [
        *(
            "answers list",
            "answers list --json",
            "answers show 1",
            "status",
            "status --json",
            "events --json",
        ),
        *(f"grants show {kept['id']}", f"grants show {kept['id']} --json", f"grants resume {kept['id']}"),
        *("answers adopt 1 --access-token x", f"grants refresh {kept['id']}", "answers adopt 1", "events"),
    ]

    said = {command: cli(*command.split()) for command in commands}

    leaks = [
        (command, each) for command, done in said.items() for each in secrets if each in done.out + done.err
    ]
    assert leaks == []
