"""One process's loop and its membership: real threads, real signals, real children, a real kill.

Other processes are this file run as a script: its first argument is the part that it plays.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import redis as blocking
from redis.asyncio import Redis
from structlog.testing import capture_logs

from config import SettingsError, load_settings
from config.logging import configure_logging
from tests.support.callables import Configure, Enroll, OpenMember
from tests.support.gate import Gate
from tests.support.redis_server import running as running_server
from tests.support.redis_server import trouble
from tests.support.servers import directory_for_sockets, start_valkey
from tests.support.waiting import PATIENCE_SECONDS, eventually
from worker.adapters.journal.format import read_file
from worker.adapters.sealing import KeyRing
from worker.adapters.store.durability import DurabilityWatch
from worker.adapters.store.registry import RedisRegistry
from worker.core.ports import Commit, Recovering, StoreUnavailableError
from worker.fleet import sweeping
from worker.runtime import deployment, process
from worker.runtime.assembly import Runtime
from worker.runtime.deployment import Deployment
from worker.runtime.process import Process, should_stop
from worker.runtime.store_checks import check_store
from worker.sandbox.client import Sandbox

SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)

Spawn = Callable[..., subprocess.Popen[str]]


def deploy() -> Deployment:
    """As the settings in the environment say."""
    return deployment.deploy(load_settings(), _say_nothing)


def _say_nothing(_: str) -> None:
    pass


def _strike(*_: object) -> None:
    raise InterruptedError("in the middle of whatever runs")


@pytest.fixture
def configured(
    configure: Configure,
    sandbox: Sandbox,
    valkey_socket: Path,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A deployment's settings, on the store and with the keys that these tests look through; its clients."""
    monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{valkey_socket}")
    monkeypatch.setenv("EVERGRANT_NAMESPACE", prefix.strip("{}:"))
    monkeypatch.setenv("EVERGRANT_KEYS", "k1:" + b64encode(bytes(32)).decode())
    monkeypatch.setenv("EVERGRANT_DATA_DIR", str(tmp_path / "data"))
    return configure(sandbox.token_url)


@pytest.fixture
def journals(tmp_path: Path, prefix: str) -> Path:
    """Where such a deployment has them."""
    return tmp_path / "data" / "journal" / prefix.strip("{}:")


@pytest.fixture
def ours(configured: Any) -> Iterator[Process]:
    """This process, in which signals strike as a pool's do; afterwards they do what they did before."""
    assert configured
    before = {number: signal.signal(number, _strike) for number in SIGNALS}
    opened = Process(deploy)
    yield opened
    opened.close()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def present(valkey_socket: Path, prefix: str) -> Iterator[Callable[[], set[str]]]:
    """Who is present at the store."""
    with blocking.Redis(unix_socket_path=str(valkey_socket)) as connection:

        def read() -> set[str]:
            owners: Any = connection.zrange(f"{prefix}processes", 0, -1)
            return {owner.decode() for owner in owners}

        yield read


@pytest.fixture
def in_an_epoch(ours: Process, present: Callable[[], set[str]]) -> Process:
    """This process at work. Its heartbeat has begun an epoch, which would have ended every runner's place."""
    ours.start()
    eventually(present)
    return ours


