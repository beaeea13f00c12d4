"""`python -m worker.sandbox`: one authorization server as a process of its own.

Prints exactly one line on standard output, once connections are accepted:
{"url": "http://127.0.0.1:PORT", "token_url": "http://127.0.0.1:PORT/oauth2/token",
"revoke_url": ..., "authorize_url": ..., "api_url": ...}
Ends with 0 on SIGTERM and SIGINT. Logs nothing: /control reports what happened.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import ssl
import sys
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlsplit

import uvicorn

from worker.sandbox.issuer import IssuerRules, Reuse
from worker.sandbox.profiles import PROFILES, ErrorStyle
from worker.sandbox.proofs import METHODS
from worker.sandbox.server import API_PATH, TransportProtocol, build_app

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from worker.sandbox.profiles import Profile

_HOST = "127.0.0.1"
_REDIRECT = "where sign-ins may end; repeat it for several"


class _Server(uvicorn.Server):
    """Uvicorn that prints where it listens, and ends when its parent process has ended."""

    def __init__(self, config: uvicorn.Config, profile: Profile, parent: int | None) -> None:
        super().__init__(config)
        self._profile = profile
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"{'https' if self.config.is_ssl else 'http'}://{_HOST}:{port}"
        paths = {
            "token_url": self._profile.token_path,
            "revoke_url": self._profile.revoke_path,
            "authorize_url": self._profile.authorize_path,
            "api_url": API_PATH,
        }
        addresses = {"url": url, **{name: url + path for name, path in paths.items()}}
        print(json.dumps(addresses), flush=True)  # noqa: T201

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
    add("--authentication", choices=METHODS, help="the one way in which the client must prove itself")
    add("--client-key", metavar="FILE", help="the client's public key, PEM, for private_key_jwt")
    add("--audience", action="append", default=[], help="what assertions may be for, beside the token URL")
    add("--redirect-uri", type=_redirect_uri, action="append", default=[], metavar="URL", help=_REDIRECT)
    add("--require-pkce", action="store_true", help="refuse sign-ins without an S256 challenge")
    add("--scope", action="append", default=[], metavar="NAME", help="a scope that exists; none given: any")
    add("--require", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="in token requests")
    add("--tls-certificate", metavar="FILE", help="serve https with this certificate")
    add("--tls-key", metavar="FILE")
    add("--client-ca", metavar="FILE", help="the authority of clients' certificates")
    add("--parent", type=_whole, metavar="PID", help="end when this process, our parent, has ended")
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal():
        message = f"{text!r} is not a whole number"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        message = f"{text!r} is not NAME=VALUE"
        raise argparse.ArgumentTypeError(message)
    return name, value


def _redirect_uri(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc or "#" in text:
        message = f"{text!r} is not an http or https URL without a fragment"
        raise argparse.ArgumentTypeError(message)
    return text


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
        authentication=options.authentication,
        client_key=options.client_key,
        audiences=tuple(options.audience),
        required=tuple(options.require),
        redirect_uris=tuple(options.redirect_uri),
        require_pkce=options.require_pkce or profile.requires_pkce,
        scopes=tuple(options.scope),
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
    _Server(_uvicorn_config(app, options), rules.profile, options.parent).run([listener])


def _listener(port: int) -> socket.socket:
    # asyncio switches Nagle's delay off only for sockets that name TCP as their protocol.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((_HOST, port))
    return listener


def _uvicorn_config(app: Starlette, options: argparse.Namespace) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
        ssl_ca_certs=options.client_ca,
        # The control routes are for tests, which have no certificate; the issuer judges those of clients.
        ssl_cert_reqs=ssl.CERT_OPTIONAL if options.client_ca else ssl.CERT_NONE,
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
