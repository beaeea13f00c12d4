"""A token endpoint that costs almost nothing, so that the contenders are measured and not the endpoint.

    python -m bench.endpoint [LATENCY_MS [EXPIRES_IN]]

Prints its URL. Every POST gets a new pair in Buddy's form, `LATENCY_MS` after its body was read; no token is
checked. A GET returns how many were answered, and when the first request came and the last answer left, in
Unix seconds.
"""

import asyncio
import json
import re
import sys
import time
from itertools import count
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_TOKENS: Final = (
    '{"access_token":"%036x","token_type":"Bearer","expires_in":%d,"refresh_token":"%080x",'
    '"refresh_token_expires_in":15811200,"scope":"WORKSPACE EXECUTION_RUN"}'
)


class Tally:
    """What has been answered."""

    def __init__(self) -> None:
        self.numbers = count(1)
        self.answered = 0
        self.first_at = 0.0
        self.last_at = 0.0

    def as_json(self) -> bytes:
        """As a GET is answered."""
        return json.dumps({"answered": self.answered, "first": self.first_at, "last": self.last_at}).encode()


class Connection(asyncio.Protocol):
    """One client's connection; requests on it come one after another."""

    def __init__(self, tally: Tally, latency_seconds: float, expires_in: int) -> None:
        self._tally = tally
        self._latency_seconds = latency_seconds
        self._expires_in = expires_in
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 it is what a TCP server passes
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request once all of it is here."""
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._received, 0, head_end)
        if len(self._received) - head_end - 4 < (int(length[1]) if length else 0):
            return
        is_refresh = self._received.startswith(b"POST")
        self._received = b""
        if not is_refresh:
            self._write(self._tally.as_json())
            return
        if not self._tally.first_at:
            self._tally.first_at = time.time()
        if self._latency_seconds:
            asyncio.get_running_loop().call_later(self._latency_seconds, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        number = next(self._tally.numbers)
        self._tally.answered += 1
        self._tally.last_at = time.time()
        self._write((_TOKENS % (number, self._expires_in, number)).encode())

    def _write(self, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_HEAD % len(body) + body)


async def _serve(latency_ms: float, expires_in: int) -> None:
    tally = Tally()

    def connection() -> Connection:
        return Connection(tally, latency_ms / 1000, expires_in)

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"http://127.0.0.1:{port}/token\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    options = sys.argv[1:]
    asyncio.run(
        _serve(float(options[0]) if options else 0.0, int(options[1]) if len(options) > 1 else 28_800)
    )
