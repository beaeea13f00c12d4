"""The bodies of control requests, read strictly: a wrong, missing or unknown field is one clear line.

A test that misspells a field must hear of it: otherwise it would test nothing.
"""

from __future__ import annotations

import json
from typing import Any


class InputError(ValueError):
    """A control request that cannot be carried out; the message is one line for a person."""


class Fields:
    """The fields of one JSON object. Each is taken once; `finish` refuses what is left over."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = dict(values)

    @classmethod
    def from_json(cls, body: bytes) -> Fields:
        """Read a request body; an empty one is an object without fields."""
        try:
            values = json.loads(body or b"{}")
        except ValueError:
            message = "the body is not JSON"
            raise InputError(message) from None
        if not isinstance(values, dict):
            message = "the body must be a JSON object"
            raise InputError(message)
        return cls(values)

    def text(self, name: str, default: str | None = None) -> str:
        """Take a text that is not empty."""
        value = self._take(name, default)
        if not isinstance(value, str) or not value:
            message = f"{name} must be a text that is not empty"
            raise InputError(message)
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """Take one of a few words."""
        value = self._take(name, default)
        if value not in choices:
            message = f"{name} must be one of: {', '.join(choices)}"
            raise InputError(message)
        return str(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Take true or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            message = f"{name} must be true or false"
            raise InputError(message)
        return value

    def whole(self, name: str, default: int | None = None, *, least: int = 0) -> int:
        """Take a whole number."""
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            message = f"{name} must be a whole number, at least {least}"
            raise InputError(message)
        return value

    def number(self, name: str, default: float, *, most: float = float("inf")) -> float:
        """Take a number that is not negative."""
        value = self._take(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= most:
            limit = "" if most == float("inf") else f", at most {most:g}"
            message = f"{name} must be a number, at least 0{limit}"
            raise InputError(message)
        return float(value)

    def holds(self, name: str) -> bool:
        """Tell whether a field was sent and not yet taken."""
        return name in self._values

    def finish(self) -> None:
        """Refuse fields that nobody took."""
        if self._values:
            message = f"unknown here: {', '.join(sorted(self._values))}"
            raise InputError(message)

    def _take(self, name: str, default: Any) -> Any:
        value = self._values.pop(name, default)
        if value is None:
            message = f"{name} is missing"
            raise InputError(message)
        return value
