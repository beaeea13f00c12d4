"""What clients did to the server: counters and a log, in memory.

Rules:
    - Counts are of what clients did, even where a fault kept the server from acting: a dead refresh
      token has been presented even if the reply was a 503. Only `connected`, `refreshes` and `replays`
      count what the server did.
    - Revocations and calls of the API are no token requests: they are counted, and neither logged nor
      among the `requests`.
    - A request occupies its grant from the moment when its body is read until its reply is written
      or its client has left. A request that begins while another occupies the grant is `concurrent`.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG_LENGTH: Final = 100_000


class RequestVerdict(StrEnum):
    """What one token request is, decided before the server acts on it."""

    LIVE = "live"
    """The live refresh token of a grant."""
    WITHIN_GRACE = "within_grace"
    """The previous refresh token, within the server's grace period."""
    CLIENT_CREDENTIALS = "client_credentials"
    LIVE_CODE = "live_code"
    """An authorization code, with all that its exchange needs."""
    CODE_REPLAYED = "code_replayed"
    """A code that an earlier request spent."""
    CODE_EXPIRED = "code_expired"
    CODE_NEVER_ISSUED = "code_never_issued"
    WRONG_REDIRECT_URI = "wrong_redirect_uri"
    """A code with another redirect URI than its authorization request had."""
    WRONG_VERIFIER = "wrong_verifier"
    """A code with a PKCE verifier that does not match its challenge, or with one of the two alone."""
    SUPERSEDED = "superseded"
    """A refresh token that a newer one has replaced."""
    NEVER_ISSUED = "never_issued"
    REVOKED = "revoked"
    REFRESH_EXPIRED = "refresh_expired"
    ABSOLUTE_LIMIT = "absolute_limit"
    """The grant has reached its limit counted from consent."""
    WRONG_CLIENT = "wrong_client"
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"
    UNREAD = "unread"
    """The server closed or refused without reading the request: an outage."""


# Counted when the request begins; the others are counted by what the server does, or not at all.
_COUNTED = frozenset(RequestVerdict) - {
    RequestVerdict.LIVE_CODE,
    RequestVerdict.LIVE,
    RequestVerdict.WITHIN_GRACE,
    RequestVerdict.UNREAD,
}

COUNTS: Final = (
    "connected",
    "refreshes",
    "replays",
    *sorted(_COUNTED),
    "concurrent",
    "expired",
    "undelivered",
    "redirects_followed",
    "revocations",
    "revocations_of_dead_tokens",
    "assertions_reused",
    "api_calls",
    "api_refusals",
)


@dataclass(slots=True)
class Visit:
    """One request at the token endpoint, as it stands in the log."""

    at: float
    grant: str | None
    verdict: RequestVerdict
    fault: str | None
    concurrent: bool
    acted: bool = False
    """Whether the server carried the request out, as far as the verdict allows."""
    delivered: bool = False
    """Whether the server's own reply was written to a client that was still connected."""
    ended_at: float | None = None


class Judge:
    """Counts and logs; it decides nothing and reads no clock."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.requests = 0
        self.max_per_second = 0
        self.log: deque[Visit] = deque(maxlen=LOG_LENGTH)
        self._by_grant: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._occupants: defaultdict[str, list[tuple[Visit, Callable[[], bool]]]] = defaultdict(list)
        self._second = 0
        self._in_second = 0

    def arrive(self, now: float) -> None:
        """Count a request whose headers have arrived."""
        self.requests += 1
        if int(now) != self._second:
            self._second, self._in_second = int(now), 0
        self._in_second += 1
        self.max_per_second = max(self.max_per_second, self._in_second)

    def begin(
        self,
        now: float,
        verdict: RequestVerdict,
        grant_id: str | None,
        *,
        fault: str | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> Visit:
        """Log a request whose body has been read; `gone` tells whether its client has left."""
        concurrent = grant_id is not None and self._occupied(grant_id)
        visit = Visit(now, grant_id, verdict, fault, concurrent)
        self.log.append(visit)
        if grant_id is not None:
            self._occupants[grant_id].append((visit, gone))
        if verdict in _COUNTED:
            self.count(verdict, grant_id)
        if concurrent:
            self.count("concurrent", grant_id)
        return visit

    def finish(self, visit: Visit, now: float) -> None:
        """Note that the reply to `visit` is written, or never will be."""
        visit.ended_at = now
        if visit.grant is None:
            return
        occupants = self._occupants[visit.grant]
        occupants[:] = [occupant for occupant in occupants if occupant[0] is not visit]
        if not occupants:
            del self._occupants[visit.grant]

    def count(self, what: str, grant_id: str | None) -> None:
        """Add one to a total, and to the grant's own count where the grant is known."""
        self.totals[what] += 1
        if grant_id is not None:
            self._by_grant[grant_id][what] += 1

    def report(self) -> dict[str, int]:
        """Return the totals, zeros included."""
        counts = {name: self.totals[name] for name in COUNTS}
        return {"requests": self.requests, "max_per_second": self.max_per_second, **counts}

    def report_grant(self, grant_id: str) -> dict[str, int]:
        """Return one grant's counts, zeros included."""
        counts = self._by_grant.get(grant_id, Counter())
        return {name: counts[name] for name in COUNTS}

    def visits(self, grant_id: str | None = None) -> Iterator[Visit]:
        """Yield the log, oldest first: all of it, or one grant's."""
        return (visit for visit in self.log if grant_id in (None, visit.grant))

    def _occupied(self, grant_id: str) -> bool:
        # A client that timed out and asks again is not concurrent with itself, even while this server
        # still delays the reply to its first request.
        return any(not gone() for _, gone in self._occupants.get(grant_id, ()))
