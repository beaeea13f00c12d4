"""Who may send next, and how much may be leased for it: rules only, without tasks and without a clock.

Rules:
- Endpoints that answer share all slots. Those in trouble (the last request failed, or one has been silent for
  long) share a quarter of them, a few each. So however many of them hang, the rest is for others.
- Those that have not been asked lately share a quarter of their own, one or two each. What hangs there counts
  as trouble soon, so a healthy one is heard in seconds beside a hundred that hang.
- Requests that hang count in these parts alone: an endpoint that stopped answering with many in flight takes
  no slot from those that answer. All in flight are never more than twice the slots.
- Among the clients that wait, the one with the fewest requests in flight is next. So each takes what others
  leave.
- Requests in flight follow an endpoint's pace (`Pace`). A small server is not sent a hundred at once.
- Grants are leased ahead only for an endpoint that answers. Leases ahead of one that hangs would run out.

Instants are seconds of any one clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import Final, NamedTuple

FIRST: Final = 4  # requests at once, where there was no setback yet
UNTRIED: Final = 2  # requests at once, until an endpoint has answered
LATELY_SECONDS: Final = 30.0  # an answer that is older says nothing
SLOW_PART: Final = 4  # a reply that takes longer than this part of its deadline is slow
SILENT_PART: Final = 4  # the part of the slots for endpoints that do not answer
AHEAD: Final = 200  # attempts that wait for a slot; if the process is killed, their leases run out unused
BEING_STORED: Final = 200
WORTH_A_CLAIM: Final = 25  # a claim's round trip costs as much as ten grants do
SORTED_SECONDS: Final = 0.1  # how long endpoints stay sorted; time alone changes their kind within seconds


class Kind(IntEnum):
    """What an endpoint's last requests came to: its place in a list of counts by kind."""

    ANSWERS = 0
    UNTRIED = 1  # nothing lately
    IN_TROUBLE = 2  # a failure, or nothing for longer than an answer should take


class Pace:
    """How many requests one endpoint is sent at once.

    It begins with four, of which an endpoint that was not asked lately is sent two. Each answer allows one
    more, which doubles them with each round; after the first setback one more a round. A failure or a slow
    answer halves them, once a round. A reply is slow that takes a quarter of its deadline and twice the least
    time seen: growth by a round then still ends in time.

    Attributes:
        leased: grants that are leased for it and not answered yet, those to be claimed included.
        in_flight: requests.
    """

    __slots__ = (
        "_answered_at",
        "_cut_at",
        "_deadline",
        "_doubles",
        "_has_failed",
        "_heard_at",
        "_least",
        "_limit",
        "_most",
        "_slow_seconds",
        "_unanswered_since",
        "in_flight",
        "leased",
    )

    def __init__(self, most: int, deadline: float) -> None:
        self.leased = 0
        self.in_flight = 0
        self._most = most
        self._deadline = deadline
        self._least = inf
        self._slow_seconds = deadline / SLOW_PART
        self._answered_at = -inf
        self._heard_at = -inf
        self._unanswered_since = inf
        self._begin()

    def _begin(self) -> None:
        self._limit = float(min(FIRST, self._most))
        self._doubles = True
        self._cut_at = -inf
        self._has_failed = False

    @property
    def limit(self) -> int:
        """How many requests at once."""
        return int(self._limit)

    def kind(self, now: float) -> Kind:
        """What its last requests came to."""
        if self._has_failed or now - self._unanswered_since > self._slow_seconds:
            return Kind.IN_TROUBLE
        return Kind.UNTRIED if now - self._answered_at > LATELY_SECONDS else Kind.ANSWERS

    def answered_last(self, now: float) -> bool:
        """Whether it answered when it was asked last, however long ago."""
        return self._answered_at > -inf and self.kind(now) is not Kind.IN_TROUBLE

    def few(self, kind: Kind) -> int:
        """How many requests at once while it does not answer."""
        return min(self.limit, UNTRIED if kind is Kind.UNTRIED else FIRST)

    def take(self, now: float) -> None:
        """A request is sent."""
        if not self.in_flight:
            self._unanswered_since = now
            if now - self._heard_at > LATELY_SECONDS:
                self._begin()
        self.in_flight += 1

    def free(self) -> None:
        """A slot is free again."""
        self.in_flight -= 1
        if not self.in_flight:
            self._unanswered_since = inf

    def answered(self, sent_at: float, now: float) -> None:
        """A request was answered, in whatever words."""
        took = now - sent_at
        self._answered_at = self._heard_at = now
        if self.in_flight:
            self._unanswered_since = now
        self._has_failed = False
        if took < self._least:
            self._least = took
            self._slow_seconds = max(self._deadline / SLOW_PART, 2 * took)
        if took > self._slow_seconds:
            self._cut(sent_at, now)
        elif 2 * self.in_flight >= self._limit:  # a limit that is not reached was not tried
            self._limit = min(self._most, self._limit + (1 if self._doubles else 1 / self._limit))

    def failed(self, sent_at: float, now: float) -> None:
        """A request was not answered, or with a failure of the server."""
        self._has_failed = True
        self._heard_at = now
        self._cut(sent_at, now)

    def _cut(self, sent_at: float, now: float) -> None:
        if sent_at < self._cut_at:
            return  # it left before the last cut
        self._cut_at = now
        self._limit = max(1.0, self._limit / 2)
        self._doubles = False


@dataclass(slots=True)
class _Load:
    leased: int = 0
    in_flight: int = 0


class _Sorted(NamedTuple):
    """How an endpoint was counted last."""

    kind: Kind
    leased: int
    in_flight: int


