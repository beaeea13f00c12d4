"""`evergrant doctor` and `evergrant keys new`."""

from base64 import b64decode

from tests.support.callables import Line, StartValkey
from tests.support.command import Cli
from worker.sandbox.client import Sandbox


def test_the_embedded_server_with_a_reachable_provider_is_in_order(embedded: Cli, sandbox: Sandbox) -> None:
    done = embedded("doctor")

    assert done.code == 0
    levels = [row.split()[0] for row in done.out.splitlines()]
    assert set(levels) == {"ok"}
    assert f"client buddy: {sandbox.token_url} answers" in done.out


def test_findings_as_json_are_one_object_a_line_and_the_exit_code_is_the_same(cli: Cli) -> None:
    nowhere = cli.having(CLIENTS__BUDDY__TOKEN_URL="http://127.0.0.1:1/token")

    rows, done = nowhere("doctor").out.splitlines(), nowhere("doctor", "--json")

    assert done.code == 1
    assert [(each["level"], each["text"][:9]) for each in done.documents] == [
        (row.split()[0], row[9:18]) for row in rows
    ]
    assert {"ok", "bad"} <= {each["level"] for each in done.documents}


def test_a_server_that_evicts_is_refused_and_one_without_a_log_on_disk_is_warned_of(
    cli: Cli, start_valkey: StartValkey
) -> None:
    evicting = start_valkey(maxmemory_policy="allkeys-lru", appendonly="no")

    done = cli.having(REDIS_URL=f"unix://{evicting}")("doctor")

    assert done.code == 1
    rows = {row.split()[0]: row for row in done.out.splitlines()}
    assert "maxmemory-policy is allkeys-lru" in rows["bad"]
    assert "the append-only file is off" in rows["warning"]


def test_a_log_that_is_off_alone_is_a_warning_and_no_failure(cli: Cli) -> None:
    done = cli("doctor")

    assert done.code == 0
    assert [row.split()[0] for row in done.out.splitlines()].count("warning") == 1


def test_a_broker_of_its_own_that_evicts_is_a_warning_and_no_failure(
    cli: Cli, start_valkey: StartValkey
) -> None:
    evicting = start_valkey(maxmemory_policy="allkeys-lru")

    done = cli.having(BROKER_URL=f"unix://{evicting}")("doctor")

    assert done.code == 0
    (row,) = [row for row in done.out.splitlines() if "broker" in row]
    assert row.startswith("warning")
    assert "maxmemory-policy is allkeys-lru" in row


def test_a_broker_that_is_the_store_under_another_name_is_not_looked_at_twice(cli: Cli) -> None:
    done = cli.having(BROKER_URL=cli.environment["EVERGRANT_REDIS_URL"] + "?db=1")("doctor")

    assert done.code == 0
    assert "broker" not in done.out


def test_a_broker_that_cannot_be_reached_is_a_failure_and_its_password_is_not_shown(cli: Cli) -> None:
    done = cli.having(BROKER_URL="redis://:swordfish@127.0.0.1:1/0")("doctor")

    assert done.code == 1
    (row,) = [row for row in done.out.splitlines() if row.startswith("bad")]
    assert "EVERGRANT_BROKER_URL cannot be reached" in row
    assert "swordfish" not in done.out + done.err


def test_a_broker_with_options_of_celerys_is_left_alone(cli: Cli) -> None:
    done = cli.having(BROKER_URL="redis://127.0.0.1:1/0?visibility_timeout=60")("doctor")

    assert done.code == 0
    assert "EVERGRANT_BROKER_URL has options of Celery's" in done.out


def test_a_token_endpoint_that_cannot_be_reached_is_a_failure(cli: Cli) -> None:
    nowhere = cli.having(CLIENTS__BUDDY__TOKEN_URL="http://127.0.0.1:1/token")

    done = nowhere("doctor")

    assert done.code == 1
    assert "client buddy: http://127.0.0.1:1/token cannot be reached" in done.out


def test_a_new_key_is_thirty_two_bytes_that_the_settings_take_and_never_twice_the_same(
    cli: Cli, line: Line
) -> None:
    first, second = cli("keys", "new").out.strip(), cli("keys", "new").out.strip()
    assert first != second
    assert len(b64decode(first.partition(":")[2], validate=True)) == 32

    cli.having(KEYS=first).take_in(line("one"))
    rolled = cli.having(KEYS=f"{second},{first}")

    assert rolled("token", "one").out == "access-one\n"
    assert cli.having(KEYS=second)("token", "one").code == 1
