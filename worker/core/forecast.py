"""What will be refreshed, hour by hour: each grant's rhythm, and a queue before a budget.

Rules:
- Every refresh is taken to succeed.
- A grant comes up when its schedule says, and then again and again at the share of its lifetime that the
  policy gives. Its jitter belongs to its id, so each grant's rhythm is its own, and is known.
- A client's budget serves those first that have been due longest, as claims do. A grant that is served late
  comes up later the next time, too.
- A grant of a sample stands for several, which come up together.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from worker.core import lifetimes, policy
from worker.core.grant import ENDLESS_MS, NO_END, Grant, Status
from worker.core.outcomes import NoLifetime
from worker.core.policy import Action, Rules
from worker.core.providers import Client
from worker.core.registry import StoredGrant

HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a grant comes up to be refreshed. Instants are Unix ms.

    Attributes:
        first_at: its next refresh.
        every_ms: from a refresh to when the next one is due; `None` where none follows.
        token_ends_at: the end of its present access token; `None` where it has none that ends.
        life_ms: of each access token to come; `None` where it has no end.
        ends_at: an end that no refresh moves; `None` where it has none.
    """

    first_at: int
    every_ms: int | None
    token_ends_at: int | None
    life_ms: int | None
    ends_at: int | None


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour of a client, or of all. Numbers are of grants, and fractions where they come from a sample.

    Attributes:
        start: Unix ms.
        due: come up in it; in the first hour those too that were due before.
        refreshes: are refreshed in it.
        budget: how many refreshes the client may send in it; `None` where nobody limits them.
        waiting: are due at its end, and not refreshed yet.
        longest_wait_ms: the longest that one refreshed in it was due before.
        late: access tokens that end in it before their refresh; in the first hour those too that had ended.
        longest_late_ms: the longest that one of those is dead; as far as the forecast reaches.
    """

    start: int
    due: float
    refreshes: float
    budget: float | None
    waiting: float
    longest_wait_ms: int
    late: float
    longest_late_ms: int


@dataclass(frozen=True, slots=True)
class Course:
    """What is ahead of one client.

    Attributes:
        hours: each hour ahead.
        backlog_through_at: when nothing waits any more of what is due now; `None` where nothing is due, or
            where that comes after the last hour.
    """

    hours: Sequence[Hour]
    backlog_through_at: int | None


def rhythms_of(
    stored: Iterable[StoredGrant], client: Client, rules: Rules, *, until: int, most_refreshes: int
) -> tuple[list[Rhythm], float]:
    """The rhythms of grants that are refreshed before `until`, and how many grants each stands for.

    Args:
        stored: grants of the client.
        client: the client.
        rules: the deployment's.
        until: Unix ms.
        most_refreshes: take every second, every third ... grant where all of them would have more.
    """
    scheduled = [(each.grant, each.due_at) for each in stored if each.due_at is not None]
    usual_ms = _usual_life_ms([grant for grant, _ in scheduled])
    rhythms, refreshes = list[Rhythm](), 0
    for grant, due_at in scheduled:
        rhythm = _rhythm(grant, due_at, usual_ms, client, rules)
        if rhythm is not None and rhythm.first_at < until:
            rhythms.append(rhythm)
            refreshes += 1 + (until - rhythm.first_at) // (rhythm.every_ms or NO_END)
    step = max(min(math.ceil(refreshes / most_refreshes), len(rhythms)), 1)
    taken = rhythms[step // 2 :: step]
    return taken, len(rhythms) / len(taken) if taken else 1.0


def foresee(
    rhythms: Sequence[Rhythm],
    *,
    each_is: float,
    start: int,
    hours: int,
    rate_per_second: float | None,
    opens_at: int,
    lag_ms: int = 0,
) -> Course:
    """Let time pass for a client's grants.

    Args:
        rhythms: of the client's grants.
        each_is: how many grants each of them stands for.
        start: now, Unix ms.
        hours: how far ahead.
        rate_per_second: the client's budget; `None` where nobody limits it.
        opens_at: when the first refresh may leave; `start` where nothing holds the client back.
        lag_ms: how long after it is due a grant is refreshed for which nothing else has to wait.
    """
    budget = None if rate_per_second is None else rate_per_second * HOUR_MS / 1000
    tally = _Tally(start, hours, each_is, budget)
    costs_ms = 0.0 if rate_per_second is None else each_is * 1000 / rate_per_second
    waiting = [(each.first_at, place, each.token_ends_at or NO_END) for place, each in enumerate(rhythms)]
    heapq.heapify(waiting)
    free_at = float(max(start, opens_at))
    through_at: int | None = None
    has_backlog = bool(waiting) and waiting[0][0] <= start
    while waiting and waiting[0][0] < tally.end:
        due_at, place, token_ends_at = waiting[0]
        rhythm, sent_at = rhythms[place], max(float(due_at + lag_ms), free_at)
        if has_backlog and through_at is None and due_at > free_at:
            through_at = int(free_at)
        if sent_at >= tally.end:
            tally.count_left(due_at, token_ends_at)
            heapq.heappop(waiting)
            continue
        tally.count(due_at, sent_at, token_ends_at)
        free_at = sent_at + costs_ms
        again_at = NO_END if rhythm.every_ms is None else int(sent_at) + rhythm.every_ms
        if again_at >= (rhythm.ends_at or NO_END):
            again_at = NO_END
        next_end = NO_END if rhythm.life_ms is None else int(sent_at) + rhythm.life_ms
        heapq.heapreplace(waiting, (again_at, place, next_end))
    if has_backlog and through_at is None and free_at < tally.end:
        through_at = int(free_at)
    return Course(tally.hours(), through_at)


def summed(courses: Sequence[Course], *, start: int, hours: int) -> list[Hour]:
    """Each hour of all clients. Their budget is the sum of the budgets where every client has one."""
    totals = []
    for place in range(hours):
        each = [course.hours[place] for course in courses]
        budgets = [hour.budget for hour in each if hour.budget is not None]
        totals.append(
            Hour(
                start=start + place * HOUR_MS,
                due=sum(hour.due for hour in each),
                refreshes=sum(hour.refreshes for hour in each),
                budget=sum(budgets) if each and len(budgets) == len(each) else None,
                waiting=sum(hour.waiting for hour in each),
                longest_wait_ms=max((hour.longest_wait_ms for hour in each), default=0),
                late=sum(hour.late for hour in each),
                longest_late_ms=max((hour.longest_late_ms for hour in each), default=0),
            )
        )
    return totals


class _Tally:
    """Counts by the hour."""

    def __init__(self, start: int, hours: int, each_is: float, budget: float | None) -> None:
        self._start, self._hours, self._each_is, self._budget = start, hours, each_is, budget
        self.end = start + hours * HOUR_MS
        self._due, self._sent, self._late = [0] * hours, [0] * hours, [0] * hours
        self._waits, self._lates = [0.0] * hours, [0.0] * hours

    def count(self, due_at: int, sent_at: float, token_ends_at: int) -> None:
        """One that is due is refreshed; its token may have ended before."""
        self._due[self._hour(due_at)] += 1
        hour = self._hour(sent_at)
        self._sent[hour] += 1
        self._waits[hour] = max(self._waits[hour], sent_at - due_at)
        if token_ends_at < sent_at:
            self._count_late(token_ends_at, sent_at)

    def count_left(self, due_at: int, token_ends_at: int) -> None:
        """One that is due is not refreshed before the end."""
        self._due[self._hour(due_at)] += 1
        if token_ends_at < self.end:
            self._count_late(token_ends_at, self.end)

    def hours(self) -> list[Hour]:
        """What was counted."""
        hours, waiting = [], 0
        for place in range(self._hours):
            waiting += self._due[place] - self._sent[place]
            hours.append(
                Hour(
                    start=self._start + place * HOUR_MS,
                    due=self._due[place] * self._each_is,
                    refreshes=self._sent[place] * self._each_is,
                    budget=self._budget,
                    waiting=waiting * self._each_is,
                    longest_wait_ms=int(self._waits[place]),
                    late=self._late[place] * self._each_is,
                    longest_late_ms=int(self._lates[place]),
                )
            )
        return hours

    def _count_late(self, token_ends_at: int, until: float) -> None:
        hour = self._hour(token_ends_at)
        self._late[hour] += 1
        self._lates[hour] = max(self._lates[hour], until - token_ends_at)

    def _hour(self, at: float) -> int:
        return max(int(at - self._start) // HOUR_MS, 0)


def _rhythm(grant: Grant, due_at: int, usual_ms: int | None, client: Client, rules: Rules) -> Rhythm | None:
    """`None` for a grant that is not refreshed as things stand."""
    if not policy.is_refreshable(grant, client) or grant.status in {Status.FAILED, Status.PAUSED}:
        return None
    unannounced = replace(grant, noticed_at=NO_END)  # an announcement is no refresh
    due = policy.decide(unannounced, client, rules, due_at)
    first_at = due_at if due.action is Action.REFRESH else due.at
    if first_at is None:
        return None
    has_token = grant.access_expires_at is not None and grant.access_expires_at > grant.issued_at
    end = policy.fixed_end(grant, client, rules)
    life_ms = _life_ms(grant, usual_ms, client)
    renewed = _renewed(unannounced, first_at, life_ms)
    next_at = policy.next_due(renewed, client, rules).at
    return Rhythm(
        first_at=first_at,
        every_ms=None if next_at is None else next_at - first_at,
        token_ends_at=grant.access_expires_at if has_token else None,
        life_ms=None if life_ms == ENDLESS_MS else life_ms,
        ends_at=None if end is None else end.at,
    )


def _renewed(grant: Grant, at: int, life_ms: int) -> Grant:
    """The grant after a refresh like the last one."""
    renewed = replace(
        grant,
        status=Status.ACTIVE,
        issued_at=at,
        access_expires_at=None if life_ms == ENDLESS_MS else at + life_ms,
    )
    has_kept_its_end = grant.refresh_issued_at < grant.issued_at
    if grant.refresh_expires_at is None or has_kept_its_end:
        return renewed
    span_ms = grant.refresh_expires_at - grant.refresh_issued_at
    return replace(renewed, refresh_issued_at=at, refresh_expires_at=at + span_ms)


def _life_ms(grant: Grant, usual_ms: int | None, client: Client) -> int:
    """As was stated of this grant, else as of others of its client, else as is assumed."""
    known_ms = usual_ms if grant.stated_life_ms is None else grant.stated_life_ms
    return lifetimes.after_refresh(NoLifetime.UNKNOWN, known_ms, client).ms


def _usual_life_ms(grants: Iterable[Grant]) -> int | None:
    stated = [grant.stated_life_ms for grant in grants if grant.stated_life_ms is not None]
    return int(median(stated)) if stated else None


def ends_of(
    stored: Iterable[StoredGrant], client: Client, rules: Rules, *, start: int, until: int
) -> Iterator[tuple[Grant, int]]:
    """Grants of a schedule that end in a span, which no refresh can move, and that has not been announced."""
    for each in stored:
        if each.grant.noticed_at is None and each.grant.status is Status.ACTIVE:
            end = policy.fixed_end(each.grant, client, rules)
            if end is not None and start < end.at <= until:
                yield each.grant, end.at
