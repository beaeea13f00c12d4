"""One commit as it stands in a journal: what a release wrote, every later one can read."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from worker.adapters.journal.format import VERSION, UnknownEntryError, pack, unpack
from worker.core.audit import By
from worker.core.connecting import Confirmed, Consent, Wanted
from worker.core.events import Event, EventType
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Change
from worker.core.ports import Commit, KeptReply

GRANT = Grant(
    id="grant-1",
    client="acme",
    status=Status.FAILING,
    version=12,
    lineage=b"lineage",
    sealed=b"sealed",
    issued_at=13,
    access_expires_at=14,
    refresh_issued_at=15,
    refresh_expires_at=16,
    authorized_at=17,
    scope="all",
    labels={"team": "blue"},
    streak=18,
    reason="server_error",
    in_doubt=True,
    noticed_at=19,
    root=b"root",
    rejected_at=21,
    stated_life_ms=22,
    kept_reply=23,
    narrowed="write",
    token_type="DPoP",
)
EVENT = Event(EventType.GRANT_REFRESHED, "2-grant-refreshed", "grant-1", 20, {"client": "acme"})
COMMIT = Commit(2, b"base", 3, Status.ACTIVE, Change(GRANT, due_at=4, attention_at=5, event=EVENT))

GRANT_VALUES = [
    *("grant-1", "acme", "failing", 12, b"lineage", b"sealed", 13, 14, 15, 16, 17),
    *("all", {"team": "blue"}, 18, "server_error", True, 19, b"root", 21, 22, 23, "write", "DPoP"),
]
LATER: dict[str, Any] = dict.fromkeys(
    ("rejected_at", "stated_life_ms", "kept_reply", "narrowed", "token_type")
)
EVENT_VALUES = ["evergrant.grant.refreshed", "2-grant-refreshed", "grant-1", 20, {"client": "acme"}]
VERSION_1 = [1, 2, b"base", 3, "active", 4, 5, GRANT_VALUES, EVENT_VALUES]

OUTAGE = Event(EventType.PROVIDER_UNAVAILABLE, "2-provider-unavailable", "https://id/token", 20, {"a": 1})
KEPT = KeptReply(
    fence=2,
    change=Change(GRANT, due_at=None, attention_at=5, event=EVENT),
    sealed=b"sealed reply",
    size=6,
    detail="http_200_not_json",
    sent_at=7,
    received_at=8,
    registration="f00",
    endpoint_probe=True,
    outage=OUTAGE,
)
OUTAGE_VALUES = [
    "evergrant.provider.unavailable",
    *("2-provider-unavailable", "https://id/token", 20, {"a": 1}),
]
REPLY_1 = [
    *("reply", 1, 2, None, 5, GRANT_VALUES, EVENT_VALUES),
    *(b"sealed reply", 6, "http_200_not_json", 7, 8, "f00", True, OUTAGE_VALUES),
]


def test_version_1_of_an_entry_is_written_field_by_field() -> None:
    """Where a field is removed or moved, entries get a new version, and version 1 keeps a reader."""
    assert VERSION == 1
    assert msgpack.unpackb(pack(COMMIT)) == VERSION_1


def test_version_1_of_an_entry_is_read() -> None:
    assert unpack(msgpack.packb(VERSION_1)) == COMMIT


def test_an_entry_from_before_a_field_was_added_is_read_without_it() -> None:
    older = msgpack.packb([*VERSION_1[:7], GRANT_VALUES[:-5], EVENT_VALUES])
    assert unpack(older) == replace(COMMIT, change=replace(COMMIT.change, grant=replace(GRANT, **LATER)))


def test_an_absent_field_at_the_end_is_left_out_so_that_an_older_release_reads_the_entry() -> None:
    absent = replace(COMMIT, change=replace(COMMIT.change, grant=replace(GRANT, **LATER)))
    assert msgpack.unpackb(pack(absent))[7] == GRANT_VALUES[:-5]


@pytest.mark.parametrize("values", [GRANT_VALUES[:10], [*GRANT_VALUES, 26, None]], ids=["fewer", "more"])
def test_a_grant_with_other_fields_is_not_guessed_at(values: list[object]) -> None:
    entry = msgpack.packb([*VERSION_1[:7], values, EVENT_VALUES])
    with pytest.raises(UnknownEntryError):
        unpack(entry)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_entry_of_another_version_is_not_guessed_at(version: object) -> None:
    with pytest.raises(UnknownEntryError):
        unpack(msgpack.packb([version, *VERSION_1[1:]]))


def test_what_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(UnknownEntryError) as caught:
        unpack(msgpack.packb([VERSION, "a secret"]))
    assert caught.value.__suppress_context__


def test_version_1_of_a_kept_reply_is_written_field_by_field() -> None:
    assert msgpack.unpackb(pack(KEPT)) == REPLY_1


def test_version_1_of_a_kept_reply_is_read() -> None:
    assert unpack(msgpack.packb(REPLY_1)) == KEPT


def test_a_kept_reply_begins_as_no_version_so_that_a_release_before_it_leaves_it_alone() -> None:
    """It compared the first value with 1, and kept a file with any other for another release."""
    assert msgpack.unpackb(pack(KEPT))[0] == "reply"


@pytest.mark.parametrize(
    "values",
    [["reply", 2, *REPLY_1[2:]], REPLY_1[:-1], [*REPLY_1, None], ["reply"], ["replies", *REPLY_1[1:]]],
    ids=["a-later-version", "fewer", "more", "nothing-else", "another-kind"],
)
def test_a_kept_reply_of_another_release_is_not_guessed_at(values: list[object]) -> None:
    with pytest.raises(UnknownEntryError):
        unpack(msgpack.packb(values))


CONSENT = Consent(
    fence=2,
    sign_in="a1",
    code=b"digest",
    until=6,
    change=Change(GRANT, due_at=4, attention_at=5, event=None),
    wanted=Wanted("grant-1", "acme", ("all",), {"team": "blue"}, "https://app/done", By("shop", "10.0.0.7")),
    origin="10.0.0.8",
)
CONSENT_1 = [
    *("consent", 1, 2, 4, 5, GRANT_VALUES, None, "a1", b"digest", 6, "10.0.0.8"),
    *(["grant-1", "acme", ["all"], {"team": "blue"}, "https://app/done"], ["shop", "10.0.0.7"]),
]
CONFIRMED = Confirmed(
    fence=2,
    sign_in="a1",
    base_version=3,
    base_status=Status.FAILED,
    change=Change(GRANT, due_at=4, attention_at=5, event=EVENT),
    revokes=True,
    by=By("shop", "10.0.0.7"),
)
CONFIRMED_1 = [
    *("confirmed", 1, 2, 4, 5, GRANT_VALUES, EVENT_VALUES, "a1", 3, "failed", True, ["shop", "10.0.0.7"]),
]


@pytest.mark.parametrize(("entry", "values"), [(CONSENT, CONSENT_1), (CONFIRMED, CONFIRMED_1)])
def test_version_1_of_what_a_sign_in_brings_is_written_field_by_field(
    entry: Consent | Confirmed, values: list[object]
) -> None:
    assert msgpack.unpackb(pack(entry)) == values
    assert unpack(msgpack.packb(values)) == entry


@pytest.mark.parametrize("values", [CONSENT_1, CONFIRMED_1])
def test_what_a_sign_in_brings_is_not_guessed_at_where_another_release_wrote_it(values: list[object]) -> None:
    for other in ([values[0], 2, *values[2:]], values[:-1], [*values, None]):
        with pytest.raises(UnknownEntryError):
            unpack(msgpack.packb(other))


def test_no_secret_of_a_sign_in_is_shown() -> None:
    assert "digest" not in repr(CONSENT)
