"""The console's plots: what they draw, where, and that they stay legible."""

import pytest

from worker.http.console import words
from worker.http.console.plot import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_MARKS,
    RIGHT,
    TOP,
    WIDTH,
    Plot,
    Value,
    bars_over_time,
)


def plotted(*values: Value, limit: float | None = None) -> Plot:
    return bars_over_time(values, limit, words.of_day)


def test_bars_are_as_high_as_their_values_and_inside_the_frame() -> None:
    plot = plotted(Value(0, 100), Value(3_600_000, 50, 25), Value(7_200_000, 0))
    whole = HEIGHT - BOTTOM - TOP

    assert [(bar.kind, round(bar.height)) for bar in plot.bars] == [
        ("good", whole),
        ("good", whole // 2),
        ("bad", round(whole / 4)),
    ]
    assert all(bar.x >= LEFT and bar.x + bar.width <= WIDTH - RIGHT for bar in plot.bars)
    assert all(round(bar.y + bar.height) == HEIGHT - BOTTOM for bar in plot.bars)


@pytest.mark.parametrize(
    ("highest", "numbers"),
    [
        (0, ["0", "1"]),
        (1, ["0", "1"]),
        (3, ["0", "1", "2", "3"]),
        (37, ["0", "10", "20", "30", "40"]),
        (4_321, ["0", "2,000", "4,000", "6,000"]),
        (1_000_000, ["0", "500,000", "1,000,000"]),
    ],
)
def test_the_numbers_beside_it_are_few_and_round(highest: int, numbers: list[str]) -> None:
    assert [mark.text for mark in plotted(Value(0, highest)).numbers] == numbers


def test_a_limit_is_drawn_where_it_is_near_and_makes_no_bar_too_low_to_read() -> None:
    near, far = plotted(Value(0, 100), limit=150), plotted(Value(0, 100), limit=36_000)

    assert near.limit is not None
    assert near.limit < min(bar.y for bar in near.bars)
    assert far.limit is None
    assert far.bars[0].height == HEIGHT - BOTTOM - TOP


@pytest.mark.parametrize("hours", [1, 8, 9, 24, 168, 744])
def test_the_instants_below_it_do_not_run_into_each_other(hours: int) -> None:
    plot = bars_over_time([Value(each * 3_600_000, 1) for each in range(hours)], None, words.of_week)

    assert 1 <= len(plot.instants) <= MOST_MARKS
    assert plot.instants[0].text == "Thu 00:00"


def test_nothing_is_plotted_as_nothing() -> None:
    assert plotted().bars == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_661, "1 h 1 min"), (3_605, "1 h"), (90_000, "1 d 1 h")],
)
def test_spans_are_read_as_people_say_them(seconds: int, text: str) -> None:
    assert words.span(seconds * 1000) == text
    assert words.relative(10**12 + seconds * 1000 + 1, 10**12) == f"in {text}"
    assert words.relative(10**12 - seconds * 1000, 10**12) == f"{text} ago"
