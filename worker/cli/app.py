"""The commands and what becomes of their errors.

Exit codes: 0 done, 1 the thing asked about is in a bad state, 2 usage or settings, 3 a server cannot be
reached. An error is one line on standard error.
"""

import sys

import typer
from typer.exceptions import TyperException

from worker.cli import demo, doctor, fleet, grants, keys, up
from worker.cli.session import CommandError

USAGE = 2
INTERRUPTED = 130

app = typer.Typer(
    name="evergrant",
    help="Keeps OAuth 2.0 grants alive: refreshes tokens ahead of time and announces what fails.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks would show local variables
    rich_markup_mode=None,
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.add_typer(grants.app, name="grants")
app.command("token")(fleet.token)
app.command("events")(fleet.events)
app.command("status")(fleet.status)
app.command("doctor")(doctor.doctor)
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the command that was typed and exit with its code."""
    try:
        code = app(standalone_mode=False)
    except CommandError as problem:
        _complain(str(problem))
        code = problem.exit_code
    except TyperException as problem:
        if problem.format_message():
            _complain(f"{problem.format_message()} (see `{_command_typed()} --help`)")
        code = problem.exit_code
    except BrokenPipeError:  # `evergrant events | head`
        sys.stderr.close()
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


def _command_typed() -> str:
    words: list[str] = []
    for word in sys.argv[1:]:
        if word.startswith("-") or len(words) == 2:  # noqa: PLR2004 a group and its command
            break
        words.append(word)
    known = [word for word in words if word.isalpha()]
    return " ".join(["evergrant", *known[: 2 if known[:1] in (["grants"], ["keys"]) else 1]])


def _complain(message: str) -> None:
    sys.stderr.write(f"evergrant: {message}\n")
