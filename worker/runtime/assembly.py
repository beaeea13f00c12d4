"""Settings -> objects. The only place that knows both.

Rules:
- Built in the process that uses it, after any fork: connections and event loops are never inherited.
- Opened and closed in one place each; what is opened here is closed here.
"""

import asyncio
import os
import random
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from config import ClientSettings, Settings, SettingsError, load_settings
from config.settings import decode_key
from worker.adapters import key_file
from worker.adapters.clock import RedisClock
from worker.adapters.embedded import EmbeddedServer, EmbeddedServerError
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal
from worker.adapters.log_observer import LogObserver
from worker.adapters.sealing import KeyRing
from worker.adapters.store.durability import (
    DurabilityWatch,
    Finding,
    Level,
    inspect_broker,
    inspect_durability,
    refusal_of,
    warnings_of,
)
from worker.adapters.store.event_stream import RedisEventStream
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import GROUP_SECONDS, Scripts
from worker.adapters.store.write_concern import WriteConcern
from worker.adapters.token_endpoint import HttpTokenEndpoint
from worker.core import providers
from worker.core.policy import Rules
from worker.core.ports import StoreUnavailableError
from worker.core.providers import Client, ClientAuthentication, GrantType, Provider
from worker.recovery.presence import Presence
from worker.refresher import RESEND_PAUSE_SECONDS, Effort, Refresher
from worker.refreshing.answers import Answers

__all__ = [
    "ConfiguredClients",
    "Deployment",
    "EmbeddedServerError",
    "Runtime",
    "broker_tls",
    "broker_url",
    "check_store",
    "client_of",
    "deploy",
    "embedded_server",
    "in_flight_seconds",
    "lease_ms",
    "longest_run_seconds",
    "look_at_broker",
    "open_runtime",
    "reach_store",
]

REDIS_TIMEOUT_SECONDS: Final = GROUP_SECONDS
RUN_SECONDS: Final = 10.0  # of claiming; then other clients get their turn
CLAIM_SECONDS: Final = 2.0  # of a lease, for the claim's reply to arrive
COMMIT_SECONDS: Final = 5.0  # of a lease, for storing what came back
LONGEST_PROBE_SHARE: Final = 5  # times the first pause: the longest between two probes of a rejected client
FIRST_ENDPOINT_PROBE_SHARE: Final = (
    12  # into that pause, which is the longest one between two trials of an endpoint
)


@dataclass(frozen=True)
class Deployment:
    """Where one deployment keeps its things."""

    settings: Settings
    redis_url: str = field(repr=False)
    keys: KeyRing

    @property
    def prefix(self) -> str:
        """What every key begins with: the namespace as a hash tag."""
        return f"{{{self.settings.namespace}}}:"

    @property
    def journals(self) -> Path:
        """Where its processes on this machine keep their journals."""
        return self.settings.data_dir / "journal" / self.settings.namespace

    @property
    def write_concern(self) -> WriteConcern | None:
        """What must be true of a write beyond the primary's answer, before it counts as stored."""
        settings = self.settings
        if not settings.wait_replicas and not settings.wait_fsync:
            return None
        return WriteConcern(settings.wait_replicas, settings.wait_fsync)


@dataclass(frozen=True)
class Runtime:
    """The open objects of one process."""

    deployment: Deployment
    redis: Redis
    store: RedisStore
    registry: RedisRegistry
    fleet_state: RedisFleetState
    event_stream: RedisEventStream
    clients: "ConfiguredClients"
    endpoint: HttpTokenEndpoint
    journal: Journal
    answers: Answers
    presence: Presence
    refresher: Refresher
    rules: Rules


def embedded_server(settings: Settings) -> EmbeddedServer | None:
    """The server that ships with the product, where no other is named; not opened yet."""
    return EmbeddedServer(settings.data_dir) if settings.uses_embedded_server else None


def broker_url(settings: Settings) -> str:
    """Where Celery's messages go: the broker that is named, else the store."""
    if settings.broker_url is not None:
        return _celery_url(settings.broker_url.get_secret_value())
    if settings.redis_url is not None:
        return _celery_url(settings.redis_url.get_secret_value())
    return EmbeddedServer(settings.data_dir).broker_url


def broker_tls(url: str) -> dict[str, object] | None:
    """TLS for a broker URL that asks for it, verified unless the URL itself says how."""
    if not url.startswith("rediss://") or "ssl_" in url:
        return None
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def deploy(settings: Settings, tell: Callable[[str], None]) -> Deployment:
    """Find out where things are.

    Args:
        settings: the deployment's.
        tell: is told in a line when a sealing key was made.

    Raises:
        SettingsError: no sealing key is named, or its file cannot be used.
    """
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
    else:
        url = EmbeddedServer(settings.data_dir).url
    return Deployment(settings, url, _key_ring(settings, tell))


