"""How long a token lives: what documents say of it in any of the usual words, and what is assumed otherwise.

Documents are replies of token endpoints and import lines. Rules:
- Only `expires_in` has a definition (RFC 6749 section 5.1), so a number is judged by its size, whatever
  the word: a span in seconds, a Unix time in seconds, or one in milliseconds.
- Names are read in camel case too. `null` and an empty text count as not stated.
- A time without a zone is not read: it may be hours off.
- Silence means that the end is not known, never that there is none, unless somebody documents that.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

from worker.core.grant import ENDLESS_MS
from worker.core.outcomes import NoLifetime
from worker.core.providers import DAY_MS, MINUTE_MS, SECOND_MS, Client

MAX_LIFETIME_MS = 10 * 365 * DAY_MS
FALLBACK_LIFETIME_MS = 60 * MINUTE_MS  # of an access token of which nobody says how long it lives
# Stands in for a life of 0 or less, and for one of which neither length nor age is known: long enough not to
# refresh in a loop, short enough to try again within two minutes.
SOON_MS = 90 * SECOND_MS

_EARLIEST_SECONDS = 946_684_800  # 2000-01-01
_LATEST_SECONDS = 4_102_444_800  # 2100-01-01
_LONGEST_TEXT = 64

_number = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?").fullmatch


@dataclass(frozen=True, slots=True)
class Words:
    """The names under which documents state a token's end.

    Attributes:
        spans: count from the issue, where their number is small.
        instants: name a moment.
    """

    spans: tuple[str, ...]
    instants: tuple[str, ...]


ACCESS = Words(
    spans=("expires_in",),
    instants=("expires_at", "expires", "expires_on", "expiry", "expiry_date"),
)
REFRESH = Words(
    # The second is Keycloak's, the third Intuit's.
    spans=("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"),
    instants=("refresh_token_expires_at", "refresh_expires_at"),
)
_CAMEL_CASE = {
    name: re.sub(r"_(.)", lambda found: found[1].upper(), name)
    for words in (ACCESS, REFRESH)
    for name in words.spans + words.instants
}


@dataclass(frozen=True, slots=True)
class Span:
    """A life counted from the issue; 0 where 0 or less was stated, ten years at most."""

    ms: int


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment in Unix milliseconds, from 2000 to 2100."""

    at: int


class Flaw(Enum):
    """Why a value is no time."""

    UNREADABLE = auto()
    WITHOUT_ZONE = auto()


Reading = Span | Instant | Flaw


@dataclass(frozen=True, slots=True)
class Life:
    """How long a new access token is taken to live, and what is remembered of it.

    Attributes:
        ms: `ENDLESS_MS` where it never ends.
        stated_ms: the last life that was stated; `None` where none ever was.
    """

    ms: int
    stated_ms: int | None

    def end(self, issued_at: int) -> int | None:
        """When the token ends; `None` for never."""
        return None if self.ms == ENDLESS_MS else issued_at + self.ms


def access_lifetime(document: Mapping[str, Any], sent_at: int) -> int | NoLifetime:
    """What a reply says of its access token's life, in ms; 0 where it says 0 or less.

    Args:
        document: the reply.
        sent_at: Unix ms, from which a stated moment is counted.
    """
    lifetime_ms = _lifetime_ms(document, ACCESS, sent_at)
    return NoLifetime.UNKNOWN if lifetime_ms is None else lifetime_ms


def refresh_lifetime(document: Mapping[str, Any], sent_at: int) -> int | None:
    """What a reply says of its refresh token's life, in ms; `None` where it states none.

    0 counts as none: Keycloak states it of a token without an end.
    """
    return _lifetime_ms(document, REFRESH, sent_at) or None


def after_refresh(stated: int | NoLifetime, known_ms: int | None, client: Client) -> Life:
    """How long the access token of a reply is taken to live.

    What was only assumed is not remembered: a later reply or setting must be able to correct it.

    Args:
        stated: by the reply.
        known_ms: the last life that was stated of this grant's access tokens.
        client: whose grant it is.
    """
    match stated:
        case NoLifetime.NEVER:
            return Life(ENDLESS_MS, ENDLESS_MS)
        case NoLifetime.UNKNOWN if known_ms is not None:
            return Life(known_ms, known_ms)
        case NoLifetime.UNKNOWN:
            return Life(documented_ms(client) or FALLBACK_LIFETIME_MS, None)
        case _:
            return Life(stated, stated) if stated > 0 else Life(SOON_MS, known_ms)


def documented_ms(client: Client) -> int | None:
    """How long access tokens live whose replies state no end, by the client's setting or its provider's page.

    `ENDLESS_MS` stands for never; `None` where nobody says it.
    """
    documented = client.access_lifetime_ms or client.provider.access_lifetime_ms
    return ENDLESS_MS if isinstance(documented, NoLifetime) else documented


def stated_in(document: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """What a document has under these words, in their order, without what counts as absent."""
    for name in names:
        value = document.get(name)
        if value is None:
            value = document.get(_CAMEL_CASE[name])
        if value is not None and value != "":
            yield name, value


def read(name: str, value: object) -> Reading:
    """Read what stands under one of the words, or under the name of any other moment."""
    found = _read(value)
    if isinstance(found, Span) and found.ms == 0 and name not in ACCESS.spans + REFRESH.spans:
        return Flaw.UNREADABLE  # a moment that was never filled in
    return found


def _lifetime_ms(document: Mapping[str, Any], words: Words, sent_at: int) -> int | None:
    """From the first word that can be read; spans first, which no difference between clocks falsifies."""
    for name, value in stated_in(document, words.spans + words.instants):
        found = read(name, value)
        if isinstance(found, Span):
            return found.ms
        if isinstance(found, Instant):
            return min(max(found.at - sent_at, 0), MAX_LIFETIME_MS)
    return None


def _read(value: object) -> Reading:
    match value:
        case bool():
            return Flaw.UNREADABLE
        case int() | float():
            return _of_number(value)
        case str() if len(value) <= _LONGEST_TEXT:
            return _of_text(value.strip())
        case _:
            return Flaw.UNREADABLE


def _of_text(text: str) -> Reading:
    if _number(text):
        return _of_number(float(text) if "." in text else int(text))
    return _of_date(text)


def _of_number(number: float) -> Reading:
    if number == -math.inf:
        return Flaw.UNREADABLE
    if number <= 0:
        return Span(0)
    if number < _EARLIEST_SECONDS:
        return Span(max(round(min(number * SECOND_MS, MAX_LIFETIME_MS)), 1))
    if number <= _LATEST_SECONDS:
        return Instant(round(number * SECOND_MS))
    if _EARLIEST_SECONDS * SECOND_MS <= number <= _LATEST_SECONDS * SECOND_MS:
        return Instant(int(number))
    return Flaw.UNREADABLE


def _of_date(text: str) -> Reading:
    """RFC 3339 (section 5.6: `t` and `z` may be lower case) or an HTTP date (RFC 9110 section 5.6.7)."""
    try:
        date = datetime.fromisoformat(text.upper())
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError, TypeError):
            return Flaw.UNREADABLE
    if date.tzinfo is None:
        return Flaw.WITHOUT_ZONE
    seconds = date.timestamp()
    is_near = _EARLIEST_SECONDS <= seconds <= _LATEST_SECONDS
    return Instant(round(seconds * SECOND_MS)) if is_near else Flaw.UNREADABLE
