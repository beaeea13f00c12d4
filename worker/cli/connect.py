"""`evergrant connect`: a link for one person to sign in at a provider, and the word that it is the one."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.operating import labels_of
from worker.cli.output import note, write_line
from worker.cli.session import BAD_STATE, SETTINGS, CommandError, heartbeat_kept, run, this_user, utf8

if TYPE_CHECKING:
    from worker.core.connecting import Wanted
    from worker.runtime.assembly import Runtime


def connect(
    grant_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The id that the grant is to have.", callback=utf8)
    ] = None,
    client: Annotated[
        str | None, typer.Option("--client", metavar="NAME", help="Where to sign in.", callback=utf8)
    ] = None,
    scopes: Annotated[
        str | None,
        typer.Option("--scopes", metavar="SCOPE,...", help="[default: SCOPES of the client]", callback=utf8),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label of the grant.")
    ] = None,
    return_to: Annotated[
        str | None,
        typer.Option(
            "--return-to",
            metavar="URL",
            help="Where the person goes afterwards, under one of EVERGRANT_RETURN_URLS. [default: a page that"
            " shows a code]",
            callback=utf8,
        ),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option("--confirm", metavar="CODE", help="Make the grant live whose person has this code."),
    ] = None,
) -> None:
    """Print a link for one person to sign in at a provider, once, within ten minutes.

    `evergrant serve` must run at EVERGRANT_PUBLIC_URL. The person comes back with a code, which the
    application confirms; without --return-to the person reads it from a page, and --confirm takes it.
    What nobody confirms within ten minutes is revoked and forgotten.

    Example: evergrant connect user-42/buddy --client buddy --label tenant=acme
    """
    if code is not None:
        if any(each is not None for each in (grant_id, client, scopes, label, return_to)):
            raise CommandError("--confirm takes a code and nothing else", SETTINGS)
        write_line(f"connected {run(lambda runtime: _confirm(runtime, code))}")
        return
    if grant_id is None or client is None:
        raise CommandError("takes an ID and --client NAME, or --confirm CODE", SETTINGS)
    wanted = _wanted(grant_id, client, scopes, labels_of(label), return_to)
    write_line(run(lambda runtime: _link(runtime, wanted)))


def _wanted(
    grant_id: str, client: str, scopes: str | None, labels: dict[str, str], return_to: str | None
) -> "Wanted":
    from worker.core.connecting import Wanted
    from worker.core.interchange import MAX_ID_CHARS

    if not 1 <= len(grant_id) <= MAX_ID_CHARS or not grant_id.isprintable():
        raise CommandError(f"ID takes 1 to {MAX_ID_CHARS} printable characters", SETTINGS)
    asked = (scopes or "").replace(",", " ").replace("+", " ").split()
    return Wanted(grant_id, client, tuple(asked), labels, return_to, this_user())


async def _link(runtime: "Runtime", wanted: "Wanted") -> str:
    from worker.core.connecting import CannotConnectError

    try:
        link = await runtime.connecting.begin(wanted)
    except CannotConnectError as problem:
        raise CommandError(str(problem), SETTINGS) from None
    if link.unknown_scopes:
        note(f"evergrant: scopes that nobody documents: {', '.join(link.unknown_scopes)}")
    note("evergrant: it works for ten minutes, once")
    return link.url


async def _confirm(runtime: "Runtime", code: str) -> str:
    from worker.core.connecting import CannotConnectError, CodeProblem
    from worker.core.ports import UnsealError
    from worker.fleet.confirming import CodeError, OutdatedConsentError

    try:
        async with heartbeat_kept(runtime, "the grant"):
            return await runtime.confirming.confirm(code, lambda _: True, this_user())
    except CodeError as error:
        problems = {
            CodeProblem.USED: "the code was confirmed before",
            CodeProblem.UNKNOWN: "the code is unknown, or was not confirmed within ten minutes",
        }
        raise CommandError(problems[error.problem], BAD_STATE) from None
    except OutdatedConsentError:
        raise CommandError("newer tokens of the grant were stored meanwhile", BAD_STATE) from None
    except (CannotConnectError, UnsealError) as problem:
        raise CommandError(str(problem), BAD_STATE) from None
