"""What is ahead of the fleet: refreshes by the hour against the budget, what is late, what ends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from starlette.responses import Response

from worker.core.api_keys import Scope
from worker.core.providers import DAY_MS
from worker.http.console import words
from worker.http.console.plot import Value, bars_over_time

if TYPE_CHECKING:
    from worker.core.forecast import Hour
    from worker.fleet.forecasting import ClientForecast, Ends
    from worker.http.console.queries import ForecastQuery
    from worker.http.console.visits import Visit

SPANS: Final = {24: "a day", 72: "three days", 168: "a week"}
MOST_CLIENTS: Final = 40
MOST_ENDS: Final = 50


async def show_forecast(visit: "Visit") -> Response:
    """`GET /forecast`: what is ahead."""
    visit.call.refuse_bound()
    query = cast("ForecastQuery", visit.call.query)
    foreseen = await visit.call.runtime.forecasting.forecast(hours=query.hours, only=query.client)
    clients = sorted(
        foreseen.clients, key=lambda each: (each.held_back is None, -late_of(each), -each.due, each.name)
    )
    hours, ends = foreseen.total, foreseen.ends
    days = [
        (ends.until - (len(ends.days) - place) * DAY_MS, number) for place, number in enumerate(ends.days)
    ]
    return visit.render(
        "forecast.html",
        now=foreseen.at,
        asked=query,
        spans=SPANS,
        hours=hours,
        hours_plot=bars_over_time(
            [Value(hour.start, round(hour.refreshes), round(hour.late)) for hour in hours],
            _budget(hours),
            words.of_day if query.hours <= min(SPANS) else words.of_week,
        ),
        busiest=max((share_of(hour) for hour in hours), default=0.0),
        budget=_budget(hours),
        late=round(sum(hour.late for hour in hours)),
        clients=[(each, round(late_of(each)), _busiest(each)) for each in clients[:MOST_CLIENTS]],
        folded=max(len(clients) - MOST_CLIENTS, 0),
        is_sampled=any(each.sampled < each.scheduled for each in foreseen.clients),
        ends=ends,
        days=days,
        days_plot=_plot_of_days(days, ends),
        soonest=ends.soonest[:MOST_ENDS],
        may_list=visit.key.may(Scope.GRANTS),
    )


def late_of(client: "ClientForecast") -> float:
    """How many of its access tokens end before their refresh."""
    return sum(hour.late for hour in client.course.hours)


def share_of(hour: "Hour") -> float:
    """Of its budget that comes up in an hour; more than 1 is more than it can do."""
    return hour.due / hour.budget if hour.budget else 0.0


def _busiest(client: "ClientForecast") -> float | None:
    """What the busiest hour of a client takes of its budget; `None` where nobody limits it."""
    if client.rate_per_second is None:
        return None
    return max((share_of(hour) for hour in client.course.hours), default=0.0)


def _budget(hours: Sequence["Hour"]) -> float | None:
    """Of an hour, where every client has one."""
    return min((hour.budget for hour in hours if hour.budget is not None), default=None)


def _plot_of_days(days: Sequence[tuple[int, float]], ends: "Ends") -> object:
    """`None` where nothing ends."""
    if not ends.grants:
        return None
    return bars_over_time([Value(at, 0, round(number)) for at, number in days], None, words.of_month)
