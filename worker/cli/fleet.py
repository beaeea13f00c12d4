"""`evergrant token`, `events` and `status`: what the fleet gives, tells and needs."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import columns, note, until, write_json, write_line
from worker.cli.session import BAD_STATE, SETTINGS, CommandError, run, utf8

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.core.registry import StoredGrant
    from worker.fleet.report import Incident, Report
    from worker.runtime.assembly import Runtime

FOLLOW_WAIT_MS = 2_000
NO_CLIENT = (
    "No client is configured: set EVERGRANT_CLIENTS__<NAME>__PROVIDER and the rest (.env.example lists them)."
)
MOST_SECONDS = 315_360_000  # ten years, as in an import line
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def token(
    grant_id: Annotated[str, typer.Argument(metavar="ID", help="The grant's id.", callback=utf8)],
    min_ttl: Annotated[
        float,
        typer.Option(
            "--min-ttl", min=0, max=MOST_SECONDS, metavar="SECONDS", help="How long it must live at least."
        ),
    ] = 60,
) -> None:
    """Print an access token that lives long enough, refreshing the grant if it must.

    Example: curl -H "Authorization: Bearer $(evergrant token user-42/buddy)" https://api.buddy.works/user
    """
    write_line(run(lambda runtime: _token(runtime, grant_id, int(min_ttl * 1000))))


def events(
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more, until Ctrl-C.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="ID", help="Only those after this stream id.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the event stream, oldest first; with --follow only what is still to come, unless --since.

    Example: evergrant events --follow --json
    """
    if since is not None and not re.fullmatch(r"[0-9]{1,20}(-[0-9]{1,20})?", since):
        raise CommandError("--since takes a stream id such as 1795322840527-0", SETTINGS)
    run(lambda runtime: _events(runtime, since, follow=follow, as_json=as_json))


def status(as_json: AsJson = False) -> None:
    """Show the fleet at a glance: what is wrong, whom it concerns, until when there is time, what to do.

    Exits 1 when something will expire unless a person acts.

    Example: evergrant status
    """
    if run(lambda runtime: _status(runtime, as_json=as_json)):
        raise typer.Exit(BAD_STATE)


async def _token(runtime: "Runtime", grant_id: str, min_ttl_ms: int) -> str:
    from worker.core.ports import UnsealError
    from worker.fleet.tokens import RefreshFailedError, refresh_now

    stored = await runtime.registry.find(grant_id)
    if stored is None:
        raise CommandError(f"no grant has the id {grant_id!r}", BAD_STATE)
    try:
        if not _lives(stored.grant.access_expires_at, await runtime.registry.now(), min_ttl_ms):
            _check_reachable(stored, min_ttl_ms)
            stored = await refresh_now(runtime, grant_id)
            now = await runtime.registry.now()
            if not _lives(stored.grant.access_expires_at, now, min_ttl_ms):
                life = until(stored.grant.access_expires_at, now)
                raise CommandError(f"{grant_id}: a fresh access token lives only {life}", BAD_STATE)
        pair = runtime.deployment.keys.open(stored.grant)
    except (RefreshFailedError, UnsealError) as problem:
        raise CommandError(str(problem), BAD_STATE) from None
    if pair.access_token is None:
        raise CommandError(f"{grant_id} has no access token yet", BAD_STATE)
    if stored.grant.status.value == "failed":
        note(f"evergrant: {grant_id} is failed ({stored.grant.reason}): this is its last access token")
    return pair.access_token


def _check_reachable(stored: "StoredGrant", min_ttl_ms: int) -> None:
    """A refresh that cannot bring what is asked would rotate for nothing, at every call."""
    grant = stored.grant
    life_ms = None if grant.access_expires_at is None else grant.access_expires_at - grant.issued_at
    was_refreshed_here = grant.version > 0
    if was_refreshed_here and life_ms is not None and life_ms < min_ttl_ms:
        seconds = life_ms // 1000
        raise CommandError(f"{grant.id}: a fresh access token lives only {seconds} s", BAD_STATE)


def _lives(expires_at: int | None, now: int, min_ttl_ms: int) -> bool:
    return expires_at is None or expires_at - now >= min_ttl_ms


async def _events(runtime: "Runtime", since: str | None, *, follow: bool, as_json: bool) -> None:
    import asyncio
    import sys

    task = asyncio.current_task()

    last = since
    if last is None:
        last = await runtime.event_stream.last_id() if follow else "0-0"
    while True:
        entries = await runtime.event_stream.read(last, wait_ms=FOLLOW_WAIT_MS if follow else None)
        if not entries and not follow:
            return
        for entry in entries:
            last = entry.id
            if as_json:
                write_json({**entry.event, "streamid": entry.id})
            else:
                write_line(_event_line(entry.id, entry.event))
        sys.stdout.flush()
        # redis-py sends in a `wait_for`, which on Python 3.11 may swallow the cancellation that Ctrl-C is.
        if task is not None and task.cancelling():
            raise asyncio.CancelledError


def _event_line(stream_id: str, event: "Mapping[str, Any]") -> str:
    data = event["data"]
    facts = [data["client"], data.get("reason"), data.get("detail")]
    if data.get("access_token_expires_at"):
        facts.append(f"its access token works until {data['access_token_expires_at']}")
    return columns(
        [
            (stream_id, 16),
            (event["time"][:19] + "Z", 20),
            (event["type"].removeprefix("evergrant."), 18),
            (event["subject"], 24),
            (", ".join(str(fact) for fact in facts if fact), 0),
        ]
    )


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
