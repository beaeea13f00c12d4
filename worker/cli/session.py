"""A command's connection to the deployment."""

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import typer

from worker.cli.ending import BAD_STATE as BAD_STATE  # noqa: PLC0414 found here by others
from worker.cli.output import note
from worker.core.failures import UnreadableRecordError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from config import Settings
    from worker.core.audit import By
    from worker.core.ports import Entry
    from worker.runtime.assembly import Runtime

T = TypeVar("T")

SETTINGS = 2
UNREACHABLE = 3
NO_SUCH_GRANT = 4  # of `evergrant token`
TRY_AGAIN = 5  # the same


class CommandError(Exception):
    """Ends a command with one line and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class AnswerLeftError(Exception):
    """New tokens that the store does not have; the message is one line that says where they are."""


def settings() -> "Settings":
    """The deployment's settings.

    Raises:
        CommandError: one of them is wrong.
    """
    from config import SettingsError, load_settings

    try:
        return load_settings()
    except SettingsError as problem:
        raise CommandError(str(problem), SETTINGS) from None


def this_user() -> "By":
    """Who runs this command, for the audit stream."""
    from worker.cli.user import user_and_host
    from worker.core.audit import By

    return By(*user_and_host())


def utf8(text: str | None) -> str | None:
    """Refuse an argument that no stored text can equal.

    Raises:
        typer.BadParameter: it is not UTF-8.
    """
    if text is not None and any("\ud800" <= char <= "\udfff" for char in text):
        raise typer.BadParameter("takes UTF-8")
    return text


def run(work: "Callable[[Runtime], Awaitable[T]]") -> T:
    """Run `work` on the configured deployment; the embedded server runs meanwhile.

    Raises:
        CommandError: a setting is wrong, or a server cannot be reached.
        typer.Exit: an answer could not be stored; a line has said where it is.
    """
    chosen = settings()  # before all that takes long to load

    import asyncio
    from contextlib import nullcontext

    from redis.exceptions import (
        ConnectionError,  # noqa: A004 redis-py's own name
        RedisError,
        TimeoutError,  # noqa: A004 redis-py's own name
    )

    from config import SettingsError
    from config.logging import configure_logging
    from worker.core.failures import StoreUnavailableError, WritesRefusedError
    from worker.runtime.assembly import open_runtime
    from worker.runtime.deployment import EmbeddedServerError, deploy, embedded_server
    from worker.runtime.store_checks import ShortfallError, described

    configure_logging("error", "console")
    try:
        deployment = deploy(chosen, lambda line: note(f"evergrant: {line}"))

        async def work_on_it() -> T:
            _end_in_order()
            async with open_runtime(deployment) as runtime:
                _name_not_discovered(runtime)
                try:
                    return await work(runtime)
                except AnswerLeftError as problem:
                    # At once: an interrupt may cut short what is still to be closed.
                    note(f"evergrant: {problem}")
                    raise typer.Exit(UNREACHABLE) from None

        with embedded_server(chosen) or nullcontext():
            return asyncio.run(work_on_it())
    except SettingsError as problem:
        raise CommandError(str(problem), SETTINGS) from None
    except EmbeddedServerError as problem:
        raise CommandError(str(problem), UNREACHABLE) from None
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except UnreadableRecordError as problem:
        raise CommandError(str(problem), BAD_STATE) from None
    except (ShortfallError, WritesRefusedError) as problem:
        raise CommandError(f"{_store(chosen)}: {problem}", UNREACHABLE) from None
    except (StoreUnavailableError, ConnectionError, TimeoutError) as problem:
        line = f"{_store(chosen)} cannot be reached: {described(problem)}"
        raise CommandError(line, UNREACHABLE) from None
    except RedisError as problem:
        line = f"{_store(chosen)} refused a command: {described(problem)}"
        raise CommandError(line, UNREACHABLE) from None


def journaled_entries(runtime: "Runtime", before: int | None = None) -> "Iterator[Entry]":
    """Every answer in this machine's journals; with an instant, in Unix ms, those from before it.

    Raises:
        CommandError: they cannot be read.
    """
    from worker.core.ports import JournalError

    try:
        yield from runtime.journals.entries(before)
    except JournalError as problem:
        raise CommandError(str(problem), BAD_STATE) from None


@asynccontextmanager
async def heartbeat_kept(runtime: "Runtime", grant_id: str) -> "AsyncIterator[None]":
    """Keep this process's heartbeat while a grant is refreshed; leaving offers waiting answers once more.

    Without a worker nobody else would offer the new tokens to a store that was away.

    Raises:
        AnswerLeftError: the store does not have the new tokens.
    """
    runtime.endpoint.load()  # now, for it blocks: a lease would run on, and the heartbeat would stand still
    try:
        async with runtime.membership.kept():
            yield
    finally:  # also where an interrupt cut short the last offers
        if runtime.answers.waiting:
            raise AnswerLeftError(f"{grant_id}: {_what_is_left(runtime)}")


def _name_not_discovered(runtime: "Runtime") -> None:
    """Before anything else is said: whatever else a command says of such a client follows from this."""
    for name, problem in runtime.clients.not_discovered.items():
        note(f"evergrant: client {name}: {problem}")


def _what_is_left(runtime: "Runtime") -> str:
    if runtime.answers.off_disk:
        return "neither the store nor the disk took its new tokens, and they are lost with this command"
    return (
        f"the store is away, and its new tokens are on disk in {runtime.deployment.journals.absolute()}:"
        " a worker with this EVERGRANT_DATA_DIR stores them, or this command when it is run again"
    )


def _store(chosen: "Settings") -> str:
    return "the embedded server" if chosen.uses_embedded_server else "EVERGRANT_REDIS_URL"


def _end_in_order() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP end a command after what it must not drop, however often they come.

    By itself asyncio would break off the running command at a second Ctrl-C.
    """
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel if task is not None else loop.stop)
