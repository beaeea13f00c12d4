"""`evergrant grants refresh` and `evergrant token`: tokens on demand."""

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.callables import Issue, Line, MakeDue
from tests.support.command import Cli
from tests.support.waiting import eventually
from worker.adapters.embedded import EmbeddedServer
from worker.cli.tokens import no_token, sentence
from worker.core.grant import Status
from worker.core.promises import Refusal
from worker.fleet.handing_out import HandOutError
from worker.fleet.tokens import TokenError, TokenFailure
from worker.sandbox.client import Sandbox


def test_a_refresh_prints_the_new_version_and_the_provider_has_rotated_once(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    cli.take_in(grant)

    done = cli("grants", "refresh", grant["id"])

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("refreshed: version 1, the access token ends in ")
    assert sandbox.grant(grant["id"])["rotations"] == 1


def test_a_rejected_grant_is_exit_1_with_the_reason_and_what_becomes_of_it(
    cli: Cli, enroll: Issue, sandbox: Sandbox, make_due: MakeDue
) -> None:
    grant = enroll()
    cli.take_in(grant)
    sandbox.revoke(grant["id"])

    once = cli("grants", "refresh", grant["id"])
    make_due(cli, grant["id"])
    twice = cli("grants", "refresh", grant["id"])
    held = cli("token", grant["id"])

    assert (once.code, twice.code) == (1, 1)
    assert "the provider rejected its refresh token" in once.complaint
    assert once.complaint.endswith("it is failing and will be tried again")
    assert twice.complaint.endswith("it is failed: the person must connect again")
    assert (held.code, held.out) == (0, grant["access_token"] + "\n")
    assert held.complaint == f"evergrant: {grant['id']} is failed (revoked): this is its last access token"


def test_a_paused_grant_is_not_refreshed(cli: Cli, enroll: Issue, sandbox: Sandbox) -> None:
    grant = enroll()
    cli.take_in(grant | {"status": "paused"})

    done = cli("grants", "refresh", grant["id"])

    assert done.code == 1
    assert "is paused; `evergrant grants resume`" in done.complaint
    assert list(sandbox.log(grant["id"])) == []


def test_a_grant_of_a_client_that_is_not_configured_is_not_refreshed(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"))
    names = ("PROVIDER", "CLIENT_ID", "CLIENT_SECRET", "TOKEN_URL")
    bare = cli.having(**{f"CLIENTS__BUDDY__{name}": None for name in names})

    done = bare("grants", "refresh", "one")

    assert done.code == 1
    assert "its client 'buddy' is not configured" in done.complaint
    assert bare("token", "one").out == "access-one\n"


def test_a_wrong_secret_in_one_shell_leaves_the_grant_and_the_workers_client_as_they_were(
    cli: Cli, enroll: Issue
) -> None:
    grant = enroll()
    cli.take_in(grant)
    wrong = cli.having(CLIENTS__BUDDY__CLIENT_SECRET="wrong-secret-canary")

    done = wrong("grants", "refresh", grant["id"])

    assert done.code == 1
    assert "the provider rejected the client's credentials" in done.complaint
    assert done.complaint.endswith("it is active as before")
    assert "canary" not in done.err
    assert cli("status").out.splitlines()[1].split()[:2] == ["buddy", "accepted"]
    assert cli("grants", "refresh", grant["id"]).code == 0


@pytest.mark.parametrize("command", [("grants", "refresh"), ("token", "--min-ttl", "3000")], ids=" ".join)
def test_where_the_disk_cannot_take_an_answer_none_is_asked_for(
    cli: Cli, enroll: Issue, sandbox: Sandbox, command: tuple[str, ...]
) -> None:
    grant = enroll(age_seconds=1_800)
    cli.take_in(grant)
    in_its_place = cli.home / "data" / "journal"
    in_its_place.parent.mkdir()
    in_its_place.touch()
    diskless = cli.having(DATA_DIR=str(in_its_place.parent))

    done = diskless(*command, grant["id"])

    assert (done.code, done.out) == (1, "")
    assert done.complaint.startswith(f"evergrant: {grant['id']} was not refreshed: ")
    assert str(in_its_place) in done.complaint
    assert list(sandbox.log(grant["id"])) == []
    in_its_place.unlink()
    assert diskless(*command, grant["id"]).code == 0


def test_a_provider_that_does_not_answer_is_named_as_such(cli: Cli, enroll: Issue, sandbox: Sandbox) -> None:
    grant = enroll()
    cli.take_in(grant)
    with sandbox.fault("status", status=503):
        done = cli("grants", "refresh", grant["id"])

    assert done.code == 1
    assert "no usable answer from the provider" in done.complaint


def test_a_token_that_lives_long_enough_is_printed_without_a_request(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    cli.take_in(grant)

    done = cli("token", grant["id"], "--min-ttl", "3000")

    assert (done.code, done.out, done.err) == (0, grant["access_token"] + "\n", "")
    assert list(sandbox.log(grant["id"])) == []


def test_a_token_that_ends_too_soon_is_refreshed_first(cli: Cli, enroll: Issue, sandbox: Sandbox) -> None:
    grant = enroll(age_seconds=1_800)
    cli.take_in(grant)

    done = cli("token", grant["id"], "--min-ttl", "3000")

    live = sandbox.grant(grant["id"])
    assert (done.code, done.out, done.err) == (0, live["access_token"] + "\n", "")
    assert live["rotations"] == 1


def test_as_json_a_token_comes_with_the_seconds_for_which_it_is_promised(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    cli.take_in(grant)

    done = cli("token", grant["id"], "--min-ttl", "600", "--json")
    again = cli("token", grant["id"], "--json")

    document = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert document == {
        "access_token": grant["access_token"],
        "token_type": "Bearer",
        "expires_in": 600,
        "scope": None,
        "grant": grant["id"],
        "version": 0,
    }
    assert 0 < json.loads(again.out)["expires_in"] <= 600
    assert list(sandbox.log(grant["id"])) == []


def test_a_grant_that_is_not_there_is_exit_4(cli: Cli) -> None:
    done = cli("token", "nobody")

    assert (done.code, done.out) == (4, "")
    assert done.complaint == "evergrant: no grant has the id 'nobody'"


def test_a_token_that_is_promised_for_longer_than_a_caller_waits_is_exit_5(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll(age_seconds=1_800)
    cli.take_in(grant)
    assert cli("token", grant["id"], "--min-ttl", "600").code == 0

    done = cli("token", grant["id"], "--min-ttl", "3000")

    assert (done.code, done.out) == (5, "")
    assert "its token is promised to others" in done.complaint
    assert list(sandbox.log(grant["id"])) == []


def test_a_life_that_no_token_has_is_exit_1(cli: Cli, enroll: Issue) -> None:
    grant = enroll()
    cli.take_in(grant)

    done = cli("token", grant["id"], "--min-ttl", "90000")

    assert (done.code, done.out) == (1, "")
    assert done.complaint.endswith("a fresh access token is promised for 54m at most")


def test_a_grant_that_cannot_get_a_token_prints_none(cli: Cli, line: Line) -> None:
    cli.take_in(line("over", issued_at="2026-01-01T00:00:00Z", refresh_token=None))

    done = cli("token", "over")

    assert (done.code, done.out) == (1, "")
    assert "the person must connect again" in done.complaint


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
@pytest.mark.parametrize("times", [1, 5])
def test_an_interrupt_while_the_answer_is_on_its_way_waits_until_it_is_stored_however_often_it_comes(
    cli: Cli,
    enroll: Issue,
    sandbox: Sandbox,
    number: signal.Signals,
    times: int,
) -> None:
    grant = enroll()
    cli.take_in(grant)
    before = sandbox.totals()["requests"]
    with sandbox.fault("latency", ms=1500), cli.running("grants", "refresh", grant["id"]) as process:
        eventually(lambda: sandbox.totals()["requests"] > before)
        for _ in range(times):
            process.send_signal(number)
            sandbox.totals()  # the command has a moment to hear this one before the next
        _, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (130, b"")
    assert cli.grants()[grant["id"]]["version"] == 1
    assert cli("grants", "refresh", grant["id"]).code == 0


def test_an_embedded_server_that_dies_under_a_refresh_is_brought_back_and_has_the_answer(
    embedded: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    embedded.take_in(grant)
    server = EmbeddedServer(Path(embedded.environment["EVERGRANT_DATA_DIR"]))
    before = sandbox.totals()["requests"]
    with sandbox.fault("latency", ms=1500), embedded.running("grants", "refresh", grant["id"]) as process:
        eventually(lambda: sandbox.totals()["requests"] > before)
        os.kill(server.server_pid, signal.SIGKILL)
        _, said = process.communicate(timeout=60)

    assert (process.returncode, said) == (0, b"")
    assert embedded.grants()[grant["id"]]["version"] == 1


@pytest.mark.slow
def test_an_answer_that_the_store_went_away_from_is_said_to_be_on_disk_and_the_same_command_stores_it(
    embedded: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    embedded.take_in(grant)
    data_dir = Path(embedded.environment["EVERGRANT_DATA_DIR"])
    before = sandbox.totals()["requests"]
    with sandbox.fault("latency", ms=1500), embedded.running("grants", "refresh", grant["id"]) as process:
        eventually(lambda: sandbox.totals()["requests"] > before)
        with (data_dir / "server.lock").open("rb") as lock:
            os.kill(EmbeddedServer(data_dir).server_pid, signal.SIGKILL)
            fcntl.flock(lock, fcntl.LOCK_EX)  # nobody can bring it back
            _, said = process.communicate(timeout=120)
    complaint = said.decode().splitlines()[0]  # then, of a server whose lock is here, that it does not stop
    again = embedded("grants", "refresh", grant["id"])

    assert process.returncode == 3
    assert f"new tokens are on disk in {data_dir / 'journal'}" in complaint
    assert again.out.startswith("refreshed: version 1,")
    assert (again.code, again.err) == (0, "")
    assert sandbox.grant(grant["id"])["rotations"] == 1


def test_a_grant_that_is_being_confirmed_is_not_presented_again_at_once(
    cli: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    cli.take_in(grant)
    sandbox.revoke(grant["id"])
    assert cli("grants", "refresh", grant["id"]).code == 1
    before = sandbox.totals()["requests"]

    done = cli("token", grant["id"], "--min-ttl", "3700")

    assert done.code == 5
    assert "was rejected and is confirmed in" in done.complaint
    assert sandbox.totals()["requests"] == before
    assert cli.grants()[grant["id"]]["status"] == "failing"


def test_a_command_with_the_wrong_key_says_so_and_holds_nothing_against_the_grant(
    cli: Cli, enroll: Issue
) -> None:
    grant = enroll()
    cli.take_in(grant)

    done = cli.having(KEYS="other:" + "B" * 43 + "=")("grants", "refresh", grant["id"])

    assert done.code == 1
    assert "its tokens cannot be unsealed with the keys in EVERGRANT_KEYS" in done.complaint
    assert cli.grants()[grant["id"]]["status"] == "active"


@pytest.mark.parametrize("refusal", Refusal, ids=lambda refusal: refusal.value)
def test_every_refusal_has_a_sentence_that_names_its_grant(refusal: Refusal) -> None:
    said = no_token(HandOutError(refusal, "user-42/buddy", retry_after_ms=5_000))

    assert "user-42/buddy" in said
    assert "None" not in said


@pytest.mark.parametrize("code", TokenFailure, ids=lambda code: code.value)
def test_every_failure_has_a_sentence_that_names_its_grant(code: TokenFailure) -> None:
    said = sentence(TokenError(code, "user-42/buddy", detail="x", status=Status.ACTIVE, span_ms=5_000))

    assert "user-42/buddy" in said
    assert "None" not in said
