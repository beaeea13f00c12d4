"""`evergrant grants revoke` and `evergrant grants delete --revoke`."""

import pytest

from tests.support.callables import Issue, Line
from tests.support.command import Cli
from worker.sandbox.client import Sandbox


@pytest.fixture
def at_buddy(cli: Cli, sandbox: Sandbox) -> Cli:
    """A client that says where its provider is, and nothing of single endpoints."""
    return cli.having(CLIENTS__BUDDY__TOKEN_URL=None, CLIENTS__BUDDY__BASE_URL=sandbox.url)


@pytest.mark.parametrize(("verb", "options"), [("revoke", []), ("delete", ["--revoke"])])
def test_a_grant_is_ended_at_the_provider_and_forgotten(
    at_buddy: Cli, enroll: Issue, sandbox: Sandbox, verb: str, options: list[str]
) -> None:
    grant = enroll()
    at_buddy.take_in(grant)

    done = at_buddy("grants", verb, grant["id"], *options)

    assert (done.code, done.out, done.err) == (0, f"revoked {grant['id']}\n", "")
    assert sandbox.grant(grant["id"])["revoked"] is True
    assert at_buddy.grants() == {}
    assert at_buddy("grants", "revoke", grant["id"]).complaint == (
        f"evergrant: no grant has the id {grant['id']!r}"
    )


def test_where_the_provider_refuses_or_is_away_one_line_says_so_and_the_grant_stays(
    at_buddy: Cli, enroll: Issue, sandbox: Sandbox
) -> None:
    grant = enroll()
    at_buddy.take_in(grant)
    before = at_buddy.grants()

    refused = at_buddy.having(CLIENTS__BUDDY__CLIENT_SECRET="wrong")("grants", "revoke", grant["id"])
    away = at_buddy.having(CLIENTS__BUDDY__BASE_URL="http://127.0.0.1:1")("grants", "revoke", grant["id"])

    assert (refused.code, refused.out) == (1, "")
    assert refused.complaint == (
        f"evergrant: {grant['id']} was not revoked: the provider refused (http_401);"
        " the grant stays as it was"
    )
    assert (away.code, away.out) == (3, "")
    assert "no usable answer from the revocation endpoint (could_not_connect)" in away.complaint
    assert at_buddy.grants() == before
    assert sandbox.grant(grant["id"])["revoked"] is False


def test_a_client_without_a_revocation_endpoint_is_told_which_setting_names_one(cli: Cli, line: Line) -> None:
    cli.take_in(line("one"))

    done = cli("grants", "revoke", "one")

    assert done.code == 1
    assert "EVERGRANT_CLIENTS__BUDDY__REVOKE_URL" in done.complaint
    assert cli.grants().keys() == {"one"}


@pytest.mark.parametrize("arguments", [["--client", "buddy"], [], ["one", "--dry-run"]], ids=" ".join)
def test_a_deletion_that_revokes_takes_one_id(cli: Cli, arguments: list[str]) -> None:
    done = cli("grants", "delete", "--revoke", *arguments)

    assert done.code == 2
    assert done.complaint.startswith("evergrant: --revoke takes one ID")
