"""How each incident is provoked. The trouble lasts for as long as its block."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta

from tests.chaos.processes import writing_no_file
from tests.incidents.fleet import Receiver, SmallFleet, listening
from tests.support.faketime import ServerWithAClock
from tests.support.live import SECRET
from tests.support.redis_server import running, trouble
from worker.core.policy import jitter
from worker.core.registry import Operation
from worker.runtime.assembly import Runtime

OTHER_KEY = "k2:YW5vdGhlci1zZWFsaW5nLWtleS1hbm90aGVyLWtleTE="
DAY = 86_400

Provoke = Callable[[SmallFleet], AbstractContextManager[object]]


@contextmanager
def wrong_secret(fleet: SmallFleet) -> Iterator[None]:
    fleet.live.sandbox.set_secret("another")
    yield


def fault(kind: str, **options: str | float) -> Provoke:
    return lambda fleet: fleet.live.sandbox.fault(kind, **options)


@contextmanager
def hangs_for_few(fleet: SmallFleet) -> Iterator[None]:
    """The provider hangs, and a grant is due every 20 seconds: not enough to tell at once that it is away."""
    others = [grant for number, grant in enumerate(fleet.grants) if number % 40]

    async def pause(runtime: Runtime) -> None:
        for grant in others:
            await runtime.registry.operate(grant, Operation.PAUSE)

    with fleet.live.sandbox.fault("hang"):
        fleet.live.run(pause)
        yield


def revoked(count: int) -> Provoke:
    @contextmanager
    def provoke(fleet: SmallFleet) -> Iterator[None]:
        for grant in fleet.upcoming(count) if count else fleet.grants:
            fleet.live.sandbox.revoke(grant)
        yield

    return provoke


def for_one(kind: str, **options: str | float) -> Provoke:
    """A fault for one grant that comes due in a few seconds."""

    @contextmanager
    def provoke(fleet: SmallFleet) -> Iterator[None]:
        (grant,) = fleet.upcoming(1)
        with fleet.live.sandbox.fault(kind, grant=grant, **options):
            yield

    return provoke


def to_its_end(kind: str, **options: str | float) -> Provoke:
    """A fault for one grant that lasts until its access token has ended."""

    @contextmanager
    def provoke(fleet: SmallFleet) -> Iterator[None]:
        (line,) = fleet.live.sandbox.issue(1, prefix="ending", access_seconds=60)
        with fleet.live.sandbox.fault(kind, grant=line["id"], **options):
            fleet.live.take([json.dumps(line)])
            yield

    return provoke


@contextmanager
def not_confirmed(fleet: SmallFleet) -> Iterator[None]:
    """The only grant of its client is refused: no other shows that the client is not at fault."""
    lonely = {
        "PROVIDER": "buddy",
        "CLIENT_ID": "sandbox-client",
        "CLIENT_SECRET": SECRET,
        # Otherwise `doctor` rightly asks whether two clients are one registration.
        "TOKEN_URL": fleet.live.sandbox.token_url.replace("127.0.0.1", "localhost"),
    }
    for name, value in lonely.items():
        fleet.monkeypatch.setenv(f"EVERGRANT_CLIENTS__LONELY__{name}", value)
    fleet.restart_all()
    line = fleet.lines_due(1, prefix="lonely", client="lonely")[0]
    with fleet.live.sandbox.fault("status", grant_type="client_credentials"):
        fleet.live.sandbox.revoke(line["id"])
        fleet.live.take([json.dumps(line)])
        yield


def without(*names: str, **given: int) -> Provoke:
    """A grant that lacks some fields, or has an instant so many seconds from now in their place."""

    @contextmanager
    def provoke(fleet: SmallFleet) -> Iterator[None]:
        (line,) = fleet.live.sandbox.issue(1, prefix="old", access_seconds=30)
        fleet.live.sandbox.revoke(line["id"])
        for name in names:
            del line[name]
        now = datetime.now(UTC)
        instants = {name: (now + timedelta(seconds=seconds)).isoformat() for name, seconds in given.items()}
        fleet.live.take([json.dumps(line | instants)])
        yield

    return provoke


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
        return trouble(words, fleet.redis)

    return provoke


@contextmanager
def nearly_full(fleet: SmallFleet) -> Iterator[None]:
    fleet.redis.operator.setrange("filler", 100_000_000, b"0")
    used = fleet.redis.operator.info("memory")["used_memory"]
    fleet.redis.operator.config_set("maxmemory", str(int(used / 0.93)))
    yield


@contextmanager
def flushed(fleet: SmallFleet) -> Iterator[None]:
    fleet.redis.operator.flushall()
    yield


@contextmanager
def away(fleet: SmallFleet) -> Iterator[None]:
    fleet.redis.operator.shutdown(nosave=True)
    yield


def _record_of(grant: str) -> str:
    return f"{{evergrant}}:grant:{grant}"


@contextmanager
def damaged(fleet: SmallFleet) -> Iterator[None]:
    (grant,) = fleet.upcoming(1)
    fleet.redis.operator.set(_record_of(grant), b"no record")
    yield


@contextmanager
def of_a_newer_release(fleet: SmallFleet) -> Iterator[None]:
    """A record begins as those of all formats but the first do: worker/adapters/store/record.py."""
    (grant,) = fleet.upcoming(1)
    fleet.redis.operator.set(_record_of(grant), b"\xc1\x02 what a later release will write")
    yield


@contextmanager
def tokens_changed(fleet: SmallFleet) -> Iterator[None]:
    """A record is moved to another grant's place, where it is due no later: each has a jitter of its own."""
    earliest, *_, latest = sorted(fleet.upcoming(10), key=jitter)
    fleet.redis.operator.copy(_record_of(latest), _record_of(earliest), replace=True)
    yield


