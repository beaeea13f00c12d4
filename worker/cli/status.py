"""`evergrant status`: what is wrong, whom it concerns, until when there is time, what to do."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import columns, until, write_json, write_line
from worker.cli.session import BAD_STATE, journaled_entries, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.core.registry import ClientState
    from worker.fleet.report import Incident, Report
    from worker.runtime.assembly import Runtime

MOST_CLIENTS = 40  # of more, only those of which there is something to say
MOST_INCIDENTS = 60
NO_CLIENT = (
    "No client is configured: set EVERGRANT_CLIENTS_FILE, or EVERGRANT_CLIENTS__<NAME>__PROVIDER and the rest"
    " (.env.example lists them)."
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
    from worker.fleet.losses import find_losses
    from worker.fleet.report import report_on

    settings = runtime.deployment.settings
    losses = await find_losses(
        runtime.registry, runtime.fleet_state, lambda: journaled_entries(runtime), always=False
    )
    report = await report_on(
        runtime.registry,
        runtime.fleet_state,
        runtime.replies,
        set(settings.clients),
        settings.name_of,
        losses,
        runtime.webhook_store,
    )
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
    shown = report.clients
    if len(shown) > MOST_CLIENTS:
        shown = report.noteworthy[:MOST_CLIENTS]
    for client in shown:
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
    if len(shown) < len(report.clients):
        write_line(_folded(report, shown))
    write_line()
    for incident in report.most_urgent[:MOST_INCIDENTS]:
        write_line(_incident_line(incident, now))
    if folded := report.incidents[MOST_INCIDENTS:]:
        write_line(f"... and {len(folded)} more of these: `evergrant status --json`")
    if not report.incidents:
        write_line("Nothing needs a person." if report.clients else NO_CLIENT)
    elif report.more:
        write_line(f"... and {report.more} more: `evergrant grants list --status failed`")


def _folded(report: "Report", shown: "Sequence[ClientState]") -> str:
    """What is to be said of the clients that are not shown."""
    troubled = len(report.noteworthy) - len(shown)
    said = [f"{troubled} with something wrong"] if troubled else []
    said.append(f"{len(report.clients) - len(report.noteworthy)} with nothing wrong")
    return f"... and {' and '.join(said)}: `evergrant status --json`"


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
