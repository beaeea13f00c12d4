"""Any commit and any kept reply comes back from the disk as it went in, and no other bytes pass for one."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import Any, get_type_hints

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.adapters.journal.format import (
    FIRST_LINE,
    VERSION,
    UnknownEntryError,
    entries_in,
    framed,
    pack,
    unpack,
)
from worker.core.events import Event, EventType
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.ports import Commit, KeptReply

texts = st.text(st.characters() | st.characters(categories=["Cs"]))  # JSON can hold lone surrogates
instants = st.integers(-(2**63), 2**64 - 1)
labels = st.dictionaries(texts, texts, max_size=3)
plain = st.recursive(
    st.none() | st.booleans() | instants | st.floats(allow_nan=False) | texts | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    bytes: st.binary(),
    int: instants,
    int | None: st.none() | instants,
    str: texts,
    str | None: st.none() | texts,
    Status: st.sampled_from(Status),
    EventType: st.sampled_from(EventType),
    Mapping[str, str]: labels | labels.map(MappingProxyType),
    Mapping[str, Any]: st.dictionaries(texts, plain, max_size=3),
}


def _any(kind: type) -> st.SearchStrategy[Any]:
    """Every field drawn, so that a new one which the codec has forgotten does not come back."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: BY_TYPE[hints[field.name]] for field in fields(kind)})


grants = _any(Grant)
BY_TYPE[Grant] = grants
BY_TYPE[Event] = _any(Event)
BY_TYPE[Event | None] = st.none() | BY_TYPE[Event]
BY_TYPE[Change] = _any(Change)
commits = _any(Commit)
kept_replies = _any(KeptReply)


whole_commits = settings(suppress_health_check=[HealthCheck.too_slow])  # many fields to draw


@whole_commits
@given(commits)
def test_any_commit_comes_back_as_it_was(commit: Commit) -> None:
    read = unpack(pack(commit))
    assert isinstance(read, Commit)
    assert read == commit
    assert type(read.base_status) is type(read.change.grant.status) is Status
    assert read.change.event is None or type(read.change.event.type) is EventType


@whole_commits
@given(kept_replies)
def test_any_kept_reply_comes_back_as_it_was(kept: KeptReply) -> None:
    read = unpack(pack(kept))
    assert isinstance(read, KeptReply)
    assert read == kept
    assert type(read.change.grant.status) is Status
    assert type(read.outage.type) is EventType


@whole_commits
@given(commits, st.integers() | st.text() | st.none())
def test_a_commit_of_another_version_is_not_guessed_at(commit: Commit, version: object) -> None:
    values = msgpack.unpackb(pack(commit), unicode_errors="surrogatepass", strict_map_key=False)
    if version == VERSION or (isinstance(version, int) and not -(2**63) <= version < 2**64):
        return
    other = msgpack.packb([version, *values[1:]], unicode_errors="surrogatepass")
    with pytest.raises(UnknownEntryError):
        unpack(other)


@given(st.binary() | plain.map(partial(msgpack.packb, unicode_errors="surrogatepass")))
def test_any_bytes_that_are_no_commit_are_refused_as_such(packed: bytes) -> None:
    with pytest.raises(UnknownEntryError):
        unpack(packed)


@given(st.lists(st.binary(), max_size=5), st.integers(0, 50))
def test_any_payloads_come_back_from_their_frames(payloads: list[bytes], room: int) -> None:
    content = FIRST_LINE + b"".join(map(framed, payloads)) + bytes(room)
    assert [payload for _, payload in entries_in(content)] == payloads


@given(st.lists(st.binary(min_size=1), min_size=1, max_size=5), st.binary(max_size=40), st.data())
def test_whatever_stands_between_two_frames_costs_neither(
    payloads: list[bytes], between: bytes, data: st.DataObject
) -> None:
    frames = [framed(payload) for payload in payloads]
    at = data.draw(st.integers(0, len(frames)))
    content = FIRST_LINE + b"".join(frames[:at]) + between + b"".join(frames[at:])
    found = [payload for _, payload in entries_in(content) if payload is not None]
    assert found == payloads
