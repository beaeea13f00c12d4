"""`evergrant grants`: import, list, show and export.

`refresh` is in tokens.py, `pause`, `resume` and `delete` in operating.py, `revoke` in revoking.py.
"""

import os
import signal
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Self

import typer

from worker.cli import operating, revoking, tokens
from worker.cli.output import columns, note, until, write_json, write_line
from worker.cli.session import BAD_STATE, SETTINGS, CommandError, journaled_entries, run, this_user, utf8

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.core.grant import Status
    from worker.core.providers import Client
    from worker.core.reasons import Reason
    from worker.core.registry import StoredGrant, UnreadableRecordError
    from worker.runtime.assembly import Runtime

app = typer.Typer(help="The stored grants.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ClientName = Annotated[
    str | None, typer.Option("--client", metavar="NAME", help="Only this client's grants.", callback=utf8)
]


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines, one grant a line; - reads stdin.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace grants whose id exists.")] = False,
) -> None:
    """Take in grants: token responses with an id and a client.

    Lines that are no grants are named by their number and skipped.

    Example: evergrant grants import grants.jsonl
    """
    taken = run(lambda runtime: _import(runtime, file, replace_existing=replace))
    note(f"stored {taken.stored}, refused {taken.refused}")
    if taken.without_end:
        what = "do not say when their access token ends (docs/import.md)"
        note(f"{taken.without_end} of the stored lines {what}")
    if taken.repaired:
        what = "had dead tokens, and got newer ones from this machine's journals"
        note(f"{taken.repaired} of the stored lines {what}")
    if taken.refused:
        raise typer.Exit(BAD_STATE)


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option("--status", help=", ".join(operating.STATUSES))] = None,
    client: ClientName = None,
    as_json: AsJson = False,
) -> None:
    """List grants. Those whose record cannot be read are named on standard error.

    Example: evergrant grants list --status failed --json
    """
    wanted = operating.status_of(status)
    if run(lambda runtime: _list(runtime, wanted, client, as_json=as_json)):
        raise typer.Exit(BAD_STATE)


@app.command("show")
def show(grant_id: tokens.GrantId, as_json: AsJson = False) -> None:
    """Show one grant, without its tokens.

    Example: evergrant grants show user-42/buddy
    """
    run(lambda runtime: _show(runtime, grant_id, as_json=as_json))


@app.command("export")
def export(
    with_tokens: Annotated[
        bool, typer.Option("--with-tokens", help="Put the tokens in, in the clear.")
    ] = False,
    client: ClientName = None,
) -> None:
    """Write every grant as a line; with --with-tokens one that `import` takes.

    Example: evergrant grants export --with-tokens > backup.jsonl
    """
    unreadable = run(lambda runtime: _export(runtime, client, with_tokens=with_tokens))
    if unreadable:
        raise typer.Exit(BAD_STATE)


app.command("refresh")(tokens.refresh)
app.command("pause")(operating.pause)
app.command("resume")(operating.resume)
app.command("delete")(operating.delete)
app.command("revoke")(revoking.revoke)


@dataclass
class _Sum:
    """What became of the lines so far; see `importing.Taken`."""

    stored: int = 0
    refused: int = 0
    without_end: int = 0
    repaired: int = 0


async def _import(runtime: "Runtime", name: str, *, replace_existing: bool) -> _Sum:
    from worker.fleet.importing import Importer, numbered_lines
    from worker.fleet.journaled import Journaled

    # Reading blocks: a Ctrl-C must interrupt the read itself, not wait for the loop to come round.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    importer = Importer(
        registry=runtime.registry,
        sealer=runtime.deployment.keys,
        clients=runtime.clients,
        rules=runtime.rules,
        replace_existing=replace_existing,
        journaled=Journaled(journaled_entries(runtime)),
        keep_reply=runtime.store.keep_reply,
        by=this_user(),
    )
    total = _Sum()
    with _open(name) as file, _Progress(file) as progress:
        async for taken in importer.take_all(numbered_lines(file)):
            total.stored += taken.stored
            total.refused += len(taken.refusals)
            total.without_end += taken.without_end
            total.repaired += taken.repaired
            for refusal in taken.refusals:
                progress.say(f"line {refusal.number}: {refusal.reason}")
            progress.show(total.stored)
    return total


def _open(name: str) -> BinaryIO:
    if name == "-":
        return sys.stdin.buffer
    try:
        return Path(name).open("rb")
    except OSError as problem:
        raise CommandError(f"{name}: {problem.strerror}", SETTINGS) from None


