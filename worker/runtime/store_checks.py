"""Checks at start, and in `evergrant doctor`, what the store and the broker promise to keep."""

import asyncio
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from config import SettingsError
from config.servers import is_rabbitmq, read_server_url
from worker.adapters.store.durability import (
    Finding,
    Level,
    inspect_broker,
    inspect_durability,
    refusal_of,
    warnings_of,
)
from worker.adapters.store.errors import described
from worker.adapters.store.write_concern import ShortfallError
from worker.core.ports import StoreUnavailableError
from worker.runtime.connections import Broker, broker, connect
from worker.runtime.deployment import Deployment

RABBITMQ_SECONDS: Final = 5.0  # for the doctor's connection

__all__ = ["Finding", "Level", "ShortfallError", "check_store", "described", "inspect_servers", "reach_store"]


def check_store(deployment: Deployment) -> list[str]:
    """Warnings about what the store promises to keep; none where it cannot be asked yet.

    Raises:
        SettingsError: the store would forget grants.
    """

    async def ask() -> list[Finding]:
        async with connect(deployment.redis_url, deployment.prefix) as redis:
            return await inspect_durability(redis, deployment.write_concern)

    unverified = _unverified(deployment)
    try:
        findings = asyncio.run(ask())
    except RedisError:
        return warnings_of(unverified)
    if refusal := refusal_of(findings):
        raise SettingsError(refusal)
    return warnings_of([*unverified, *findings])


def reach_store(deployment: Deployment) -> None:
    """Ask the store for an answer.

    Raises:
        StoreUnavailableError: there is none; the message is one line.
    """

    async def ask() -> None:
        async with connect(deployment.redis_url, deployment.prefix) as redis:
            await redis.ping()

    try:
        asyncio.run(ask())
    except RedisError as problem:
        raise StoreUnavailableError(described(problem)) from None


async def inspect_servers(deployment: Deployment, redis: Redis) -> list[Finding]:
    """What the store promises to keep, and the broker where it is another server.

    Args:
        deployment: where the servers are.
        redis: a connection to the store.

    Raises:
        RedisError: the store cannot be asked.
    """
    findings = _unverified(deployment) + await inspect_durability(redis, deployment.write_concern)
    url = deployment.settings.broker_url
    if url is None:
        return findings
    return findings + await _inspect_broker(url.get_secret_value(), deployment, redis)


def _unverified(deployment: Deployment) -> list[Finding]:
    """A warning for each Redis whose certificate is not verified."""
    settings = deployment.settings
    found = []
    for name, url in (("REDIS", settings.redis_url), ("BROKER", settings.broker_url)):
        if url is None or is_rabbitmq(url.get_secret_value()):
            continue
        tls = read_server_url(url.get_secret_value()).tls
        if tls is not None and not tls.checks_hostname:
            what = "the host name in the server's certificate" if tls.verified else "the server's certificate"
            text = f"EVERGRANT_{name}_URL: {what} is not verified, so another server could take its place"
            found.append(Finding(Level.WARNING, text))
    return found


async def _inspect_broker(url: str, deployment: Deployment, redis: Redis) -> list[Finding]:
    if is_rabbitmq(url):
        return [await asyncio.to_thread(_inspect_rabbitmq, broker(deployment.settings))]
    try:
        async with connect(url, deployment.prefix) as messages:
            return await inspect_broker(messages, redis)
    except RedisError as problem:
        return [Finding(Level.REFUSED, f"EVERGRANT_BROKER_URL cannot be reached: {described(problem)}")]


def _inspect_rabbitmq(there: Broker) -> Finding:
    """Whether RabbitMQ takes our connection. It evicts nothing, and Celery's queue is durable."""
    from kombu import Connection  # noqa: PLC0415 most deployments have no RabbitMQ

    try:
        with Connection(there.url, ssl=there.tls or False, connect_timeout=RABBITMQ_SECONDS) as connection:
            connection.connect()
    except Exception as problem:  # noqa: BLE001 sockets, TLS and AMQP have errors of their own
        return Finding(Level.REFUSED, f"EVERGRANT_BROKER_URL cannot be reached: {problem}")
    return Finding(Level.OK, "the broker is RabbitMQ: it evicts nothing, and the queue is durable")