def check_store(deployment: Deployment) -> list[str]:
    """Warnings about what the store promises to keep; none where it cannot be asked yet.

    Raises:
        SettingsError: the store would forget grants.
    """

    async def ask() -> list[Finding]:
        async with _connect(deployment) as redis:
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
        async with _connect(deployment) as redis:
            await redis.ping()

    try:
        asyncio.run(ask())
    except RedisError as problem:
        raise StoreUnavailableError.because(problem) from None


async def look_at_broker(runtime: Runtime) -> list[Finding]:
    """What Celery's broker promises to keep, where it is another server than the store."""
    url = runtime.deployment.settings.broker_url
    if url is None:
        return []
    try:
        async with _open(url.get_secret_value()) as broker:
            return await inspect_broker(broker, runtime.redis)
    except RedisError as problem:
        line = StoreUnavailableError.because(problem)
        return [Finding(Level.REFUSED, f"EVERGRANT_BROKER_URL cannot be reached: {line}")]
    except (TypeError, ValueError):  # an option in the URL that Celery's client alone knows
        return [Finding(Level.WARNING, "EVERGRANT_BROKER_URL has options of Celery's: not looked at")]


@asynccontextmanager
async def open_runtime(
    deployment: Deployment, *, told: Collection[str] | None = None
) -> AsyncIterator[Runtime]:
    """Connect everything in the running event loop, and close it at the end.

    Args:
        deployment: where things are.
        told: the warnings that `check_store` gave, for a worker, which looks again in each epoch; `None` for
            a command that a person gives, who has `evergrant doctor`.
    """
    settings = deployment.settings
    redis, redis_for_groups = _connect(deployment), _open(deployment.redis_url, reply_seconds=None)
    scripts = Scripts(redis_for_groups, deployment.prefix, deployment.write_concern)
    clock = RedisClock()
    clients = ConfiguredClients(settings)
    rules = Rules(settings.refresh_at, int(settings.min_margin_seconds * 1000))
    limits = _store_limits(settings)
    owner = _process_name()
    store = RedisStore(scripts, clock, limits, source=f"evergrant/{settings.namespace}", owner=owner)
    endpoint = HttpTokenEndpoint(timeout_seconds=settings.http_timeout_seconds)
    directory = JournalDirectory(deployment.journals, settings.journal_seconds)
    journal = Journal(deployment.journals, owner, settings.journal_seconds)
    server = embedded_server(settings)
    watch = None if told is None else DurabilityWatch(redis, deployment.write_concern, told)
    async with redis, redis_for_groups, endpoint, AsyncExitStack() as opened:
        if server is not None:
            opened.callback(server.close)
        opened.callback(directory.close)
        opened.push_async_callback(journal.close)
        observer = LogObserver()
        answers = Answers(store=store, journal=journal, sealer=deployment.keys, observer=observer)
        refresher = Refresher(
            store=store,
            endpoint=endpoint,
            sealer=deployment.keys,
            journal=journal,
            answers=answers,
            clients=clients,
            clock=clock,
            rules=rules,
            observer=observer,
            chance=random.random,
            effort=_effort(settings),
        )
        presence = Presence(
            owner=owner,
            store=store,
            answers=answers,
            journal=journal,
            directory=directory,
            held=refresher.held,
            keep_running=None if server is None else server.keep_running,
            examine=None if watch is None else watch.refusal,
        )
        yield Runtime(
            deployment,
            redis,
            store,
            RedisRegistry(redis, scripts, deployment.prefix),
            RedisFleetState(redis, deployment.prefix),
            RedisEventStream(redis, deployment.prefix),
            clients,
            endpoint,
            journal,
            answers,
            presence,
            refresher,
            rules,
        )


class ConfiguredClients:
    """The clients of the settings, read from their sources again when they may have changed."""

    def __init__(self, settings: Settings) -> None:
        self._clients = {name: client_of(name, each) for name, each in settings.clients.items()}
        self._generations: dict[str, int] = {}

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def __contains__(self, name: str) -> bool:
        return name in self._clients

    def get(self, name: str, generation: int) -> Client:
        """The client as it is configured; read anew when `generation` has grown."""
        if generation > self._generations.get(name, 0) and self._read(name):
            self._generations[name] = generation
        return self._clients[name]

    def reread(self, name: str) -> Client:
        """The client as its source has it now; as it was where the source cannot be read."""
        self._read(name)
        return self._clients[name]

    def _read(self, name: str) -> bool:
        """Read one client's settings again; returns whether they could be read."""
        try:
            settings = load_settings()
        except SettingsError:
            return False
        if name in settings.clients:
            self._clients[name] = client_of(name, settings.clients[name])
        return True


