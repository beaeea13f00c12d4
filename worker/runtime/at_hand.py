"""The few objects that hand out a token at hand, without the runtime (`assembly.py`) around them.

Opening the runtime takes several times as long, nearly all of it to load what a refresh may need. A command
tries this first. Where more is needed, or something goes wrong, the runtime begins anew and says what was
wrong.
"""

import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from config.plain import PlainSettings, read_plainly
from worker.adapters.clock import RedisClock
from worker.adapters.sealing import KeyRing
from worker.adapters.store.one_connection import OneConnection
from worker.adapters.store.promises import RedisPromises
from worker.core import providers
from worker.core.failures import StoreUnavailableError, UnreadableRecordError, UnsealError
from worker.core.providers import Client, GrantType
from worker.fleet.at_hand import HANDED_OUT, AtHand
from worker.runtime.derived import lease_ms, prefix_of, rules_of

if TYPE_CHECKING:
    from worker.core.promises import HandedOut, Request

T = TypeVar("T")

# A Redis that takes longer is left to the runtime, which waits longer and tries again.
SECONDS: Final = 1.0


def token_at_hand(request: "Request", request_id: str) -> "HandedOut | None":
    """The stored token; `None` where it takes the runtime to get one, or to say why there is none.

    Args:
        request: what is asked for.
        request_id: names it. With the same one the runtime promises the same, and audits it once.
    """
    settings = read_plainly()
    if settings is None or not _is_proxy_plain():
        return None
    try:
        return _handed_out(settings, request, request_id)
    except (StoreUnavailableError, UnreadableRecordError, UnsealError, UnicodeEncodeError):
        return None


def _handed_out(settings: PlainSettings, request: "Request", request_id: str) -> "HandedOut | None":
    with _connected(settings) as scripts:
        promises = RedisPromises(
            scripts,
            clock=RedisClock(),
            audit_kept=settings.audit_kept,
            recovery_ms=lease_ms(settings),
        )
        at_hand = AtHand(
            promises=promises,
            client_named=lambda name: promising_client(name, settings),
            sealer=KeyRing(settings.keys),
            rules=rules_of(settings),
        )
        answer = _at_once(at_hand.ask(request, request_id))
    return at_hand.opened(answer) if answer.verdict in HANDED_OUT else None


def _connected(settings: PlainSettings) -> OneConnection:
    server = settings.server
    login = (server.login.username, server.login.password)
    return OneConnection(
        server.path or server.addresses[0],
        login=tuple(each for each in login if each),
        database=server.database,
        prefix=prefix_of(settings.namespace),
        seconds=SECONDS,
    )


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never yields: its connection blocks."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a coroutine was to end at once, and waits")


def promising_client(name: str, settings: PlainSettings) -> Client | None:
    """A client as far as promises depend on it: nothing is sent in its name."""
    plain = settings.clients.get(name)
    if plain is None:
        return None
    margin_seconds = plain.min_margin_seconds
    return Client(
        name=name,
        provider=providers.OAUTH2,
        token_url="",
        client_id="",
        credentials=(),
        grant_type=GrantType(plain.grant_type),
        refresh_at=plain.refresh_at,
        min_margin_ms=None if margin_seconds is None else int(margin_seconds * 1000),
        refresh_kills_access_token=plain.refresh_kills_access_token,
    )


def _is_proxy_plain() -> bool:
    """Whether no proxy is named, or one that surely can be used: another is told by the runtime."""
    named = [value for name, value in os.environ.items() if name.lower() == "https_proxy"]
    return all(value.startswith(("http://", "https://")) or not value for value in named)
