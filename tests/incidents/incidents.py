"""Every incident: how to provoke it, and what each face must say of it. Nothing else may be said."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.chaos.processes import writing_no_file
from tests.incidents.fleet import Receiver, SmallFleet, listening
from tests.support.faketime import ServerWithAClock, running_with_a_clock
from tests.support.redis_server import RedisServer, running, trouble

OTHER_KEY = "k2:YW5vdGhlci1zZWFsaW5nLWtleS1hbm90aGVyLWtleTE="
OOM = "OOM command not allowed"
DAY = 86_400

Provoke = Callable[[SmallFleet], AbstractContextManager[object]]
Store = Callable[[], AbstractContextManager[RedisServer | ServerWithAClock]]


@dataclass(frozen=True, slots=True)
class Case:
    """One incident.

    Attributes:
        name: short.
        what: as the page has it.
        provoke: the trouble lasts for as long as its block.
        kind: of the incident in `status --json`; empty where it rightly says nothing.
        says: words of its line, the same in `status`, in its JSON and on the console.
        needs_a_person: whether that line is marked.
        doctor: words of a line of `doctor` that is not in order.
        console: words of its page, where they are not those of `says`.
        metrics: what becomes of a metric: its beginning, `<`, `>` or `==`, a number. Instants count from now.
        alerts: that fire if it lasts.
        events: types, without `evergrant.`
        passing: other incidents that may be said on the way.
        settings: of the fleet.
    """

    name: str
    what: str
    provoke: Provoke
    kind: str = ""
    says: str = ""
    needs_a_person: bool = True
    doctor: str = ""
    console: str | None = None
    metrics: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()
    store: Store = lambda: running("redis")
    settings: tuple[tuple[str, str], ...] = ()


@contextmanager
def wrong_secret(fleet: SmallFleet) -> Iterator[None]:
    fleet.live.sandbox.set_secret("another")
    yield


def fault(kind: str, **options: str | float) -> Provoke:
    return lambda fleet: fleet.live.sandbox.fault(kind, **options)


def revoked(count: int) -> Provoke:
    @contextmanager
    def provoke(fleet: SmallFleet) -> Iterator[None]:
        for grant in fleet.upcoming(count) if count else fleet.grants:
            fleet.live.sandbox.revoke(grant)
        yield

    return provoke


@contextmanager
def reply_lost(fleet: SmallFleet) -> Iterator[None]:
    (grant,) = fleet.upcoming(1)
    with fleet.live.sandbox.fault("drop_after", grant=grant, times=1):
        yield


@contextmanager
def key_missing(fleet: SmallFleet) -> Iterator[None]:
    fleet.live.end(fleet.worker)
    fleet.monkeypatch.setenv("EVERGRANT_KEYS", OTHER_KEY)
    fleet.live.start_worker()
    # Whether an event was on its way just then is chance; now some are. The key sealed their secret, too.
    fleet.live.run(lambda runtime: runtime.webhooks.replay(fleet.webhook, "0-0"))
    yield


def refuses(words: str) -> Provoke:
    def provoke(fleet: SmallFleet) -> AbstractContextManager[None]:
        assert isinstance(fleet.server, RedisServer)
        return trouble(words, fleet.server)

    return provoke


@contextmanager
def nearly_full(fleet: SmallFleet) -> Iterator[None]:
    assert isinstance(fleet.server, RedisServer)
    fleet.server.operator.setrange("filler", 100_000_000, b"0")
    used = fleet.server.operator.info("memory")["used_memory"]
    fleet.server.operator.config_set("maxmemory", str(int(used / 0.93)))
    yield


@contextmanager
def flushed(fleet: SmallFleet) -> Iterator[None]:
    assert isinstance(fleet.server, RedisServer)
    fleet.server.operator.flushall()
    yield


@contextmanager
def away(fleet: SmallFleet) -> Iterator[None]:
    assert isinstance(fleet.server, RedisServer)
    fleet.server.operator.shutdown(nosave=True)
    yield


@contextmanager
def damaged(fleet: SmallFleet) -> Iterator[None]:
    assert isinstance(fleet.server, RedisServer)
    (grant,) = fleet.upcoming(1)
    fleet.server.operator.set(f"{{evergrant}}:grant:{grant}", b"\xc1 no record")
    yield


def no_room(fleet: SmallFleet) -> AbstractContextManager[None]:
    return writing_no_file(fleet.worker.pid)


def killed(process: str) -> Provoke:
    @contextmanager
    def provoke(fleet: SmallFleet) -> Iterator[None]:
        fleet.live.kill(getattr(fleet, process))
        yield

    return provoke


def stopped(process: str) -> Provoke:
    @contextmanager
    def provoke(fleet: SmallFleet) -> Iterator[None]:
        fleet.live.end(getattr(fleet, process))
        yield

    return provoke


@contextmanager
def no_settings(fleet: SmallFleet) -> Iterator[None]:
    fleet.live.end(fleet.worker)
    fleet.live.end(fleet.web)
    for name in [name for name in os.environ if name.startswith("EVERGRANT_CLIENTS__")]:
        fleet.monkeypatch.delenv(name)
    (fleet.live.secrets / "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET").unlink()
    fleet.live.start_worker()
    fleet.start_web()
    yield


@contextmanager
def receiver_down(fleet: SmallFleet) -> Iterator[None]:
    fleet.add_webhook(Receiver().url)
    yield


@contextmanager
def receiver_gone(fleet: SmallFleet) -> Iterator[None]:
    gone = Receiver(answers=410)
    with listening(gone):
        fleet.add_webhook(gone.url)
        yield


@contextmanager
def about_to_end(fleet: SmallFleet) -> Iterator[None]:
    (line,) = fleet.live.sandbox.issue(1, prefix="old", access_seconds=28_800)
    line["authorized_at"] = (datetime.now(UTC) - timedelta(days=362)).isoformat()
    fleet.live.take([json.dumps(line)])
    yield


@contextmanager
def clock_back(fleet: SmallFleet) -> Iterator[None]:
    assert isinstance(fleet.server, ServerWithAClock)
    fleet.server.set_clock(-3_600.0)
    yield


NOTHING_GOES_ON = ("EvergrantNotRefreshing", "EvergrantNotSweeping", "EvergrantWillMissExpiry")
CASES = (
    Case(
        "secret_wrong",
        "The client's secret is wrong",
        wrong_secret,
        kind="client_rejected",
        says="the provider rejects this client's credentials",
        doctor="bad: buddy: the provider rejects this client's credentials",
        metrics=("evergrant_client_accepted{ == 0",),
        alerts=("EvergrantClientRejected", "EvergrantWillMissExpiry"),
        events=("client.rejected",),
    ),
    Case(
        "provider_down",
        "The provider answers 503",
        fault("outage", form="503"),
        kind="provider_unavailable",
        says="its token endpoint gives no usable answer",
        needs_a_person=False,
        doctor="warning: buddy: its token endpoint gives no usable answer",
        metrics=("evergrant_provider_available{ == 0",),
        alerts=("EvergrantProviderUnavailable", "EvergrantWillMissExpiry"),
        events=("provider.unavailable",),
        passing=("provider_failing",),
    ),
    Case(
        "provider_hangs",
        "The provider hangs",
        fault("hang"),
        kind="provider_unavailable",
        says="its token endpoint gives no usable answer",
        needs_a_person=False,
        doctor="warning: buddy: its token endpoint gives no usable answer",
        metrics=("evergrant_provider_available{ == 0",),
        alerts=("EvergrantProviderUnavailable", "EvergrantWillMissExpiry"),
        events=("provider.unavailable",),
        passing=("provider_failing",),
    ),
    Case(
        "throttled",
        "The provider says 429, for half an hour",
        fault("too_many_requests", retry_after=1800),
        kind="throttled",
        says="its token endpoint told it to wait",
        needs_a_person=False,
        doctor="warning: buddy: its token endpoint told it to wait",
        metrics=("evergrant_oldest_due_timestamp_seconds{ < -10",),
        alerts=("EvergrantNotRefreshing", "EvergrantWillMissExpiry"),
    ),
    Case(
        "one_revoked",
        "A person withdraws the consent",
        revoked(1),
        kind="grant_failed",
        says="failed, revoked",
        metrics=('evergrant_grants{client="buddy",status="failed"} > 0',),
        events=("grant.failing", "grant.failed"),
        passing=("grant_failing",),
    ),
    Case(
        "many_revoked",
        "Ten of 600 grants are revoked at once",
        revoked(10),
        kind="grant_failed",
        says="failed, revoked",
        metrics=('evergrant_grants{client="buddy",status="failed"} > 9',),
        alerts=("EvergrantGrantsFailed",),
        events=("grant.failing", "grant.failed"),
        passing=("grant_failing",),
    ),
    Case(
        "all_revoked",
        "Every grant of the client is rejected",
        revoked(0),
        kind="client_rejected",
        says="(every_grant_rejected)",
        doctor="bad: buddy: the provider rejects this client's credentials",
        metrics=("evergrant_client_accepted{ == 0",),
        alerts=("EvergrantClientRejected", "EvergrantWillMissExpiry"),
        events=("grant.failing", "client.rejected"),
        passing=("grant_failing",),
    ),
    Case(
        "reply_lost",
        "A reply with new tokens is lost on its way",
        reply_lost,
        kind="grant_failed",
        says="failed, reply_lost",
        metrics=('evergrant_grants{client="buddy",status="failed"} > 0',),
        events=("grant.failing", "grant.failed"),
        passing=("grant_failing", "provider_failing"),
    ),
    Case(
        "reply_unread",
        "A reply's tokens cannot be read",
        fault("unreadable"),
        kind="reply_unread",
        says="the provider answered, and its tokens could not be read",
        doctor="warning: buddy: its token endpoint gives no usable answer",
        metrics=("evergrant_provider_available{ == 0",),
        alerts=("EvergrantProviderUnavailable", "EvergrantWillMissExpiry"),
        events=("provider.unavailable", "grant.failing"),
        passing=("provider_unavailable",),
    ),
    Case(
        "key_missing",
        "A worker is started without a sealing key",
        key_missing,
        kind="key_missing",
        says="the key k1 that sealed them is not in EVERGRANT_KEYS",
        doctor="the key k1 that sealed them is not in EVERGRANT_KEYS",
        metrics=('evergrant_unseal_failures_total{key="k1"} > 0',),
        alerts=("EvergrantKeyMissing", "EvergrantWebhookStuck"),
        passing=("webhook_failing",),
    ),
    Case(
        "redis_full",
        "Redis refuses writes: it is full (`OOM`)",
        refuses(OOM),
        kind="store_refuses_writes",
        says="Redis refuses writes: OOM",
        doctor="bad: Redis refuses writes: OOM",
        metrics=("evergrant_workers == 0", "evergrant_store_memory_limit_bytes > 0"),
        alerts=("EvergrantStoreNearFull", "EvergrantNoWorkers", *NOTHING_GOES_ON),
        passing=("not_refreshing", "worker_dead", "beat_dead"),
    ),
    Case(
        "redis_nearly_full",
        "Redis is nearly full",
        nearly_full,
        metrics=("evergrant_store_memory_limit_bytes > 0",),
        alerts=("EvergrantStoreNearFull",),
    ),
    Case(
        "redis_away",
        "Redis is away",
        away,
        kind="store_unreachable",
        says="EVERGRANT_REDIS_URL cannot be reached",
        doctor="EVERGRANT_REDIS_URL cannot be reached",
        console="503 The store is away or recovering",
        metrics=("absent",),
        alerts=("EvergrantAbsent",),
    ),
    Case(
        "redis_lost",
        "Redis lost everything (`FLUSHALL`)",
        flushed,
        kind="store_lost",
        says="and this machine's journals hold answers of",
        doctor="bad: Redis: it",
        console="",  # its keys are lost, too: nobody can sign in
        metrics=('evergrant_grants{client="buddy",status="active"} == 0',),
        alerts=("EvergrantStoreLost",),
    ),
    Case(
        "record_damaged",
        "A record in Redis is damaged",
        damaged,
        kind="grant_unreadable",
        says="its record has format",
        doctor="its record has format",
        metrics=("evergrant_grants_unreadable > 0",),
        alerts=("EvergrantUnreadable",),
    ),
    Case(
        "disk_full",
        "The journal's disk is full",
        no_room,
        kind="worker_stopped_claiming",
        says="it claims nothing (journal:",
        doctor="it claims nothing (journal:",
        metrics=("evergrant_oldest_due_timestamp_seconds{ < -10",),
        alerts=("EvergrantNotRefreshing", "EvergrantWillMissExpiry"),
        passing=("not_refreshing",),
    ),
    Case(
        "no_worker",
        "Every worker is killed",
        killed("worker"),
        kind="worker_dead",
        says="no worker is alive",
        doctor="no worker is alive",
        metrics=("evergrant_workers == 0",),
        alerts=("EvergrantNoWorkers", *NOTHING_GOES_ON),
        passing=("not_refreshing",),
    ),
    Case(
        "worker_stopped",
        "Every worker is stopped, and none started",
        stopped("worker"),
        kind="not_refreshing",
        says="nobody refreshes its grants (no worker is alive)",
        doctor="no worker is alive",
        metrics=("evergrant_workers == 0",),
        alerts=("EvergrantNoWorkers", *NOTHING_GOES_ON),
    ),
    Case(
        "no_beat",
        "Beat is killed",
        killed("beat"),
        kind="beat_dead",
        says="no beat is alive",
        doctor="no beat is alive",
        metrics=("evergrant_last_sweep_timestamp_seconds < -30",),
        alerts=NOTHING_GOES_ON,
        passing=("not_refreshing",),
    ),
    Case(
        "no_web",
        "The HTTP service is killed",
        killed("web"),
        metrics=("absent",),
        alerts=("EvergrantAbsent",),
    ),
    Case(
        "no_settings",
        "A client with grants has no settings",
        no_settings,
        kind="client_not_configured",
        says="it has grants but no settings",
        doctor="bad: buddy: it has grants but no settings",
        metrics=("evergrant_oldest_due_timestamp_seconds{ < -10",),
        alerts=("EvergrantNotRefreshing", "EvergrantWillMissExpiry"),
    ),
    Case(
        "receiver_down",
        "The receiver of a webhook is down",
        receiver_down,
        kind="webhook_failing",
        says="has taken nothing since",
        needs_a_person=False,
        doctor="has taken nothing since",
        metrics=("evergrant_webhook_oldest_undelivered_timestamp_seconds{ < -10",),
        alerts=("EvergrantWebhookStuck",),
    ),
    Case(
        "receiver_gone",
        "The receiver of a webhook answers 410",
        receiver_gone,
        kind="webhook_disabled",
        says="answered 410, and is told nothing",
        doctor="answered 410, and is told nothing",
        events=("webhook.disabled",),
    ),
    Case(
        "about_to_end",
        "A grant is three days from its absolute limit",
        about_to_end,
        kind="grant_expiring",
        says="comes to an end that no refresh can move",
        events=("grant.expiring",),
        settings=(("EVERGRANT_CLIENTS__BUDDY__ABSOLUTE_LIFETIME_SECONDS", str(365 * DAY)),),
    ),
    Case(
        "clock_back",
        "Redis's clock is set back by an hour",
        clock_back,
        kind="clock_set",
        says="set back by",
        needs_a_person=False,
        doctor="set back by",
        store=running_with_a_clock,
    ),
)
