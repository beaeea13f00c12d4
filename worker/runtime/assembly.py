"""Puts one process together.

Rules:
- Production, the integration tests and the simulation use the same `assemble`, with different ports.
- `open_runtime` makes the ports of production. It runs in the process that uses them, after any fork, because
  connections and event loops cannot be inherited. What it opens it closes.
"""

import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from config import Settings
from worker.adapters.clock import RedisClock
from worker.adapters.cloud_events import to_json
from worker.adapters.endpoint_on_first_use import EndpointOnFirstUse
from worker.adapters.exposition import expose
from worker.adapters.guarded_observer import GuardedObserver
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal
from worker.adapters.journal.reading import JournalsOnDisk
from worker.adapters.log_observer import LogObserver
from worker.adapters.measuring_observer import MeasuringObserver
from worker.adapters.sender_on_first_use import SenderOnFirstUse
from worker.adapters.store.api_keys import RedisApiKeys
from worker.adapters.store.audit_trail import RedisAuditTrail
from worker.adapters.store.durability import DurabilityWatch
from worker.adapters.store.event_stream import RedisEventStream
from worker.adapters.store.fleet_state import RedisFleetState
from worker.adapters.store.measures import RedisMeasures
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.adapters.store.schedules import RedisSchedules
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.sessions import RedisSessions
from worker.adapters.store.sign_ins import RedisSignIns
from worker.adapters.store.webhooks import RedisWebhooks
from worker.core import delivery, ports
from worker.core.measures import Gathered
from worker.core.policy import Rules
from worker.core.promises import PromiseStore
from worker.core.registry import Registry, RunnerPlaces
from worker.fleet.api_keys import ApiKeys
from worker.fleet.confirming import Confirming
from worker.fleet.connecting import Connecting, Places
from worker.fleet.delivering import Delivering
from worker.fleet.depositing import Depositing
from worker.fleet.discarding import Discarding
from worker.fleet.forecasting import Forecasting
from worker.fleet.handing_out import HandingOut
from worker.fleet.kept_replies import KeptReplies
from worker.fleet.listing import Listing
from worker.fleet.metrics import Metrics
from worker.fleet.resealing import Resealing
from worker.fleet.revoking import Revoking
from worker.fleet.sessions import Sessions
from worker.fleet.sweeping import Sweeping
from worker.fleet.tokens import Tokens
from worker.fleet.webhooks import Webhooks
from worker.recovery.disk_watch import DiskWatch
from worker.recovery.heartbeat import Heartbeat, KeepRunning
from worker.recovery.membership import Membership
from worker.recovery.recovery import Recovery
from worker.recovery.replay import Replay
from worker.recovery.takeover import Takeover
from worker.refresher import Effort, Refresher
from worker.refreshing.answers import Answers
from worker.refreshing.promises_given import PromisesGiven
from worker.runtime import timing
from worker.runtime.clients import ConfiguredClients
from worker.runtime.connections import connect
from worker.runtime.deployment import Deployment, embedded_server
from worker.runtime.derived import lease_ms, rules_of
from worker.runtime.issuers import clients_kept

