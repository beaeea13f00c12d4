"""What is ahead of the fleet: refreshes by the hour against each client's budget, what is late, what ends.

Rules:
- Its cost is bounded, whatever the fleet's size. Of a large fleet it reads a sample: each grant of it stands
  for as many others that are due at about the same time.
- Those who ask for the same at once get the same forecast, and one is made at a time: each takes a second
  or two of a processor.
- It supposes that every refresh succeeds, and that a client that is held back goes on at its next try.
- Without a budget nothing queues: how fast the workers are is not known here.
- What ends unless a person acts is, for 30 days, what the store lists of such grants, and what the sample
  shows of ends that have not been announced yet.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker.core import forecast
from worker.core.events import rfc3339
from worker.core.forecast import HOUR_MS, Course, Hour, Rhythm
from worker.core.grant import Grant, Status
from worker.core.policy import Rules
from worker.core.ports import Clients
from worker.core.providers import DAY_MS, Client
from worker.core.registry import ClientState, FleetState, Schedules, StoredGrant, UnreadableRecordError
from worker.fleet.flights import Flights

MOST_HOURS: Final = 31 * 24
MOST_SAMPLED: Final = 20_000  # grants that one forecast reads
MOST_REFRESHES: Final = 500_000  # that it foresees one by one
DAYS_OF_ENDS: Final = 30
MOST_ENDS: Final = 1_000  # that it names


@dataclass(frozen=True, slots=True)
class ClientForecast:
    """What is ahead of one client.

    Attributes:
        name: the client's.
        held_back: why none of its grants is refreshed now: `rejected`, `unavailable`, `throttled`,
            `not_configured`; `None` where nothing holds it back.
        rate_per_second: its budget; `None` where nobody limits it.
        scheduled: its grants that come up within 30 days, or within the hours where these are more.
        sampled: how many of those were read.
        due: how many are due now.
        course: its hours.
    """

    name: str
    held_back: str | None
    rate_per_second: float | None
    scheduled: int
    sampled: int
    due: int
    course: Course

    def document(self) -> dict[str, Any]:
        """As JSON, without the hours."""
        return {
            "client": self.name,
            "held_back": self.held_back,
            "rate_per_second": self.rate_per_second,
            "scheduled": self.scheduled,
            "sampled": self.sampled,
            "due": self.due,
            "backlog_through_at": rfc3339(self.course.backlog_through_at),
        }


@dataclass(frozen=True, slots=True)
class Ending:
    """A grant that ends unless a person acts."""

    grant: Grant
    ends_at: int

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "grant": self.grant.id,
            "client": self.grant.client,
            "status": self.grant.status.value,
            "reason": self.grant.reason,
            "ends_at": rfc3339(self.ends_at),
        }


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends unless a person acts.

    Attributes:
        until: how far this looks, Unix ms.
        days: how many grants on each day from now.
        soonest: some of them, those that end first.
    """

    until: int
    days: Sequence[float]
    soonest: Sequence[Ending]

    @property
    def grants(self) -> int:
        """How many in all."""
        return round(sum(self.days))

    def day_documents(self) -> list[dict[str, Any]]:
        """Each day as JSON."""
        start = self.until - len(self.days) * DAY_MS
        return [
            {"from": rfc3339(start + place * DAY_MS), "grants": round(number)}
            for place, number in enumerate(self.days)
        ]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is ahead of a fleet from `at` on, Unix ms."""

    at: int
    clients: Sequence[ClientForecast]
    total: Sequence[Hour]
    ends: Ends

    @property
    def until(self) -> int:
        """The end of the last hour, Unix ms."""
        return self.at + len(self.total) * HOUR_MS

    @property
    def is_good(self) -> bool:
        """Whether within the hours every refresh is in time, and no grant ends but one still being tried."""
        is_near = any(
            ending.ends_at < self.until and ending.grant.status is not Status.FAILING
            for ending in self.ends.soonest
        )
        return not is_near and not any(round(hour.late) for hour in self.total)

    def document(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        return {
            **self._head(),
            "clients": [
                {**each.document(), "hours": [hour_document(hour) for hour in each.course.hours]}
                for each in self.clients
            ],
            "total": [hour_document(hour) for hour in self.total],
            "ends": {
                "until": rfc3339(self.ends.until),
                "grants": self.ends.grants,
                "days": self.ends.day_documents(),
                "soonest": [each.document() for each in self.ends.soonest],
            },
        }

    def documents(self) -> Iterator[dict[str, Any]]:
        """The same as JSON lines."""
        yield {
            "kind": "forecast",
            **self._head(),
            "ends_until": rfc3339(self.ends.until),
            "ends": self.ends.grants,
        }
        for each in self.clients:
            yield {"kind": "client", **each.document()}
            for hour in each.course.hours:
                yield {"kind": "hour", "client": each.name, **hour_document(hour)}
        for hour in self.total:
            yield {"kind": "hour", "client": None, **hour_document(hour)}
        for day in self.ends.day_documents():
            yield {"kind": "day", **day}
        for ending in self.ends.soonest:
            yield {"kind": "end", **ending.document()}

    def _head(self) -> dict[str, Any]:
        return {"at": rfc3339(self.at), "until": rfc3339(self.until)}


def hour_document(hour: Hour) -> dict[str, Any]:
    """One hour as JSON, in whole grants and seconds."""
    return {
        "from": rfc3339(hour.start),
        "due": round(hour.due),
        "refreshes": round(hour.refreshes),
        "budget": None if hour.budget is None else round(hour.budget),
        "waiting": round(hour.waiting),
        "longest_wait_seconds": round(hour.longest_wait_ms / 1000),
        "late": round(hour.late),
        "longest_late_seconds": round(hour.longest_late_ms / 1000),
    }


@dataclass(frozen=True, slots=True)
class _Sample:
    """What was read of one client; `client` is `None` where it has no settings."""

    state: ClientState
    client: Client | None
    scheduled: int
    stored: Sequence[StoredGrant]

    @property
    def each_is(self) -> float:
        """How many grants each of those that were read stands for."""
        return self.scheduled / len(self.stored) if self.stored else 1.0


class Forecasting:
    """Foretells what a deployment will have to do.

    Args:
        schedules: when grants are due, and what ends.
        fleet_state: the state of the clients.
        clients: the configured ones.
        rules: the deployment's.
        lag_ms: how long a grant is due before a sweep finds it, on average.
        most_sampled: the most grants that are read, but for one of each client.
    """

    def __init__(
        self,
        *,
        schedules: Schedules,
        fleet_state: FleetState,
        clients: Clients,
        rules: Rules,
        lag_ms: int,
        most_sampled: int = MOST_SAMPLED,
    ) -> None:
        self._schedules = schedules
        self._fleet_state = fleet_state
        self._clients = clients
        self._rules = rules
        self._lag_ms = lag_ms
        self._most_sampled = most_sampled
        self._under_way: Flights[Forecast] = Flights()
        self._turn = asyncio.Lock()

    async def forecast(self, *, hours: int, only: str | None = None) -> Forecast:
        """Look ahead.

        Args:
            hours: how far.
            only: the one client to look at; `None` for all.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        return await self._under_way.join(f"{hours} {only or ''}", lambda: self._make(hours, only))

    async def _make(self, hours: int, only: str | None) -> Forecast:
        async with self._turn:
            return await self._look_ahead(hours, only)

    async def _look_ahead(self, hours: int, only: str | None) -> Forecast:
        start = await self._schedules.now()
        until, ends_until = start + hours * HOUR_MS, start + DAYS_OF_ENDS * DAY_MS
        samples = await self._samples(only, max(until, ends_until))
        # In a thread: the hours of a large fleet take a second to work out, and a service goes on meanwhile.
        clients = await asyncio.to_thread(self._foresee, samples, start, hours)
        total = forecast.summed([each.course for each in clients], start=start, hours=hours)
        return Forecast(start, clients, total, await self._ends(samples, only, start, ends_until))

    async def _samples(self, only: str | None, before: int) -> list[_Sample]:
        configured = self._clients.names()
        known = sorted({*configured, *await self._fleet_state.client_names()})
        names = [name for name in known if only in {None, name}]
        states = await self._fleet_state.of_clients(names, unreadable=_pass_over)
        numbers = await self._schedules.due_before(names, before)
        share = min(self._most_sampled / max(sum(numbers), 1), 1.0)
        samples = []
        for state, number in zip(states, numbers, strict=True):
            most = max(round(number * share), 1)
            stored = await self._schedules.sample(state.name, before, most, unreadable=_pass_over)
            client = self._clients.get(state.name, 0) if state.name in configured else None
            samples.append(_Sample(state, client, number, stored))
        return samples

    def _foresee(self, samples: Sequence[_Sample], start: int, hours: int) -> list[ClientForecast]:
        scheduled = max(sum(sample.scheduled for sample in samples), 1)
        return [
            self._foresee_client(sample, start, hours, round(MOST_REFRESHES * sample.scheduled / scheduled))
            for sample in samples
        ]

    def _foresee_client(self, sample: _Sample, start: int, hours: int, most_refreshes: int) -> ClientForecast:
        client, state = sample.client, sample.state
        rhythms, thinned = list[Rhythm](), 1.0
        if client is not None:
            until = start + hours * HOUR_MS
            rhythms, thinned = forecast.rhythms_of(
                sample.stored, client, self._rules, until=until, most_refreshes=max(most_refreshes, 1)
            )
        held_back, opens_at = _held_back(state, client, start)
        rate = None if client is None else client.rate_per_second
        return ClientForecast(
            name=state.name,
            held_back=held_back,
            rate_per_second=rate,
            scheduled=sample.scheduled,
            sampled=len(sample.stored),
            due=state.due,
            course=forecast.foresee(
                rhythms,
                each_is=sample.each_is * thinned,
                start=start,
                hours=hours,
                rate_per_second=rate,
                opens_at=opens_at,
                lag_ms=self._lag_ms,
            ),
        )

    async def _ends(self, samples: Sequence[_Sample], only: str | None, start: int, until: int) -> Ends:
        """Those that the store lists, and those that the sample shows and nobody has announced yet."""
        listed = await self._schedules.ending(start, until, MOST_ENDS, only=only, unreadable=_pass_over)
        days = [float(number) for number in listed.days]
        endings = [Ending(grant, ends_at) for grant, ends_at in listed.soonest]
        for sample in samples:
            if sample.client is None:
                continue
            for grant, ends_at in forecast.ends_of(
                sample.stored, sample.client, self._rules, start=start, until=until
            ):
                days[min((ends_at - start) // DAY_MS, DAYS_OF_ENDS - 1)] += sample.each_is
                endings.append(Ending(grant, ends_at))
        endings.sort(key=lambda ending: ending.ends_at)
        return Ends(until, days, endings[:MOST_ENDS])


def _held_back(state: ClientState, client: Client | None, now: int) -> tuple[str | None, int]:
    """What holds a client back, and when it may be tried next."""
    if client is None:
        return "not_configured", now
    throttled_until = state.throttled_until or now
    if state.state == "rejected":
        return "rejected", max(state.probe_at or now, throttled_until, now)
    if state.provider_state == "unavailable":
        return "unavailable", max(state.endpoint_probe_at or now, throttled_until, now)
    if throttled_until > now:
        return "throttled", throttled_until
    return None, now


def _pass_over(_: UnreadableRecordError) -> None:
    """A grant whose record cannot be read is no part of a forecast; `evergrant status` names it."""
