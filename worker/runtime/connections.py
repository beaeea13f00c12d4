"""How Redis and Celery's broker are connected to: URLs, TLS, timeouts and retries.

Every connection of a worker or a command to the store is made by `connect`. A deployment behind Sentinel, or
on a cluster, is connected to here and nowhere else.
"""

import ssl
from urllib.parse import parse_qsl, urlencode

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from config import Settings
from worker.adapters.embedded import EmbeddedServer
from worker.runtime.timing import REDIS_TIMEOUT_SECONDS


def connect(url: str, *, reply_seconds: float | None = REDIS_TIMEOUT_SECONDS) -> Redis:
    """A pool of connections to a Redis server; the first command opens one.

    A command whose reply was lost is sent once more, so it may run twice: every script is idempotent by its
    attempt.

    Args:
        url: as redis-py takes it.
        reply_seconds: how long a reply is waited for; `None` where the caller has a deadline of its own.

    Raises:
        ValueError: the URL, or an option in it, is not one of redis-py's.
    """
    return Redis.from_url(
        url,
        socket_timeout=reply_seconds,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries=1),
    )


def broker_url(settings: Settings) -> str:
    """Where Celery's messages go, as Celery spells it: the broker that is named, else the store."""
    named = settings.broker_url or settings.redis_url
    if named is None:
        return EmbeddedServer(settings.data_dir).broker_url
    return _celery_url(named.get_secret_value())


def broker_tls(url: str) -> dict[str, object] | None:
    """TLS for a broker URL that asks for it, verified unless the URL itself says how.

    Left alone, kombu accepts any certificate for `rediss://`.
    """
    if not url.startswith("rediss://") or "ssl_" in url:
        return None
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def _celery_url(url: str) -> str:
    """Kombu spells a Unix socket another way than redis-py does."""
    if url.startswith("unix://"):
        path, _, query = url.removeprefix("unix://").partition("?")
        options = dict(parse_qsl(query))
        options["virtual_host"] = options.pop("db", "0")
        return f"redis+socket://{path}?{urlencode(options)}"
    return url
