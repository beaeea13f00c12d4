"""`evergrant keys`: sealing keys made, and everything sealed anew with the first one."""

import sys
from typing import TYPE_CHECKING

import typer

from worker.cli.output import note, write_line
from worker.cli.session import BAD_STATE, journaled_entries, run
from worker.core.registry import UnreadableRecordError

if TYPE_CHECKING:
    from worker.fleet.resealing import KeyUse, Tally
    from worker.runtime.assembly import Runtime

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


@app.command("reseal")
def reseal() -> None:
    """Seal everything with the first key of EVERGRANT_KEYS, while workers run.

    Says what still needs each other key, and exits 1 as long as anything does. Run again after a break, it
    does the rest.

    Example: evergrant keys reseal
    """
    if not run(_reseal):
        raise typer.Exit(BAD_STATE)


async def _reseal(runtime: "Runtime") -> bool:
    from worker.fleet.resealing import Tally

    tally, unreadable = Tally(), dict[str, UnreadableRecordError]()
    is_over = False
    try:
        await runtime.resealing.reseal(tally, lambda met: unreadable.update({met.grant_id: met}), _show)
        is_over = True
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        if not is_over:
            note(f"evergrant: broken off: sealed anew {tally.resealed}; run it again for the rest")
    for problem in (*map(str, unreadable.values()), *tally.cannot_open.values()):
        note(problem)
    write_line(f"sealed anew {tally.resealed}")
    if tally.busy:
        write_line(f"still leased: {tally.busy}; run it again for them")
    use = await use_of_keys(runtime)
    others = [key_id for key_id in known_keys(runtime, use) if key_id != runtime.deployment.keys.ids()[0]]
    for key_id in others:
        write_line(about_key(key_id, use))
    for line in await elsewhere(runtime) if others else ():
        write_line(line)
    return not unreadable and not any(use.of(key_id) for key_id in others)


async def use_of_keys(runtime: "Runtime") -> "KeyUse":
    """What needs which key.

    Raises:
        CommandError: the journals cannot be read.
    """
    from worker.fleet.resealing import key_use

    def leave_out(_: UnreadableRecordError) -> None:
        """Whatever sealed it, no key reads it."""

    journaled = journaled_entries(runtime)
    return await key_use(
        runtime.registry,
        runtime.replies,
        runtime.webhook_store,
        runtime.deployment.keys,
        journaled,
        leave_out,
    )


def known_keys(runtime: "Runtime", use: "KeyUse") -> list[str]:
    """The keys of the ring, then those that something needs and nobody has."""
    ring = runtime.deployment.keys.ids()
    return ring + [key_id for key_id in use.ids() if key_id not in ring]


def about_key(key_id: str, use: "KeyUse") -> str:
    """Whether a key is still needed, and for what."""
    needed_by = use.of(key_id)
    return f"{key_id} is still needed: {needed_by}" if needed_by else f"no grant needs {key_id} any more"


async def elsewhere(runtime: "Runtime") -> list[str]:
    """What this command cannot see: the journals of processes on other machines."""
    import socket

    owners = await runtime.fleet_state.processes()
    hosts = sorted({owner.rpartition(":")[0].rpartition(":")[0] for owner in owners} - {socket.gethostname()})
    if not hosts:
        return []
    return [f"journals on {', '.join(hosts)} were not looked at: run `evergrant doctor` there too"]


def _show(tally: "Tally") -> None:
    """How far it has come, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\rlooked at {tally.looked_at:,}, sealed anew {tally.resealed:,}")
        sys.stderr.flush()
