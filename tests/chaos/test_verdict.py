"""The judge of the chaos run convicts: each thing that must never happen is made up here, and found."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.counters import REFRESHES
from tests.chaos.driver import Struck
from tests.chaos.evidence import Evidence
from tests.chaos.plan import Kind
from tests.chaos.verdict import DROPPED, IN_FROZEN, JOURNALED, KILLED, OUTSIDE, Verdict
from tests.support.scrape import Samples
from worker.core.events import rfc3339
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.registry import StoredGrant

ID = "grant-1"
ISSUED_AT = 1_000.0
ROTATED_AT = 1_050.0
REPLIED_AT = 1_050.1

STATUSES = {status.value for status in Status}


def _line(number: int) -> dict[str, Any]:
    return {"access_token": f"access-{number}", "refresh_token": f"refresh-{number}"}


def _visit(**changes: Any) -> dict[str, Any]:
    rotation = {
        "at": ROTATED_AT,
        "grant": ID,
        "verdict": "live",
        "fault": None,
        "concurrent": False,
        "acted": True,
        "delivered": True,
        "ended_at": REPLIED_AT,
    }
    return rotation | changes


def _event(kind: str, version: int, *, reason: str | None = None, number: int = 1) -> dict[str, Any]:
    at = int(REPLIED_AT * 1000) + 5
    data = {"version": version, "reason": reason, "expires_at": rfc3339(int((ROTATED_AT + 100) * 1000))}
    event_id = f"{number}-grant-{kind}"
    return {
        "type": f"evergrant.grant.{kind}",
        "id": event_id,
        "subject": ID,
        "time": rfc3339(at),
        "data": data,
    }


def _stored(status: Status, version: int = 0) -> StoredGrant:
    return StoredGrant(Grant(ID, "buddy", status, version, b"", b"", 0, None, 0, None, None), 1, None)


def _samples(**counts: int) -> Samples:
    """A scrape: outcomes of refreshes, and grants by status."""
    by_name = {name: "evergrant_grants" if name in STATUSES else REFRESHES for name in counts}
    return {(by_name[name], "buddy", name): number for name, number in counts.items()}


def _struck(kind: Kind, at: float, ended_at: float) -> Struck:
    return Struck(kind, at, at, ended_at, 1)


FINE = Evidence(
    lines={ID: {"id": ID, "expires_in": 100, "issued_at": rfc3339(int(ISSUED_AT * 1000)), **_line(0)}},
    visits=[_visit()],
    pairs={ID: {"id": ID, **_line(1)}},
    kept={ID: TokenPair("access-1", "refresh-1")},
    grants={ID: _stored(Status.ACTIVE, version=1)},
    events=[_event("refreshed", 1)],
    totals={"refreshes": 1, "expired": 0, "superseded": 0, "concurrent": 0},
    samples=_samples(refreshed=1, active=1),
    expired=frozenset(),
    struck=[],
    stalls=[],
    ended_by_themselves=[],
    journaled=frozenset(),
    leaks=[],
)

LOST = replace(
    FINE,
    kept={ID: TokenPair("access-0", "refresh-0")},
    grants={ID: _stored(Status.FAILED)},
    events=[_event("failed", 0, reason="reply_lost")],
    samples=_samples(failed=1),
)


def _verdict(evidence: Evidence, **changes: Any) -> Verdict:
    return Verdict(replace(evidence, **changes), refresh_at=0.5)


def test_a_run_in_which_all_went_well_has_no_violation() -> None:
    verdict = _verdict(FINE)

    assert verdict.violations() == []
    assert verdict.lost == {}
    assert verdict.margin_seconds == pytest.approx(50)


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        (OUTSIDE, {}),
        (OUTSIDE, {"struck": [_struck(Kind.WORKER_KILLED, REPLIED_AT + 1, REPLIED_AT + 2)]}),
        (OUTSIDE, {"struck": [_struck(Kind.BEAT_KILLED, ROTATED_AT + 0.05, REPLIED_AT)]}),
        (KILLED, {"struck": [_struck(Kind.WORKER_KILLED, ROTATED_AT + 0.05, REPLIED_AT)]}),
        (KILLED, {"struck": [_struck(Kind.CHILD_KILLED, ROTATED_AT + 0.05, REPLIED_AT)]}),
        (
            KILLED,
            {
                "struck": [_struck(Kind.WORKER_KILLED, REPLIED_AT + 1, REPLIED_AT + 2)],
                "stalls": [(REPLIED_AT - 1, REPLIED_AT + 1)],
            },
        ),
        (IN_FROZEN, {"struck": [_struck(Kind.WORKER_FROZEN, ROTATED_AT + 0.05, REPLIED_AT + 5)]}),
        (DROPPED, {"visits": [_visit(fault="drop_after", delivered=False)]}),
        (
            JOURNALED,
            {
                "journaled": frozenset({lineage_of(ID, "refresh-1")}),
                "struck": [_struck(Kind.WORKER_KILLED, ROTATED_AT + 0.05, REPLIED_AT)],
            },
        ),
    ],
)
def test_a_lost_grant_is_excused_by_a_kill_or_a_dropped_answer_alone(
    why: str, changes: Mapping[str, Any]
) -> None:
    verdict = _verdict(LOST, **changes)

    assert verdict.lost == {ID: why}
    assert (verdict.violations() == []) == (why in {KILLED, DROPPED})


REFUSED = _visit(at=1_060, ended_at=1_060.1, verdict="superseded", acted=False)
DROP = {"visits": [_visit(fault="drop_after", delivered=False)]}


@pytest.mark.parametrize(
    ("what", "evidence", "changes"),
    [
        ("lost, and not failed", LOST, {**DROP, "grants": {ID: _stored(Status.ACTIVE)}}),
        ("failed, and not announced", LOST, {**DROP, "events": []}),
        ("another reason than reply_lost", LOST, {**DROP, "events": [_event("failed", 0, reason="revoked")]}),
        ("failed, and honoured by the provider", FINE, {"grants": {ID: _stored(Status.FAILED)}}),
        ("announced as failed, and not failed", FINE, {"events": [_event("failed", 0, reason="reply_lost")]}),
        ("events with one id", FINE, {"events": [_event("refreshed", 1), _event("refreshed", 1)]}),
        ("access tokens expired", FINE, {"expired": frozenset({ID})}),
        (
            "presented superseded tokens without a reason",
            FINE,
            {"visits": [_visit(), _visit(at=REPLIED_AT + 1, verdict="superseded", acted=False)]},
        ),
        (
            "presented superseded tokens though told twice",
            LOST,
            {
                "visits": [
                    *DROP["visits"],
                    *(_visit(at=at, verdict="superseded") for at in (1_060, 1_061, 1_062)),
                ]
            },
        ),
        ("presented by two at once", FINE, {"visits": [_visit(concurrent=True)]}),
        (
            "2 refreshes counted; the provider has 1 rotations",
            FINE,
            {"samples": _samples(refreshed=2, active=1)},
        ),
        ("1 refreshes counted; the versions of", FINE, {"grants": {ID: _stored(Status.ACTIVE, version=2)}}),
        ("2 grants told to be active; stored are 1", FINE, {"samples": _samples(refreshed=1, active=2)}),
        (
            "0 refusals counted; the provider has 1, 1 of them sure",
            LOST,
            {"visits": [*DROP["visits"], REFUSED]},
        ),
        (
            "1 refusals counted; the provider has 0",
            FINE,
            {"samples": _samples(refreshed=1, active=1, rejected=1)},
        ),
        (
            "the lateness of 2 refreshes",
            FINE,
            {"samples": FINE.samples | {("evergrant_refresh_lateness_seconds_count",): 2}},
        ),
        ("counted as unread", FINE, {"samples": FINE.samples | _samples(unread=1)}),
        ("secrets", FINE, {"leaks": ["processes.log has access-0..."]}),
    ],
)
def test_what_must_never_happen_is_a_violation(
    what: str, evidence: Evidence, changes: Mapping[str, Any]
) -> None:
    violations = _verdict(evidence, **changes).violations()

    assert any(what in violation for violation in violations)


@pytest.mark.parametrize(
    "kind", [Kind.WORKER_KILLED, Kind.WORKER_FROZEN, Kind.STORE_FORGETS, Kind.DROP_BEFORE]
)
@pytest.mark.parametrize(("at", "is_excused"), [(1_060.05, True), (1_060.5, True), (1_065.0, False)])
def test_a_refusal_counts_unless_a_strike_may_have_kept_it_from_the_store(
    kind: Kind, at: float, *, is_excused: bool
) -> None:
    refusals = [
        _visit(at=at, ended_at=at + 0.1, verdict="superseded", acted=False) for at in (1_060, 1_070, 1_080)
    ]
    visits = [_visit(fault="drop_after", delivered=False), *refusals]
    told: dict[str, Any] = {"visits": visits, "samples": _samples(failed=1, rejected=3)}
    kill = _struck(kind, at, at + 0.1)

    assert any("told twice" in each for each in _verdict(LOST, **told).violations())
    assert (_verdict(LOST, **told, struck=[kill]).violations() == []) == is_excused


@pytest.mark.parametrize(
    ("kind", "at", "is_excused"),
    [
        (Kind.STORE_FORGETS, ROTATED_AT - 0.5, True),
        (Kind.STORE_FORGETS, ROTATED_AT + 1, False),
        (Kind.STORE_KILLED, ROTATED_AT - 0.5, False),
    ],
)
def test_a_lost_reply_has_another_name_only_where_its_worker_died_and_the_store_forgot_the_intent(
    kind: Kind, at: float, *, is_excused: bool
) -> None:
    told: dict[str, Any] = {"events": [_event("failed", 0, reason="revoked")]}
    store, worker = Struck(kind, at, at + 1, at + 2, 1), _struck(Kind.WORKER_KILLED, ROTATED_AT, REPLIED_AT)
    dropped = _visit(fault="drop_after", delivered=False)

    assert (_verdict(LOST, **told, struck=[store, worker]).violations() == []) == is_excused
    assert _verdict(LOST, **told, visits=[dropped], struck=[store, worker]).violations() != []
    assert _verdict(LOST, **told, struck=[worker]).violations() != []


def test_a_failure_that_was_taken_back_is_counted_and_is_no_violation() -> None:
    events = [_event("failed", 0, reason="reply_lost"), _event("recovered", 1, number=2)]
    verdict = _verdict(FINE, events=events)

    assert verdict.violations() == []
    assert verdict.false_alarms == 1
