"""The bytes of a reply, kept until it is read: aiohttp gives none where a reply is broken.

aiohttp closes a connection at the first byte that is no HTTP, and with a body that ends too soon it gives an
exception. The tokens may stand in what came, or come a moment later. So each connection keeps what it
receives for one request, up to a cap, and after a fault it goes on receiving until the reply is complete, the
server closes, or the deadline ends the request.
"""

from contextvars import ContextVar
from typing import Any, Final

from aiohttp.client_proto import ResponseHandler

from worker.adapters.broken_http import BrokenReply, read_broken

MAX_CHECKS: Final = 100  # whether a broken reply is complete; after that it ends with its connection


class Received:
    """What came for one request.

    Args:
        most: bytes are kept.
    """

    __slots__ = ("_checks", "_kept", "_left", "fault", "is_closed", "is_over")

    def __init__(self, most: int) -> None:
        self.fault: Exception | None = None  # the parser's
        self.is_closed = False
        self.is_over = False  # the reply was read; a later request of the task is another's
        self._kept: list[bytes] = []
        self._left = most
        self._checks = 0

    def add(self, data: bytes) -> None:
        """Keep what came, up to the cap."""
        if self._left > 0:
            self._kept.append(data[: self._left])
            self._left -= len(data)

    def read(self) -> BrokenReply | None:
        """What came, without trust in its framing; `None` where nothing did."""
        raw = b"".join(self._kept)
        return read_broken(raw, is_closed=self.is_closed) if raw.strip() else None

    def is_complete(self) -> bool:
        """Whether a broken reply says that it is complete, or is as long as may be."""
        self._checks += 1
        if self._left <= 0:
            return True
        reply = self.read() if self._checks <= MAX_CHECKS else None
        return reply is not None and reply.is_whole

    def forget(self) -> None:
        """Keep nothing more: the reply was read, and the connection lives on."""
        self._kept.clear()
        self._left = 0
        self.is_over = True


RECEIVED: Final[ContextVar[Received]] = ContextVar("RECEIVED")
"""Of the request that the present task sends."""


class KeepingProtocol(ResponseHandler):
    """A connection that keeps what it receives for each request in the `RECEIVED` of its task."""

    def set_response_params(self, **params: Any) -> None:
        """Called for each request, before it is sent."""
        super().set_response_params(**params)
        received = RECEIVED.get(None)
        if received is not None and not received.is_over:
            self._parser = _KeepingParser(self._parser, received)  # type: ignore[assignment]


class _KeepingParser:
    """aiohttp's parser, but bytes are kept, and a fault does not end the connection."""

    __slots__ = ("_parser", "_received", "pause_reading")

    def __init__(self, parser: Any, received: Received) -> None:
        self._parser = parser
        self._received = received
        self.pause_reading = parser.pause_reading

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        received = self._received
        received.add(data)
        if received.fault is None:
            try:
                return self._parser.feed_data(data)  # type: ignore[no-any-return]
            except Exception as fault:  # noqa: BLE001 whatever it is, the rest is still to come
                received.fault = fault
        if received.is_complete():
            raise received.fault
        return (), False, b""

    def feed_eof(self) -> Any:
        self._received.is_closed = True
        if self._received.fault is not None:
            raise self._received.fault
        return self._parser.feed_eof()
