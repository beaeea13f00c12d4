"""`Sandbox`: a server process and its control routes, for tests and the demo.

Synchronous and thread-safe. `Sandbox.start` starts a server and ends it; `Sandbox(url, token_url)`
talks to one that runs already.
"""

from __future__ import annotations

import json
import os
import select
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

Value = str | float | bool | tuple[str, ...]

_STOP_SECONDS = 5.0


class SandboxError(RuntimeError):
    """The server did not start, or refused a control request; the message says why."""


class Sandbox:
    """Calls the control routes of one running server."""

    def __init__(
        self,
        url: str,
        token_url: str,
        revoke_url: str = "",
        authorize_url: str = "",
        api_url: str = "",
        *,
        pid: int | None = None,
        ca_file: str | None = None,
    ) -> None:
        self.url = url
        self.api_url = api_url
        self.token_url = token_url
        self.revoke_url = revoke_url
        self.authorize_url = authorize_url
        self.pid = pid
        """The server's process id, where it is known."""
        # A proxy that the environment names must not come between a test and its judge.
        verify = True if ca_file is None else ssl.create_default_context(cafile=ca_file)
        self._http = httpx.Client(base_url=f"{url}/control", trust_env=False, timeout=60, verify=verify)

    @classmethod
    @contextmanager
    def start(
        cls,
        profile: str = "buddy",
        *,
        deadline_seconds: float = 20.0,
        ca_file: str | None = None,
        **options: Value,
    ) -> Iterator[Self]:
        """Run a server for as long as the block lasts.

        Args:
            profile: buddy, pagerduty or oauth2.
            deadline_seconds: How long the server may take to start.
            ca_file: The authority of the certificate in `tls_certificate`.
            options: The command line's options: `access_seconds=5` is `--access-seconds 5`,
                `no_rotation=True` is `--no-rotation`, and a tuple is an option that repeats.

        Raises:
            SandboxError: The server was not ready before it ended or the deadline passed. Its
                own message is on standard error.
        """
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "worker.sandbox", *_arguments(profile, options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Ctrl-C in a terminal must not end the server: a summary may still be read from it.
            start_new_session=True,
        )
        try:
            addresses = _wait_for_line(process, deadline_seconds)
            with cls(**addresses, pid=process.pid, ca_file=ca_file) as sandbox:
                yield sandbox
        finally:
            _stop(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the server runs on."""
        self._http.close()

    def issue(self, count: int, **order: Value) -> list[dict[str, Any]]:
        """Mint grants and return them as import lines.

        Args:
            count: How many.
            order: prefix, client, access_seconds, refresh_seconds, stated_refresh_seconds,
                spread_seconds, authorized_seconds_ago, states (a name of statements.py).
        """
        return [json.loads(line) for line in self.issue_lines(count, **order)]

    def issue_lines(self, count: int, **order: Value) -> Iterator[str]:
        """Mint grants and yield their import lines as text, as `evergrant grants import` reads.

        The server mints while the lines are read: none before the first line is taken.
        """
        return self._lines("POST", "/issue", json={"count": count, **order})

    def revoke(self, grant_id: str) -> dict[str, Any]:
        """Revoke a grant and return what is known of it."""
        return self._object("POST", "/revoke", json={"id": grant_id})

    def set_secret(self, secret: str) -> None:
        """Replace the client's secret; the old one stops working at once."""
        self._object("POST", "/secret", json={"secret": secret})

    def consent(self, **order: Value) -> None:
        """Choose how people consent from now on; without an order as at the start.

        Args:
            order: person, scope (what the person allows at most), decision (`ask` shows the page;
                `allow` and `deny` answer without one).
        """
        self._object("POST", "/consent", json=order)

    def add_fault(self, kind: str, **options: Value) -> None:
        """Switch a fault on.

        Every kind takes times, grant, grant_type, probability and seed beside its own options.
        `grant_type="authorization_code"` addresses code exchanges, which belong to no grant yet.
        """
        self._object("POST", "/faults", json={"kind": kind, **options})

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._object("DELETE", "/faults")

    @contextmanager
    def fault(self, kind: str, **options: Value) -> Iterator[None]:
        """Switch a fault on for a block. At the end of the block all faults are switched off."""
        self.add_fault(kind, **options)
        try:
            yield
        finally:
            self.clear_faults()

    def report(self) -> dict[str, Any]:
        """Return the judge's totals with the server's rules and faults."""
        return self._object("GET", "/report")

    def totals(self) -> dict[str, int]:
        """Return the judge's totals alone."""
        totals: dict[str, int] = self.report()["totals"]
        return totals

    def pairs(self) -> Iterator[dict[str, Any]]:
        """Yield every grant's live pair."""
        return map(json.loads, self._lines("GET", "/pairs"))

    def log(self, grant_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield what reached the token endpoint, oldest first."""
        params = {} if grant_id is None else {"grant": grant_id}
        return map(json.loads, self._lines("GET", "/log", params=params))

    def grant(self, grant_id: str) -> dict[str, Any]:
        """Return what is known of one grant, with the judge's counts of it."""
        return self._object("GET", f"/grants/{grant_id}")

    def health(self) -> dict[str, Any]:
        """Return the server's profile, if it answers."""
        return self._object("GET", "/health")

    def _object(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._http.request(method, path, **request)
        _refuse_errors(response)
        answer: dict[str, Any] = response.json()
        return answer

    def _lines(self, method: str, path: str, **request: Any) -> Iterator[str]:
        with self._http.stream(method, path, **request) as response:
            if response.is_error:
                response.read()
            _refuse_errors(response)
            yield from response.iter_lines()


def _refuse_errors(response: httpx.Response) -> None:
    if response.is_error:
        message = f"{response.status_code} from {response.url.path}: {response.text}"
        raise SandboxError(message)


def _arguments(profile: str, options: dict[str, Value]) -> Iterator[str]:
    yield from ("--profile", profile, "--parent", str(os.getpid()))
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            yield flag
        elif isinstance(value, tuple):
            yield from (word for each in value for word in (flag, each))
        elif value is not False:
            yield from (flag, str(value))


def _wait_for_line(process: subprocess.Popen[bytes], seconds: float) -> dict[str, str]:
    """Return the addresses that the server prints when it is ready."""
    if process.stdout is None:
        message = "the server was started without a pipe"
        raise SandboxError(message)
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            message = f"the sandbox was not ready after {seconds:g} seconds"
            raise SandboxError(message)
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            message = f"the sandbox ended with {process.wait()} before it was ready"
            raise SandboxError(message)
        line += piece
    addresses: dict[str, str] = json.loads(line)
    return addresses


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
