"""How Redis and Celery's broker are connected to: URLs, TLS, timeouts and retries.

Every connection of a worker or a command to the store is made by `connect`, whether it is one server, has
Sentinels, or is in a cluster.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.crc import key_slot

from config import Settings
from config.servers import Kind, Login, ServerUrl, Tls, is_rabbitmq, read_server_url
from worker.adapters.embedded import EmbeddedServer
from worker.adapters.store.following import BySentinels, BySlot, FollowingConnection, FollowingTlsConnection
from worker.runtime.timing import REDIS_TIMEOUT_SECONDS

RABBITMQ_TIMEOUT_SECONDS: Final = 30.0
RABBITMQ_OPTIONS: Final[dict[str, Any]] = {
    "confirm_publish": True,  # else a message that RabbitMQ refuses is lost in silence
    "read_timeout": RABBITMQ_TIMEOUT_SECONDS,
    "write_timeout": RABBITMQ_TIMEOUT_SECONDS,
}


def connect(url: str, prefix: str, *, reply_seconds: float | None = REDIS_TIMEOUT_SECONDS) -> Redis:
    """A pool of connections to a Redis server; the first command opens one.

    A command whose reply was lost is sent once more, so it may run twice: every script is idempotent by its
    attempt.

    Args:
        url: as `config.servers` has it.
        prefix: what every key begins with; in a cluster it says which node has the keys.
        reply_seconds: how long a reply is waited for; `None` where the caller has a deadline of its own.
    """
    server = read_server_url(url)
    options: dict[str, Any] = {
        **_login(server.login),
        "db": server.database,
        "socket_timeout": reply_seconds,
        "socket_connect_timeout": REDIS_TIMEOUT_SECONDS,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries=1),
    }
    if server.kind is Kind.UNIX:
        pool = ConnectionPool(connection_class=UnixDomainSocketConnection, path=server.path, **options)
    elif server.kind is Kind.SINGLE:
        ((host, port),) = server.addresses
        kind = SSLConnection if server.tls else Connection
        pool = ConnectionPool(connection_class=kind, host=host, port=port, **options, **_tls(server.tls))
    else:
        following = FollowingTlsConnection if server.tls else FollowingConnection
        locate = _locate(server, prefix)
        pool = ConnectionPool(connection_class=following, locate=locate, **options, **_tls(server.tls))
    return Redis.from_pool(pool)


def _locate(server: ServerUrl, prefix: str) -> BySentinels | BySlot:
    options: dict[str, Any] = {
        "socket_timeout": REDIS_TIMEOUT_SECONDS,
        "socket_connect_timeout": REDIS_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "ssl": server.tls is not None,
        **_tls(server.tls),
    }
    if server.kind is Kind.SENTINEL:
        return BySentinels(server.addresses, server.primary, options | _login(server.sentinel_login))
    return BySlot(server.addresses, key_slot(prefix.encode()), options | _login(server.login))


@dataclass(frozen=True)
class Broker:
    """Where Celery's messages go, as Celery takes it.

    Attributes:
        tls: for `broker_use_ssl`; `None` for none. Left alone, kombu accepts any certificate.
        options: for `broker_transport_options`.
    """

    url: str = field(repr=False)
    tls: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_rabbitmq(self) -> bool:
        """Whether it is RabbitMQ; else it is Redis."""
        return is_rabbitmq(self.url)


def broker(settings: Settings) -> Broker:
    """The broker that is named, else the store."""
    named = settings.broker_url or settings.redis_url
    if named is None:
        return Broker(EmbeddedServer(settings.data_dir).broker_url)
    text = named.get_secret_value()
    if is_rabbitmq(text):
        return Broker(
            text, _rabbitmq_tls(settings.ca_file) if text.startswith("amqps") else None, RABBITMQ_OPTIONS
        )
    server = read_server_url(text)
    tls = _tls(server.tls) or None
    if server.kind is Kind.UNIX:
        userinfo = _userinfo(server.login)
        return Broker(f"redis+socket://{userinfo}{quote(server.path)}?virtual_host={server.database}")
    if server.kind is Kind.SENTINEL:
        nodes = [_node("sentinel", server, address) for address in server.addresses]
        asked = {**_login(server.sentinel_login), "ssl": tls is not None, **_tls(server.tls)}
        asked["socket_timeout"] = REDIS_TIMEOUT_SECONDS
        return Broker(";".join(nodes), tls, {"master_name": server.primary, "sentinel_kwargs": asked})
    return Broker(_node("rediss" if tls else "redis", server, server.addresses[0]), tls)


def _rabbitmq_tls(authorities: Path | None) -> dict[str, Any]:
    """As py-amqp names it. With the name `None` it verifies the host of the URL."""
    tls: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    return tls | ({"ca_certs": str(authorities)} if authorities else {})


def _node(scheme: str, server: ServerUrl, address: tuple[str, int]) -> str:
    host, port = address
    place = f"[{host}]" if ":" in host else host
    return f"{scheme}://{_userinfo(server.login)}{place}:{port}/{server.database}"


def _userinfo(login: Login) -> str:
    username, password = (quote(each or "", safe="") for each in (login.username, login.password))
    return f"{username}:{password}@" if username or password else ""


def _login(login: Login) -> dict[str, Any]:
    return {"username": login.username, "password": login.password}


def _tls(tls: Tls | None) -> dict[str, Any]:
    """As redis-py and kombu name it."""
    if tls is None:
        return {}
    return {
        "ssl_cert_reqs": ssl.CERT_REQUIRED if tls.verified else ssl.CERT_NONE,
        "ssl_check_hostname": tls.checks_hostname,
        "ssl_ca_certs": tls.ca_file,
        "ssl_certfile": tls.certificate_file,
        "ssl_keyfile": tls.key_file,
    }
