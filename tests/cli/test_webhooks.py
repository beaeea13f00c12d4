"""`evergrant webhooks`: a secret is shown once, and a webhook is listed without it."""

import re
from base64 import b64decode

import pytest
import redis

from tests.support.command import Cli

SECRET = re.compile(r"whsec_([A-Za-z0-9+/]{43}=)\n")
ID = re.compile(r"wh_[0-9a-f]{12}\n")
URL = "https://app.example/hooks"


def test_a_secret_is_alone_on_standard_output_and_is_shown_no_second_time(cli: Cli) -> None:
    made = cli("webhooks", "add", URL, "--types", "grant.failed,evergrant.grant.expiring", "--label", "a=b")
    listed, told = cli("webhooks", "list", "--json"), cli("webhooks", "list")

    secret = SECRET.fullmatch(made.out)
    assert secret is not None
    assert len(b64decode(secret[1])) == 32
    assert ID.fullmatch(made.err)
    (webhook,) = listed.documents
    assert (webhook["id"], webhook["url"], webhook["labels"]) == (made.err.strip(), URL, {"a": "b"})
    assert webhook["types"] == ["evergrant.grant.expiring", "evergrant.grant.failed"]
    assert (webhook["state"], webhook["waiting"], webhook["oldest_undelivered_at"]) == ("active", 0, None)
    assert [word in told.out for word in (webhook["id"], "grant.expiring,grant.failed", "a=b")] == [True] * 3
    assert secret[1] not in listed.out + told.out


def test_a_webhook_is_given_a_new_secret_enabled_replayed_and_removed(cli: Cli) -> None:
    made = cli("webhooks", "add", URL)
    webhook = made.err.strip()

    rotated = cli("webhooks", "rotate-secret", webhook)
    listed = cli("webhooks", "list", "--json").documents[0]
    enabled = cli("webhooks", "enable", webhook)
    replayed = cli("webhooks", "replay", webhook, "--since", "1")
    removed, again = cli("webhooks", "remove", webhook), cli("webhooks", "remove", webhook)
    entries = cli("audit", "--json").documents

    assert SECRET.fullmatch(rotated.out)
    assert rotated.out != made.out
    assert listed["old_secret_signs_until"]
    assert (enabled.out, removed.out) == (f"enabled {webhook}\n", f"removed {webhook}\n")
    assert replayed.out == "it has not come further than that\n"
    assert (again.code, again.complaint) == (1, f"evergrant: no webhook has the id '{webhook}'")
    assert [(entry["what"], entry["webhook"]) for entry in entries] == [
        (what, webhook) for what in ("webhook_added", "webhook_secret", "webhook_enabled", "webhook_removed")
    ]


def test_a_test_that_is_not_answered_with_a_2xx_says_so_by_its_exit_code(cli: Cli) -> None:
    webhook = cli("webhooks", "add", "http://127.0.0.1:9/hooks").err.strip()

    tested = cli("webhooks", "test", webhook)

    assert (tested.code, tested.out) == (1, "could_not_connect\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "http://app.example/"], "URL takes an https:// URL; plain http:// is for loopback"),
        (["add", "https://10.0.0.1/"], "URL 10.0.0.1 is no public address"),
        (["add", "nonsense"], "URL takes an https:// URL"),
        (
            ["add", URL, "--types", "grant.eaten"],
            "--types takes grant.refreshed, grant.failing, grant.failed",
        ),
        (["add", URL, "--types", ""], "--types takes grant.refreshed"),
        (["add", URL, "--types", "webhook.test"], "--types takes grant.refreshed"),
        (["add", URL, "--label", "acme"], "--label takes KEY=VALUE"),
        (["replay", "wh_0", "--since", "yesterday"], "--since takes a stream id such as"),
        (["replay", "wh_0"], "Missing option '--since'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("webhooks", *arguments)

    assert (done.code, done.out) == (2, "")
    assert done.complaint.startswith(f"evergrant: {said}")


@pytest.mark.parametrize("command", ["remove", "test", "rotate-secret", "enable"])
def test_a_webhook_that_is_not_there_is_named(cli: Cli, command: str) -> None:
    done = cli("webhooks", command, "wh_0")

    assert (done.code, done.complaint) == (1, "evergrant: no webhook has the id 'wh_0'")


def test_a_private_range_is_allowed_by_a_setting_and_a_wrong_one_is_refused(cli: Cli) -> None:
    allowed = cli.having(WEBHOOK_PRIVATE_RANGES="10.0.0.0/8, fd00::/8")("webhooks", "add", "http://10.0.0.1/")
    wrong = cli.having(WEBHOOK_PRIVATE_RANGES="10.0.0.1/8")("webhooks", "list")

    assert allowed.code == 0
    assert wrong.code == 2
    assert wrong.complaint.startswith(
        "evergrant: EVERGRANT_WEBHOOK_PRIVATE_RANGES takes networks such as 10.0.0.0/8,fd00::/8"
    )


def test_a_webhook_that_takes_nothing_is_named_by_doctor(cli: Cli, connection: redis.Redis) -> None:
    webhook = cli("webhooks", "add", URL).err.strip()
    prefix = f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:"
    well = cli("doctor").out
    connection.hset(f"{prefix}webhook:{webhook}", "failing_since", "1795322840527")

    failing = cli("doctor").out
    connection.hset(
        f"{prefix}webhook:{webhook}", mapping={"disabled_at": "1795322840527", "disabled_for": "gone"}
    )
    disabled = cli("doctor").out

    assert webhook not in well
    assert f"warning  {webhook}: https://app.example has taken nothing since 2026-11-22" in failing
    assert f"bad      {webhook}: https://app.example answered 410, and is told nothing" in disabled
