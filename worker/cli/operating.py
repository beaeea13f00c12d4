"""`evergrant grants pause`, `resume` and `delete`: of one grant, or of all that a selection names."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import revoking
from worker.cli.output import note, write_line
from worker.cli.session import BAD_STATE, SETTINGS, CommandError, run, this_user, utf8
from worker.core.grant import Status
from worker.core.registry import Operation, OperationResult, UnreadableRecordError

if TYPE_CHECKING:
    from worker.fleet.selecting import Selection, Tally
    from worker.runtime.assembly import Runtime

DONE = {Operation.PAUSE: "paused", Operation.RESUME: "resumed", Operation.DELETE: "deleted"}

STATUSES = tuple(status.value for status in Status)
OneGrant = Annotated[str | None, typer.Argument(metavar="ID", help="The grant's id.", callback=utf8)]
OfStatus = Annotated[str | None, typer.Option("--status", help=f"All of one status: {', '.join(STATUSES)}.")]
OfClient = Annotated[
    str | None, typer.Option("--client", metavar="NAME", help="All of this client.", callback=utf8)
]
OfLabels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="All with this label; with several, all of them."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count what would be done, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask, however many there are.")]


def pause(
    grant_id: OneGrant = None,
    status: OfStatus = None,
    client: OfClient = None,
    label: OfLabels = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Take a grant out of work, or all that the options select; tokens stay as they are.

    Example: evergrant grants pause user-42/buddy

    Example: evergrant grants pause --client buddy --label tenant=acme --dry-run
    """
    _operate(Operation.PAUSE, grant_id, _selection(status, client, label), dry_run=dry_run, yes=yes)


