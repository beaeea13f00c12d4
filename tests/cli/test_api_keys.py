"""`evergrant api-keys`: a key is shown once, listed without itself, revoked by name."""

import re

import pytest

from tests.support.command import Cli

KEY = re.compile(r"evg_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n")


def test_a_new_key_is_alone_on_standard_output_and_is_shown_no_second_time(cli: Cli) -> None:
    made = cli("api-keys", "new", "shop", "--scopes", "tokens,grants", "--label", "tenant=acme")
    listed = cli("api-keys", "list", "--json")
    told = cli("api-keys", "list")

    assert (made.code, made.err) == (0, "")
    assert KEY.fullmatch(made.out)
    (key,) = listed.documents
    assert (key["name"], key["scopes"], key["labels"]) == ("shop", ["tokens", "grants"], {"tenant": "acme"})
    assert key["used_at"] is None
    assert [word in told.out for word in ("shop", "tokens,grants", "tenant=acme", "never")] == [True] * 4
    assert made.out.split("_", 2)[2].strip() not in listed.out + told.out


def test_a_revoked_key_is_gone_and_its_name_is_free(cli: Cli) -> None:
    first = cli("api-keys", "new", "shop", "--scopes", "admin")
    taken = cli("api-keys", "new", "shop", "--scopes", "admin")
    revoked, again = cli("api-keys", "revoke", "shop"), cli("api-keys", "revoke", "shop")

    assert (first.code, taken.code, revoked.code, again.code) == (0, 1, 0, 1)
    assert taken.complaint.startswith("evergrant: a key is called 'shop' already")
    assert revoked.out == "revoked shop\n"
    assert again.complaint == "evergrant: no key is called 'shop'"
    assert cli("api-keys", "list", "--json").documents == []
    assert cli("api-keys", "new", "shop", "--scopes", "admin").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b", "--scopes", "tokens"], "NAME takes 1 to 64 letters"),
        (["shop", "--scopes", "everything"], "--scopes takes tokens, grants, connect, fleet, admin"),
        (["shop", "--scopes", ""], "--scopes takes tokens"),
        (["shop"], "Missing option '--scopes'"),
        (["shop", "--scopes", "tokens", "--label", "acme"], "--label takes KEY=VALUE"),
        (["shop", "--scopes", "tokens", "--label", "a=b", "--label", "a=c"], "--label takes each KEY once"),
    ],
)
def test_what_is_no_key_is_refused_in_one_line(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("api-keys", "new", *arguments)

    assert (done.code, done.out) == (2, "")
    assert done.complaint.startswith(f"evergrant: {said}")
