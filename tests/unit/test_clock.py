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


class Stopwatch:
    """A monotonic clock in milliseconds that the test winds on."""

    def __init__(self) -> None:
        self.ms = 5_000_000

    def __call__(self) -> int:
        return self.ms


def test_time_that_passes_is_no_leap() -> None:
    stopwatch = Stopwatch()
    clock = RedisClock(stopwatch)
    clock.set(1_000_000, asked_at=stopwatch.ms - 900)
    stopwatch.ms += 3_600_000

    clock.set(1_000_000 + 3_600_000 + 1_800, asked_at=stopwatch.ms)

    assert clock.take_leap() is None


def test_a_clock_that_goes_on_by_more_than_time_has_passed_has_leapt_once() -> None:
    stopwatch = Stopwatch()
    clock = RedisClock(stopwatch)
    clock.set(1_000_000, asked_at=stopwatch.ms)
    stopwatch.ms += 1_000

    clock.set(1_000_000 + 1_000 + 5_000, asked_at=stopwatch.ms)

    assert clock.take_leap() == 5_000
    assert clock.take_leap() is None


def test_a_leap_is_seen_in_a_slow_reply_too_and_taken_over() -> None:
    stopwatch = Stopwatch()
    clock = RedisClock(stopwatch)
    clock.set(1_000_000, asked_at=stopwatch.ms)
    stopwatch.ms += SLOW_REPLY_MS + 500

    clock.set(1_100_000, asked_at=stopwatch.ms - SLOW_REPLY_MS - 500)

    assert clock.take_leap() == 100_000 - SLOW_REPLY_MS - 500
    assert clock.now() == 1_100_000


def test_a_reply_that_a_later_one_overtook_does_not_set_the_clock() -> None:
    stopwatch = Stopwatch()
    clock = RedisClock(stopwatch)
    clock.set(9_000_000, asked_at=stopwatch.ms)

    clock.set(8_999_000, asked_at=stopwatch.ms)

    assert clock.now() == 9_000_000


def test_what_the_stores_clock_has_reached_is_what_was_told_and_most_of_the_time_since() -> None:
    stopwatch = Stopwatch()
    clock = RedisClock(stopwatch)
    assert clock.at_least() is None
    clock.set(9_000_000, asked_at=stopwatch.ms)
    assert clock.at_least() == 9_000_000

    stopwatch.ms += 100_000

    assert clock.at_least() == 9_000_000 + 100_000 - 1_000 - 2_000