if TYPE_CHECKING:
    from worker.adapters.token_endpoint import HttpTokenEndpoint


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The ports and settings of one process.

    Attributes:
        owner: names the process.
        chance: a random number from 0 to 1, for jitter.
        lease_ms: how long a lease, and a recovery of the store, lasts at most.
        keep_running: starts the store's server again if it is away; `None` where it is not ours to start.
        examine: returns why nothing may be claimed from the store, empty if claims are allowed. `None`: the
            store is not examined.
    """

    owner: str
    store: ports.Store
    places: RunnerPlaces
    registry: Registry
    promises: PromiseStore
    sign_ins: ports.SignInStore
    endpoint: ports.TokenEndpoint
    sealer: ports.Sealer
    journal: ports.Journal
    directory: ports.JournalDirectory
    clients: ports.Clients
    clock: ports.Clock
    rules: Rules
    chance: Callable[[], float]
    effort: Effort
    lease_ms: int
    observer: ports.Observer
    keep_running: KeepRunning | None = None
    examine: Callable[[], Awaitable[str]] | None = None


@dataclass(frozen=True)
class Assembly:
    """The objects of one process."""

    answers: Answers
    refresher: Refresher
    recovery: Recovery
    takeover: Takeover
    membership: Membership
    tokens: Tokens
    handing_out: HandingOut
    revoking: Revoking
    sweeping: Sweeping


def assemble(given: Ports) -> Assembly:
    """Put one process together; nothing is sent or opened yet."""
    store, journal, observer = given.store, given.journal, GuardedObserver(given.observer)
    answers = Answers(
        store=store,
        sign_ins=given.sign_ins,
        journal=journal,
        directory=given.directory,
        sealer=given.sealer,
        observer=observer,
    )
    heartbeat = Heartbeat(store=store, keep_running=given.keep_running)
    refresher = Refresher(
        store=store,
        endpoint=given.endpoint,
        sealer=given.sealer,
        journal=journal,
        answers=answers,
        clients=given.clients,
        clock=given.clock,
        rules=given.rules,
        chance=given.chance,
        effort=given.effort,
        observer=observer,
        is_away=lambda: heartbeat.is_away,
    )
    promises_given = PromisesGiven(given.promises)
    replay = Replay(answers)
    takeover = Takeover(owner=given.owner, store=store, replay=replay, directory=given.directory)
    recovery = Recovery(
        store=store,
        answers=answers,
        journal=journal,
        replay=replay,
        takeover=takeover,
        promises=promises_given,
        held=refresher.held,
        observer=observer,
        examine=given.examine,
    )
    membership = Membership(
        heartbeat=heartbeat,
        recovery=recovery,
        takeover=takeover,
        disk_watch=DiskWatch(answers=answers, journal=journal, held=refresher.held),
        answers=answers,
    )
    tokens = Tokens(
        registry=given.registry,
        store=store,
        journal=journal,
        answers=answers,
        refresher=refresher,
        clients=given.clients,
        rules=given.rules,
        lease_ms=given.lease_ms,
    )
    handing_out = HandingOut(
        promises=given.promises,
        promises_given=promises_given,
        registry=given.registry,
        tokens=tokens,
        clients=given.clients,
        sealer=given.sealer,
        rules=given.rules,
        lease_ms=given.lease_ms,
        observer=observer,
    )
    revoking = Revoking(
        registry=given.registry,
        store=store,
        endpoint=given.endpoint,
        clients=given.clients,
        sealer=given.sealer,
        clock=given.clock,
        rules=given.rules,
        request_ms=given.effort.request_ms,
        lease_ms=given.lease_ms,
    )
    sweeping = Sweeping(
        places=given.places,
        refresher=refresher,
        in_flight=given.effort.in_flight,
        place_ms=given.lease_ms,
        run_seconds=timing.RUN_SECONDS,
    )
    return Assembly(
        answers, refresher, recovery, takeover, membership, tokens, handing_out, revoking, sweeping
    )


@dataclass(frozen=True)
class Runtime:
    """The open objects of one process."""

    deployment: Deployment
    redis: Redis
    store: RedisStore
    registry: RedisRegistry
    fleet_state: RedisFleetState
    replies: RedisReplies
    event_stream: RedisEventStream
    audit_stream: RedisEventStream
    audit_trail: RedisAuditTrail
    clients: ConfiguredClients
    endpoint: "HttpTokenEndpoint | EndpointOnFirstUse"
    journal: Journal
    journals: JournalsOnDisk
    answers: Answers
    membership: Membership
    refresher: Refresher
    rules: Rules
    tokens: Tokens
    handing_out: HandingOut
    revoking: Revoking
    sweeping: Sweeping
    kept_replies: KeptReplies
    resealing: Resealing
    api_keys: ApiKeys
    sessions: Sessions
    listing: Listing
    forecasting: Forecasting
    depositing: Depositing
    connecting: Connecting
    confirming: Confirming
    discarding: Discarding
    metrics: Metrics
    webhook_store: RedisWebhooks
    webhooks: Webhooks
    delivering: Delivering


@asynccontextmanager
async def open_runtime(
    deployment: Deployment, *, warned: Collection[str] | None = None, is_worker: bool = False
) -> AsyncIterator[Runtime]:
    """Connect everything in the running event loop, and close it at the end.

    Args:
        deployment: where things are.
        warned: the warnings of `check_store` that were logged at start. A worker passes them and examines the
            store again in each epoch. A command passes `None` and does not: there is `evergrant doctor`.
        is_worker: this process runs refresh tasks.
    """
    settings, prefix, write_concern = deployment.settings, deployment.prefix, deployment.write_concern
    owner = _process_name()
    server = embedded_server(settings)
    async with AsyncExitStack() as opened:
        redis = await opened.enter_async_context(connect(deployment.redis_url, prefix))
        # A group of scripts has a deadline of its own, as a whole.
        redis_for_groups = await opened.enter_async_context(
            connect(deployment.redis_url, prefix, reply_seconds=None)
        )
        endpoint = _endpoint(settings, is_worker=warned is not None)
        opened.push_async_exit(endpoint)
        if server is not None:
            opened.callback(server.close)
        directory = JournalDirectory(deployment.journals, settings.journal_seconds)
        opened.callback(directory.close)
        journal = Journal(deployment.journals, owner, settings.journal_seconds)
        opened.push_async_callback(journal.close)
        clients = await opened.enter_async_context(clients_kept(deployment, is_worker=warned is not None))
        scripts, clock = Scripts(redis_for_groups, prefix, write_concern), RedisClock()
        source = f"evergrant/{settings.namespace}"
        limits = timing.store_limits(settings)
        gathered = Gathered()
        store = RedisStore(
            scripts, clock, limits, source=source, owner=owner, is_worker=is_worker, gathered=gathered
        )
        sign_ins = RedisSignIns(
            redis,
            scripts,
            prefix,
            clock=clock,
            recovery_ms=limits.lease_ms,
            source=source,
            events_kept=limits.events_kept,
            audit_kept=settings.audit_kept,
        )
        webhook_store = RedisWebhooks(
            redis,
            scripts,
            prefix,
            source=source,
            events_kept=limits.events_kept,
            audit_kept=settings.audit_kept,
        )
        sender = SenderOnFirstUse(allowed=settings.webhook_private_ranges, ca_file=settings.ca_file)
        opened.push_async_callback(sender.close)
        watch = None if warned is None else DurabilityWatch(redis, write_concern, warned)
        given = Ports(
            owner=owner,
            store=store,
            places=store,
            registry=(registry := RedisRegistry(redis, scripts, prefix, audit_kept=settings.audit_kept)),
            promises=RedisPromises(
                scripts, clock=clock, audit_kept=settings.audit_kept, recovery_ms=lease_ms(settings)
            ),
            sign_ins=sign_ins,
            endpoint=endpoint,
            sealer=deployment.keys,
            journal=journal,
            directory=directory,
            clients=clients,
            clock=clock,
            rules=rules_of(settings),
            chance=random.random,
            observer=MeasuringObserver(LogObserver(), gathered),
            effort=timing.effort(settings),
            lease_ms=lease_ms(settings),
            keep_running=None if server is None else server.keep_running,
            examine=None if watch is None else watch.refusal,
        )
        process = assemble(given)
        fleet_state = RedisFleetState(redis, prefix)
        api_keys = ApiKeys(RedisApiKeys(redis, scripts, prefix, audit_kept=settings.audit_kept), registry.now)
        replies = RedisReplies(redis, scripts, prefix, source=source, events_kept=limits.events_kept)
        yield Runtime(
            deployment=deployment,
            redis=redis,
            store=store,
            registry=registry,
            fleet_state=fleet_state,
            replies=replies,
            event_stream=RedisEventStream(redis, prefix),
            audit_stream=RedisEventStream(redis, prefix, "audit", "entry"),
            audit_trail=RedisAuditTrail(scripts, settings.audit_kept),
            clients=clients,
            endpoint=endpoint,
            journal=journal,
            journals=JournalsOnDisk(deployment.journals),
            answers=process.answers,
            membership=process.membership,
            refresher=process.refresher,
            rules=given.rules,
            tokens=process.tokens,
            handing_out=process.handing_out,
            revoking=process.revoking,
            sweeping=process.sweeping,
            kept_replies=KeptReplies(
                replies=replies,
                registry=registry,
                store=store,
                answers=process.answers,
                clients=clients,
                sealer=given.sealer,
                rules=given.rules,
            ),
            resealing=Resealing(
                registry=registry,
                replies=replies,
                webhooks=webhook_store,
                sealer=deployment.keys,
                patience_seconds=2 * given.lease_ms / 1000,
            ),
            api_keys=api_keys,
            sessions=Sessions(RedisSessions(redis, scripts, prefix), deployment.keys, api_keys, registry.now),
            listing=Listing(registry, fleet_state),
            forecasting=Forecasting(
                schedules=RedisSchedules(redis, prefix),
                fleet_state=fleet_state,
                clients=clients,
                rules=given.rules,
                lag_ms=int(settings.sweep_seconds * 1000 / 2),
            ),
            depositing=Depositing(
                registry=registry,
                sealer=given.sealer,
                clients=clients,
                rules=given.rules,
                answers=process.answers,
                keep_reply=store.keep_reply,
            ),
            connecting=Connecting(
                sign_ins=sign_ins,
                endpoint=endpoint,
                answers=process.answers,
                clients=clients,
                sealer=given.sealer,
                rules=given.rules,
                clock=clock,
                places=Places(settings.browser_url, settings.return_urls),
                random=secrets.token_bytes,
            ),
            confirming=Confirming(
                sign_ins=sign_ins,
                answers=process.answers,
                registry=registry,
                clients=clients,
                sealer=given.sealer,
                rules=given.rules,
                clock=clock,
            ),
            discarding=Discarding(
                sign_ins=sign_ins,
                endpoint=endpoint,
                clients=clients,
                sealer=given.sealer,
                registry=registry,
            ),
            metrics=Metrics(
                measures=RedisMeasures(redis, scripts, prefix),
                configured=lambda: {client.name: client.token_url for client in clients},
                expose=expose,
                undelivered=webhook_store.oldest_undelivered,
            ),
            webhook_store=webhook_store,
            webhooks=Webhooks(
                store=webhook_store,
                sender=sender,
                sealer=deployment.keys,
                allowed=settings.webhook_private_ranges,
                to_json=lambda event: to_json(event, source),
            ),
            delivering=Delivering(
                queue=webhook_store,
                sender=sender,
                sealer=deployment.keys,
                chance=given.chance,
                schedule=delivery.SCHEDULE_MS,
            ),
        )


def _endpoint(settings: Settings, *, is_worker: bool) -> "HttpTokenEndpoint | EndpointOnFirstUse":
    """Loaded at once where refreshes are to come; on first use in a command, for most ask nothing."""
    if not is_worker:
        return EndpointOnFirstUse(timeout_seconds=settings.http_timeout_seconds, ca_file=settings.ca_file)
    from worker.adapters.token_endpoint import HttpTokenEndpoint  # noqa: PLC0415 a command does without it

    return HttpTokenEndpoint(timeout_seconds=settings.http_timeout_seconds, ca_file=settings.ca_file)


def _process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
