"""JSON lines, columns and times as people read them."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def write_json(value: Mapping[str, Any]) -> None:
    """One object on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_line(text: str = "") -> None:
    """One line of standard output; what a terminal would obey rather than show is replaced."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    sys.stdout.write(text + "\n")


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