@contextmanager
def put_back(fleet: SmallFleet) -> Iterator[None]:
    """A record is put back as it was before its refresh."""
    (grant,) = fleet.upcoming(1)
    operator, key = fleet.redis.operator, _record_of(grant)
    before = operator.dump(key)
    assert before is not None
    fleet.live.wait_until(lambda: fleet.live.grants()[grant].grant.version > 0, "its refresh")
    operator.restore(key, 0, before, replace=True)
    yield


@contextmanager
def begun_anew(fleet: SmallFleet) -> Iterator[None]:
    with flushed(fleet):
        fleet.import_grants(1)
        yield


@contextmanager
def cannot_store(fleet: SmallFleet) -> Iterator[None]:
    """A counter of the client that Redis cannot raise: no answer is stored with it."""
    fleet.redis.operator.hset("{evergrant}:client:buddy", "refreshed", "+20")
    yield


@contextmanager
def would_evict(fleet: SmallFleet) -> Iterator[None]:
    """Redis is restarted with another policy."""
    fleet.redis.restart(maxmemory_policy="allkeys-lru")
    yield


@contextmanager
def restarted(fleet: SmallFleet) -> Iterator[None]:
    """Redis is restarted just after a worker of another host was killed."""
    with fleet.monkeypatch.context() as elsewhere:
        elsewhere.setenv("EVERGRANT_DATA_DIR", str(fleet.live.directory / "elsewhere"))
        other = fleet.start_another_worker()
    fleet.live.kill(other)
    fleet.redis.restart()
    yield


def no_room(fleet: SmallFleet) -> AbstractContextManager[None]:
    return writing_no_file(fleet.worker.pid)


@contextmanager
def no_room_for_answers(fleet: SmallFleet) -> Iterator[None]:
    """The disk is full while answers to both children are on their way."""
    with fleet.live.sandbox.fault("latency", ms=3_000):
        fleet.import_grants(100, every=0.0)
        time.sleep(3)  # some have left since
        with no_room(fleet):
            yield


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


def then_stopped(trouble: Provoke, event: str) -> Provoke:
    """Every worker is stopped in the middle of another trouble, once its event was delivered."""

    @contextmanager
    def provoke(fleet: SmallFleet) -> Iterator[None]:
        with trouble(fleet):
            fleet.live.wait_until(
                lambda: any(got["type"] == f"evergrant.{event}" for _, got in fleet.receiver.got), event
            )
            fleet.live.end(fleet.worker)
            yield

    return provoke


@contextmanager
def other_broker(fleet: SmallFleet) -> Iterator[None]:
    fleet.live.end(fleet.beat)
    with running("redis") as another, fleet.monkeypatch.context() as elsewhere:
        elsewhere.setenv("EVERGRANT_BROKER_URL", f"unix://{another.socket}")
        fleet.live.start_beat()
        elsewhere.undo()
        yield


@contextmanager
def too_much_due(fleet: SmallFleet) -> Iterator[None]:
    fleet.import_grants(1_500, every=0.0)
    yield


@contextmanager
def no_settings(fleet: SmallFleet) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("EVERGRANT_CLIENTS__")]:
        fleet.monkeypatch.delenv(name)
    (fleet.live.secrets / "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET").unlink()
    fleet.restart_all()
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
def receiver_away_for_days(fleet: SmallFleet) -> Iterator[None]:
    webhook = f"{{evergrant}}:webhook:{fleet.add_webhook(Receiver().url)}"
    operator = fleet.redis.operator
    fleet.live.wait_until(lambda: operator.hexists(webhook, "failing_since"), "the first failure")
    operator.hincrby(webhook, "failing_since", -6 * DAY * 1000)
    yield


@contextmanager
def events_cut(fleet: SmallFleet) -> Iterator[None]:
    """No worker lives while the stream is cut."""
    fleet.live.end(fleet.worker)
    (grant,) = fleet.upcoming(1)
    fleet.live.run(lambda runtime: runtime.registry.operate(grant, Operation.PAUSE))
    fleet.live.run(lambda runtime: runtime.registry.operate(grant, Operation.RESUME))
    fleet.redis.operator.xtrim("{evergrant}:events", maxlen=0, approximate=False)
    fleet.worker = fleet.live.start_worker()
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
