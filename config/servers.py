"""The URL of a Redis server, a Sentinel deployment or a cluster, read once and for all.

    redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE][?OPTIONS]      rediss:// with TLS
    unix://[USER:PASSWORD@]/PATH[?OPTIONS]
    sentinel://[USER:PASSWORD@]HOST[:PORT],.../PRIMARY[?OPTIONS]  sentinels:// with TLS
    redis-cluster://[USER:PASSWORD@]HOST[:PORT],...[?OPTIONS]     rediss-cluster:// with TLS

A broker may be RabbitMQ, too: amqp://, amqps:// with TLS, as kombu has them.

User, password, path and option values are percent-encoded. An error says what is wrong in one line. It
repeats no part of the URL that could be a piece of a password: an `@` or `/` in one moves where parts begin.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote


class Kind(StrEnum):
    """How a server is found."""

    SINGLE = "redis"
    UNIX = "unix"
    SENTINEL = "sentinel"
    CLUSTER = "redis-cluster"


SCHEMES: Final[Mapping[str, tuple[Kind, bool]]] = {  # with or without TLS
    "redis": (Kind.SINGLE, False),
    "rediss": (Kind.SINGLE, True),
    "unix": (Kind.UNIX, False),
    "sentinel": (Kind.SENTINEL, False),
    "sentinels": (Kind.SENTINEL, True),
    "redis-cluster": (Kind.CLUSTER, False),
    "rediss-cluster": (Kind.CLUSTER, True),
}
RABBITMQ: Final = ("amqp", "amqps")
PORT: Final = 6379
SENTINEL_PORT: Final = 26379
RABBITMQ_PORT: Final = 5672
FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
OF_TLS: Final = (*FILES, "ssl_cert_reqs", "ssl_check_hostname")
OF_SENTINEL: Final = ("sentinel_username", "sentinel_password")
OPTIONS: Final = ("db", "username", "password", *OF_TLS, *OF_SENTINEL)
TRUTHS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
ENCODE: Final = "percent-encode special characters in user and password"


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server's certificate is verified, and which one is shown to it.

    Attributes:
        ca_file: the authorities that are believed; `None` for the system's.
        certificate_file: ours; `None` for none.
        key_file: the key of ours; `None` if it is in the certificate's file.
        verified: whether the server must prove itself.
        checks_hostname: whether its certificate must be for the host that was connected to.
    """

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    verified: bool = True
    checks_hostname: bool = True


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password; either may be missing."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """What a URL says.

    Attributes:
        addresses: hosts and ports: of the server, of the Sentinels, or of some of the cluster's nodes.
        path: of the Unix socket; empty for others.
        primary: the name under which the Sentinels know it; empty for others.
        tls: `None` for none.
        sentinel_login: for the Sentinels themselves.
    """

    kind: Kind
    addresses: tuple[tuple[str, int], ...] = ()
    path: str = ""
    primary: str = ""
    database: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: Tls | None = None


def is_rabbitmq(text: str) -> bool:
    """Whether a broker's URL is RabbitMQ's."""
    return text.partition("://")[0] in RABBITMQ


def check_broker_url(text: str) -> None:
    """Look at a broker's URL.

    Raises:
        ValueError: it is neither RabbitMQ's nor one that `read_server_url` reads; the message is one line.
    """
    scheme, _, rest = text.partition("://")
    if scheme not in (*SCHEMES, *RABBITMQ):
        raise ValueError(f"takes a URL that begins with {_named(*SCHEMES, *RABBITMQ)}")
    if scheme in SCHEMES:
        read_server_url(text)
        return
    _, _, host = rest.partition("/")[0].rpartition("@")
    _address(host, RABBITMQ_PORT)


def read_server_url(text: str) -> ServerUrl:
    """Read a URL.

    Raises:
        ValueError: it is none of those that the head of this file lists; the message is one line.
    """
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"takes a URL that begins with {_named(*SCHEMES)}")
    kind, has_tls = SCHEMES[scheme]
    if not re.fullmatch(r"[!-~]*", rest) or "#" in rest:
        raise ValueError(f"takes a URL in printable ASCII without #; {ENCODE}")
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    if not re.fullmatch(r"[A-Za-z0-9._~!$&'()*+,;=:%-]*", userinfo):
        raise ValueError(f"takes USER:PASSWORD@ before the host; {ENCODE}")
    options = _options(query, kind, has_tls=has_tls)
    username, _, password = userinfo.partition(":")
    server = ServerUrl(
        kind=kind,
        addresses=_addresses(hosts, SENTINEL_PORT if kind is Kind.SENTINEL else PORT, kind),
        path=unquote(slash + path) if kind is Kind.UNIX else "",
        primary=unquote(path) if kind is Kind.SENTINEL else "",
        database=_database(path if kind in {Kind.SINGLE, Kind.CLUSTER} else "", options.get("db")),
        login=Login(
            unquote(username) or options.get("username"), unquote(password) or options.get("password")
        ),
        sentinel_login=Login(options.get("sentinel_username"), options.get("sentinel_password")),
        tls=_tls(options) if has_tls else None,
    )
    _check(server)
    return server


def _named(*schemes: str) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)


def _check(server: ServerUrl) -> None:
    match server.kind:
        case Kind.UNIX if server.addresses or len(server.path) <= 1:
            raise ValueError("takes the path of a socket: unix:///PATH")
        case Kind.SENTINEL if not re.fullmatch(r"[A-Za-z0-9._-]+", server.primary):
            raise ValueError("takes the name of the primary after the Sentinels: sentinel://HOST:26379/NAME")
        case Kind.CLUSTER if server.database:
            raise ValueError("takes no database number: a cluster has only 0")


def _addresses(hosts: str, default_port: int, kind: Kind) -> tuple[tuple[str, int], ...]:
    if kind is Kind.UNIX and not hosts:
        return ()
    if kind in {Kind.SINGLE, Kind.UNIX} and "," in hosts:
        raise ValueError("takes one host; several are for sentinel:// and redis-cluster://")
    return tuple(_address(each, default_port) for each in hosts.split(","))


def _address(text: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:@]+))(?::([0-9]{1,5}))?", text)
    port = int(match[3] or default_port) if match else 0
    if match is None or not 0 < port < 1 << 16:
        raise ValueError(f"takes HOST or HOST:PORT, an IPv6 address in brackets; {ENCODE}")
    return unquote(match[1] or match[2]), port


def _database(path: str, option: str | None) -> int:
    number = path or (option if option is not None else "0")
    if not re.fullmatch(r"[0-9]{1,5}", number):
        raise ValueError(f"takes a number as the database, as in redis://HOST:PORT/0; {ENCODE}")
    return int(number)


def _options(query: str, kind: Kind, *, has_tls: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            # What follows an @ may be the host, and what is before it a password.
            named = f"no option {name}" if name.isidentifier() and "@" not in query else "no such option"
            raise ValueError(f"takes {named}; there are {', '.join(OPTIONS)}")
        if name in OF_TLS and not has_tls:
            raise ValueError(f"takes {name} only with TLS: rediss://, sentinels:// or rediss-cluster://")
        if name in OF_SENTINEL and kind is not Kind.SENTINEL:
            raise ValueError(f"takes {name} only with sentinel:// or sentinels://")
    return options


def _tls(options: Mapping[str, str]) -> Tls:
    for name in FILES:
        if name in options and not _is_readable(options[name]):
            raise ValueError(f"takes a file that can be read as {name}")
    if options.get("ssl_cert_reqs", "required") not in {"required", "none"}:
        raise ValueError("takes required or none as ssl_cert_reqs")
    if options.get("ssl_check_hostname", "true").lower() not in TRUTHS:
        raise ValueError("takes true or false as ssl_check_hostname")
    verified = options.get("ssl_cert_reqs") != "none"
    return Tls(
        ca_file=options.get("ssl_ca_certs"),
        certificate_file=options.get("ssl_certfile"),
        key_file=options.get("ssl_keyfile"),
        verified=verified,
        checks_hostname=verified and TRUTHS[options.get("ssl_check_hostname", "true").lower()],
    )


def _is_readable(path: str) -> bool:
    try:
        Path(path).read_bytes()
    except (OSError, ValueError):
        return False
    return True
