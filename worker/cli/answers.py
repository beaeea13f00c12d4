"""`evergrant answers`: replies that could not be read: list, show, adopt, drop."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import columns, note, until, write_json, write_line
from worker.cli.session import BAD_STATE, SETTINGS, UNREACHABLE, CommandError, heartbeat_kept, run, utf8

if TYPE_CHECKING:
    from worker.core.registry import StoredGrant, StoredReply
    from worker.core.salvage import Directions
    from worker.fleet.kept_replies import OpenedReply
    from worker.runtime.assembly import Runtime

MOST_SECONDS = 315_360_000  # ten years, as in an import line

app = typer.Typer(help="Replies that could not be read: kept, sealed.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Number = Annotated[int, typer.Argument(metavar="N", min=1, help="The reply's number, as `list` has it.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the kept replies.

    Example: evergrant answers list
    """
    run(lambda runtime: _list(runtime, as_json=as_json))


@app.command("show")
def show(
    number: Number,
    with_tokens: Annotated[
        bool, typer.Option("--with-tokens", help="Print the body as it came, tokens and all.")
    ] = False,
) -> None:
    """Show how a kept reply is built: each value by its place, type and length, and nothing of what it says.

    Example: evergrant answers show 3
    """
    run(lambda runtime: _show(runtime, number, with_tokens=with_tokens))


@app.command("adopt")
def adopt(
    number: Annotated[
        int | None, typer.Argument(metavar="N", min=1, help="The reply's number, as `list` has it.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every kept reply.")] = False,
    access_token: Annotated[
        str | None,
        typer.Option(
            "--access-token", metavar="PATH", help="Where it is, such as data.0.token.", callback=utf8
        ),
    ] = None,
    refresh_token: Annotated[
        str | None, typer.Option("--refresh-token", metavar="PATH", help="Where it is.", callback=utf8)
    ] = None,
    expires_in: Annotated[
        float | None,
        typer.Option(
            "--expires-in",
            min=1,
            max=MOST_SECONDS,
            metavar="SECONDS",
            help="How long the access token lives, from when it was asked for.",
        ),
    ] = None,
) -> None:
    """Take the tokens of a kept reply in, and let its grant and its provider work again.

    Example: evergrant answers adopt 3 --access-token data.0.token --expires-in 3600
    """
    from worker.core.salvage import Directions

    expires_in_ms = None if expires_in is None else int(expires_in * 1000)
    directions = Directions(access_token, refresh_token, expires_in_ms)
    if (number is None) is not everything:
        raise CommandError("adopt takes a number, or --all", SETTINGS)
    if everything and directions != Directions():
        raise CommandError("--all takes no other option: what is told is told of one reply", SETTINGS)
    if run(lambda runtime: _adopt(runtime, number, directions)):
        raise typer.Exit(BAD_STATE)


@app.command("drop")
def drop(number: Number) -> None:
    """Give a kept reply up for good; its grant's old token is tried again.

    Example: evergrant answers drop 3
    """
    run(lambda runtime: _drop(runtime, number))


async def _list(runtime: "Runtime", *, as_json: bool) -> None:
    now = await runtime.registry.now()
    replies = await runtime.kept_replies.all()
    if not as_json:
        write_line(_row("N", "GRANT", "CLIENT", "CAME", "BYTES", "TOKEN ENDS IN", "WHAT IS WRONG"))
    for reply in replies:
        if as_json:
            write_json(_document(reply))
        else:
            write_line(
                _row(
                    str(reply.number),
                    reply.grant,
                    reply.client,
                    f"{until(now, reply.received_at)} ago",
                    str(reply.size),
                    until(reply.access_expires_at, now),
                    reply.detail,
                )
            )


def _row(*cells: str) -> str:
    return columns(zip(cells, (5, 32, 12, 12, 7, 14, 0), strict=True))


def _document(reply: "StoredReply") -> dict[str, Any]:
    from worker.core.events import rfc3339

    return {
        "number": reply.number,
        "grant": reply.grant,
        "client": reply.client,
        "received_at": rfc3339(reply.received_at),
        "detail": reply.detail,
        "size": reply.size,
        "access_token_expires_at": rfc3339(reply.access_expires_at),
    }


async def _show(runtime: "Runtime", number: int, *, with_tokens: bool) -> None:
    from worker.fleet.kept_replies import KeptReplyError

    try:
        opened = await runtime.kept_replies.open(number)
    except KeptReplyError as problem:
        raise CommandError(str(problem), BAD_STATE) from None
    if with_tokens:
        _write_body(opened)
    else:
        _write_structure(opened)


def _write_body(opened: "OpenedReply") -> None:
    import sys

    sys.stdout.flush()
    sys.stdout.buffer.write(opened.reply.body)
    sys.stdout.buffer.flush()


def _write_structure(opened: "OpenedReply") -> None:
    from worker.core.events import rfc3339
    from worker.core.salvage import leaves_of

    stored, reply = opened.stored, opened.reply
    facts = {
        "grant": stored.grant,
        "client": stored.client,
        "sent by": stored.token_url,
        "received_at": rfc3339(stored.received_at),
        "detail": stored.detail,
        "status": reply.status,
        "headers": ", ".join(sorted({name.lower() for name in reply.headers})) or "-",
        "size": f"{stored.size} bytes",
    }
    for name, value in facts.items():
        write_line(f"{name:14}{value}")
    write_line()
    for leaf in leaves_of(reply.body):
        write_line(leaf.shown())


async def _adopt(runtime: "Runtime", number: int | None, directions: "Directions") -> int:
    """Adopt one reply or all; returns how many could not be."""
    numbers = [number] if number is not None else [reply.number for reply in await runtime.kept_replies.all()]
    if not numbers:
        write_line("no reply is kept")
        return 0
    failed = 0
    async with heartbeat_kept(runtime, "the grant" if number is None else f"reply {number}"):
        for each in numbers:
            failed += not await _adopt_one(runtime, each, directions)
    return failed


async def _adopt_one(runtime: "Runtime", number: int, directions: "Directions") -> bool:
    from worker.fleet.kept_replies import KeptReplyError, WaitsError

    try:
        stored = await runtime.kept_replies.adopt(number, directions)
    except WaitsError as problem:
        raise CommandError(str(problem), UNREACHABLE) from None
    except KeptReplyError as problem:
        note(f"evergrant: {problem}")
        return False
    write_line(await _adopted(runtime, number, stored))
    return True


async def _adopted(runtime: "Runtime", number: int, stored: "StoredGrant") -> str:
    grant = stored.grant
    ends = until(grant.access_expires_at, await runtime.registry.now())
    return (
        f"adopted {number}: {grant.id} is {grant.status.value}, version {grant.version},"
        f" the access token ends in {ends}"
    )


async def _drop(runtime: "Runtime", number: int) -> None:
    from worker.fleet.kept_replies import KeptReplyError

    try:
        reply = await runtime.kept_replies.drop(number)
    except KeptReplyError as problem:
        raise CommandError(str(problem), BAD_STATE) from None
    write_line(f"dropped {number}: the stored token of {reply.grant} is tried again")