class Slots:
    """The slots of one process.

    Args:
        total: requests at once.
        deadline: of one request, seconds.
    """

    def __init__(self, total: int, deadline: float) -> None:
        self._total = total
        self._deadline = deadline
        self._for_silent = max(total // SILENT_PART, min(FIRST, total))
        self._most_silent = total + self._for_silent  # of twice the slots; three quarters are left
        self._most_ahead = min(2 * total, AHEAD)
        self._most_stored = min(2 * total, BEING_STORED)
        self._paces: dict[str, Pace] = {}
        self._busy: dict[str, _Sorted] = {}  # those with leases
        self._clients: dict[str, _Load] = {}  # those with leases
        self._by_kind = [_Load() for _ in Kind]  # of all that are busy, kept up to date: they may be hundreds
        self._sorted_at = -inf

    def pace(self, url: str) -> Pace:
        """The pace of an endpoint."""
        known = self._paces.get(url)
        if known is None:
            known = self._paces[url] = Pace(self._total, self._deadline)
        return known

    def hang(self, now: float) -> bool:
        """Whether requests are in flight at an endpoint that does not answer."""
        self._sort(now)
        return any(self._by_kind[kind].in_flight for kind in (Kind.UNTRIED, Kind.IN_TROUBLE))

    def room(self, client: str, url: str, now: float, *, being_stored: int, ahead: bool) -> int:
        """How many grants of a client may be leased now; 0 until there are enough to be worth a claim.

        Args:
            client: its name.
            url: its endpoint.
            now: the present instant.
            being_stored: answers that the store is given at the moment; they have a limit of their own.
            ahead: whether more may be leased than can be sent at once.
        """
        self._sort(now)
        pace, known = self.pace(url), self._clients.get(client)
        kind, leased = pace.kind(now), [load.leased for load in self._by_kind]
        if kind is not Kind.ANSWERS:
            left = self._most_silent - (sum(leased) - leased[Kind.ANSWERS])
            stored = self._most_stored - being_stored
            return max(min(pace.few(kind) - pace.leased, self._for_silent - leased[kind], left, stored), 0)
        limit = pace.limit
        most = limit + (min(2 * limit, AHEAD) if ahead else 0)
        most_of_all = self._total + self._most_ahead
        sharers = len(self._clients) + (known is None)
        share = max(most_of_all // sharers, WORTH_A_CLAIM)
        room = min(
            most - pace.leased,
            share - (known.leased if known else 0),
            most_of_all - leased[Kind.ANSWERS],
            most_of_all + self._most_stored - sum(leased) - being_stored,
        )
        return room if room >= min((limit + 1) // 2, WORTH_A_CLAIM) else 0

    def lease(self, client: str, url: str, number: int, now: float) -> None:
        """So many more grants of a client are leased, or given back where the number is negative."""
        pace = self.pace(url)
        pace.leased += number
        load = self._clients.setdefault(client, _Load())
        load.leased += number
        if not load.leased:
            del self._clients[client]
        self._sort_one(url, pace, now)

    def next(self, waiting: Iterable[tuple[str, str]], now: float) -> tuple[str, str] | None:
        """Which of the waiting clients, each with its endpoint, is next; `None` where none may send now."""
        self._sort(now)
        has_slot = self._has_slot()
        best, fewest = None, inf
        for each in waiting if any(has_slot) else ():
            load = self._clients[each[0]].in_flight
            if load < fewest and self._may_send(self._paces[each[1]], now, has_slot):
                best, fewest = each, load
            if not fewest:
                break
        return best

    def take(self, client: str, url: str, now: float) -> None:
        """A leased grant takes a slot."""
        self._paces[url].take(now)
        self._clients[client].in_flight += 1
        self._sort_one(url, self._paces[url], now)

    def free(self, client: str, url: str, now: float) -> None:
        """Its slot is free again, and it is answered."""
        self._paces[url].free()
        self._clients[client].in_flight -= 1
        self._sort_one(url, self._paces[url], now)

    def _has_slot(self) -> tuple[bool, bool, bool]:
        """Whether endpoints of each kind may have one more in flight."""
        answering, untried, in_trouble = (load.in_flight for load in self._by_kind)
        silent = untried + in_trouble
        if answering + silent >= 2 * self._total:
            return False, False, False
        has_room = silent < self._most_silent
        return (
            answering + min(silent, self._for_silent) < self._total,
            has_room and untried < self._for_silent and answering + untried < self._total,
            has_room and in_trouble < self._for_silent and answering + silent < self._total,
        )

    @staticmethod
    def _may_send(pace: Pace, now: float, has_slot: tuple[bool, bool, bool]) -> bool:
        kind = pace.kind(now)
        return has_slot[kind] and pace.in_flight < (pace.limit if kind is Kind.ANSWERS else pace.few(kind))

    def _sort(self, now: float) -> None:
        """Sort the busy endpoints by what they are now."""
        if now - self._sorted_at >= SORTED_SECONDS:
            self._sorted_at = now
            for url in self._busy.copy():
                self._sort_one(url, self._paces[url], now)

    def _sort_one(self, url: str, pace: Pace, now: float) -> None:
        if (before := self._busy.pop(url, None)) is not None:
            self._by_kind[before.kind].leased -= before.leased
            self._by_kind[before.kind].in_flight -= before.in_flight
        if pace.leased:
            known = self._busy[url] = _Sorted(pace.kind(now), pace.leased, pace.in_flight)
            self._by_kind[known.kind].leased += known.leased
            self._by_kind[known.kind].in_flight += known.in_flight
