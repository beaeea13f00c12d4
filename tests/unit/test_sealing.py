"""Sealed pairs: who can open them, and what they say when they cannot be opened."""

from dataclasses import replace

import pytest

from worker.adapters.sealing import KeyRing
from worker.core.grant import Grant, TokenPair
from worker.core.ports import UnsealError

OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing({"k1": OLD})


@pytest.fixture
def sealed(grant: Grant, pair: TokenPair, ring: KeyRing) -> Grant:
    return replace(grant, sealed=ring.seal(grant.id, grant.version, pair))


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(TokenPair("access-1", "refresh-1"), id="both"),
        pytest.param(TokenPair("access-1"), id="no-refresh-token"),
        pytest.param(TokenPair(None, "refresh-1"), id="no-access-token"),
        pytest.param(TokenPair(None), id="neither"),
        pytest.param(TokenPair("ä" * 16_384, "\U0001f511\0"), id="long-and-strange"),
    ],
)
def test_a_sealed_pair_opens_as_it_was(grant: Grant, ring: KeyRing, pair: TokenPair) -> None:
    assert ring.open(replace(grant, sealed=ring.seal(grant.id, grant.version, pair))) == pair


def test_the_first_key_seals_and_every_key_opens(sealed: Grant, pair: TokenPair, grant: Grant) -> None:
    rolled = KeyRing({"k2": NEW, "k1": OLD})
    assert rolled.open(sealed) == pair
    resealed = replace(grant, sealed=rolled.seal(grant.id, grant.version, pair))
    assert KeyRing({"k2": NEW}).open(resealed) == pair


def test_a_pair_whose_key_was_taken_out_of_the_ring_says_which_key_is_missing(sealed: Grant) -> None:
    with pytest.raises(UnsealError, match="'k1', which is not in EVERGRANT_KEYS"):
        KeyRing({"k2": NEW}).open(sealed)


def test_another_key_under_the_same_name_opens_nothing(sealed: Grant) -> None:
    with pytest.raises(UnsealError, match="do not belong to this record"):
        KeyRing({"k1": NEW}).open(sealed)


def test_a_sealed_pair_cannot_be_passed_off_as_another_grant_s(sealed: Grant, ring: KeyRing) -> None:
    with pytest.raises(UnsealError, match="do not belong to this record"):
        ring.open(replace(sealed, id="user-43/buddy"))


def test_an_old_pair_cannot_be_passed_off_as_the_present_one(sealed: Grant, ring: KeyRing) -> None:
    with pytest.raises(UnsealError, match="do not belong to this record"):
        ring.open(replace(sealed, version=sealed.version + 1))


def test_sealing_twice_never_gives_the_same_bytes(grant: Grant, ring: KeyRing, pair: TokenPair) -> None:
    first, second = (ring.seal(grant.id, grant.version, pair) for _ in range(2))
    assert first != second


def test_no_token_is_readable_in_sealed_bytes(sealed: Grant) -> None:
    assert b"access-1" not in sealed.sealed
    assert b"refresh-1" not in sealed.sealed


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 10, 16, 20])
def test_a_sealed_pair_that_was_cut_off_is_refused(sealed: Grant, ring: KeyRing, kept: int) -> None:
    with pytest.raises(UnsealError):
        ring.open(replace(sealed, sealed=sealed.sealed[:kept]))


def test_a_sealed_pair_of_which_any_byte_was_changed_is_refused(sealed: Grant, ring: KeyRing) -> None:
    for at in range(len(sealed.sealed)):
        changed = bytearray(sealed.sealed)
        changed[at] ^= 1
        with pytest.raises(UnsealError):
            ring.open(replace(sealed, sealed=bytes(changed)))


def test_an_error_of_unsealing_is_one_line_that_names_the_grant(sealed: Grant) -> None:
    with pytest.raises(UnsealError) as caught:
        KeyRing({"k2": NEW}).open(replace(sealed, sealed=b"\x01\x03a\nb" + sealed.sealed))
    assert str(caught.value).startswith("user-42/buddy: ")
    assert len(str(caught.value).splitlines()) == 1


def test_the_repr_of_a_key_ring_names_its_keys_and_shows_none() -> None:
    assert repr(KeyRing({"k2": NEW, "k1": OLD})) == "KeyRing(k2, k1)"
