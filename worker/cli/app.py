"""The commands, their errors and exit codes.

Exit codes: 0 done, 1 the thing asked about is in a bad state, 2 usage or settings, 3 a server cannot be
reached. An error is one line on standard error.
"""

import sys

import typer
from typer.exceptions import TyperException

from worker.cli import (
    answers,
    api_keys,
    audit,
    connect,
    demo,
    doctor,
    events,
    forecast,
    grants,
    health,
    keys,
    metrics,
    serve,
    status,
    tokens,
    up,
    webhooks,
)
from worker.cli.ending import complain
from worker.cli.session import CommandError

app = typer.Typer(
    name="evergrant",
    help="Keeps OAuth 2.0 grants alive: refreshes tokens ahead of time and announces what fails.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks would show local variables
    rich_markup_mode=None,
)
app.command("up")(up.up)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.add_typer(grants.app, name="grants")
app.command("token")(tokens.token)
app.command("connect")(connect.connect)
app.command("events")(events.events)
app.command("audit")(audit.audit)
app.add_typer(answers.app, name="answers")
app.command("status")(status.status)
app.command("metrics")(metrics.metrics)
app.command("forecast")(forecast.forecast)
app.command("health")(health.health)
app.command("doctor")(doctor.doctor)
app.add_typer(keys.app, name="keys")
app.add_typer(api_keys.app, name="api-keys")
app.add_typer(webhooks.app, name="webhooks")


def run() -> int:
    """Run the command that was typed; returns its exit code."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("evergrant", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except CommandError as problem:
        complain(str(problem))
        return problem.exit_code
    except TyperException as problem:
        _explain(problem)
        return problem.exit_code
    return 0


def _explain(problem: TyperException) -> None:
    """What was wrong with the command line, and where help is; a bare group is answered with its help."""
    message = problem.format_message()
    if message.startswith("Usage: "):
        sys.stderr.write(message + "\n")
        return
    context = getattr(problem, "ctx", None)
    command = "evergrant" if context is None else context.command_path
    complain(f"{message.removesuffix('.')} (see `{command} --help`)")