@pytest.fixture
def spawn(configured: Any) -> Iterator[Spawn]:
    """Start a process that plays one of the parts at the end of this file, with the settings of this one."""
    assert configured
    processes = []

    def start(part: str, *arguments: str) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(  # noqa: S603 this very file
                [sys.executable, __file__, part, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for each in processes:
        each.kill()
        each.communicate()


def _loops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("evergrant")]


async def _runtime(runtime: Runtime) -> Runtime:
    return runtime


# Its life


def test_a_process_is_present_from_its_start_without_a_task_and_until_it_is_closed(
    ours: Process, present: Callable[[], set[str]]
) -> None:
    ours.start()
    eventually(present)
    assert len(_loops()) == 1

    ours.close()

    assert present() == set()
    assert _loops() == []


def test_a_process_can_be_started_again_after_it_was_closed(
    ours: Process, present: Callable[[], set[str]]
) -> None:
    ours.start()
    eventually(present)
    (first,) = present()
    ours.close()
    ours.close()

    assert ours.run(_runtime) is ours.run(_runtime)
    eventually(present)

    assert first not in present()


def test_a_start_that_failed_leaves_nothing_and_the_next_one_may_succeed(
    configured: Any, present: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured
    ours = Process(deploy)
    with monkeypatch.context() as broken:
        broken.delenv("EVERGRANT_KEYS")
        for _ in range(3):
            with pytest.raises(SettingsError):
                ours.start()
    assert _loops() == []

    ours.start()
    eventually(present)
    ours.close()

    assert _loops() == []


# Its tasks


def test_a_task_works_in_the_loops_own_thread_and_everyone_in_the_same(ours: Process) -> None:
    async def thread(_: Runtime) -> tuple[threading.Thread, asyncio.AbstractEventLoop]:
        return threading.current_thread(), asyncio.get_running_loop()

    first, second = ours.run(thread), ours.run(thread)

    assert first == second
    assert first[0] is not threading.current_thread()


def test_a_tasks_exception_reaches_its_caller_and_leaves_the_runtime_usable(
    ours: Process, present: Callable[[], set[str]]
) -> None:
    async def break_off(_: Runtime) -> None:
        raise LookupError("the task's own")

    before = ours.run(_runtime)
    with pytest.raises(LookupError, match="the task's own"):
        ours.run(break_off)

    assert ours.run(_runtime) is before
    eventually(present)


def test_a_task_whose_wait_broke_off_is_stopped_and_what_it_needs_is_closed_after_it(
    ours: Process, present: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever broke it off: a signal that nobody provided for, or a want of memory."""
    under_way = threading.Event()
    told: list[bool] = []
    seen: set[int] = set()

    async def work(_: Runtime) -> None:
        under_way.set()
        while present() and not should_stop():  # noqa: ASYNC110 it is said in another thread
            await asyncio.sleep(0.01)
        told.append(should_stop())
        for _glance in range(50):
            seen.add(len(present()))
            await asyncio.sleep(0.01)

    def break_off(*_: object) -> None:
        under_way.wait(PATIENCE_SECONDS)
        raise SystemExit

    ours.start()
    eventually(present)
    with monkeypatch.context() as broken:
        broken.setattr(process, "wait", break_off)
        with pytest.raises(SystemExit):
            ours.run(work)
    ours.close()

    assert (told, seen) == ([True], {1})
    assert present() == set()


# Signals


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_during_a_task_ends_its_claiming_and_nothing_else(ours: Process, number: int) -> None:
    async def work(_: Runtime) -> list[bool]:
        before = should_stop()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not should_stop():  # noqa: ASYNC110 it is said in another thread
                await asyncio.sleep(0.01)
        return [before, should_stop()]

    assert ours.run(work) == [False, True]
    assert ours.run(work) == [False, True]  # the next task is another one


def test_what_a_signal_means_is_left_alone_until_the_first_task(ours: Process) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    ours.start()

    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_worker_that_is_stopping_tells_its_children_and_no_task_resets_that(spawn: Spawn) -> None:
    parent = spawn("drain_with_a_child")
    out, _ = parent.communicate(timeout=PATIENCE_SECONDS)

    assert out.split() == ["False", "True", "True"]


# A store that was away


@pytest.fixture
def start_store(
    configured: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., AbstractContextManager[blocking.Redis]]]:
    """A server of one's own where the settings look for one; it runs as long as a block lasts."""
    assert configured
    with directory_for_sockets() as home:
        monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{home}/s")

        @contextmanager
        def start(**options: str) -> Iterator[blocking.Redis]:
            server = start_valkey(home, **options)
            try:
                with blocking.Redis(unix_socket_path=str(server.socket)) as connection:
                    yield connection
            finally:
                server.kill()

        yield start


def test_a_store_that_was_away_when_a_process_began_is_examined_when_it_is_there_and_at_each_restart(
    ours: Process, start_store: Callable[..., Any], prefix: str
) -> None:
    async def may_claim(runtime: Runtime) -> bool:
        return not isinstance(await runtime.store.lease("nobody"), Recovering)

    def troubles(store: Any) -> list[bytes]:
        return list(store.hvals(f"{prefix}troubles"))

    assert check_store(deploy()) == []
    ours.start()
    for _ in range(2):
        with start_store(maxmemory_policy="allkeys-lru") as store:
            eventually(lambda: troubles(store))
            (trouble,) = troubles(store)
            assert trouble.startswith(b"EVERGRANT_REDIS_URL: maxmemory-policy is allkeys-lru")
            store.hset(f"{prefix}epoch", "ends_at", "1")  # the longest that it recovers is over
            assert not ours.run(may_claim)

            store.config_set("maxmemory-policy", "noeviction")
            eventually(lambda: ours.run(may_claim))
            eventually(lambda: not troubles(store))


async def test_what_a_store_does_not_promise_is_said_once_until_something_else_is_true(
    start_store: Callable[..., Any],
) -> None:
    is_off = "the append-only file is off: a restart loses rotations; set appendonly yes"
    is_loose = "appendfsync is everysec: a crash may lose the last second; set it to always"
    said = []

    with start_store() as store:
        async with Redis.from_url(os.environ["EVERGRANT_REDIS_URL"]) as connection:
            assert await asyncio.to_thread(check_store, deploy()) == [is_off]
            for told_at_start, setting in ([], "no"), ([is_off], "no"), ([is_off], "yes"):
                store.config_set("appendonly", setting)
                watch = DurabilityWatch(connection, None, told_at_start)
                with capture_logs() as logs:
                    assert [await watch.refusal(), await watch.refusal()] == ["", ""]
                said.append([log["problem"] for log in logs])

    assert said == [[is_off], [], [is_loose]]


# Celery


@pytest.mark.usefixtures("in_an_epoch")
def test_a_refresh_task_gives_back_the_place_that_was_reserved_for_it(
    spawn: Spawn, valkey_socket: Path, prefix: str
) -> None:
    """Its runner id is its task's id, which Celery keeps in the task's own thread."""
    with blocking.Redis(unix_socket_path=str(valkey_socket)) as connection:
        place = f"{prefix}runners"
        connection.zadd(place, {"this-task": 8e15, "another": 8e15})

        out, _ = spawn("refresh_as_a_task", "this-task").communicate(timeout=PATIENCE_SECONDS)

        assert out.endswith("done\n")
        assert connection.zrange(place, 0, -1) == [b"another"]


def _surprise() -> bool:
    raise LookupError("in the middle of it")


def _lose_the_store() -> bool:
    raise StoreUnavailableError("in the middle of it")


def _cancel() -> bool:
    task = asyncio.current_task()
    assert task is not None
    return not task.cancel()


@pytest.mark.parametrize(
    ("break_off", "ending"),
    [
        (_surprise, pytest.raises(LookupError)),
        (_lose_the_store, nullcontext()),
        (_cancel, pytest.raises(asyncio.CancelledError)),
    ],
    ids=["a-surprise", "store-away", "cancelled"],
)
def test_a_refresher_that_broke_off_gives_back_its_place(
    in_an_epoch: Process,
    valkey_socket: Path,
    prefix: str,
    break_off: Callable[[], bool],
    ending: AbstractContextManager[Any],
) -> None:
    async def work(runtime: Runtime) -> None:
        with ending:
            await asyncio.create_task(runtime.sweeping.run_refresher("this-task", break_off))

    with blocking.Redis(unix_socket_path=str(valkey_socket)) as connection:
        place = f"{prefix}runners"
        connection.zadd(place, {"this-task": 8e15, "another": 8e15})

        in_an_epoch.run(work)

        assert connection.zrange(place, 0, -1) == [b"another"]


def test_a_store_that_does_not_answer_holds_up_no_refresher_that_is_done(
    ours: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_nothing(*_: object) -> None:
        await asyncio.Event().wait()

    async def work(runtime: Runtime) -> None:
        monkeypatch.setattr(runtime.store, "release_runner", say_nothing)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await runtime.sweeping.run_refresher("this-task", should_stop)

    monkeypatch.setattr(sweeping, "GIVE_BACK_SECONDS", 0.01)
    ours.run(work)


def test_a_place_that_the_store_could_not_take_back_is_free_once_it_can(
    ours: Process, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(runtime: Runtime) -> None:
        await runtime.sweeping.run_refresher("this-task", should_stop)

    monkeypatch.setattr(sweeping, "GIVE_BACK_PAUSE_SECONDS", 0.05)
    with running_server("valkey") as server:
        monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{server.socket}")
        ours.start()
        eventually(lambda: server.operator.exists(f"{prefix}processes"))
        server.operator.zadd(f"{prefix}runners", {"this-task": 8e15})
        with trouble("NOREPLICAS Not enough good replicas", server):
            ours.run(work)
            assert server.operator.exists(f"{prefix}runners")

        eventually(lambda: not server.operator.exists(f"{prefix}runners"))
        ours.close()


# A kill


async def test_the_answer_of_a_process_killed_between_the_disk_and_the_store_is_stored_after_a_takeover(
    configured: Any,
    spawn: Spawn,
    sandbox: Sandbox,
    gate: Gate,
    enroll: Enroll,
    open_member: OpenMember,
    monkeypatch: pytest.MonkeyPatch,
    journals: Path,
    redis: Redis,
    prefix: str,
    registry: RedisRegistry,
    keys: KeyRing,
) -> None:
    (grant,) = await enroll(sandbox, configured)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", f"unix://{gate.socket}")
    dead = asyncio.Event()
    children: list[subprocess.Popen[str]] = []

    async def kill_it(_: bytes) -> None:
        """At its first request since its answer is on the disk; nobody hears of that one."""
        if _on_disk(journals):
            for child in children:
                child.kill()
                child.wait()
            dead.set()
            await asyncio.Event().wait()

    gate.watch = kill_it
    children.append(spawn("refresh_what_is_due"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await dead.wait()
    one = await open_member(configured)
    await one.membership.beat()
    stored = await registry.find(grant.id)
    assert stored is not None
    assert stored.grant.version == 0

    await one.membership.recover()

    stored = await registry.find(grant.id)
    assert stored is not None
    (live,) = (pair for pair in sandbox.pairs() if pair["id"] == grant.id)
    pair = keys.open(stored.grant)
    assert (pair.access_token, pair.refresh_token) == (live["access_token"], live["refresh_token"])
    assert await redis.zrange(f"{prefix}processes", 0, -1) == [one.owner.encode()]
    assert len(list(sandbox.log(grant.id))) == 1


def _on_disk(journals: Path) -> list[Commit]:
    return [commit for file in journals.glob("*/*.segment") for commit in read_file(file).commits]


# The parts that other processes play


def drain_with_a_child() -> None:
    """A worker's main process and one of its children, which says what it sees."""
    said, told = os.pipe()
    heard, tell = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, f"{should_stop()}\n".encode())
        os.read(heard, 1)
        os.write(told, f"{should_stop()}\n".encode())
        ours = Process(deploy)
        ours.run(_runtime)
        os.write(told, f"{should_stop()}\n".encode())
        ours.close()
        os._exit(0)
    os.close(told)
    lines = os.fdopen(said)
    sys.stdout.write(lines.readline())
    process.start_draining()
    os.write(tell, b".")
    sys.stdout.write(lines.read())
    os.waitpid(child, 0)


def refresh_as_a_task(task_id: str) -> None:
    """What a worker's child does with a message."""
    from tasks.refresh import refresh  # noqa: PLC0415 it reads the settings
    from worker.runtime.celery_worker import this_process  # noqa: PLC0415 the same

    refresh.apply(task_id=task_id, throw=True)
    this_process.close()
    sys.stdout.write("done\n")


def refresh_what_is_due() -> None:
    async def drain(runtime: Runtime) -> int:
        attempted = 0
        while not attempted:  # it may not claim before it agrees with the store
            attempted = await runtime.refresher.drain("", should_stop)
            await asyncio.sleep(0.02)
        return attempted

    Process(deploy).run(drain)


if __name__ == "__main__":
    configure_logging("error", "console")
    globals()[sys.argv[1]](*sys.argv[2:])
