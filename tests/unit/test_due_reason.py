"""Why a grant is due when it is."""

from dataclasses import replace

import pytest

from worker.core.grant import Grant, Status
from worker.core.policy import Rules, next_due
from worker.core.providers import OAUTH2, Client
from worker.core.reasons import Reason
from worker.core.registry import StoredGrant
from worker.fleet.due_reason import reason_of_due

HOUR_MS = 3_600_000
NOW = 1_800_000_000_000
CLIENT = Client("acme", OAUTH2, "https://as.example/token", "id", ())
RULES = Rules()
FRESH = Grant("one", "acme", Status.ACTIVE, 3, b"lineage", b"", NOW, NOW + HOUR_MS, NOW, None, None)


def _why(grant: Grant, due_at: int | None, *, leased: bool = False) -> Reason | None:
    stored = StoredGrant(grant, due_at, NOW + 1_000 if leased else NOW - 1_000)
    return reason_of_due(stored, CLIENT, RULES, NOW)


def test_a_fresh_grant_is_due_at_the_share_of_its_access_tokens_life() -> None:
    assert _why(FRESH, next_due(FRESH, CLIENT, RULES).at) is Reason.ACCESS_TOKEN_SHARE


def test_a_grant_that_was_put_off_is_due_for_the_reason_it_had() -> None:
    assert _why(FRESH, NOW + HOUR_MS - 1) is Reason.ACCESS_TOKEN_SHARE


def test_a_failing_grant_is_retried_and_a_rejected_one_confirmed() -> None:
    failing = replace(FRESH, status=Status.FAILING, streak=1)

    assert _why(replace(failing, reason="unavailable"), NOW + 1) is Reason.RETRY
    assert _why(replace(failing, rejected_at=NOW), NOW + 1) is Reason.REJECTED


def test_a_grant_that_is_being_refreshed_is_due_when_its_lease_ends() -> None:
    assert _why(FRESH, NOW + 1_000, leased=True) is Reason.LEASED


def test_a_grant_whose_tokens_never_end_is_never_due() -> None:
    assert _why(replace(FRESH, access_expires_at=None), None) is Reason.NOTHING_EXPIRES


def test_a_grant_that_cannot_be_refreshed_is_due_for_the_end_of_its_access_token() -> None:
    bare = replace(FRESH, lineage=b"")

    assert _why(bare, next_due(bare, CLIENT, RULES).at) is Reason.NO_REFRESH_TOKEN
    assert _why(replace(bare, noticed_at=NOW), NOW + HOUR_MS) is Reason.ACCESS_TOKEN_END


@pytest.mark.parametrize("status", [Status.FAILED, Status.PAUSED])
def test_a_grant_out_of_work_is_due_for_no_reason(status: Status) -> None:
    assert _why(replace(FRESH, status=status), None) is None


def test_nor_is_one_of_a_client_that_is_not_configured() -> None:
    assert reason_of_due(StoredGrant(FRESH, NOW, None), None, RULES, NOW) is None
