"""Who calls: the key in `Authorization: Bearer KEY`, and where the call comes from.

Rules:
- A key is taken from the header alone: a URL ends up in logs, in histories and in other sites' referrers.
- Failures are limited by address. Past the limit they are answered with 429, and are neither logged nor
  audited: a flood must not push everything else out. A right key is let in all the same, because somebody
  else may share its address.
- The memory of failures is bounded: the address that failed least lately is forgotten.
- An IPv6 address counts by its /64, which one host has as a whole.
"""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

import structlog
from starlette.requests import Request

from worker.core.api_keys import ApiKey, id_in
from worker.core.audit import AuditTrail, By, What
from worker.core.ports import StoreUnavailableError
from worker.fleet.api_keys import ApiKeys
from worker.http.problems import Code, Problem

WINDOW_SECONDS: Final = 60.0
MOST_FAILURES: Final = 20  # of one address in a window
MOST_ADDRESSES: Final = 10_000
MOST_KEY_CHARS: Final = 256

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Failures:
    number: int
    began_at: float


class FailureLimit:
    """Counts failed authentications by address."""

    def __init__(self) -> None:
        self._by_address: OrderedDict[str, _Failures] = OrderedDict()

    def note(self, address: str, now: float) -> float:
        """Note a failure; returns for how many seconds more the address is past its limit, 0 if it is not."""
        known = self._by_address.pop(address, None)
        if known is None or now - known.began_at >= WINDOW_SECONDS:
            known = _Failures(0, now)
        known.number += 1
        self._by_address[address] = known
        while len(self._by_address) > MOST_ADDRESSES:
            self._by_address.popitem(last=False)
        return known.began_at + WINDOW_SECONDS - now if known.number > MOST_FAILURES else 0.0

    def __len__(self) -> int:
        return len(self._by_address)


class Authentication:
    """Lets callers in.

    Args:
        keys: the deployment's.
        audit_trail: is told who was not let in.
    """

    def __init__(self, keys: ApiKeys, audit_trail: AuditTrail) -> None:
        self._keys = keys
        self._audit_trail = audit_trail
        self._failures = FailureLimit()

    async def caller(self, request: Request) -> ApiKey:
        """The key that a request shows.

        Raises:
            Problem: it shows none that opens anything.
            StoreUnavailableError: the store went away.
        """
        return await self.holder(
            _bearer(request), address_of(request), missing="takes Authorization: Bearer KEY"
        )

    async def holder(self, text: str | None, address: str, *, missing: str) -> ApiKey:
        """The key that a text is.

        Args:
            text: what somebody shows; `None` for nothing.
            address: where they are.
            missing: what is said to whoever shows nothing.

        Raises:
            Problem: it opens nothing.
            StoreUnavailableError: the store went away.
        """
        is_one = text is not None and len(text) <= MOST_KEY_CHARS
        key = await self._keys.holder(text, address) if text is not None and is_one else None
        if key is not None:
            return key
        seconds = self._failures.note(address, asyncio.get_running_loop().time())
        if seconds:
            detail = "too many calls with a wrong key came from this address"
            raise Problem(Code.TOO_MANY_REQUESTS, detail, retry_after=seconds)
        log.info("http.not_let_in", address=address, shows_a_key=text is not None)
        with suppress(StoreUnavailableError):
            await self._audit_trail.note(What.SIGN_IN_REFUSED, By(_named_in(text), address))
        raise Problem(Code.UNAUTHORIZED, "the key is wrong or revoked" if text else missing)


def address_of(request: Request) -> str:
    """Where a request comes from: an address, or a network of IPv6."""
    return "local" if request.client is None else _counted_as(request.client.host)


@lru_cache(maxsize=1024)
def _counted_as(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def _named_in(text: str | None) -> str:
    """Whom a wrong key names: its id, which is no secret."""
    key_id = None if text is None else id_in(text)
    return "unknown" if key_id is None else f"key id {key_id}"


def _bearer(request: Request) -> str | None:
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        return None
    scheme, _, text = headers[0].partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        return None
    return text.strip()
