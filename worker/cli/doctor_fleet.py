"""What `evergrant doctor` says of the fleet, and of the files that hold its secrets."""

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from worker.fleet.report import Report
    from worker.runtime.assembly import Runtime
    from worker.runtime.store_checks import Finding

MOST_NAMED = 5  # processes, in one sentence
TOLD_ELSEWHERE = {"store_refuses_writes", "store_lost", "store_behind", "clock_set"}  # by other checks
OF_ONE_GRANT = {"grant_failed", "grant_failing", "grant_expiring", "reply_unread"}  # `evergrant status` names


async def fleet_findings(runtime: "Runtime") -> "AsyncIterator[Finding]":
    """Whether Redis takes writes, workers and beat live, and no client or webhook is kept from work."""
    from worker.fleet.report import of_store
    from worker.runtime.reporting import report_of
    from worker.runtime.store_checks import Finding, Level

    report = await report_of(runtime)
    refusal = (await runtime.fleet_state.workers()).refusal
    if refusal:
        incident = of_store(refusal)
        yield Finding(Level.REFUSED, f"{incident.problem}. {incident.advice}")
    else:
        yield Finding(Level.OK, "Redis takes writes")
    for finding in _process_findings(report):
        yield finding
    for incident in report.incidents:
        if incident.kind in TOLD_ELSEWHERE | OF_ONE_GRANT:
            continue
        level = Level.REFUSED if incident.needs_a_person else Level.WARNING
        yield Finding(level, f"{incident.subject}: {incident.problem}. {incident.advice}")


def _process_findings(report: "Report") -> "Iterator[Finding]":
    from worker.runtime.store_checks import Finding, Level

    has_grants = any(number for client in report.clients for number in client.grants.values())
    for role in ("worker", "beat"):
        alive = [process.name for process in report.processes if process.role == role and process.is_alive]
        if alive:
            more = f" and {len(alive) - MOST_NAMED} more" if len(alive) > MOST_NAMED else ""
            yield Finding(Level.OK, f"{role}s alive: {', '.join(alive[:MOST_NAMED])}{more}")
        elif has_grants:
            yield Finding(Level.WARNING, f"no {role} is alive: nothing is refreshed until one is")
        else:
            yield Finding(Level.OK, f"no {role} is alive, and there are no grants yet")


def file_findings(runtime: "Runtime") -> "Iterator[Finding]":
    """Whether others on this machine can read what holds secrets."""
    from worker.runtime.store_checks import Finding, Level

    data_dir = runtime.deployment.settings.data_dir.absolute()
    told = [
        f"others on this machine can read {path.absolute()}: chmod o-rwx {path.absolute()}"
        for path in runtime.deployment.secret_files
        if _has_mode(path, stat.S_IRWXO)
    ]
    if _has_mode(data_dir, stat.S_IWOTH):
        told.append(f"others on this machine can put files into {data_dir}: chmod o-w {data_dir}")
    for line in told:
        yield Finding(Level.WARNING, line)
    if not told:
        yield Finding(Level.OK, "no other user of this machine can read .env or the keys")


def _has_mode(path: "Path", bits: int) -> bool:
    try:
        return bool(path.stat().st_mode & bits)
    except OSError:
        return False
