"""The clients of a running process: their file, and what their issuers say of themselves.

Rules:
- A process starts with what is on disk, and asks again beside its work: no refresh waits for an issuer.
- A command waits for an issuer of which the disk has nothing, or nothing of the last day: otherwise it could
  not say what is wrong. A worker does not: such a client is left out until its issuer answers.
- The clients file is looked at as often as due grants are. It is read in another thread: thousands of clients
  must not hold up what is in flight.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict

import structlog

from config import SettingsError
from worker.adapters.discovery import OLD_SECONDS, Issuers
from worker.runtime.clients import ConfiguredClients
from worker.runtime.deployment import Deployment

log = structlog.get_logger(__name__)


@asynccontextmanager
async def clients_kept(deployment: Deployment, *, is_worker: bool) -> AsyncIterator[ConfiguredClients]:
    """The configured clients, for as long as the block lasts by what their file and issuers said last."""
    settings = deployment.settings
    named = {each.issuer for each in settings.clients.values() if each.issuer is not None}
    issuers = Issuers(
        named, deployment.issuers, timeout_seconds=settings.http_timeout_seconds, ca_file=settings.ca_file
    )
    if not is_worker:
        await issuers.look_up(OLD_SECONDS)
    clients = ConfiguredClients(settings, issuers)
    keeping = [asyncio.create_task(issuers.keep(clients.heed_issuers))]
    if settings.from_file is not None:
        keeping.append(asyncio.create_task(_keep_reading_file(clients, settings.sweep_seconds)))
    async with AsyncExitStack() as ending:
        for task in keeping:
            ending.push_async_callback(_end, task)
        yield clients


async def _keep_reading_file(clients: ConfiguredClients, seconds: float) -> None:
    """Take up what the clients file says, until cancelled; a file that is wrong is said once."""
    said = ""
    while True:
        try:
            settings = await asyncio.to_thread(clients.read_file)
            if settings is not None:
                log.info("clients.read", **asdict(clients.take(settings)))
            said = ""
        except SettingsError as problem:
            if str(problem) != said:
                said = str(problem)
                log.error("clients.not_read", problem=said)  # noqa: TRY400 the line says all
        await asyncio.sleep(seconds)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
