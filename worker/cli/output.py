"""JSON lines, columns and times as people read them."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDEST = 1_000  # columns of a table that no terminal shows
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def write_json(value: Mapping[str, Any]) -> None:
    """One object on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_line(text: str = "") -> None:
    """One line of standard output."""
    sys.stdout.write(printable(text) + "\n")


def printable(text: str) -> str:
    """The text, with a replacement for what a terminal would obey rather than show."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output: the first column to the left, the others to the right.

    A terminal wraps what is too wide for it; elsewhere every row is one line.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = WIDEST
    console.print(table)


def note(text: str) -> None:
    """One line of standard error."""
    sys.stderr.write(text + "\n")


def columns(cells: Iterable[tuple[str, int]]) -> str:
    """Cells padded to their widths; the last one as long as it is."""
    padded = [text.ljust(width) for text, width in cells]
    return "  ".join(padded).rstrip()


def until(at: int | None, now: int) -> str:
    """A span from now to an instant, in the largest two units: `2h 13m`, `in the past: -5m`."""
    if at is None:
        return "never"
    seconds = round((at - now) / 1000)
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    parts: list[str] = []
    for size, unit in _UNITS:
        if seconds >= size or (unit == "s" and not parts):
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
        if len(parts) == 2:  # noqa: PLR2004 the two that matter
            break
    return sign + " ".join(parts)
