"""For how long a server asks not to be asked again.

RFC 9110 section 10.2.3 has `Retry-After`: whole seconds or a date. Servers also write fractions, other names,
the moment at which a limit ends, and say it in the body.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from worker.core.documents import Document
from worker.core.issued import snake_case
from worker.core.providers import SECOND_MS

# More seconds than the first are an instant, and more than the second are one in milliseconds.
LONGEST_WAIT_SECONDS: Final = 10**9
LATEST_UNIX_SECONDS: Final = 10**11

_HEADERS: Final = ("retry-after", "x-retry-after")
_HEADERS_IN_MS: Final = ("retry-after-ms", "x-ms-retry-after-ms")
_FIELDS: Final = ("retry_after", "retry_after_seconds", "retry_in")
_FIELDS_IN_MS: Final = ("retry_after_ms", "retry_after_milliseconds")
_number: Final = re.compile(
    r"\+?([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?:s|secs?|seconds?)?", re.IGNORECASE
).fullmatch
_reset_in_limit: Final = re.compile(r"(?:^|[,;\s])(?:reset|t)=([0-9]+)").search


def asked_wait_ms(headers: Mapping[str, str], document: Document, now: int) -> int | None:
    """What a reply of any status asks for in so many words; `None` where it asks for nothing."""
    texts = [(headers.get(name), SECOND_MS) for name in _HEADERS]
    texts += [(headers.get(name), 1) for name in _HEADERS_IN_MS]
    return next(_read((*texts, *_in_body(document)), now), None)


def retry_after_ms(headers: Mapping[str, str], now: int) -> int | None:
    """What `Retry-After` asks for; `None` where it asks for nothing."""
    return next(_read(((headers.get("retry-after"), SECOND_MS),), now), None)


def limit_wait_ms(headers: Mapping[str, str], names: tuple[str, ...], now: int) -> int | None:
    """Until a rate limit ends. Only for a 408 or 429: other replies have these headers too.

    Args:
        headers: of the reply.
        names: the headers that may say it, by preference.
        now: Unix milliseconds.
    """
    limit = _reset_in_limit(headers.get("ratelimit", ""))  # draft-ietf-httpapi-ratelimit-headers
    texts = [(headers.get(name), SECOND_MS) for name in names]
    return next(_read((*texts, (limit and limit[1], SECOND_MS)), now), None)


def _in_body(document: Document) -> Iterator[tuple[object, int]]:
    """Discord has it at the top, others in `error` or `parameters`."""
    tops = [_named(value) for value in document.values if isinstance(value, dict)]
    inner = [_named(each) for top in tops for each in top.values() if isinstance(each, dict)]
    for fields in (*tops, *inner):
        yield from ((fields.get(name), SECOND_MS) for name in _FIELDS)
        yield from ((fields.get(name), 1) for name in _FIELDS_IN_MS)


def _named(fields: dict[str, Any]) -> dict[str, Any]:
    return {snake_case(name): value for name, value in fields.items()}


def _read(stated: tuple[tuple[object, int], ...], now: int) -> Iterator[int]:
    for value, unit_ms in stated:
        wait_ms = _wait_ms(value, unit_ms, now)
        if wait_ms is not None:
            yield wait_ms


def _wait_ms(value: object, unit_ms: int, now: int) -> int | None:
    """A number of units from now, a Unix time in seconds or milliseconds, or an HTTP date."""
    if isinstance(value, str):
        number = _number(value.strip())
        if number is None:
            return _until_date_ms(value.strip(), now)
        value = float(number[1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value < LATEST_UNIX_SECONDS * SECOND_MS or not math.isfinite(value):
        return None
    if value < LONGEST_WAIT_SECONDS:
        return int(value * unit_ms)
    at = int(value * SECOND_MS) if value < LATEST_UNIX_SECONDS else int(value)
    return max(at - now, 0)


def _until_date_ms(text: str, now: int) -> int | None:
    try:
        date = parsedate_to_datetime(text)
        # The asctime form names no zone; every HTTP date is in GMT.
        at = (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return max(int(at * SECOND_MS) - now, 0)