class _Progress:
    """A bar on a terminal; only the refused lines elsewhere."""

    def __init__(self, file: BinaryIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._file = file
        console = Console(stderr=True)
        self._size = self._file_size()
        self._bar = Progress(
            TextColumn("importing"),
            BarColumn(),
            TextColumn("{task.fields[stored]:,} stored"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("import", total=self._size, stored=0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, stored: int) -> None:
        """Move the bar."""
        if self._bar.disable:
            return
        done = self._file.tell() if self._size else 0
        self._bar.update(self._task, completed=done, stored=stored)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._bar.disable:
            note(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def _file_size(self) -> int | None:
        found = os.fstat(self._file.fileno())
        return found.st_size if stat.S_ISREG(found.st_mode) else None


async def _list(runtime: "Runtime", status: "Status | None", client: str | None, *, as_json: bool) -> int:
    from worker.fleet.describing import describe

    unreadable: list[UnreadableRecordError] = []
    now = await runtime.registry.now()
    if not as_json:
        write_line(_row("ID", "CLIENT", "STATUS", "VERSION", "TOKEN ENDS IN", "DUE IN", "REASON"))
    async for stored in runtime.registry.walk(client, unreadable=unreadable.append):
        if status not in {None, stored.grant.status}:
            continue
        if as_json:
            write_json(describe(stored, _client_of(runtime, stored), runtime.rules, now))
        else:
            write_line(_summary(stored, now))
    return _name_unreadable(unreadable)


def _name_unreadable(problems: "Sequence[UnreadableRecordError]") -> int:
    for problem in problems:
        note(str(problem))
    return len(problems)


def _summary(stored: "StoredGrant", now: int) -> str:
    grant = stored.grant
    due = "-" if stored.due_at is None else until(stored.due_at, now)
    return _row(
        grant.id,
        grant.client,
        grant.status.value,
        str(grant.version),
        until(grant.access_expires_at, now),
        due,
        grant.reason or "",
    )


def _row(*cells: str) -> str:
    return columns(zip(cells, (32, 12, 8, 8, 14, 10, 0), strict=True))


def _client_of(runtime: "Runtime", stored: "StoredGrant") -> "Client | None":
    name = stored.grant.client
    return runtime.clients.get(name, 0) if name in runtime.clients else None


async def _find(runtime: "Runtime", grant_id: str) -> "StoredGrant":
    stored = await runtime.registry.find(grant_id)
    if stored is None:
        raise CommandError(f"no grant has the id {grant_id!r}", BAD_STATE)
    return stored


async def _show(runtime: "Runtime", grant_id: str, *, as_json: bool) -> None:
    from worker.core.policy import rules_for
    from worker.fleet.describing import describe
    from worker.fleet.due_reason import reason_of_due

    stored, now = await _find(runtime, grant_id), await runtime.registry.now()
    client = _client_of(runtime, stored)
    document = describe(stored, client, runtime.rules, now)
    if as_json:
        write_json(document)
        return
    reason = reason_of_due(stored, client, runtime.rules, now)
    if reason is not None:
        rules = runtime.rules if client is None else rules_for(client, runtime.rules)
        document["next_due_reason"] = _why_due(reason, rules.refresh_at)
    for name, value in document.items():
        text = "-" if value is None else value
        if isinstance(value, list):
            text = " ".join(value)
        if isinstance(value, dict):
            text = " ".join(f"{key}={each}" for key, each in value.items()) or "-"
        write_line(f"{name:26}{text}")


def _why_due(reason: "Reason", refresh_at: float) -> str:
    """The reason of a due time in words; 'about', because each grant's share is moved a little."""
    from fractions import Fraction

    from worker.core.reasons import Reason

    share = Fraction(refresh_at).limit_denominator(50)
    match reason:
        case Reason.ACCESS_TOKEN_SHARE:
            return f"about {share} of its access token's life is over then"
        case Reason.REFRESH_TOKEN_SHARE:
            return f"about {share} of its refresh token's life is over then"
        case _:
            return reason.meaning


async def _export(runtime: "Runtime", client: str | None, *, with_tokens: bool) -> int:
    from worker.core.interchange import write_line as export_line
    from worker.core.ports import UnsealError

    unreadable: list[UnreadableRecordError] = []
    cannot_unseal, ahead_ms = 0, await runtime.registry.ahead_ms()
    async for stored in runtime.registry.walk(client, unreadable=unreadable.append):
        pair = None
        if with_tokens:
            try:
                pair = runtime.deployment.keys.open(stored.grant)
            except UnsealError as problem:
                note(str(problem))
                cannot_unseal += 1
                continue
        write_json(export_line(stored.grant.earlier_by(ahead_ms), pair))
    return cannot_unseal + _name_unreadable(unreadable)
