"""In which words replies state the end of an access token, as data: each is what some server does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RFC_6749: Final = "expires_in"

# By name: the fields of a reply, from the whole seconds that are left and the present Unix time.
STATEMENTS: Final[Mapping[str, Callable[[int, int], dict[str, Any]]]] = {
    RFC_6749: lambda left, _: {"expires_in": left},
    "expires_in_text": lambda left, _: {"expires_in": str(left)},
    "expires_in_unix_time": lambda left, now: {"expires_in": now + left},
    "expires_at": lambda left, now: {"expires_at": now + left},
    "expires_rfc3339": lambda left, now: {"expires": datetime.fromtimestamp(now + left, UTC).isoformat()},
    "expiry_date_ms": lambda left, now: {"expiry_date": (now + left) * 1000},
    "zero": lambda _left, _now: {"expires_in": 0},
    "nonsense": lambda _left, _now: {"expires_in": "9" * 10_000},
    "nothing": lambda _left, _now: {},
}
