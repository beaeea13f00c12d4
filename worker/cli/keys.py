"""`evergrant keys`: sealing keys."""

import typer

from worker.cli.output import write_line

app = typer.Typer(help="Sealing keys.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Sealing keys: tokens are stored under them and can be read with nothing else."""


@app.command("new")
def new() -> None:
    """Print a fresh sealing key, in the form that EVERGRANT_KEYS takes.

    Example: echo "EVERGRANT_KEYS=$(evergrant keys new)" >> .env
    """
    from worker.adapters.key_file import new_key_line

    write_line(new_key_line())
