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
    assert f"client buddy: {sandbox.token_url} answers as a token endpoint does" in done.out


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


def test_a_rabbitmq_that_cannot_be_reached_is_a_failure_and_its_password_is_not_shown(cli: Cli) -> None:
    done = cli.having(BROKER_URL="amqp://evergrant:swordfish@127.0.0.1:1//")("doctor")

    (row,) = [row for row in done.out.splitlines() if "BROKER" in row]
    assert done.code == 1
    assert row.startswith("bad")
    assert "EVERGRANT_BROKER_URL cannot be reached" in row
    assert "swordfish" not in done.out + done.err


def test_a_token_endpoint_that_cannot_be_reached_is_a_failure(cli: Cli) -> None:
    nowhere = cli.having(CLIENTS__BUDDY__TOKEN_URL="http://127.0.0.1:1/token")

    done = nowhere("doctor")

    assert done.code == 1
    assert "client buddy: http://127.0.0.1:1/token cannot be reached" in done.out


def test_an_endpoint_that_clients_share_is_asked_once_and_one_that_is_not_there_is_told(
    cli: Cli, sandbox: Sandbox
) -> None:
    of_duty = {"PROVIDER": "oauth2", "CLIENT_ID": "sandbox-client", "CLIENT_SECRET": "canary"}
    several = cli.having(
        **{f"CLIENTS__DUTY__{name}": value for name, value in of_duty.items()},
        CLIENTS__DUTY__TOKEN_URL=sandbox.token_url,
        **{f"CLIENTS__LOST__{name}": value for name, value in of_duty.items()},
        CLIENTS__LOST__TOKEN_URL=f"{sandbox.url}/nowhere",
    )
    before = sandbox.totals()

    done = several("doctor")

    after = sandbox.totals()
    assert done.code == 1
    assert f"clients buddy, duty: {sandbox.token_url} answers as a token endpoint does" in done.out
    assert f"bad      client lost: {sandbox.url}/nowhere is no token endpoint: HTTP 404" in done.out
    assert "warning  clients buddy, duty have one CLIENT_ID at one token endpoint" in done.out
    assert after["requests"] == before["requests"] + 1
    assert after["wrong_client"] == before["wrong_client"] + 1  # it named none
    assert "canary" not in done.out + done.err


def test_keys_are_resealed_and_it_is_said_when_the_old_one_may_go(cli: Cli, line: Line) -> None:
    first, second = cli("keys", "new").out.strip(), cli("keys", "new").out.strip()
    first, second = f"old:{first.partition(':')[2]}", f"new:{second.partition(':')[2]}"
    cli.having(KEYS=first).take_in(line("one"), line("two"))
    rolled, alone = cli.having(KEYS=f"{second},{first}"), cli.having(KEYS=second)

    before, missing = rolled("doctor"), alone("doctor")
    done, again = rolled("keys", "reseal"), rolled("keys", "reseal")
    after = rolled("doctor")

    assert "warning  old is still needed: 2 grants; `evergrant keys reseal` replaces it" in before.out
    assert missing.code == 1
    assert (
        "bad      old is still needed: 2 grants, and it is not in EVERGRANT_KEYS: put it back" in missing.out
    )
    assert (done.code, done.out) == (0, "sealed anew 2\nno grant needs old any more\n")
    assert (again.code, again.out) == (0, "sealed anew 0\nno grant needs old any more\n")
    assert "ok       no grant needs old any more" in after.out
    assert alone("token", "one").out == "access-one\n"


def test_a_key_that_is_missing_is_named_by_a_reseal_and_nothing_is_lost(cli: Cli, line: Line) -> None:
    first, second = (f"{name}:{cli('keys', 'new').out.strip().partition(':')[2]}" for name in ("old", "new"))
    cli.having(KEYS=first).take_in(line("one"))

    done = cli.having(KEYS=second)("keys", "reseal")

    assert (done.code, done.out) == (1, "sealed anew 0\nold is still needed: 1 grants\n")
    assert done.complaint == "one: sealed with the key 'old', which is not in EVERGRANT_KEYS"
    assert cli.having(KEYS=first)("token", "one").out == "access-one\n"


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
