"""`evergrant grants import` and `export`: what goes in, what is refused and why, what comes out again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.callables import Issue, Line, NewCli
from tests.support.command import Cli
from tests.support.servers import SECRET
from tests.support.waiting import eventually
from worker.sandbox.client import Sandbox

STORED_AT_ONCE = 500

GOOD = b'{"id":"%s","client":"buddy","access_token":"at","refresh_token":"rt-%s","expires_in":28800'


def _good(grant_id: bytes, more: bytes = b"}") -> bytes:
    return GOOD % (grant_id, grant_id) + more


def _bad(field: bytes) -> bytes:
    return _good(b"bad", b"," + field + b"}")


BAD: dict[bytes, str] = {
    b"not json at all": "is not JSON",
    b'{"id":"cut off': "is not JSON",
    b"[" * 100_000: "is not JSON",
    b"[1, 2]": "is JSON but no object",
    b'"text"': "is JSON but no object",
    b"null": "is JSON but no object",
    b'{"client":"buddy","access_token":"a"}': "id is missing",
    b'{"id":"bad","access_token":"a"}': "client is missing",
    b'{"id":"bad","client":"buddy"}': "access_token is missing",
    b'{"id":"bad","client":"hubble","access_token":"a"}': "client is not configured; known: buddy",
    b'{"id":17,"client":"buddy","access_token":"a"}': "id takes a string",
    b'{"id":"","client":"buddy","access_token":"a"}': "id takes a string",
    b'{"id":"a\\u0007b","client":"buddy","access_token":"a"}': "id takes printable characters",
    b'{"id":"%s","client":"buddy","access_token":"a"}' % (b"x" * 300): "id takes a string",
    b'{"id":"\\ud800","client":"buddy","access_token":"a"}': "id takes a string",
    b'{"id":"bad\xff","client":"buddy","access_token":"a"}': "is not JSON",
    b'{"id":"bad","client":["buddy"],"access_token":"a"}': "client takes a string",
    b'{"id":"bad","client":"buddy","access_token":1}': "access_token takes a string",
    b'{"id":"bad","client":"buddy","access_token":"\\udfff"}': "access_token takes a string",
    b'{"id":"bad","client":"buddy","access_token":"a","refresh_token":{}}': "refresh_token takes a string",
    b'{"id":"bad","client":"buddy","access_token":"a","expires_in":1e300}': "expires_in takes seconds",
    b'{"id":"bad","client":"buddy","access_token":"a","expires_in":NaN}': "expires_in takes seconds",
    b'{"id":"bad","client":"buddy","access_token":"a","expires_in":1e999}': "expires_in takes seconds",
    b'{"id":"bad","client":"buddy","access_token":"a","expires_in":true}': "expires_in takes seconds",
    b'{"id":"bad","client":"buddy","access_token":"a","expires_in":"soon"}': "expires_in takes seconds",
    b'{"id":"bad","client":"buddy","access_token":"a","expires_in":%s}' % (b"9" * 10_000): "expires_in takes",
    b'{"id":"bad","client":"buddy","access_token":"a","expires":"soon"}': "expires takes seconds",
    b'{"id":"bad","client":"buddy","access_token":"null"}': "access_token is missing",
    _bad(b'"refresh_token_expires_in":[]'): "refresh_token_expires_in takes seconds",
    _bad(b'"refresh_expires_in":[]'): "refresh_expires_in takes seconds",
    _bad(b'"token_type":"DPoP"'): "token_type takes Bearer",
    _bad(b'"refresh_token":"undefined"'): "refresh_token is missing",
    _bad(b'"issued_at":"yesterday"'): "issued_at takes RFC 3339",
    _bad(b'"issued_at":"2026-11-22T08:00:00"'): "issued_at takes RFC 3339 with a time zone",
    _bad(b'"issued_at":NaN'): "issued_at takes RFC 3339",
    _bad(b'"issued_at":false'): "issued_at takes RFC 3339",
    _bad(b'"expires_at":99999999999999'): "expires_at takes seconds",
    _bad(b'"authorized_at":{}'): "authorized_at takes RFC 3339",
    _bad(b'"refresh_token_expires_at":"2026-13-40T00:00:00Z"'): "refresh_token_expires_at takes seconds",
    _bad(b'"scope":["A",7]'): "scope takes a string",
    _bad(b'"labels":{"tenant":7}'): "labels takes an object",
    _bad(b'"labels":"acme"'): "labels takes an object",
    _bad(b'"labels":{"tenant":"\\ud800"}'): "labels takes an object",
    _bad(b'"status":"splendid"'): "status takes active, failing, failed, paused",
    _bad(b'"version":1.5'): "version takes a whole number",
    _bad(b'"version":-1'): "version takes a whole number",
    _bad(b'"pad":"%s"' % (b"x" * 10_000_000)): "is longer than",
    _good(b"good-first"): "id is the same as in line 1",
    _good(b"existing"): "id exists already; --replace puts this grant in its place",
}


@dataclass(frozen=True)
class Taken:
    """One import of everything good and bad together."""

    done: Any
    grants: dict[str, dict[str, Any]]
    numbers: dict[bytes, int]


@pytest.fixture(scope="module")
def taken(new_cli: NewCli) -> Taken:
    """A file that starts with a BOM, has CRLF and blank lines, and no newline at its end."""
    cli = new_cli()
    cli("grants", "import", "-", given=_good(b"existing"))
    lines = [b"\xef\xbb\xbf" + _good(b"good-first") + b"\r", b"", b"  \t\r"]
    numbers = {}
    for text in BAD:
        lines.append(text)
        numbers[text] = len(lines)
    lines += [_good(b"good-crlf") + b"\r", _good("grün/☃".encode()), _good(b"good-last")]
    (cli.home / "grants.jsonl").write_bytes(b"\n".join(lines))
    return Taken(cli("grants", "import", "grants.jsonl"), cli.grants(), numbers)


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:60].decode(errors="replace"))
def test_a_bad_line_is_named_by_its_number_with_the_reason(taken: Taken, text: bytes) -> None:
    (told,) = [
        each for each in taken.done.err.splitlines() if each.startswith(f"line {taken.numbers[text]}:")
    ]

    assert BAD[text] in told


def test_bad_lines_cost_no_good_line_anything(taken: Taken) -> None:
    assert set(taken.grants) == {"existing", "good-first", "good-crlf", "grün/☃", "good-last"}


def test_an_import_with_bad_lines_exits_1_and_counts_them(taken: Taken) -> None:
    assert taken.done.code == 1
    assert taken.done.err.splitlines()[-1] == f"stored 4, refused {len(BAD)}"


def test_lines_that_are_blank_are_neither_stored_nor_refused(taken: Taken) -> None:
    assert len(taken.done.err.splitlines()) == len(BAD) + 1


def test_a_file_that_is_not_there_is_a_usage_error(cli: Cli) -> None:
    done = cli("grants", "import", "nowhere.jsonl")

    assert done.code == 2
    assert done.complaint == "evergrant: nowhere.jsonl: No such file or directory"


def test_standard_input_may_be_a_file(cli: Cli, line: Line, tmp_path: Path) -> None:
    redirected = tmp_path / "redirected"
    redirected.write_text(json.dumps(line("one")))

    with redirected.open("rb") as file:
        done = cli("grants", "import", "-", given=file)

    assert (done.code, done.err) == (0, "stored 1, refused 0\n")


def test_an_id_that_comes_again_in_a_later_batch_is_refused_too(cli: Cli, line: Line) -> None:
    lines = [line(f"g{number}") for number in range(STORED_AT_ONCE)] + [line("g0")]

    done = cli("grants", "import", "-", given="\n".join(map(json.dumps, lines)))

    assert done.code == 1
    assert done.err.splitlines()[0].startswith(f"line {STORED_AT_ONCE + 1}: id ")


def test_replacing_a_pair_with_itself_keeps_the_version_and_another_pair_counts_as_a_rotation(
    cli: Cli, line: Line
) -> None:
    cli.take_in(line("same", version=3), line("other", version=3), line("untouched", version=3))

    again = [line("same", scope="NEW"), line("other", refresh_token="rotated"), line("fresh")]
    done = cli("grants", "import", "--replace", "-", given="\n".join(map(json.dumps, again)))

    assert (done.code, done.err) == (0, "stored 3, refused 0\n")
    versions = {grant_id: grant["version"] for grant_id, grant in cli.grants().items()}
    assert versions == {"same": 3, "other": 4, "untouched": 3, "fresh": 0}
    assert cli("token", "other").out == "access-other\n"


def test_lines_are_stored_while_the_pipe_is_still_being_written(
    cli: Cli, line: Line, connection: redis.Redis
) -> None:
    schedule = f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:schedule:buddy"
    lines = [json.dumps(line(f"g{number}")).encode() + b"\n" for number in range(20_000)]
    with cli.running("grants", "import", "-") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.writelines(lines[:5_000])
        process.stdin.flush()
        eventually(lambda: connection.zcard(schedule))
        process.stdin.writelines(lines[5_000:])
        process.stdin.close()
        told = process.stderr.read()

    assert told == b"stored 20000, refused 0\n"
    assert connection.zcard(schedule) == 20_000


def test_an_export_with_tokens_goes_in_again_as_it_was(cli: Cli, new_cli: NewCli) -> None:
    whole = {
        "access_token": "a",
        "refresh_token": "r",
        "issued_at": "2026-11-01T08:00:00.125Z",
        "expires_at": "2099-01-01T00:00:00Z",
        "refresh_token_expires_at": 1_800_000_000,
        "authorized_at": "2026-10-01T00:00:00+02:00",
        "scope": "WORKSPACE EXECUTION_RUN",
        "labels": {"tenant": "Ä & Söhne"},
        "version": 41,
        "client": "buddy",
    }
    statuses = ("active", "failing", "failed", "paused")
    endless = {"id": "endless", "client": "buddy", "access_token": "for ever"}
    cli.take_in(*(whole | {"id": status, "status": status} for status in statuses), endless)
    other = new_cli()

    exported = cli("grants", "export", "--with-tokens")
    taken = other("grants", "import", "-", given=exported.out)
    bare = cli("grants", "export")

    assert (exported.code, taken.code) == (0, 0)
    moved = other("grants", "export", "--with-tokens").documents
    by_id = {document["id"]: document for document in exported.documents}
    assert {document["id"]: document for document in moved} == by_id
    assert {grant_id: document["status"] for grant_id, document in by_id.items()} == {
        **{status: status for status in statuses},
        "endless": "active",
    }
    assert by_id["paused"]["version"] == 41
    assert [
        name for line in bare.documents for name in line if name in {"access_token", "refresh_token"}
    ] == []


def test_the_line_of_the_interface_page_goes_in_as_it_stands(cli: Cli) -> None:
    page = (
        '{"id":"user-42/buddy","client":"buddy","access_token":"…","refresh_token":"…","expires_in":28800,'
        '"refresh_token_expires_in":158112000,"issued_at":"2026-11-22T08:00:00Z",'
        '"scope":"WORKSPACE EXECUTION_RUN",'
        '"authorized_at":"2026-11-01T00:00:00Z","labels":{"tenant":"acme"}}'
    )
    assert cli("grants", "import", "-", given=page).code == 0
    assert json.loads(cli("grants", "export").out)["labels"] == {"tenant": "acme"}


def test_the_summary_says_how_many_lines_state_no_end_of_their_access_token(cli: Cli) -> None:
    silent = '{"id":"%s","client":"buddy","access_token":"a-%s","refresh_token":"r"}'
    stated = (silent % ("three", 3))[:-1] + ',"expires":3600}'
    lines = [silent % ("one", 1), silent % ("two", 2), stated]

    done = cli("grants", "import", "-", given="\n".join(lines))

    assert done.code == 0
    assert done.err.splitlines() == [
        "stored 3, refused 0",
        "2 of the stored lines do not say when their access token ends (docs/import.md)",
    ]


def test_an_end_that_is_assumed_is_shown_as_such_until_a_reply_tells(cli: Cli, enroll: Issue) -> None:
    fresh = enroll()
    del fresh["expires_in"]
    acme = {
        f"CLIENTS__ACME__{name}": value
        for name, value in {
            "PROVIDER": "oauth2",
            "CLIENT_ID": "sandbox-client",
            "CLIENT_SECRET": SECRET,
            "TOKEN_URL": cli.environment["EVERGRANT_CLIENTS__BUDDY__TOKEN_URL"],
        }.items()
    }
    cli = cli.having(**acme)
    cli("grants", "import", "-", given=json.dumps(fresh | {"client": "acme"}))

    (before,) = cli("grants", "show", fresh["id"], "--json").documents
    refreshed = cli("grants", "refresh", fresh["id"])
    (after,) = cli("grants", "show", fresh["id"], "--json").documents

    assert refreshed.code == 0
    assert before["expires_at_is_assumed"] is True
    assert "expires_at_is_assumed" not in after


def test_after_a_flush_the_status_names_it_and_an_old_file_harms_nothing(
    cli: Cli, enroll: Issue, sandbox: Sandbox, connection: redis.Redis
) -> None:
    """The journal of the command that refreshed the grant is the only one that has its living tokens."""
    line = enroll()
    cli.take_in(line)
    assert cli("grants", "refresh", line["id"]).code == 0
    prefix = f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:"
    connection.delete(*connection.scan_iter(match=prefix + "*"))

    status, doctor = cli("status"), cli("doctor")
    imported = cli("grants", "import", "-", given=json.dumps(line))

    assert status.code == doctor.code == 1
    told = "Redis: it is empty, and this machine's journals hold answers of 1 grants that it lacks"
    assert f"! {told}" in status.out
    assert f"bad      {told}" in doctor.out
    assert imported.code == 0
    assert imported.err.splitlines() == [
        "stored 1, refused 0",
        "1 of the stored lines had dead tokens, and got newer ones from this machine's journals",
    ]
    assert cli("token", line["id"]).out.strip() == sandbox.grant(line["id"])["access_token"]
    assert cli("grants", "refresh", line["id"]).code == 0
    assert cli("status").code == 0
