"""`evergrant doctor`: is everything in order?"""

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.doctor_fleet import file_findings, fleet_findings
from worker.cli.endpoints import client_findings
from worker.cli.output import write_json, write_line
from worker.cli.session import BAD_STATE, journaled_entries, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from worker.runtime.assembly import Runtime
    from worker.runtime.store_checks import Finding

MOST_CLOCK_DRIFT_SECONDS = 5.0
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def doctor(as_json: AsJson = False) -> None:
    """Check settings, keys, the journal, Redis, workers and beat, file modes, the clock, token endpoints.

    Each token endpoint is sent one request that it can only refuse, without a token or a secret. Exits 1 when
    something must be mended.

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
    async for finding in _key_findings(runtime):
        yield finding
    yield await _journal_finding(runtime)
    async for finding in _loss_findings(runtime):
        yield finding
    for finding in await inspect_servers(runtime.deployment, runtime.redis):
        yield finding
    async for finding in fleet_findings(runtime):
        yield finding
    for finding in file_findings(runtime):
        yield finding
    async for finding in _clock_findings(runtime):
        yield finding
    for finding in _setting_findings(runtime):
        yield finding
    async for finding in client_findings(runtime):
        yield finding


def _setting_findings(runtime: "Runtime") -> "Iterator[Finding]":
    """What is odd about the clients' settings, before anybody is asked."""
    from worker.runtime.store_checks import Finding, Level

    if runtime.deployment.clients_file_warning:
        yield Finding(Level.WARNING, runtime.deployment.clients_file_warning)
    if not runtime.deployment.settings.clients:
        line = "no client is configured; set EVERGRANT_CLIENTS_FILE or EVERGRANT_CLIENTS__<NAME>__PROVIDER"
        yield Finding(Level.WARNING, line)
    for name, unknown_because in runtime.clients.not_discovered.items():
        yield Finding(Level.REFUSED, f"client {name}: {unknown_because}")


async def _key_findings(runtime: "Runtime") -> "AsyncIterator[Finding]":
    """Whether each key but the first is still needed."""
    from worker.cli.keys import about_key, elsewhere, known_keys, use_of_keys
    from worker.runtime.store_checks import Finding, Level

    ring = runtime.deployment.keys.ids()
    use = await use_of_keys(runtime)
    for key_id in known_keys(runtime, use)[1:]:
        line = about_key(key_id, use)
        if key_id not in ring:
            yield Finding(Level.REFUSED, f"{line}, and it is not in EVERGRANT_KEYS: put it back")
        elif use.of(key_id):
            yield Finding(Level.WARNING, f"{line}; `evergrant keys reseal` replaces it")
        else:
            yield Finding(Level.OK, line)
    if len(ring) > 1:
        for line in await elsewhere(runtime):
            yield Finding(Level.WARNING, line)


async def _loss_findings(runtime: "Runtime") -> "AsyncIterator[Finding]":
    """Whether the store lacks what this machine's journals hold."""
    from worker.fleet.losses import find_losses
    from worker.fleet.report import of_losses
    from worker.runtime.store_checks import Finding, Level

    losses = await find_losses(
        runtime.registry, runtime.fleet_state, partial(journaled_entries, runtime), seconds=None
    )
    for incident in () if losses is None else of_losses(losses):
        yield Finding(Level.REFUSED, f"{incident.subject}: {incident.problem} {incident.advice}")


async def _journal_finding(runtime: "Runtime") -> "Finding":
    from worker.core.ports import JournalError
    from worker.runtime.store_checks import Finding, Level

    where = runtime.deployment.journals
    try:
        await runtime.journal.reserve(runtime.deployment.settings.in_flight)
    except JournalError as problem:
        return Finding(Level.REFUSED, f"{problem}: without room for answers nothing is claimed")
    return Finding(Level.OK, f"answers are on disk before they are stored: {where}")


async def _clock_findings(runtime: "Runtime") -> "AsyncIterator[Finding]":
    """How this machine's clock compares with Redis's, and how that was set lately."""
    from worker.fleet.report import of_clock
    from worker.runtime.store_checks import Finding, Level

    jump, now = (await runtime.fleet_state.workers()).clock_jump, await runtime.registry.now()
    yield _clock_finding(now - (0 if jump is None else jump.ahead_ms))
    for incident in of_clock(jump, now):
        yield Finding(Level.WARNING, f"{incident.subject}: {incident.problem}. {incident.advice}")


def _clock_finding(redis_now: int) -> "Finding":
    from worker.runtime.store_checks import Finding, Level

    drift = abs(redis_now / 1000 - time.time())
    if drift <= MOST_CLOCK_DRIFT_SECONDS:
        return Finding(Level.OK, f"this machine's clock and Redis's agree within {drift:.1f} s")
    return Finding(
        Level.WARNING,
        f"this machine's clock and Redis's differ by {drift:.0f} s; all times are Redis's: set both by NTP",
    )
