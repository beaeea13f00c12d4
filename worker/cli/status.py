"""`evergrant status`: what is wrong, whom it concerns, until when there is time, what to do."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import columns, until, write_json, write_line
from worker.cli.session import BAD_STATE, UNREACHABLE, CommandError, journaled_entries, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.core.registry import ClientState
    from worker.fleet.report import Incident, Report
    from worker.runtime.assembly import Runtime

MOST_CLIENTS = 40  # of more, only those of which there is something to say
MOST_INCIDENTS = 60
MOST_PROCESSES = 10  # of each role
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
    try:
        needs_a_person = run(lambda runtime: _status(runtime, as_json=as_json))
    except CommandError as problem:
        if as_json and problem.exit_code == UNREACHABLE:
            write_json(_of_unreachable(str(problem)))
        raise
    if needs_a_person:
        raise typer.Exit(BAD_STATE)


def _of_unreachable(problem: str) -> "dict[str, Any]":
    """The one incident that can be told of without a store."""
    from worker.fleet.report import Incident

    advice = "No grant is lost meanwhile. `evergrant doctor` looks at what stands between."
    return Incident("store_unreachable", "Redis", problem, None, advice, needs_a_person=True).document()


async def _status(runtime: "Runtime", *, as_json: bool) -> bool:
    from worker.runtime.reporting import fleet_report

    report = await fleet_report(runtime, partial(journaled_entries, runtime))
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
    _write_processes(report)
    for incident in report.most_urgent[:MOST_INCIDENTS]:
        write_line(_incident_line(incident, now))
    if folded := report.incidents[MOST_INCIDENTS:]:
        write_line(f"... and {len(folded)} more of these: `evergrant status --json`")
    if not report.incidents:
        write_line("Nothing needs a person." if report.clients else _no_client())
    elif report.more:
        write_line(f"... and {report.more} more: `evergrant grants list --status failed`")


def _write_processes(report: "Report") -> None:
    """When each worker and beat was last heard of; of many those that were heard of last."""
    for role in ("worker", "beat"):
        of_role = [process for process in report.processes if process.role == role]
        for process in of_role[:MOST_PROCESSES]:
            heard = f"heard of {until(report.now, process.last_heartbeat_at)} ago"
            said = heard if process.is_alive else f"{heard}: dead, frozen, or cut off"
            write_line(columns([(role, 6), (process.name, 0), (said, 0)]))
        if len(of_role) > MOST_PROCESSES:
            write_line(f"... and {len(of_role) - MOST_PROCESSES} more: `evergrant status --json`")
    if report.processes:
        write_line()


def _no_client() -> str:
    """Why there may be no client: the settings are read from where a command is run."""
    if Path(".env").exists():
        return NO_CLIENT
    return f"{NO_CLIENT} There is no .env in {Path.cwd()}: is this where the workers' settings are?"


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
