"""`evergrant doctor`: is everything in order?"""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import write_json, write_line
from worker.cli.session import BAD_STATE, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.runtime.assembly import Runtime
    from worker.runtime.store_checks import Finding

MOST_CLOCK_DRIFT_SECONDS = 5.0
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def doctor(as_json: AsJson = False) -> None:
    """Check settings, keys, the journal, Redis durability, the clock and each client's token endpoint.

    No token and no secret is sent anywhere. Exits 1 when something must be mended.

    Example: evergrant doctor
    """
    if not run(lambda runtime: _examine(runtime, as_json=as_json)):
        raise typer.Exit(BAD_STATE)


async def _examine(runtime: "Runtime", *, as_json: bool) -> bool:
    from worker.runtime.store_checks import Level

    good = True
    async for finding in _findings(runtime):
        good = good and finding.level is not Level.REFUSED
        if as_json:
            write_json({"level": finding.level.value, "text": finding.text})
        else:
            write_line(f"{finding.level.value:9}{finding.text}")
    return good


async def _findings(runtime: "Runtime") -> "AsyncIterator[Finding]":
    from worker.runtime.store_checks import Finding, Level, inspect_servers

    settings = runtime.deployment.settings
    where = "the embedded server" if settings.uses_embedded_server else "EVERGRANT_REDIS_URL"
    yield Finding(Level.OK, f"settings are valid; namespace {settings.namespace}, store: {where}")
    yield Finding(Level.OK, f"sealing keys: {', '.join(runtime.deployment.keys.ids())}; the first one seals")
    yield await _journal_finding(runtime)
    for finding in await inspect_servers(runtime.deployment, runtime.redis):
        yield finding
    yield _clock_finding(await runtime.registry.now())
    if not settings.clients:
        yield Finding(Level.WARNING, "no client is configured; set EVERGRANT_CLIENTS__<NAME>__PROVIDER")
    for client in runtime.clients:
        problem = await runtime.endpoint.reach(client)
        level = Level.OK if problem is None else Level.REFUSED
        answer = "answers" if problem is None else problem
        yield Finding(level, f"client {client.name}: {client.token_url} {answer}")
        unknown = set(client.scopes) - client.provider.known_scopes
        if client.provider.known_scopes and unknown:
            names = ", ".join(sorted(unknown))
            yield Finding(Level.WARNING, f"client {client.name}: scopes nobody documents: {names}")


async def _journal_finding(runtime: "Runtime") -> "Finding":
    from worker.core.ports import JournalError
    from worker.runtime.store_checks import Finding, Level

    where = runtime.deployment.journals
    try:
        await runtime.journal.reserve(runtime.deployment.settings.in_flight)
    except JournalError as problem:
        return Finding(Level.REFUSED, f"{problem}: without room for answers nothing is claimed")
    return Finding(Level.OK, f"answers are on disk before they are stored: {where}")


def _clock_finding(redis_now: int) -> "Finding":
    from worker.runtime.store_checks import Finding, Level

    drift = abs(redis_now / 1000 - time.time())
    if drift <= MOST_CLOCK_DRIFT_SECONDS:
        return Finding(Level.OK, f"this machine's clock and Redis's agree within {drift:.1f} s")
    return Finding(
        Level.WARNING,
        f"this machine's clock and Redis's differ by {drift:.0f} s; all times are Redis's: set both by NTP",
    )
