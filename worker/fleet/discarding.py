"""Pairs that nobody is to use any more are revoked at their providers.

That is what nobody confirmed in time, and what a new sign-in has replaced. Rules:
- Only where the provider can (RFC 7009), and where that ends no other pair of the same person.
- A provider that is away is asked again, at growing pauses and so many times; then the pair is forgotten.
- Killed before the provider's answer is noted, the pair is revoked twice, which is harmless.
"""

import asyncio
from typing import Final

import structlog

from worker.core.connecting import ToRevoke
from worker.core.ports import (
    Clients,
    Sealer,
    SignInStore,
    StoreUnavailableError,
    TokenEndpoint,
    UnsealError,
)
from worker.core.registry import Registry
from worker.core.revocation import RevocationUnanswered
from worker.fleet.configured import configured_client

MOST_AT_ONCE: Final = 20

log = structlog.get_logger(__name__)


class Discarding:
    """Revokes what nobody is to use any more.

    Args:
        sign_ins: where such pairs are.
        endpoint: the providers'.
        clients: the configured clients.
        sealer: opens pairs.
        registry: tells the time.
    """

    def __init__(
        self,
        *,
        sign_ins: SignInStore,
        endpoint: TokenEndpoint,
        clients: Clients,
        sealer: Sealer,
        registry: Registry,
    ) -> None:
        self._sign_ins = sign_ins
        self._endpoint = endpoint
        self._clients = clients
        self._sealer = sealer
        self._registry = registry

    async def is_due(self) -> bool:
        """Whether there is something to revoke now."""
        try:
            return await self._sign_ins.any_to_revoke()
        except StoreUnavailableError:
            return False  # the next sweep asks again

    async def revoke_discarded(self) -> None:
        """Revoke what is to be revoked now."""
        try:
            found = await self._sign_ins.to_revoke(MOST_AT_ONCE)
            await asyncio.gather(*map(self._revoke, found))
        except StoreUnavailableError as problem:
            log.warning("discard.store_away", problem=str(problem))

    async def _revoke(self, pair: ToRevoke) -> None:
        answer = await self._ask(pair)
        if answer == "" or pair.is_last:
            await self._sign_ins.forget(pair.sign_in)
        log.info("discard", grant=pair.grant.id, client=pair.grant.client, not_revoked=answer or None)

    async def _ask(self, pair: ToRevoke) -> str:
        """Ask the provider to revoke a pair; returns why that is to be tried again, empty where it is not."""
        client = configured_client(self._clients, pair.grant.client)
        if client is None or client.revoke_url is None or client.revoking_ends_consent:
            return ""
        try:
            tokens = self._sealer.open(pair.grant)
        except UnsealError as problem:
            log.warning("discard.cannot_unseal", grant=pair.grant.id, problem=str(problem))
            return ""
        now = await self._registry.now() - await self._registry.ahead_ms()  # as others count it
        answer = await self._endpoint.revoke(client, tokens, now)
        return answer.detail if isinstance(answer, RevocationUnanswered) else ""
