"""The embedded server: real servers, real user processes, real kills.

A user process is this file run as a script. It obeys one word a line and answers with one line.
"""

import contextlib
import fcntl
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import kombu
import pytest
import redis

from tests.support.waiting import PATIENCE_SECONDS, eventually
from worker.adapters import embedded
from worker.adapters.embedded import EmbeddedServer, EmbeddedServerError

NOBODY = 65534


class User:
    """A process of its own that uses the server of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - this very file
            [sys.executable, __file__, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def say(self, order: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{order}\n")

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, order: str) -> str:
        self.say(order)
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Obedience:
    """What a user process can be told to do; the answer is what each returns."""

    def __init__(self, data_dir: Path) -> None:
        self.server = EmbeddedServer(data_dir)
        self.child = self.keep_alive = 0

    def ready(self) -> str:
        return "ready"

    def open(self) -> str:
        try:
            self.server.open()
        except EmbeddedServerError as error:
            return f"error {error}"
        return str(self.server.server_pid)

    def close(self) -> str:
        self.server.close()
        return "closed"

    def become_nobody(self) -> str:
        os.seteuid(NOBODY)
        return "nobody"

    def fork_a_child_that_closes_and_exits(self) -> str:
        if not (child := os.fork()):
            self.server.close()
            sys.exit()
        return str(os.waitpid(child, 0)[1])

    def fork_a_child_that_stays_then_closes(self) -> str:
        until_closed, self.keep_alive = os.pipe()
        self.child = os.fork()
        if not self.child:
            os.close(self.keep_alive)
            os.read(until_closed, 1)
            self.server.close()
            os._exit(0)
        return "forked"

    def let_the_child_go(self) -> str:
        os.close(self.keep_alive)
        return str(os.waitpid(self.child, 0)[1])


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory not yet made, short enough for a socket; what still runs there at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="embedded-") as root:
        Path(root).chmod(0o755)
        path = Path(root) / "data"
        yield path
        with contextlib.suppress(EmbeddedServerError):
            os.kill(EmbeddedServer(path).server_pid, signal.SIGKILL)


@pytest.fixture
def user(data_dir: Path) -> Iterator[Callable[[], User]]:
    users: list[User] = []

    def new() -> User:
        users.append(User(data_dir))
        return users[-1]

    yield new
    for each in users:
        each.end()


def server_lives(data_dir: Path) -> bool:
    with (data_dir / "server.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def servers_started(data_dir: Path) -> int:
    return (data_dir / "valkey.log").read_text().count("Valkey is starting")


def await_end_of_server(data_dir: Path) -> None:
    eventually(lambda: not server_lives(data_dir))


def client(server: EmbeddedServer) -> contextlib.closing[redis.Redis]:
    return contextlib.closing(redis.Redis.from_url(server.url))


def failure_to_open(data_dir: Path) -> str:
    server = EmbeddedServer(data_dir)
    with pytest.raises(EmbeddedServerError) as caught:
        server.open()
    message = str(caught.value)
    assert "\n" not in message
    assert str(server.socket_path.parent / "valkey.log") in message
    return message


def test_it_keeps_every_write_on_disk_and_evicts_nothing(data_dir: Path) -> None:
    with EmbeddedServer(data_dir) as server, client(server) as store:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "save": "",
        }
        assert store.config_get(*wanted) == wanted


def test_directory_socket_and_files_are_private(data_dir: Path) -> None:
    with EmbeddedServer(data_dir) as server:
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
        for path in data_dir.rglob("*"):
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_data_survives_close_and_open(data_dir: Path) -> None:
    with EmbeddedServer(data_dir) as server, client(server) as store:
        store.set("grant", "alive")
    assert not server_lives(data_dir)
    with EmbeddedServer(data_dir) as server, client(server) as store:
        assert store.get("grant") == b"alive"


def test_data_survives_a_killed_server_and_open_brings_it_back(data_dir: Path) -> None:
    with EmbeddedServer(data_dir) as server:
        first = server.server_pid
        with client(server) as store:
            store.set("grant", "alive")
        os.kill(first, signal.SIGKILL)
        await_end_of_server(data_dir)
        assert not server.is_running()
        server.open()
        assert server.server_pid != first
        with client(server) as store:
            assert store.get("grant") == b"alive"
    assert not server_lives(data_dir)


def test_a_server_that_is_kept_running_is_back_after_a_kill_and_that_is_said_once(data_dir: Path) -> None:
    said: list[str] = []
    with EmbeddedServer(data_dir) as server:
        first = server.server_pid
        server.keep_running(said.append)
        assert said == []
        os.kill(first, signal.SIGKILL)
        await_end_of_server(data_dir)

        for _ in range(2):
            server.keep_running(said.append)

        assert server.server_pid != first
    assert said == [f"embedded server: was gone and has been started again; log: {data_dir / 'valkey.log'}"]


def test_a_server_that_only_stood_still_is_waited_for_and_nothing_is_said(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with EmbeddedServer(data_dir) as server, monkeypatch.context() as patch:
        pid = server.server_pid

        def let_it_go_on(_: float) -> None:
            patch.undo()
            os.kill(pid, signal.SIGCONT)

        patch.setattr(embedded, "ANSWER_SECONDS", 0.1)
        patch.setattr(time, "sleep", let_it_go_on)
        os.kill(pid, signal.SIGSTOP)
        server.keep_running(said.append)

        assert server.server_pid == pid
    assert said == []


def test_what_keeps_it_from_running_is_said_once_until_it_runs_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with EmbeddedServer(data_dir) as server:
        for _ in range(2):
            os.kill(server.server_pid, signal.SIGKILL)
            await_end_of_server(data_dir)
            with (data_dir / "server.lock").open("w") as lock, monkeypatch.context() as impatient:
                fcntl.flock(lock, fcntl.LOCK_EX)
                impatient.setattr(embedded, "START_SECONDS", 0.1)
                for _ in range(3):
                    server.keep_running(said.append)
            server.keep_running(said.append)
            assert server.is_running()

    in_the_way, back = "gave no answer on ", "started again"
    heads = [next(word for word in (in_the_way, back) if word in line) for line in said]
    assert heads == [in_the_way, back, in_the_way, back]


def test_open_and_close_may_be_repeated(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    server.close()
    server.open()
    pid = server.server_pid
    server.open()
    assert server.server_pid == pid
    assert server.is_running()
    server.close()
    server.close()
    assert not server.is_running()
    assert not server_lives(data_dir)


def test_its_starter_leaves_no_zombie(data_dir: Path) -> None:
    with EmbeddedServer(data_dir) as server:
        pid = server.server_pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_celery_and_redis_urls_survive_odd_characters(data_dir: Path) -> None:
    with EmbeddedServer(data_dir / "it's 100% odd? #1 é") as server:
        with client(server) as store:
            assert store.ping()
        with kombu.Connection(server.broker_url) as connection:
            queue = connection.SimpleQueue("round-trip")
            queue.put({"grant": 1})
            message = queue.get(timeout=PATIENCE_SECONDS)
            assert message.payload == {"grant": 1}
            message.ack()
            queue.close()


def test_processes_that_start_at_once_share_one_server(data_dir: Path, user: Callable[[], User]) -> None:
    users = [user() for _ in range(4)]
    assert [each.ask("ready") for each in users] == ["ready"] * 4
    for each in users:
        each.say("open")
    pids = {each.answer() for each in users}
    assert len(pids) == 1
    assert pids.pop().isdigit()
    assert servers_started(data_dir) == 1


def test_processes_that_leave_at_once_leave_no_server(data_dir: Path, user: Callable[[], User]) -> None:
    users = [user() for _ in range(4)]
    assert len({each.ask("open") for each in users}) == 1
    for each in users:
        each.say("close")
    assert [each.answer() for each in users] == ["closed"] * 4
    assert not server_lives(data_dir)


def test_the_last_user_stops_it_and_not_an_earlier_one(data_dir: Path, user: Callable[[], User]) -> None:
    starter, other = user(), user()
    pid = starter.ask("open")
    assert other.ask("open") == pid
    starter.ask("close")
    assert EmbeddedServer(data_dir).server_pid == int(pid)
    other.ask("close")
    assert not server_lives(data_dir)


def test_it_outlives_a_killed_starter_and_the_next_user_stops_it(
    data_dir: Path, user: Callable[[], User]
) -> None:
    starter, following = user(), user()
    pid = starter.ask("open")
    starter.end()
    assert server_lives(data_dir)
    assert following.ask("open") == pid
    following.ask("close")
    assert not server_lives(data_dir)


def test_a_killed_user_does_not_keep_it_running(data_dir: Path, user: Callable[[], User]) -> None:
    starter, other = user(), user()
    assert starter.ask("open") == other.ask("open")
    other.end()
    starter.ask("close")
    assert not server_lives(data_dir)


def test_ctrl_c_in_the_terminal_of_its_starter_does_not_reach_it(
    data_dir: Path, user: Callable[[], User]
) -> None:
    starter = user()
    pid = int(starter.ask("open"))
    assert os.getsid(pid) == pid
    os.killpg(starter.process.pid, signal.SIGINT)
    starter.process.wait(PATIENCE_SECONDS)
    assert EmbeddedServer(data_dir).server_pid == pid


def test_a_forked_child_that_closes_and_exits_does_not_stop_it(
    data_dir: Path, user: Callable[[], User]
) -> None:
    parent, other = user(), user()
    pid = parent.ask("open")
    assert parent.ask("fork_a_child_that_closes_and_exits") == "0"
    assert EmbeddedServer(data_dir).server_pid == int(pid)
    # The parent is still a user in the eyes of others.
    assert other.ask("open") == pid
    other.ask("close")
    assert EmbeddedServer(data_dir).server_pid == int(pid)
    parent.ask("close")
    assert not server_lives(data_dir)


def test_it_runs_while_a_forked_child_lives_though_the_parent_closed(
    data_dir: Path, user: Callable[[], User]
) -> None:
    parent, other = user(), user()
    pid = parent.ask("open")
    parent.ask("fork_a_child_that_stays_then_closes")
    parent.ask("close")
    assert EmbeddedServer(data_dir).server_pid == int(pid)
    assert parent.ask("let_the_child_go") == "0"
    assert other.ask("open") == pid
    other.ask("close")
    assert not server_lives(data_dir)


def test_no_second_server_starts_where_one_lives_unreachable(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, user: Callable[[], User]
) -> None:
    starter = user()
    pid = int(starter.ask("open"))
    starter.end()
    EmbeddedServer(data_dir).socket_path.unlink()
    monkeypatch.setattr(embedded, "START_SECONDS", 0.2)
    try:
        assert "gave no answer" in failure_to_open(data_dir)
        assert servers_started(data_dir) == 1
    finally:
        os.kill(pid, signal.SIGKILL)
    await_end_of_server(data_dir)


def test_opening_waits_for_a_leaver_to_finish_stopping_it(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EmbeddedServer(data_dir)
    first.open()
    old = first.server_pid
    first._forget_membership()  # noqa: SLF001 - the test itself plays the leaver, step by step
    leaver = (data_dir / "users.lock").open("w")
    fcntl.flock(leaver, fcntl.LOCK_EX)

    with monkeypatch.context() as patch:

        def finish_leaving(_: float) -> None:
            patch.undo()
            with client(first) as store:
                store.shutdown(nosave=True)
            await_end_of_server(data_dir)
            leaver.close()

        patch.setattr(time, "sleep", finish_leaving)
        with EmbeddedServer(data_dir) as server:
            assert leaver.closed
            assert server.server_pid != old


def test_a_leaver_that_never_finishes_is_not_waited_for_for_ever(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir.mkdir()
    monkeypatch.setattr(embedded, "JOIN_SECONDS", 0.1)
    with (data_dir / "users.lock").open("w") as leaver:
        fcntl.flock(leaver, fcntl.LOCK_EX)
        assert "still being stopped" in failure_to_open(data_dir)


def test_a_server_that_does_not_stop_is_reported(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedServer(data_dir)
    server.open()
    pid = server.server_pid
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedServerError, match=r"did not stop in 0\.2 s; log: "):
            server.close()
    finally:
        os.kill(pid, signal.SIGKILL)
    await_end_of_server(data_dir)


def test_a_server_that_loads_its_data_is_waited_for_longer(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(data_dir) as server, client(server) as store, store.pipeline() as pipeline:
        for n in range(16_000):
            pipeline.set("grant", n)
        pipeline.execute()
    # Valkey's own brake for tests: 200 microseconds for each command it loads, so 3.2 s in all. It looks up
    # to answer every 1024 commands.
    braked = {**embedded.SERVER_OPTIONS, "key-load-delay": "200"}
    monkeypatch.setattr(embedded, "SERVER_OPTIONS", braked)
    monkeypatch.setattr(embedded, "ANSWER_SECONDS", PATIENCE_SECONDS)
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(passed), sleep=time.sleep)
    monkeypatch.setattr(embedded, "time", clock)
    ping = EmbeddedServer._ping  # noqa: SLF001 - the moment at which it is known to be loading

    def ping_and_let_pass(server: EmbeddedServer) -> redis.RedisError | None:
        silence = ping(server)
        if isinstance(silence, redis.exceptions.BusyLoadingError):
            with client(server) as store:
                store.config_set("key-load-delay", "0")
            passed.append(seconds)
        return silence

    monkeypatch.setattr(EmbeddedServer, "_ping", ping_and_let_pass)
    seconds = embedded.START_SECONDS
    with EmbeddedServer(data_dir) as server, client(server) as store:
        assert store.get("grant") == b"15999"
    assert sum(passed) >= seconds
    seconds = embedded.LOADING_SECONDS
    assert "in 60 s: Valkey is loading the dataset in memory" in failure_to_open(data_dir)


def test_a_long_data_directory_gets_a_short_private_socket(data_dir: Path) -> None:
    long = data_dir / ("d" * 120)
    with EmbeddedServer(long) as server, client(server) as store:
        home = server.socket_path.parent
        assert len(os.fsencode(server.socket_path)) <= 103
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        store.set("grant", "alive")
        assert (long / "appendonlydir").is_dir()
        assert (long / "valkey.log").is_file()
        assert EmbeddedServer(long).server_pid == server.server_pid
        assert EmbeddedServer(data_dir / ("e" * 120)).socket_path != server.socket_path
    assert not home.exists()


@pytest.mark.parametrize("trap", ["open to others", "a symbolic link"])
def test_a_short_directory_laid_out_by_someone_else_is_refused(data_dir: Path, trap: str) -> None:
    long = data_dir / ("d" * 120)
    home = EmbeddedServer(long).socket_path.parent
    if trap == "a symbolic link":
        private = data_dir.parent / "private"
        private.mkdir(mode=0o700)
        home.symlink_to(private)
    else:
        home.mkdir()
        home.chmod(0o755)
    try:
        with pytest.raises(EmbeddedServerError, match="is not a private directory of this user"):
            EmbeddedServer(long).open()
    finally:
        home.unlink() if home.is_symlink() else home.rmdir()


def test_a_file_in_place_of_the_directory_gives_one_clear_line(data_dir: Path) -> None:
    data_dir.touch()
    assert f"cannot use {data_dir}: [Errno 17] File exists" in failure_to_open(data_dir)


def test_an_unwritable_directory_gives_one_clear_line(data_dir: Path, user: Callable[[], User]) -> None:
    data_dir.mkdir(mode=0o500)
    other = user()
    if os.geteuid() == 0:
        # Root may write anywhere, so the user process gives its rights up.
        data_dir.chmod(0o555)
        other.ask("become_nobody")
    answer = other.ask("open")
    assert answer.startswith(f"error embedded server: cannot use {data_dir}: [Errno 13] Permission denied")
    assert answer.endswith(f"log: {data_dir / 'valkey.log'}")


def test_a_corrupt_append_only_file_gives_one_clear_line(data_dir: Path) -> None:
    with EmbeddedServer(data_dir) as server, client(server) as store:
        store.set("grant", "alive")
    (written,) = data_dir.glob("appendonlydir/*.incr.aof")
    written.write_bytes(b"!!" + written.read_bytes()[2:])
    message = failure_to_open(data_dir)
    assert "exited with status 1 at start: Bad file format reading the append only file" in message
    assert not server_lives(data_dir)


def run(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603 - literals


def test_a_full_disk_gives_one_clear_line(data_dir: Path) -> None:
    data_dir.mkdir()
    if not shutil.which("mount") or not run(
        "mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(data_dir)
    ):
        pytest.skip("only who may mount a small disk can fill one")
    try:
        assert f"the disk of {data_dir} is full" in failure_to_open(data_dir)
        assert not server_lives(data_dir)
    finally:
        assert run("umount", str(data_dir))


def test_a_platform_without_a_binary_gives_one_clear_line(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "has no binary for this platform: Unsupported architecture: riscv64" in failure_to_open(data_dir)
    assert not server_lives(data_dir)


def test_the_pid_of_a_server_that_does_not_run_is_an_error(data_dir: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="does not answer"):
        _ = EmbeddedServer(data_dir).server_pid


if __name__ == "__main__":
    obedience = Obedience(Path(sys.argv[1]))
    for order in sys.stdin:
        print(getattr(obedience, order.strip())(), flush=True)  # noqa: T201 - its line of answer
