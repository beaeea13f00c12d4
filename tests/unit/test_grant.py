"""The record, and the fingerprint that names its refresh token."""

from dataclasses import FrozenInstanceError

import pytest

from worker.core.grant import Grant, Status, TokenPair, lineage_of


def test_a_lineage_is_sixteen_bytes_that_never_change_between_releases() -> None:
    assert lineage_of("user-42", "refresh-1").hex() == "324af9f4eaf887eb80ba20a8c652bba1"


@pytest.mark.parametrize("token", [None, ""], ids=["none", "empty"])
def test_no_refresh_token_has_no_lineage(token: str | None) -> None:
    assert lineage_of("user-42", token) == b""


def test_equal_tokens_of_two_grants_have_two_lineages() -> None:
    assert lineage_of("user-42", "refresh-1") != lineage_of("user-43", "refresh-1")


def test_two_tokens_of_one_grant_have_two_lineages() -> None:
    assert lineage_of("user-42", "refresh-1") != lineage_of("user-42", "refresh-2")


def test_a_grant_has_a_refresh_token_if_it_has_a_lineage(grant: Grant) -> None:
    assert grant.has_refresh_token


def test_a_grant_is_never_changed_in_place(grant: Grant) -> None:
    with pytest.raises(FrozenInstanceError):
        grant.status = Status.FAILED  # type: ignore[misc] # that it cannot is what is tested


def test_the_repr_of_a_pair_and_of_a_grant_shows_no_token(grant: Grant, pair: TokenPair) -> None:
    assert repr(pair) == "TokenPair()"
    assert "sealed" not in repr(grant)
