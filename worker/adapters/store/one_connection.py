"""Scripts over one connection, one after the other: for a command that runs one script and ends.

redis-py and an event loop take longer to load than all that such a command does. This is the part of them
that it needs: one server, reached directly, without TLS.

Rules:
- Whatever goes wrong is a `StoreUnavailableError`, and nothing is tried twice. The caller then opens the
  whole runtime, which loads scripts, follows failovers and says what was wrong.
- All waits together have one deadline.
"""

import socket
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import hiredis

from worker.adapters.store.signatures import Call, name_of, pack
from worker.adapters.store.sources import sha_of
from worker.core.failures import StoreUnavailableError

READ_BYTES: Final = 1 << 16


class OneConnection:
    """Connects when the block begins, and closes when it ends.

    Args:
        address: a host and a port, or the path of a socket.
        login: of the user and the password, those that `AUTH` takes; empty for none.
        database: which one of the server's.
        prefix: what every key begins with.
        seconds: until when all of it must be done.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        login: tuple[str, ...],
        database: int,
        prefix: str,
        seconds: float,
    ) -> None:
        self._address = address
        self._login = login
        self._database = database
        self._prefix = prefix
        self._give_up_at = time.monotonic() + seconds
        self._replies = hiredis.Reader()
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        try:
            self._socket = self._connected()
            if self._login:
                self._ask("AUTH", *self._login)
            if self._database:
                self._ask("SELECT", self._database)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def run(self, call: Call) -> Any:
        """Run one script and return its reply.

        Raises:
            StoreUnavailableError: there is none; the script may have run.
        """
        return self._ask("EVALSHA", sha_of(name_of(call)), 1, self._prefix, pack(call))

    def _connected(self) -> socket.socket:
        try:
            if isinstance(self._address, tuple):
                return socket.create_connection(self._address, self._seconds_left())
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(self._seconds_left())
            connection.connect(self._address)
        except OSError as problem:
            raise StoreUnavailableError(str(problem)) from None
        return connection

    def _ask(self, *words: str | int | bytes) -> Any:
        if self._socket is None:
            raise StoreUnavailableError("there is no connection")
        try:
            self._socket.settimeout(self._seconds_left())
            self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type] # its stub takes one
            while (reply := self._replies.gets()) is False:
                self._socket.settimeout(self._seconds_left())
                self._replies.feed(self._socket.recv(READ_BYTES) or _ended())
        except (OSError, hiredis.HiredisError) as problem:
            raise StoreUnavailableError(type(problem).__name__) from None
        if isinstance(reply, Exception):
            raise StoreUnavailableError(str(reply)) from None
        return reply

    def _seconds_left(self) -> float:
        left = self._give_up_at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()


def _ended() -> bytes:
    raise ConnectionResetError
