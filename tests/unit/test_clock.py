"""The one clock: what is taken over from a reply, and what is not."""

from worker.adapters.clock import SLOW_REPLY_MS, RedisClock


def test_the_clock_takes_over_what_a_swift_reply_says() -> None:
    clock = RedisClock()
    clock.set(1_000_000, asked_at=clock.stopwatch())

    clock.set(9_000_000, asked_at=clock.stopwatch())

    assert clock.now() >= 9_000_000


def test_a_reply_that_lay_unread_does_not_set_the_clock() -> None:
    clock = RedisClock()
    clock.set(9_000_000, asked_at=clock.stopwatch())

    clock.set(1_000_000, asked_at=clock.stopwatch() - SLOW_REPLY_MS - 1)

    assert clock.now() >= 9_000_000


def test_the_first_reply_sets_the_clock_however_slow_it_was() -> None:
    clock = RedisClock()

    clock.set(9_000_000, asked_at=clock.stopwatch() - 60_000)

    assert clock.now() >= 9_000_000
