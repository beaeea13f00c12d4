"""`evergrant grants`: import, list, show, export, pause, resume, delete (`refresh` is in tokens.py)."""

import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Self

import typer

from worker.cli import tokens
from worker.cli.output import columns, note, until, write_json, write_line
from worker.cli.session import BAD_STATE, SETTINGS, CommandError, run, utf8
from worker.core.registry import Operation, OperationResult, StoredGrant, UnreadableRecordError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.runtime.assembly import Runtime

app = typer.Typer(help="The stored grants.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ClientName = Annotated[
    str | None, typer.Option("--client", metavar="NAME", help="Only this client's grants.", callback=utf8)
]

STATUSES = ("active", "failing", "failed", "paused")


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines, one grant a line; - reads stdin.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace grants whose id exists.")] = False,
) -> None:
    """Take in grants: token responses with an id and a client.

    Lines that are no grants are named by their number and skipped.

    Example: evergrant grants import grants.jsonl
    """
    stored, refused = run(lambda runtime: _import(runtime, file, replace_existing=replace))
    note(f"stored {stored}, refused {refused}")
    if refused:
        raise typer.Exit(BAD_STATE)


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option("--status", help=", ".join(STATUSES))] = None,
    client: ClientName = None,
    as_json: AsJson = False,
) -> None:
    """List grants. Those whose record cannot be read are named on standard error.

    Example: evergrant grants list --status failed --json
    """
    if status is not None and status not in STATUSES:
        raise CommandError(f"--status takes {', '.join(STATUSES)}", SETTINGS)
    if run(lambda runtime: _list(runtime, status, client, as_json=as_json)):
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


@app.command("pause")
def pause(grant_id: tokens.GrantId) -> None:
    """Take one grant out of work; its tokens stay as they are.

    Example: evergrant grants pause user-42/buddy
    """
    run(lambda runtime: _operate(runtime, grant_id, Operation.PAUSE, "paused"))


@app.command("resume")
def resume(grant_id: tokens.GrantId) -> None:
    """Put a paused grant back to work, or give a failed one another bout of tries.

    Example: evergrant grants resume user-42/buddy
    """
    run(lambda runtime: _operate(runtime, grant_id, Operation.RESUME, "resumed"))


@app.command("delete")
def delete(grant_id: tokens.GrantId) -> None:
    """Forget one grant and its tokens. Nothing is revoked at the provider.

    Example: evergrant grants delete user-42/buddy
    """
    run(lambda runtime: _operate(runtime, grant_id, Operation.DELETE, "deleted"))


async def _import(runtime: "Runtime", name: str, *, replace_existing: bool) -> tuple[int, int]:
    from worker.fleet.importing import Importer, numbered_lines

    # Reading blocks: a Ctrl-C must interrupt the read itself, not wait for the loop to come round.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    importer = Importer(
        registry=runtime.registry,
        sealer=runtime.deployment.keys,
        clients=runtime.clients,
        rules=runtime.rules,
        replace_existing=replace_existing,
    )
    stored = refused = 0
    with _open(name) as file, _Progress(file) as progress:
        async for taken in importer.take_all(numbered_lines(file)):
            stored += taken.stored
            refused += len(taken.refusals)
            for refusal in taken.refusals:
                progress.say(f"line {refusal.number}: {refusal.reason}")
            progress.show(stored)
    return stored, refused


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


async def _list(runtime: "Runtime", status: str | None, client: str | None, *, as_json: bool) -> int:
    unreadable: list[UnreadableRecordError] = []
    now = await runtime.registry.now()
    if not as_json:
        write_line(_row("ID", "CLIENT", "STATUS", "VERSION", "TOKEN ENDS IN", "DUE IN", "REASON"))
    async for stored in runtime.registry.walk(client, unreadable=unreadable.append):
        if status is not None and stored.grant.status != status:
            continue
        if as_json:
            write_json(_document(stored))
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


def _document(stored: "StoredGrant") -> dict[str, Any]:
    """A grant as `show` and `list` write it: the export line and where it stands."""
    from worker.core.events import rfc3339
    from worker.core.interchange import write_line as export_line

    grant = stored.grant
    return {
        **export_line(grant, None),
        "reason": grant.reason,
        "failures": grant.streak,
        "next_due_at": rfc3339(stored.due_at),
    }


async def _find(runtime: "Runtime", grant_id: str) -> "StoredGrant":
    stored = await runtime.registry.find(grant_id)
    if stored is None:
        raise CommandError(f"no grant has the id {grant_id!r}", BAD_STATE)
    return stored


async def _show(runtime: "Runtime", grant_id: str, *, as_json: bool) -> None:
    stored = await _find(runtime, grant_id)
    document = _document(stored)
    if as_json:
        write_json(document)
        return
    for name, value in document.items():
        text = "-" if value is None else value
        if isinstance(value, dict):
            text = " ".join(f"{key}={each}" for key, each in value.items()) or "-"
        write_line(f"{name:26}{text}")


async def _export(runtime: "Runtime", client: str | None, *, with_tokens: bool) -> int:
    from worker.core.interchange import write_line as export_line
    from worker.core.ports import UnsealError

    unreadable: list[UnreadableRecordError] = []
    cannot_unseal = 0
    async for stored in runtime.registry.walk(client, unreadable=unreadable.append):
        pair = None
        if with_tokens:
            try:
                pair = runtime.deployment.keys.open(stored.grant)
            except UnsealError as problem:
                note(str(problem))
                cannot_unseal += 1
                continue
        write_json(export_line(stored.grant, pair))
    return cannot_unseal + _name_unreadable(unreadable)


async def _operate(runtime: "Runtime", grant_id: str, operation: Operation, done: str) -> None:
    answer = await runtime.registry.operate(grant_id, operation)
    if answer is OperationResult.GONE:
        raise CommandError(f"no grant has the id {grant_id!r}", BAD_STATE)
    if answer is OperationResult.UNCHANGED:
        stored = await _find(runtime, grant_id)
        write_line(f"{grant_id} is {stored.grant.status.value} already")
    else:
        write_line(f"{done} {grant_id}")
