"""Sealed pairs: who can open them, and what they say when they cannot be opened."""

from dataclasses import replace

import pytest

from worker.adapters.sealing import KeyRing
from worker.core.grant import Grant, TokenPair
from worker.core.ports import UnsealError
from worker.core.sessions import Session

OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing({"k1": OLD})


@pytest.fixture
def sealed(grant: Grant, pair: TokenPair, ring: KeyRing) -> Grant:
    return replace(grant, sealed=ring.seal(grant, pair))


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
    assert ring.open(replace(grant, sealed=ring.seal(grant, pair))) == pair


def test_a_pair_that_is_sealed_for_a_successor_opens_at_the_next_version_alone(
    grant: Grant, ring: KeyRing, pair: TokenPair
) -> None:
    sealed = ring.seal_successor(grant, pair)

    assert ring.open(replace(grant, version=grant.version + 1, sealed=sealed)) == pair
    with pytest.raises(UnsealError):
        ring.open(replace(grant, sealed=sealed))


def test_the_first_key_seals_and_every_key_opens(sealed: Grant, pair: TokenPair, grant: Grant) -> None:
    rolled = KeyRing({"k2": NEW, "k1": OLD})
    assert rolled.open(sealed) == pair
    resealed = replace(grant, sealed=rolled.seal(grant, pair))
    assert KeyRing({"k2": NEW}).open(resealed) == pair


def test_a_pair_whose_key_was_taken_out_of_the_ring_says_which_key_is_missing(sealed: Grant) -> None:
    with pytest.raises(UnsealError, match="'k1', which is not in EVERGRANT_KEYS"):
        KeyRing({"k2": NEW}).open(sealed)


def test_another_key_under_the_same_name_opens_nothing(sealed: Grant) -> None:
    with pytest.raises(UnsealError, match="does not belong to this record"):
        KeyRing({"k1": NEW}).open(sealed)


def test_a_sealed_pair_cannot_be_passed_off_as_another_grant_s(sealed: Grant, ring: KeyRing) -> None:
    with pytest.raises(UnsealError, match="does not belong to this record"):
        ring.open(replace(sealed, id="user-43/buddy"))


def test_a_sealed_pair_opens_for_no_other_client(sealed: Grant, ring: KeyRing) -> None:
    with pytest.raises(UnsealError, match="does not belong to this record"):
        ring.open(replace(sealed, client="another"))


def test_a_client_and_an_id_cannot_be_cut_elsewhere(grant: Grant, pair: TokenPair, ring: KeyRing) -> None:
    sealed = ring.seal(replace(grant, client="a", id="b\nc"), pair)
    for client, grant_id in (("a\nb", "c"), ("ab", "\nc"), ("", "a\nb\nc")):
        with pytest.raises(UnsealError):
            ring.open(replace(grant, client=client, id=grant_id, sealed=sealed))


def test_a_pair_that_binds_its_client_cannot_be_passed_off_as_one_of_the_format_that_does_not(
    sealed: Grant, ring: KeyRing
) -> None:
    downgraded = b"\x01" + sealed.sealed[1:]
    for client in (sealed.client, "another"):
        with pytest.raises(UnsealError, match="does not belong to this record"):
            ring.open(replace(sealed, client=client, sealed=downgraded))


def test_a_pair_of_a_newer_format_says_so(sealed: Grant, ring: KeyRing) -> None:
    with pytest.raises(UnsealError) as caught:
        ring.open(replace(sealed, sealed=b"\x03" + sealed.sealed[1:]))
    assert str(caught.value) == (
        "user-42/buddy: the sealed pair has format 3, of a newer release; this one reads up to 2"
    )


def test_what_another_key_or_another_format_sealed_is_not_current(sealed: Grant, ring: KeyRing) -> None:
    assert ring.is_current(sealed.sealed)
    assert not ring.is_current(b"\x01" + sealed.sealed[1:])
    assert not KeyRing({"k2": NEW, "k1": OLD}).is_current(sealed.sealed)
    assert not KeyRing({"k": OLD}).is_current(sealed.sealed)


def test_an_old_pair_cannot_be_passed_off_as_the_present_one(sealed: Grant, ring: KeyRing) -> None:
    with pytest.raises(UnsealError, match="does not belong to this record"):
        ring.open(replace(sealed, version=sealed.version + 1))


def test_sealing_twice_never_gives_the_same_bytes(grant: Grant, ring: KeyRing, pair: TokenPair) -> None:
    first, second = (ring.seal(grant, pair) for _ in range(2))
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


SESSION = Session(b"i" * 16, "0123456789ab", b"d" * 32, began_at=1_795_322_840_527, used_at=1_795_322_850_000)


def test_a_sealed_session_opens_as_it_was_with_any_key_of_the_ring(ring: KeyRing) -> None:
    assert KeyRing({"k2": NEW, "k1": OLD}).open_session(ring.seal_session(SESSION)) == SESSION


def test_nothing_else_opens_as_a_session_and_a_session_as_nothing_else(
    ring: KeyRing, sealed: Grant, grant: Grant
) -> None:
    session = ring.seal_session(SESSION)
    nameless = replace(grant, id="", client="", version=0)
    of_another_ring = KeyRing({"k1": NEW}).seal_session(SESSION)
    nothing = [b"", b"x", sealed.sealed, ring.seal(nameless, TokenPair("a", "r")), of_another_ring]
    changed = [b"\x01" + session[1:], session[:-1], session + b"x", session[:20]]

    for each in (*nothing, *changed):
        with pytest.raises(UnsealError):
            ring.open_session(each)
    with pytest.raises(UnsealError):
        ring.open(replace(nameless, sealed=session))
    with pytest.raises(UnsealError):
        ring.open_reply("", "", 0, session)


def test_a_session_says_neither_its_id_nor_its_digest() -> None:
    assert "iiii" not in repr(SESSION)
    assert "dddd" not in repr(SESSION)
    assert "iiii" not in SESSION.form_token
