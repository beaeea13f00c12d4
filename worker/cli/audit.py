"""`evergrant audit`: who did what, to which grant, when and from where."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import columns, write_json, write_line
from worker.cli.session import SETTINGS, CommandError, run, utf8
from worker.core.registry import is_stream_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.runtime.assembly import Runtime

FOLLOW_WAIT_MS = 2_000
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def audit(
    grant_id: Annotated[
        str | None, typer.Option("--grant", metavar="ID", help="Only of this grant.", callback=utf8)
    ] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Only of this user or key.", callback=utf8)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="ID", help="Only those after this stream id.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print who did what, oldest first; with --follow only what is still to come, unless --since.

    Example: evergrant audit --grant user-42/buddy --json
    """
    if since is not None and not is_stream_id(since):
        raise CommandError("--since takes a stream id such as 1795322840527-0", SETTINGS)
    run(lambda runtime: _audit(runtime, grant_id, actor, since, follow=follow, as_json=as_json))


async def _audit(
    runtime: "Runtime",
    grant_id: str | None,
    actor: str | None,
    since: str | None,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    from worker.core.audit import concerns

    task, stream = asyncio.current_task(), runtime.audit_stream
    last = since
    if last is None:
        last = await stream.last_id() if follow else "0-0"
    while True:
        entries = await stream.read(last, wait_ms=FOLLOW_WAIT_MS if follow else None)
        if not entries and not follow:
            return
        for entry in entries:
            last = entry.id
            if concerns(entry.event, grant_id=grant_id, actor=actor):
                _write(entry.id, entry.event, as_json=as_json)
        sys.stdout.flush()
        # As in events.py: on Python 3.11 the cancellation that Ctrl-C is may be swallowed.
        if task is not None and task.cancelling():
            raise asyncio.CancelledError


def _write(stream_id: str, entry: "Mapping[str, Any]", *, as_json: bool) -> None:
    from worker.core.audit import document_of

    document = document_of(entry, stream_id)
    if as_json:
        write_json(document)
        return
    facts = [f"version {entry['version']}"] if "version" in entry else []
    if "promised_until" in entry:
        facts.append(f"promised until {document['promised_until'][:19]}Z")
    cells = [
        (stream_id, 16),
        (document["at"][:19] + "Z", 20),
        (entry["what"], 15),
        (entry.get("grant") or entry.get("key") or entry.get("webhook") or "-", 24),
        (f"{entry['actor']} from {entry['from']}", 28),
        (", ".join(facts), 0),
    ]
    write_line(columns(cells))