def resume(
    grant_id: OneGrant = None,
    status: OfStatus = None,
    client: OfClient = None,
    label: OfLabels = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Put paused grants back to work, and give failed ones another bout of tries.

    What failed before does not count in it. All are due at once, and are tried as fast as their client's
    rate limit allows. Broken off halfway, it can be run again.

    Example: evergrant grants resume user-42/buddy

    Example: evergrant grants resume --client buddy --status failed
    """
    _operate(Operation.RESUME, grant_id, _selection(status, client, label), dry_run=dry_run, yes=yes)


def delete(
    grant_id: OneGrant = None,
    status: OfStatus = None,
    client: OfClient = None,
    label: OfLabels = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke it at the provider first.")] = False,
) -> None:
    """Forget a grant and its tokens, or all that the options select.

    Nothing is revoked at the provider unless --revoke says so, which takes one ID.

    Example: evergrant grants delete user-42/buddy

    Example: evergrant grants delete --client buddy --status failed --dry-run
    """
    if not revoke:
        _operate(Operation.DELETE, grant_id, _selection(status, client, label), dry_run=dry_run, yes=yes)
    elif grant_id is None or _selection(status, client, label) is not None or dry_run:
        problem = "--revoke takes one ID, without --status, --client, --label or --dry-run"
        raise CommandError(problem, SETTINGS)
    else:
        revoking.revoke(grant_id)


def status_of(name: str | None) -> Status | None:
    """The status that `--status` names.

    Raises:
        CommandError: it names none.
    """
    if name is not None and name not in STATUSES:
        raise CommandError(f"--status takes {', '.join(STATUSES)}", SETTINGS)
    return None if name is None else Status(name)


def _selection(status: str | None, client: str | None, labels: Sequence[str] | None) -> "Selection | None":
    """What the options select; `None` where none is given."""
    from worker.fleet.selecting import Selection

    if status is None and client is None and not labels:
        return None
    return Selection(client, status_of(status), labels_of(labels))


def labels_of(texts: Sequence[str] | None) -> dict[str, str]:
    """The labels that `--label` names.

    Raises:
        CommandError: they are none, or one is named twice.
    """
    given = [_label(text) for text in texts or ()]
    if len(dict(given)) < len(given):
        raise CommandError("--label takes each KEY once: a grant has one value for it", SETTINGS)
    return dict(given)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CommandError("--label takes KEY=VALUE", SETTINGS)
    utf8(text)
    return key, value


def _operate(
    operation: Operation, grant_id: str | None, selection: "Selection | None", *, dry_run: bool, yes: bool
) -> None:
    if grant_id is not None and selection is None and not dry_run:
        run(lambda runtime: _operate_on_one(runtime, grant_id, operation))
        return
    if grant_id is not None or selection is None:
        problem = f"grants {operation} takes one ID, or --status, --client and --label"
        raise CommandError(problem, SETTINGS)
    if dry_run or not yes:
        foreseen, unreadable = run(lambda runtime: _foresee(runtime, selection, operation))
        if dry_run:
            write_line(_report(f"would be {DONE[operation]}", foreseen))
            raise typer.Exit(BAD_STATE if unreadable else 0)
        _ask_about(foreseen, operation)
    if run(lambda runtime: _operate_on_many(runtime, selection, operation)):
        raise typer.Exit(BAD_STATE)


def _ask_about(foreseen: "Tally", operation: Operation) -> None:
    """Let the operator confirm what concerns more than one grant.

    Raises:
        CommandError: it is not confirmed.
    """
    number = foreseen.done.total()
    if number <= 1:
        return
    what = f"{number} grants ({_counts(foreseen.done)})"
    if not sys.stdin.isatty():
        problem = f"this would {operation} {what}: add --yes to do it, or --dry-run to count alone"
        raise CommandError(problem, SETTINGS)
    if not typer.confirm(f"{operation.capitalize()} {what}?", err=True):
        raise CommandError("nothing was done", BAD_STATE)


async def _operate_on_one(runtime: "Runtime", grant_id: str, operation: Operation) -> None:
    answer = await runtime.registry.operate(grant_id, operation, by=this_user())
    stored = None
    if answer in {OperationResult.UNCHANGED, OperationResult.KEPT}:
        stored = await runtime.registry.find(grant_id)
    if answer is OperationResult.DONE:
        write_line(f"{DONE[operation]} {grant_id}")
    elif answer is OperationResult.KEPT and stored is not None:
        number = stored.grant.kept_reply
        raise CommandError(
            f"{grant_id}: a reply is kept for it that could not be read:"
            f" `evergrant answers adopt {number}` takes its tokens in,"
            f" `evergrant answers drop {number}` gives it up and tries the old token again",
            BAD_STATE,
        )
    elif answer is OperationResult.UNKNOWN_FORMAT:
        await runtime.registry.find(grant_id)  # raises what is to be said
    elif stored is not None:
        write_line(f"{grant_id} is {stored.grant.status.value} already")
    else:
        raise CommandError(f"no grant has the id {grant_id!r}", BAD_STATE)


async def _foresee(
    runtime: "Runtime", selection: "Selection", operation: Operation
) -> "tuple[Tally, list[UnreadableRecordError]]":
    from worker.fleet.selecting import foresee

    await _check_client(runtime, selection.client)
    unreadable: list[UnreadableRecordError] = []
    tally = await foresee(runtime.registry, selection, operation, unreadable.append)
    return tally, unreadable


async def _operate_on_many(runtime: "Runtime", selection: "Selection", operation: Operation) -> int:
    """Carry it out and report it; returns how many grants could not be read."""
    from worker.fleet.selecting import Tally, operate_on

    await _check_client(runtime, selection.client)
    tally, unreadable = Tally(), list[UnreadableRecordError]()
    is_over = False
    try:
        await operate_on(runtime.registry, selection, operation, tally, unreadable.append, this_user())
        is_over = True
    finally:
        for problem in unreadable:
            note(str(problem))
        if is_over:
            write_line(_report(DONE[operation], tally))
        else:
            note(f"evergrant: broken off: {_report(DONE[operation], tally)}; run it again for the rest")
    return len(unreadable)


async def _check_client(runtime: "Runtime", name: str | None) -> None:
    """Refuse a misspelt name: that it has no grants would look like success."""
    known = {*(client.name for client in runtime.clients), *await runtime.fleet_state.client_names()}
    if name is not None and name not in known:
        raise CommandError(f"no client is called {name!r}; there are {', '.join(sorted(known))}", BAD_STATE)


def _report(done: str, tally: "Tally") -> str:
    """`resumed 12 (failed 12), skipped 2 (active 2)`."""
    parts = [(done, tally.done), ("skipped", tally.skipped)]
    return ", ".join(
        f"{word} {counts.total()}" + (f" ({_counts(counts)})" if counts else "") for word, counts in parts
    )


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
