"""A plot of bars over time, as the shapes of an SVG: computed here, drawn by `plot.html`.

A plot says nothing that the table beside it does not: that is for whoever does not see it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Final

WIDTH: Final = 960
HEIGHT: Final = 250
LEFT: Final = 64  # for the numbers
RIGHT: Final = 12
TOP: Final = 14
BOTTOM: Final = 28  # for the instants
MOST_MARKS: Final = 8
NICE: Final = (1, 2, 5, 10)
FAR: Final = 2.0  # times the highest bar: a limit beyond it would make the bars too low to read


@dataclass(frozen=True, slots=True)
class Value:
    """What one bar shows; `bad` is drawn over `good`."""

    at: int
    good: float
    bad: float = 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle; `kind` is `good` or `bad`."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A text at a place of an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Plot:
    """All shapes of a plot.

    Attributes:
        limit: where its line is; `None` where there is none, or it is far above.
    """

    bars: Sequence[Bar]
    limit: float | None
    numbers: Sequence[Mark]
    instants: Sequence[Mark]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def bars_over_time(values: Sequence[Value], limit: float | None, name: Callable[[int], str]) -> Plot:
    """Plot some values.

    Args:
        values: from left to right.
        limit: what no bar should pass; `None` for no limit.
        name: an instant, in a word or two.
    """
    highest = max((max(value.good, value.bad) for value in values), default=0.0)
    is_near = limit is not None and limit <= highest * FAR
    top = max(highest, limit or 0.0) if is_near else highest
    step = _nice_step(top)
    most = max(step, -(-top // step) * step)

    def y_of(number: float) -> float:
        return HEIGHT - BOTTOM - number / most * (HEIGHT - BOTTOM - TOP)

    room = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    bars = [
        Bar(kind, LEFT + place * room + room * 0.1, y_of(number), room * 0.8, HEIGHT - BOTTOM - y_of(number))
        for place, value in enumerate(values)
        for kind, number in (("good", value.good), ("bad", value.bad))
        if number > 0
    ]
    every = max(-(-len(values) // MOST_MARKS), 1)
    return Plot(
        bars,
        y_of(limit) if limit is not None and is_near else None,
        [Mark(y_of(number * step), f"{number * step:,.0f}") for number in range(round(most / step) + 1)],
        [
            Mark(LEFT + (place + 0.5) * room, name(value.at))
            for place, value in enumerate(values)
            if place % every == 0
        ],
    )


def _nice_step(top: float) -> float:
    """The distance of the numbers beside a plot: 1, 2 or 5 times a power of ten, four or five of them."""
    rough = max(top / 4, 1.0)
    power = 10.0 ** floor(log10(rough))
    return next(each * power for each in NICE if each * power >= rough)
