"""`python -m worker.sandbox`: one authorization server as a process of its own.

Prints exactly one line on standard output, once connections are accepted:
{"url": "http://127.0.0.1:PORT", "token_url": "http://127.0.0.1:PORT/oauth2/token"}
Ends with 0 on SIGTERM and SIGINT. Logs nothing: /control reports what happened.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, get_args

import uvicorn

from worker.sandbox.issuer import IssuerRules, Reuse
from worker.sandbox.profiles import PROFILES, ErrorStyle
from worker.sandbox.server import TransportProtocol, build_app

if TYPE_CHECKING:
    from starlette.applications import Starlette

_HOST = "127.0.0.1"


class _Server(uvicorn.Server):
    """Uvicorn that prints where it listens, and ends when its parent process has ended."""

    def __init__(self, config: uvicorn.Config, token_path: str, parent: int | None) -> None:
        super().__init__(config)
        self._token_path = token_path
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"http://{_HOST}:{port}"
        print(json.dumps({"url": url, "token_url": url + self._token_path}), flush=True)  # noqa: T201

    async def on_tick(self, counter: int) -> bool:
        orphaned = self._parent is not None and os.getppid() != self._parent
        return await super().on_tick(counter) or orphaned


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker.sandbox",
        description="An authorization server on loopback that rotates strictly and judges clients.",
    )
    add = parser.add_argument
    add("--profile", choices=tuple(PROFILES), default="buddy")
    add("--port", type=_whole, default=0, help="0 takes a free one")
    add("--client-id", default="sandbox-client")
    add("--client-secret", default="sandbox-secret")
    add("--access-seconds", type=_whole, default=60, help="0: never expires, and does not say so")
    add("--refresh-seconds", type=_whole, help="true life of a refresh token")
    add("--stated-refresh-seconds", type=_whole, help="what answers claim of it; 0: nothing")
    add("--absolute-seconds", type=_whole, help="end of a grant from consent; 0: none")
    add("--errors", choices=get_args(ErrorStyle), help="style of error answers")
    add("--reuse", choices=get_args(Reuse), default="strict", help="what a used token causes")
    add("--grace-seconds", type=_decimal, default=30.0, help="for --reuse grace")
    add("--no-rotation", action="store_true", help="a refresh keeps the refresh token (oauth2)")
    add("--latency-ms", type=_decimal, default=0.0, help="how late every answer is")
    add("--parent", type=_whole, metavar="PID", help="end when this process, our parent, has ended")
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal():
        message = f"{text!r} is not a whole number"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _decimal(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        message = f"{text!r} is not a number from 0 up"
        raise argparse.ArgumentTypeError(message)
    return value


def _rules(options: argparse.Namespace) -> IssuerRules:
    """The profile's rules, changed by the options that were given."""
    profile = PROFILES[options.profile]

    def unless_given(given: int | None, default: int | None) -> int | None:
        # On the command line 0 means "none".
        return default if given is None else given or None

    return IssuerRules(
        profile=profile,
        client_id=options.client_id,
        client_secret=options.client_secret,
        access_seconds=options.access_seconds,
        refresh_seconds=options.refresh_seconds or profile.refresh_seconds,
        stated_refresh_seconds=unless_given(options.stated_refresh_seconds, profile.stated_refresh_seconds),
        absolute_seconds=unless_given(options.absolute_seconds, profile.absolute_seconds),
        error_style=options.errors or profile.error_style,
        reuse=options.reuse,
        grace_seconds=options.grace_seconds,
        rotation=not options.no_rotation,
    )


def main() -> None:
    """Serve until told to end."""
    parser = _parser()
    options = parser.parse_args()
    if options.no_rotation and options.profile != "oauth2":
        parser.error("--no-rotation goes with --profile oauth2: the others always rotate")
    for wanted in (signal.SIGTERM, signal.SIGINT):
        # Uvicorn raises the signal again after its shutdown, which has then ended in order.
        signal.signal(wanted, lambda *_: sys.exit(0))
    try:
        listener = _listener(options.port)
    except (OSError, OverflowError) as error:
        parser.error(f"cannot listen on port {options.port}: {error}")
    rules = _rules(options)
    app = build_app(rules, latency_seconds=options.latency_ms / 1000)
    _Server(_uvicorn_config(app), rules.profile.token_path, options.parent).run([listener])


def _listener(port: int) -> socket.socket:
    # asyncio switches Nagle's delay off only for sockets that name TCP as their protocol.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((_HOST, port))
    return listener


def _uvicorn_config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TransportProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        # Longer than any client keeps an idle connection. A close that meets a request on its way
        # is a fault, and faults happen here only on demand.
        timeout_keep_alive=3600,
        # Without this limit a hanging request would keep the process alive.
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
