"""What becomes of a webhook's event after each answer."""

import pytest

from worker.core.delivery import FAILING_MS, SCHEDULE_MS, Answer, Decision, DisabledFor, Next, decide

HOUR_MS = 3_600_000


def after(status: int | None, *, tries: int = 0, failing_ms: int = 0, wait_ms: int | None = None) -> Decision:
    answer = Answer("timeout" if status is None else f"http_{status}", status, wait_ms)
    return decide(answer, tries=tries, failing_ms=failing_ms, chance=0.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_is_a_delivery(status: int) -> None:
    assert after(status, tries=9, failing_ms=2 * FAILING_MS) == Decision(Next.DELIVERED)


@pytest.mark.parametrize("status", [None, 100, 301, 302, 307, 400, 401, 404, 429, 500, 503])
def test_anything_else_is_tried_again_a_redirect_too(status: int | None) -> None:
    assert after(status) == Decision(Next.RETRY, in_ms=5_000)


def test_the_pauses_are_those_that_consumers_were_promised() -> None:
    seconds = [pause // 1000 for pause in SCHEDULE_MS]

    assert seconds == [5, 300, 1_800, *(hours * 3_600 for hours in (2, 5, 10, 14, 20, 24))]
    assert [after(500, tries=tries).in_ms for tries in range(9)] == list(SCHEDULE_MS)


def test_a_pause_is_up_to_a_tenth_longer() -> None:
    longest = decide(Answer("http_500", 500), tries=1, failing_ms=0, chance=1.0)

    assert longest.in_ms == 330_000


def test_after_the_last_pause_an_event_is_given_up() -> None:
    assert after(500, tries=9) == Decision(Next.GIVEN_UP)


@pytest.mark.parametrize(
    ("wait_ms", "in_ms", "hold_ms"),
    [(1_000, 5_000, 1_000), (60_000, 60_000, 60_000), (99 * HOUR_MS, 24 * HOUR_MS, 24 * HOUR_MS)],
)
def test_a_receiver_is_left_alone_for_as_long_as_it_asks_up_to_a_day(
    wait_ms: int, in_ms: int, hold_ms: int
) -> None:
    assert after(429, wait_ms=wait_ms) == Decision(Next.RETRY, in_ms=in_ms, hold_ms=hold_ms)


def test_410_disables_and_the_event_waits() -> None:
    assert after(410) == Decision(Next.RETRY, disables=DisabledFor.GONE)


def test_five_days_of_nothing_but_failures_disable() -> None:
    assert after(500, failing_ms=FAILING_MS - 1).disables is None
    assert after(500, failing_ms=FAILING_MS) == Decision(Next.RETRY, disables=DisabledFor.FAILING)
