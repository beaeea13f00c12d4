"""`evergrant connect`: a link alone on standard output, and a code that confirms."""

import re

import pytest

from tests.support.command import Cli

LINK = re.compile(r"http://127\.0\.0\.1:8000/connect/[0-9a-f]{16}\.[A-Za-z0-9_-]{43}\n")


@pytest.fixture
def cli(cli: Cli) -> Cli:
    """One whose client says where people sign in, and what they are asked for."""
    url = "http://127.0.0.1:9/authorize"
    return cli.having(CLIENTS__BUDDY__AUTHORIZE_URL=url, CLIENTS__BUDDY__SCOPES="WORKSPACE", HTTP_PORT="8000")


def test_a_link_is_alone_on_standard_output_and_how_long_it_works_is_told_beside_it(cli: Cli) -> None:
    made = cli("connect", "user-42/buddy", "--client", "buddy", "--label", "tenant=acme")

    assert made.code == 0
    assert LINK.fullmatch(made.out)
    assert made.err == "evergrant: it works for ten minutes, once\n"
    (entry,) = cli("audit", "--json").documents
    assert (entry["what"], entry["grant"], entry["labels"]) == (
        "connect",
        "user-42/buddy",
        {"tenant": "acme"},
    )
    assert made.out.strip().rpartition("/")[2] not in cli("audit", "--json").out


def test_a_code_that_nobody_was_given_is_refused_in_one_line(cli: Cli) -> None:
    done = cli("connect", "--confirm", "0" * 16 + "." + "A" * 43)

    assert (done.code, done.out) == (1, "")
    assert done.complaint == "evergrant: the code is unknown, or was not confirmed within ten minutes"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes an ID and --client NAME, or --confirm CODE"),
        (["one"], "takes an ID and --client NAME"),
        (["one", "--client", "nobody"], "client is not configured; known: buddy"),
        (["one", "--client", "buddy", "--return-to", "https://elsewhere.example/"], "return_to takes a URL"),
        (["one", "--client", "buddy", "--scopes", 'a"b'], "scopes takes"),
        (["a\tb", "--client", "buddy"], "ID takes 1 to 256 printable characters"),
        (["one", "--client", "buddy", "--label", "acme"], "--label takes KEY=VALUE"),
        (["one", "--confirm", "x"], "--confirm takes a code and nothing else"),
    ],
)
def test_what_cannot_be_connected_is_refused_in_one_line(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("connect", *arguments)

    assert (done.code, done.out) == (2, "")
    assert done.complaint.startswith(f"evergrant: {said}")


def test_a_service_that_browsers_cannot_reach_sends_nobody_anywhere(cli: Cli) -> None:
    done = cli.having(HTTP_HOST="0.0.0.0")("connect", "one", "--client", "buddy")  # noqa: S104 behind a proxy

    assert done.code == 2
    assert done.complaint.startswith("evergrant: EVERGRANT_PUBLIC_URL is missing")
