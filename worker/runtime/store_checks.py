"""Checks at start, and in `evergrant doctor`, what the store and the broker promise to keep."""

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

from config import SettingsError
from worker.adapters.store.durability import (
    Finding,
    Level,
    inspect_broker,
    inspect_durability,
    refusal_of,
    warnings_of,
)
from worker.adapters.store.write_concern import ShortfallError
from worker.core.ports import StoreUnavailableError
from worker.runtime.connections import connect
from worker.runtime.deployment import Deployment

__all__ = ["Finding", "Level", "ShortfallError", "check_store", "inspect_servers", "reach_store"]


def check_store(deployment: Deployment) -> list[str]:
    """Warnings about what the store promises to keep; none where it cannot be asked yet.

    Raises:
        SettingsError: the store would forget grants.
    """

    async def ask() -> list[Finding]:
        async with connect(deployment.redis_url) as redis:
            return await inspect_durability(redis, deployment.write_concern)

    try:
        findings = asyncio.run(ask())
    except RedisError:
        return []
    if refusal := refusal_of(findings):
        raise SettingsError(refusal)
    return warnings_of(findings)


def reach_store(deployment: Deployment) -> None:
    """Ask the store for an answer.

    Raises:
        StoreUnavailableError: there is none; the message is one line.
    """

    async def ask() -> None:
        async with connect(deployment.redis_url) as redis:
            await redis.ping()

    try:
        asyncio.run(ask())
    except RedisError as problem:
        raise StoreUnavailableError.because(problem) from None


async def inspect_servers(deployment: Deployment, redis: Redis) -> list[Finding]:
    """What the store promises to keep, and the broker where it is another server.

    Args:
        deployment: where the servers are.
        redis: a connection to the store.

    Raises:
        RedisError: the store cannot be asked.
    """
    findings = await inspect_durability(redis, deployment.write_concern)
    url = deployment.settings.broker_url
    if url is None:
        return findings
    return findings + await _inspect_broker(url.get_secret_value(), redis)


async def _inspect_broker(url: str, redis: Redis) -> list[Finding]:
    try:
        async with connect(url) as broker:
            return await inspect_broker(broker, redis)
    except RedisError as problem:
        line = StoreUnavailableError.because(problem)
        return [Finding(Level.REFUSED, f"EVERGRANT_BROKER_URL cannot be reached: {line}")]
    except (TypeError, ValueError):  # an option in the URL that only Celery's client knows
        return [Finding(Level.WARNING, "EVERGRANT_BROKER_URL has options of Celery's: not looked at")]
