"""`evergrant events`: what the deployment tells its consumers."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import columns, write_json, write_line
from worker.cli.session import SETTINGS, CommandError, run, utf8
from worker.core.registry import is_stream_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker.runtime.assembly import Runtime

FOLLOW_WAIT_MS = 2_000
PREFIX = "evergrant."
OF_GRANTS = f"{PREFIX}grant."
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def events(
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more, until Ctrl-C.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="ID", help="Only those after this stream id.")
    ] = None,
    grant_id: Annotated[
        str | None, typer.Option("--grant", metavar="ID", help="Only of this grant.", callback=utf8)
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="T", help="Only of this type, such as grant.failed; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the event stream, oldest first; with --follow only what is still to come, unless --since.

    Example: evergrant events --follow --type grant.failed --type grant.expiring
    """
    if since is not None and not is_stream_id(since):
        raise CommandError("--since takes a stream id such as 1795322840527-0", SETTINGS)
    wanted = {_type_named(each) for each in types or ()}

    def is_meant(event: "Mapping[str, Any]") -> bool:
        is_of_grant = event["subject"] == grant_id and event["type"].startswith(OF_GRANTS)
        return (grant_id is None or is_of_grant) and (not wanted or event["type"] in wanted)

    run(lambda runtime: _events(runtime, since, is_meant, follow=follow, as_json=as_json))


def _type_named(text: str) -> str:
    """A type, with or without what all of them begin with.

    Raises:
        CommandError: there is no such type.
    """
    from worker.core.events import EventType

    known = {each.removeprefix(PREFIX): each.value for each in EventType}
    named = known.get(text.removeprefix(PREFIX))
    if named is None:
        raise CommandError(f"--type takes one of {', '.join(known)}", SETTINGS)
    return named


async def _events(
    runtime: "Runtime",
    since: str | None,
    is_meant: "Callable[[Mapping[str, Any]], bool]",
    *,
    follow: bool,
    as_json: bool,
) -> None:
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
            if not is_meant(entry.event):
                continue
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
            (event["type"].removeprefix(PREFIX), 18),
            (event["subject"], 24),
            (", ".join(str(fact) for fact in facts if fact), 0),
        ]
    )
