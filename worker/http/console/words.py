"""Spans and instants as people read them."""

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_SHOWN: Final = 2  # units, the largest


def span(ms: int) -> str:
    """A span in its largest two units: `2 h 13 min`."""
    seconds = abs(round(ms / 1000))
    parts: list[str] = []
    for size, unit in _UNITS:
        number, seconds = divmod(seconds, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
        elif parts:
            break
        if len(parts) == _SHOWN:
            break
    return " ".join(parts)


def relative(at: int, now: int) -> str:
    """An instant as it is seen from now: `in 2 h 13 min`, `5 min ago`."""
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def instant(at: int) -> str:
    """An instant as text, to the second: `29 Nov 2026, 16:12:05 UTC`."""
    return f"{_utc(at):%-d %b %Y, %H:%M:%S} UTC"


def of_day(at: int) -> str:
    """An instant of today or tomorrow: `16:12`."""
    return f"{_utc(at):%H:%M}"


def of_week(at: int) -> str:
    """An instant of these days: `Mon 16:12`."""
    return f"{_utc(at):%a %H:%M}"


def of_month(at: int) -> str:
    """A day: `29 Nov`."""
    return f"{_utc(at):%-d %b}"


def machine(at: int) -> str:
    """An instant for programs, RFC 3339 to the second."""
    return f"{_utc(at):%Y-%m-%dT%H:%M:%SZ}"


def ms_of(text: str) -> int:
    """RFC 3339 as Unix ms."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _utc(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)
