"""`evergrant doctor` and `evergrant keys new`."""

import time
from base64 import b64decode
from pathlib import Path

import redis

from tests.support.callables import Line, StartValkey
from tests.support.command import Cli
from worker.sandbox.client import Sandbox


def test_the_embedded_server_with_a_reachable_provider_is_in_order(embedded: Cli, sandbox: Sandbox) -> None:
    done = embedded("doctor")

    assert done.code == 0
    levels = [row.split()[0] for row in done.out.splitlines()]
    assert set(levels) == {"ok"}
    assert f"client buddy: {sandbox.token_url} answers as a token endpoint does" in done.out


def test_a_store_that_takes_no_writes_is_named_as_that(cli: Cli, start_valkey: StartValkey) -> None:
    full = cli.having(REDIS_URL=f"unix://{start_valkey(maxmemory='1', maxmemory_policy='noeviction')}")

    doctor, status = full("doctor"), full("status")

    assert (doctor.code, status.code) == (1, 1)
    (row,) = [row for row in doctor.out.splitlines() if "writes" in row]
    assert row.startswith("bad      Redis refuses writes: OOM")
    assert "! the store: Redis refuses writes: OOM" in status.out
    assert "ok       Redis takes writes" in cli("doctor").out


def test_it_looks_at_workers_and_beat_where_there_are_grants(
    cli: Cli, line: Line, connection: redis.Redis
) -> None:
    assert "ok       no worker is alive, and there are no grants yet" in cli("doctor").out
    cli.take_in(line("one"))
    alone = cli("doctor").out
    prefix = f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:"
    connection.zadd(f"{prefix}workers", {"host-1:17:ab12cd": time.time() * 1000})

    together = cli("doctor")

    assert "warning  no worker is alive: nothing is refreshed until one is" in alone
    assert "warning  no beat is alive: nothing is refreshed until one is" in alone
    assert "ok       workers alive: host-1:17:ab12cd" in together.out
    assert together.code == 0


def test_a_rejected_client_and_a_record_that_cannot_be_read_are_bad(
    cli: Cli, line: Line, connection: redis.Redis
) -> None:
    cli.take_in(line("one"))
    prefix = f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:"
    connection.hset(f"{prefix}client:buddy", mapping={"state": "rejected", "reason": "invalid_client"})
    connection.set(f"{prefix}grant:one", b"\x00")

    done = cli("doctor")

    bad = [row for row in done.out.splitlines() if row.startswith("bad")]
    assert done.code == 1
    assert any("buddy: the provider rejects this client's credentials" in row for row in bad)
    assert any("one: its record cannot be read" in row for row in bad)


def test_files_with_secrets_that_others_can_read_are_named(cli: Cli, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    own = cli.having(DATA_DIR=str(data_dir))
    env = cli.home / ".env"
    env.write_text("EVERGRANT_LOG_LEVEL=error\n")
    env.chmod(0o600)
    assert "ok       no other user of this machine can read .env or the keys" in own("doctor").out

    env.chmod(0o644)
    data_dir.chmod(0o777)
    done = own("doctor")

    assert f"warning  others on this machine can read {env}: chmod o-rwx {env}" in done.out
    assert f"others on this machine can put files into {data_dir}" in done.out
    assert done.code == 0


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
