"""`evergrant api-keys`: who may call the HTTP service, for what, and which grants a caller sees."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.operating import labels_of
from worker.cli.output import columns, until, write_json, write_line
from worker.cli.session import BAD_STATE, SETTINGS, CommandError, run, this_user, utf8
from worker.core.api_keys import NAME_TAKES, Scope

if TYPE_CHECKING:
    from worker.core.api_keys import ApiKey
    from worker.runtime.assembly import Runtime

app = typer.Typer(help="API keys of the HTTP service.", no_args_is_help=True)

SCOPES = tuple(scope.value for scope in Scope)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The key's name.", callback=utf8)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.callback()
def api_keys() -> None:
    """API keys of the HTTP service: named, stored as digests, revocable at once."""


@app.command("new")
def new(
    name: Name,
    scopes: Annotated[str, typer.Option("--scopes", metavar="SCOPE,...", help=", ".join(SCOPES))],
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="KEY=VALUE", help="Only grants with this label; with several, all of them."
        ),
    ] = None,
) -> None:
    """Print a new key, once: it cannot be shown again.

    tokens takes access tokens; grants puts grants in, lists and operates on them; connect sends people to a
    provider; fleet sees the fleet and its events; admin may do all of it. A key that is bound to labels sees
    and serves only grants that have them.

    Example: evergrant api-keys new shop --scopes tokens,grants --label tenant=acme
    """
    wanted, labels = _scopes_of(scopes), labels_of(label)
    write_line(run(lambda runtime: _new(runtime, name, wanted, labels)))


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the keys by name, each with its scopes, its labels and when it was last used.

    Example: evergrant api-keys list --json
    """
    run(lambda runtime: _list(runtime, as_json=as_json))


@app.command("revoke")
def revoke(name: Name) -> None:
    """Let nobody in with a key from now on.

    Example: evergrant api-keys revoke shop
    """
    if not run(lambda runtime: runtime.api_keys.revoke(name, this_user())):
        raise CommandError(f"no key is called {name!r}", BAD_STATE)
    write_line(f"revoked {name}")


def _scopes_of(text: str) -> frozenset[Scope]:
    names = [name.strip() for name in text.split(",")]
    if not all(name in SCOPES for name in names):
        raise CommandError(f"--scopes takes {', '.join(SCOPES)}, comma-separated", SETTINGS)
    return frozenset(Scope(name) for name in names)


async def _new(runtime: "Runtime", name: str, scopes: frozenset[Scope], labels: dict[str, str]) -> str:
    from worker.fleet.api_keys import ApiKeyError, KeyProblem

    try:
        return await runtime.api_keys.make(name, scopes, labels, this_user())
    except ApiKeyError as problem:
        if problem.code is KeyProblem.NAME_TAKEN:
            line = f"a key is called {name!r} already; `evergrant api-keys revoke {name}` frees the name"
            raise CommandError(line, BAD_STATE) from None
        raise CommandError(f"NAME takes {NAME_TAKES}", SETTINGS) from None


async def _list(runtime: "Runtime", *, as_json: bool) -> None:
    now = await runtime.registry.now()
    if not as_json:
        write_line(_row("NAME", "SCOPES", "LABELS", "MADE", "LAST USED"))
    for key in await runtime.api_keys.all():
        if as_json:
            write_json(_document(key))
        else:
            used = "never" if key.used_at is None else f"{until(now, key.used_at)} ago"
            labels = " ".join(f"{name}={value}" for name, value in key.labels.items())
            scopes = ",".join(_scope_names(key))
            write_line(_row(key.name, scopes, labels or "-", f"{until(now, key.created_at)} ago", used))


def _document(key: "ApiKey") -> dict[str, Any]:
    from worker.core.events import rfc3339

    return {
        "name": key.name,
        "id": key.id,
        "scopes": _scope_names(key),
        "labels": dict(key.labels),
        "created_at": rfc3339(key.created_at),
        "used_at": rfc3339(key.used_at),
    }


def _scope_names(key: "ApiKey") -> list[str]:
    return [scope.value for scope in Scope if scope in key.scopes]


def _row(*cells: str) -> str:
    return columns(zip(cells, (20, 20, 20, 14, 0), strict=True))