def client_of(name: str, settings: ClientSettings) -> Client:
    """A client as the core knows it."""
    provider = _provider_of(settings)
    token_url = settings.token_url
    if token_url is None:
        token_url = f"{settings.base_url or provider.base_url}{provider.token_path}"
    previous = settings.previous_client_secret
    return Client(
        name=name,
        provider=provider,
        token_url=token_url,
        client_id=settings.client_id,
        client_secret=settings.client_secret.get_secret_value(),
        previous_client_secret=None if previous is None else previous.get_secret_value(),
        authentication=ClientAuthentication(settings.authentication),
        grant_type=GrantType(settings.grant_type),
        scopes=settings.scopes,
        rate_per_second=settings.rate_per_second,
    )


def _connect(deployment: Deployment) -> Redis:
    return _open(deployment.redis_url)


def _open(url: str, reply_seconds: float | None = REDIS_TIMEOUT_SECONDS) -> Redis:
    return Redis.from_url(
        url,
        socket_timeout=reply_seconds,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        # A command may thus run twice; every script is idempotent by its attempt.
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries=1),
    )


def _provider_of(settings: ClientSettings) -> Provider:
    if settings.provider == "buddy":
        provider = providers.BUDDY
    elif settings.provider == "pagerduty":
        kinds = {"scoped": providers.PAGERDUTY_SCOPED, "classic": providers.PAGERDUTY_CLASSIC}
        provider = kinds[settings.oauth_kind]
    else:
        provider = providers.OAUTH2
    changes: dict[str, Any] = {}
    if settings.refresh_lifetime_seconds is not None:
        changes["refresh_lifetime_ms"] = settings.refresh_lifetime_seconds * 1000
    if settings.absolute_lifetime_seconds is not None:
        changes["absolute_lifetime_ms"] = settings.absolute_lifetime_seconds * 1000
    return replace(provider, **changes)


def _key_ring(settings: Settings, tell: Callable[[str], None]) -> KeyRing:
    if settings.keys:
        lines = {key_id: secret.get_secret_value() for key_id, secret in settings.keys.items()}
    elif settings.uses_embedded_server:
        lines = _keys_of_file(settings, tell)
    else:
        raise SettingsError(
            "EVERGRANT_KEYS is missing: tokens are sealed before they are stored;"
            " `evergrant keys new` makes a key"
        )
    return KeyRing({key_id: decode_key(secret) for key_id, secret in lines.items()})


def _keys_of_file(settings: Settings, tell: Callable[[str], None]) -> dict[str, str]:
    try:
        line, made = key_file.read_or_make(settings.data_dir)
    except key_file.KeyFileError as error:
        raise SettingsError(f"EVERGRANT_KEYS is not set, and its file cannot be used: {error}") from None
    path = settings.data_dir / key_file.FILE_NAME
    if made:
        tell(f"made a sealing key in {path}: keep a copy, without it no stored token can be read")
    try:
        lines = dict(part.strip().split(":", 1) for part in line.split(","))
        for secret in lines.values():
            decode_key(secret)
    except ValueError:
        raise SettingsError(f"EVERGRANT_KEYS is not set, and {path} holds no key") from None
    return lines


def _refresh_seconds(settings: Settings) -> float:
    """A request, the pause, the same once more, and the check that tells a client's fault from a grant's."""
    return 3 * settings.http_timeout_seconds + 1.5 * RESEND_PAUSE_SECONDS


def in_flight_seconds(settings: Settings) -> float:
    """How long what is in flight may take to end while the store answers: what a stop has to wait for."""
    return _refresh_seconds(settings) + COMMIT_SECONDS


def longest_run_seconds(settings: Settings) -> float:
    """How long a refresh task may take at the very most, a store that is away included."""
    effort = _effort(settings)
    store_seconds = 3 * effort.store_patience_seconds
    return RUN_SECONDS + in_flight_seconds(settings) + store_seconds + 4 * 2 * REDIS_TIMEOUT_SECONDS


def _effort(settings: Settings) -> Effort:
    return Effort(in_flight=settings.in_flight, request_ms=int(settings.http_timeout_seconds * 1000))


def lease_ms(settings: Settings) -> int:
    """How long a lease lasts: so long a dead worker's grants wait."""
    return int((CLAIM_SECONDS + _refresh_seconds(settings) + COMMIT_SECONDS) * 1000)


def _store_limits(settings: Settings) -> StoreLimits:
    first_probe_ms = int(settings.probe_seconds * 1000)
    return StoreLimits(
        lease_ms=lease_ms(settings),
        events_kept=settings.events_kept,
        first_probe_ms=first_probe_ms,
        longest_probe_ms=first_probe_ms * LONGEST_PROBE_SHARE,
        first_endpoint_probe_ms=first_probe_ms // FIRST_ENDPOINT_PROBE_SHARE,
        longest_endpoint_probe_ms=first_probe_ms,
    )


def _process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def _celery_url(url: str) -> str:
    """Kombu spells a Unix socket another way than redis-py does."""
    if url.startswith("unix://"):
        path, _, query = url.removeprefix("unix://").partition("?")
        options = dict(parse_qsl(query))
        options["virtual_host"] = options.pop("db", "0")
        return f"redis+socket://{path}?{urlencode(options)}"
    return url
