"""`evergrant status`: what is wrong, whom it concerns, until when there is time, what to do."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import columns, until, write_json, write_line
from worker.cli.session import BAD_STATE, run

if TYPE_CHECKING:
    from worker.fleet.report import Incident, Report
    from worker.runtime.assembly import Runtime

NO_CLIENT = (
    "No client is configured: set EVERGRANT_CLIENTS__<NAME>__PROVIDER and the rest (.env.example lists them)."
)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def status(as_json: AsJson = False) -> None:
    """Show the fleet at a glance: what is wrong, whom it concerns, until when there is time, what to do.

    Exits 1 when something will expire unless a person acts.

    Example: evergrant status
    """
    if run(lambda runtime: _status(runtime, as_json=as_json)):
        raise typer.Exit(BAD_STATE)


async def _status(runtime: "Runtime", *, as_json: bool) -> bool:
    from worker.fleet.report import report_on

    configured = {client.name for client in runtime.clients}
    report = await report_on(runtime.registry, runtime.fleet_state, configured)
    if as_json:
        for document in report.documents():
            write_json(document)
    else:
        _write_report(report)
    return report.needs_a_person


def _write_report(report: "Report") -> None:
    now = report.now
    header = (
        "CLIENT",
        "STATE",
        "ACTIVE",
        "FAILING",
        "FAILED",
        "PAUSED",
        "DUE",
        "PROVIDER",
        "NEXT DUE",
        "SOONEST EXPIRY IN",
    )
    write_line(_client_row(*header))
    for client in report.clients:
        write_line(
            _client_row(
                client.name,
                client.state,
                *(str(number) for number in client.grants.values()),
                str(client.due),
                client.provider_state,
                _due(client.next_due_at, now),
                "-" if client.soonest_expiry_at is None else until(client.soonest_expiry_at, now),
            )
        )
    write_line()
    for incident in report.incidents:
        write_line(_incident_line(incident, now))
    if not report.incidents:
        write_line("Nothing needs a person." if report.clients else NO_CLIENT)
    elif report.more:
        write_line(f"... and {report.more} more: `evergrant grants list --status failed`")


def _due(at: int | None, now: int) -> str:
    if at is None:
        return "-"
    return f"in {until(at, now)}" if at > now else f"{until(now, at)} ago"


def _client_row(*cells: str) -> str:
    return columns(zip(cells, (16, 9, 7, 7, 7, 7, 7, 12, 12, 0), strict=True))


def _incident_line(incident: "Incident", now: int) -> str:
    mark = "!" if incident.needs_a_person else "-"
    if incident.ends_at is None:
        time_left = ""
    elif incident.ends_at > now:
        time_left = f" Time left: {until(incident.ends_at, now)}."
    else:
        time_left = f" It ended {until(now, incident.ends_at)} ago."
    return f"{mark} {incident.subject}: {incident.problem}.{time_left} {incident.advice}"
