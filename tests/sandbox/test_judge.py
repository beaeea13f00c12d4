"""What the judge counts, and when two requests overlap."""

from __future__ import annotations

from worker.sandbox.judge import Judge, RequestVerdict


def test_a_request_that_begins_before_another_has_ended_is_concurrent() -> None:
    judge = Judge()

    first = judge.begin(1, RequestVerdict.LIVE, "a")
    second = judge.begin(2, RequestVerdict.SUPERSEDED, "a")

    assert (first.concurrent, second.concurrent) == (False, True)
    assert judge.report()["concurrent"] == judge.report_grant("a")["concurrent"] == 1


def test_requests_one_after_the_other_or_for_other_grants_are_not_concurrent() -> None:
    judge = Judge()
    first = judge.begin(1, RequestVerdict.LIVE, "a")
    judge.begin(1, RequestVerdict.LIVE, "b")
    judge.begin(1, RequestVerdict.NEVER_ISSUED, None)
    judge.begin(1, RequestVerdict.NEVER_ISSUED, None)

    judge.finish(first, 2)
    judge.begin(2, RequestVerdict.LIVE, "a")

    assert judge.report()["concurrent"] == 0


def test_a_client_that_left_does_not_occupy_its_grant() -> None:
    judge = Judge()
    judge.begin(1, RequestVerdict.LIVE, "a", gone=lambda: True)

    assert not judge.begin(2, RequestVerdict.LIVE, "a").concurrent


def test_a_dead_token_that_met_a_fault_was_presented_all_the_same() -> None:
    judge = Judge()

    judge.begin(1, RequestVerdict.SUPERSEDED, "a", fault="status")

    assert judge.report_grant("a")["superseded"] == 1


def test_the_busiest_second_is_remembered() -> None:
    judge = Judge()

    for moment in (1.0, 1.5, 1.9, 2.0, 3.0, 3.1):
        judge.arrive(moment)

    assert (judge.requests, judge.max_per_second) == (6, 3)
