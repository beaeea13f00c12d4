"""A sealed pair or reply opens for its own client's grant at its own version, and as nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.adapters.sealing import KeyRing
from worker.core.grant import Grant, Status, TokenPair
from worker.core.outcomes import Reply
from worker.core.ports import UnsealError

RING = KeyRing({"k2": b"n" * 32, "k1": b"o" * 32})

ids = st.text(st.characters(codec="utf-8"), min_size=1)
versions = st.integers(0, 2**53)
tokens = st.none() | st.text(st.characters(codec="utf-8"))
pairs = st.builds(TokenPair, tokens, tokens)
replies = st.builds(
    Reply, st.integers(100, 599), st.dictionaries(st.text(), st.text(), max_size=3), st.binary()
)


def _grant(grant_id: str, version: int, sealed: bytes = b"", client: str = "acme") -> Grant:
    return Grant(
        id=grant_id,
        client=client,
        status=Status.ACTIVE,
        version=version,
        lineage=b"",
        sealed=sealed,
        issued_at=0,
        access_expires_at=None,
        refresh_issued_at=0,
        refresh_expires_at=None,
        authorized_at=None,
    )


@given(ids, versions, pairs)
def test_any_pair_opens_as_it_was_sealed(grant_id: str, version: int, pair: TokenPair) -> None:
    assert RING.open(_grant(grant_id, version, RING.seal(_grant(grant_id, version), pair))) == pair


@given(ids, versions, pairs, ids, versions)
def test_a_pair_opens_for_no_other_id_and_no_other_version(
    grant_id: str, version: int, pair: TokenPair, other_id: str, other_version: int
) -> None:
    sealed = RING.seal(_grant(grant_id, version), pair)
    for each_id, each_version in {
        (other_id, version),
        (grant_id, other_version),
        (f"{version}\n{grant_id}", version),
        (other_id, other_version),
    } - {(grant_id, version)}:
        with pytest.raises(UnsealError):
            RING.open(_grant(each_id, each_version, sealed))


@given(ids, ids, ids, ids, pairs)
def test_a_pair_opens_for_no_other_client(
    client: str, grant_id: str, other: str, other_id: str, pair: TokenPair
) -> None:
    sealed = RING.seal(_grant(grant_id, 3, client=client), pair)
    for each in {(other, grant_id), (other, other_id), (grant_id, client)} - {(client, grant_id)}:
        with pytest.raises(UnsealError):
            RING.open(_grant(each[1], 3, sealed, each[0]))


@given(pairs, st.data())
def test_a_sealed_pair_of_which_anything_was_changed_or_cut_off_does_not_open(
    pair: TokenPair, data: st.DataObject
) -> None:
    sealed = RING.seal(_grant("user-42", 3), pair)
    grant = _grant("user-42", 3, sealed)
    at = data.draw(st.integers(0, len(sealed) - 1))
    flipped = sealed[:at] + bytes([sealed[at] ^ data.draw(st.integers(1, 255))]) + sealed[at + 1 :]
    for broken in (flipped, sealed[:at], sealed + b"\0"):
        with pytest.raises(UnsealError):
            RING.open(replace(grant, sealed=broken))


@given(st.binary())
def test_any_bytes_that_were_never_sealed_raise_one_line(sealed: bytes) -> None:
    with pytest.raises(UnsealError) as caught:
        RING.open(_grant("user-42", 3, sealed))
    assert len(str(caught.value).splitlines()) == 1


@given(ids, versions, replies)
def test_any_reply_opens_as_it_was_sealed(grant_id: str, version: int, reply: Reply) -> None:
    sealed = RING.seal_reply("acme", grant_id, version, reply)
    assert RING.open_reply("acme", grant_id, version, sealed) == reply
    assert RING.seal_reply("acme", grant_id, version, reply) != sealed


@given(ids, versions, replies, pairs)
def test_a_reply_passes_for_no_pair_and_no_pair_for_a_reply_and_neither_for_another_s(
    grant_id: str, version: int, reply: Reply, pair: TokenPair
) -> None:
    sealed = RING.seal_reply("acme", grant_id, version, reply)
    with pytest.raises(UnsealError):
        RING.open(_grant(grant_id, version, sealed))
    with pytest.raises(UnsealError):
        RING.open_reply("acme", grant_id, version, RING.seal(_grant(grant_id, version), pair))
    with pytest.raises(UnsealError):
        RING.open_reply("acme", grant_id, version + 1, sealed)
    with pytest.raises(UnsealError):
        RING.open_reply("another", grant_id, version, sealed)
    with pytest.raises(UnsealError):
        RING.open_reply("acme", grant_id + "x", version, sealed)
