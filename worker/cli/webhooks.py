"""`evergrant webhooks`: who is told of which events over HTTP, and how each is getting on."""

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from worker.cli.operating import labels_of
from worker.cli.output import columns, note, until, write_json, write_line
from worker.cli.session import BAD_STATE, SETTINGS, CommandError, run, this_user, utf8

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.core.delivery import Answer
    from worker.core.events import EventType
    from worker.core.webhooks import WebhookState
    from worker.fleet.webhooks import NewWebhook, WebhookError
    from worker.runtime.assembly import Runtime

T = TypeVar("T")

app = typer.Typer(help="Events sent to your applications, signed.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id.", callback=utf8)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.callback()
def webhooks() -> None:
    """Webhooks: events sent to your applications, signed as Standard Webhooks 1.0 says (docs/webhooks.md)."""


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events are sent.", callback=utf8)],
    types: Annotated[
        str | None,
        typer.Option("--types", metavar="TYPE,...", help="Only these, such as grant.failed; else all."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="KEY=VALUE", help="Only of grants with this label; with several, all of them."
        ),
    ] = None,
) -> None:
    """Send events to a URL from now on; print the signing secret, once, and the id on standard error.

    Example: evergrant webhooks add https://app.example/hooks --types grant.failed,grant.expiring
    """
    wanted, labels = _types_of(types), labels_of(label)
    made = run(lambda runtime: _add(runtime, url, wanted, labels))
    note(made.id)
    write_line(made.secret)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the webhooks, the oldest first, and how each is getting on.

    Example: evergrant webhooks list
    """
    run(lambda runtime: _list(runtime, as_json=as_json))


@app.command("remove")
def remove(webhook_id: Id) -> None:
    """Send nothing to a webhook any more, and forget what waits for it.

    Example: evergrant webhooks remove wh_1f0c2a9d4b7e
    """
    run(lambda runtime: _explained(webhook_id, runtime.webhooks.remove(webhook_id, this_user())))
    write_line(f"removed {webhook_id}")


@app.command("test")
def test(webhook_id: Id) -> None:
    """Send an event of the type evergrant.webhook.test now, and say what came back; exits 1 unless a 2xx did.

    Example: evergrant webhooks test wh_1f0c2a9d4b7e
    """
    answer = run(lambda runtime: _test(runtime, webhook_id))
    write_line(answer.detail)
    if not answer.is_success:
        raise typer.Exit(BAD_STATE)


@app.command("replay")
def replay(
    webhook_id: Id,
    since: Annotated[
        str, typer.Option("--since", metavar="STREAMID", help="What follows this is sent again.")
    ],
) -> None:
    """Send what follows a place in the event stream once more, as far back as the stream reaches.

    Example: evergrant webhooks replay wh_1f0c2a9d4b7e --since 1795322840527-0
    """
    from worker.core.webhooks import is_stream_id

    if not is_stream_id(since):
        raise CommandError("--since takes a stream id such as 1795322840527-0", SETTINGS)
    number = run(
        lambda runtime: _explained(webhook_id, runtime.webhooks.replay(webhook_id, since, this_user()))
    )
    write_line(f"looking at {number} events once more" if number else "it has not come further than that")


@app.command("rotate-secret")
def rotate_secret(webhook_id: Id) -> None:
    """Print a new signing secret, once; for a day the old one signs beside it.

    Example: evergrant webhooks rotate-secret wh_1f0c2a9d4b7e
    """
    write_line(
        run(lambda runtime: _explained(webhook_id, runtime.webhooks.rotate_secret(webhook_id, this_user())))
    )


@app.command("enable")
def enable(webhook_id: Id) -> None:
    """Let a disabled webhook go on from where it stopped; what waits is tried at once.

    Where events were lost or given up, this also says that you have seen it.

    Example: evergrant webhooks enable wh_1f0c2a9d4b7e
    """
    run(lambda runtime: _explained(webhook_id, runtime.webhooks.enable(webhook_id, this_user())))
    write_line(f"enabled {webhook_id}")


def _types_of(text: str | None) -> "frozenset[EventType]":
    from worker.core.webhooks import event_type

    if text is None:
        return frozenset()
    try:
        return frozenset(event_type(name.strip()) for name in text.split(","))
    except ValueError as problem:
        raise CommandError(f"--types {problem}, comma-separated", SETTINGS) from None


async def _add(
    runtime: "Runtime", url: str, types: "frozenset[EventType]", labels: dict[str, str]
) -> "NewWebhook":
    from worker.fleet.webhooks import WebhookError

    try:
        return await runtime.webhooks.add(url, types, labels, this_user())
    except WebhookError as problem:
        raise _error(problem, "") from None


async def _test(runtime: "Runtime", webhook_id: str) -> "Answer":
    from worker.core.failures import UnsealError

    try:
        return await _explained(webhook_id, runtime.webhooks.test(webhook_id))
    except UnsealError as problem:
        raise CommandError(str(problem), BAD_STATE) from None


async def _explained(webhook_id: str, work: "Awaitable[T]") -> T:
    """Do something with a webhook.

    Raises:
        CommandError: it cannot be done.
    """
    from worker.fleet.webhooks import WebhookError

    try:
        return await work
    except WebhookError as problem:
        raise _error(problem, webhook_id) from None


def _error(problem: "WebhookError", webhook_id: str) -> CommandError:
    from worker.core.webhooks import MOST_WEBHOOKS
    from worker.fleet.webhooks import WebhookProblem

    match problem.code:
        case WebhookProblem.BAD_URL:
            return CommandError(f"URL {problem}", SETTINGS)
        case WebhookProblem.TOO_MANY:
            return CommandError(f"there are {MOST_WEBHOOKS} webhooks already; remove one first", BAD_STATE)
        case WebhookProblem.NO_SUCH_WEBHOOK:
            return CommandError(f"no webhook has the id {webhook_id!r}", BAD_STATE)
        case WebhookProblem.CHANGED:
            return CommandError(f"{webhook_id} was changed meanwhile; try again", BAD_STATE)


async def _list(runtime: "Runtime", *, as_json: bool) -> None:
    now = await runtime.registry.now()
    if not as_json:
        write_line(_row("ID", "STATE", "WAITING", "OLDEST", "DELIVERED", "TYPES", "LABELS", "URL"))
    for state in await runtime.webhook_store.states():
        if as_json:
            write_json(_document(state, now))
            continue
        webhook = state.webhook
        oldest = "-" if state.oldest_at is None else f"{until(now, state.oldest_at)} ago"
        types = ",".join(each.removeprefix("evergrant.") for each in sorted(webhook.types))
        labels = " ".join(f"{name}={value}" for name, value in webhook.labels.items())
        write_line(
            _row(
                webhook.id,
                _state_of(state),
                str(state.waiting),
                oldest,
                str(state.delivered),
                types or "all",
                labels or "-",
                webhook.url,
            )
        )


def _document(state: "WebhookState", now: int) -> dict[str, Any]:
    from worker.core.events import rfc3339

    webhook = state.webhook
    former = [each.until for each in webhook.signing(now) if each.until is not None]
    return {
        "id": webhook.id,
        "url": webhook.url,
        "types": sorted(webhook.types),
        "labels": dict(webhook.labels),
        "created_at": rfc3339(webhook.created_at),
        "state": _state_of(state),
        "disabled_at": rfc3339(state.disabled_at),
        "disabled_for": state.disabled_for,
        "failing_since": rfc3339(state.failing_since),
        "failed_with": state.failed_with,
        "waiting": state.waiting,
        "oldest_undelivered_at": rfc3339(state.oldest_at),
        "delivered": state.delivered,
        "given_up": state.given_up,
        "lost": state.lost,
        "old_secret_signs_until": rfc3339(former[0]) if former else None,
    }


def _state_of(state: "WebhookState") -> str:
    if state.disabled_at is not None:
        return "disabled"
    return "active" if state.failing_since is None else "failing"


def _row(*cells: str) -> str:
    return columns(zip(cells, (16, 9, 8, 12, 10, 24, 16, 0), strict=True))
