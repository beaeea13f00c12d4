"""`evergrant forecast`: refreshes by the hour against the budget, what will be late, what ends."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import until, write_json, write_line, write_table
from worker.cli.session import BAD_STATE, run, utf8

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.core.forecast import Hour
    from worker.fleet.forecasting import ClientForecast, Ends, Forecast
    from worker.runtime.assembly import Runtime

MOST_HOURS = 31 * 24  # as over HTTP
MOST_CLIENTS = 40
WORTH_TELLING_MS = 1_000  # of a wait
MOST_ENDS = 20
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def forecast(
    hours: Annotated[int, typer.Option("--hours", min=1, max=MOST_HOURS, help="How far to look.")] = 24,
    client: Annotated[str | None, typer.Option("--client", callback=utf8, help="This client alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look ahead: refreshes by the hour against each client's budget, what will be late, what ends.

    Supposes that every refresh succeeds. Exits 1 when within the hours an access token ends before its
    refresh, or a grant ends unless a person acts.

    Example: evergrant forecast --hours 48
    """
    if not run(lambda runtime: _forecast(runtime, hours, client, as_json=as_json)):
        raise typer.Exit(BAD_STATE)


async def _forecast(runtime: "Runtime", hours: int, client: str | None, *, as_json: bool) -> bool:
    foreseen = await runtime.forecasting.forecast(hours=hours, only=client)
    if as_json:
        for document in foreseen.documents():
            write_json(document)
    else:
        _write(foreseen)
    return foreseen.is_good


def _write(foreseen: "Forecast") -> None:
    _write_hours(foreseen.total)
    write_line()
    _write_clients(foreseen)
    write_line()
    _write_ends(foreseen.ends, foreseen.at)


def _write_hours(hours: "Sequence[Hour]") -> None:
    from worker.core.events import rfc3339

    rows = [
        (
            (rfc3339(hour.start) or "")[:16] + "Z",
            str(round(hour.due)),
            str(round(hour.refreshes)),
            "-" if hour.budget is None else str(round(hour.budget)),
            "-" if not hour.budget else f"{100 * hour.refreshes / hour.budget:.0f} %",
            *_trouble_of(hour),
        )
        for hour in hours
    ]
    write_table(
        ("HOUR FROM", "DUE", "REFRESHES", "BUDGET", "OF IT", "WAITING", "LONGEST WAIT", "LATE", "BY"), rows
    )


def _trouble_of(hour: "Hour") -> "Iterator[str]":
    """What waits, what is late, and by how much."""
    yield str(round(hour.waiting)) if round(hour.waiting) else "-"
    yield until(hour.longest_wait_ms, 0) if hour.longest_wait_ms >= WORTH_TELLING_MS else "-"
    yield str(round(hour.late)) if round(hour.late) else "-"
    yield until(hour.longest_late_ms, 0) if round(hour.late) else "-"


def _write_clients(foreseen: "Forecast") -> None:
    shown = sorted(foreseen.clients, key=lambda each: (each.held_back is None, -_late_of(each), -each.due))
    rows = [
        (
            each.name,
            str(each.scheduled),
            "-" if each.rate_per_second is None else f"{each.rate_per_second:g}/s",
            f"{max((_share_of(hour) for hour in each.course.hours), default=0):.0f} %"
            if each.rate_per_second
            else "-",
            str(each.due),
            _through(each, foreseen.at),
            str(round(_late_of(each))),
            each.held_back or "",
        )
        for each in shown[:MOST_CLIENTS]
    ]
    write_table(
        ("CLIENT", "GRANTS", "BUDGET", "BUSIEST HOUR", "DUE NOW", "THROUGH IN", "LATE", "HELD BACK"), rows
    )
    if len(shown) > MOST_CLIENTS:
        write_line(f"... and {len(shown) - MOST_CLIENTS} more: `evergrant forecast --json`")
    if any(each.sampled < each.scheduled for each in foreseen.clients):
        write_line("Worked out from a sample of the grants.")


def _late_of(client: "ClientForecast") -> float:
    return sum(hour.late for hour in client.course.hours)


def _share_of(hour: "Hour") -> float:
    """Of its budget that comes up in an hour, in percent; more than 100 is more than it can do."""
    return 100 * hour.due / hour.budget if hour.budget else 0.0


def _through(client: "ClientForecast", now: int) -> str:
    at = client.course.backlog_through_at
    if at is not None:
        return until(at, now)
    return "later" if client.due else "-"


def _write_ends(ends: "Ends", now: int) -> None:
    if not ends.grants:
        write_line(f"No grant ends within {len(ends.days)} days, as far as is known.")
        return
    write_line(f"Grants that end within {len(ends.days)} days unless a person acts: {ends.grants}")
    for ending in ends.soonest[:MOST_ENDS]:
        grant = ending.grant
        said = ", ".join(fact for fact in (grant.status.value, grant.reason) if fact)
        write_line(f"  in {until(ending.ends_at, now)}: {grant.id} ({grant.client}, {said})")
    if ends.grants > MOST_ENDS:
        write_line(f"  ... and {ends.grants - min(len(ends.soonest), MOST_ENDS)} more: `--json`")
