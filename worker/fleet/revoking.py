"""Revocation on demand: one grant is ended at its provider, then forgotten (RFC 7009).

Rules:
- A grant is revoked under its lease: nobody refreshes it meanwhile, and the pair that is sent is the one that
  was stored when the lease was taken.
- It is forgotten only after the provider's yes, and only if the revoked pair is still the stored one: a
  person may have connected again meanwhile.
- Without a yes the grant is given back as it was.
- Killed in between, a grant that is revoked is still stored. Asked again, the provider calls its token dead,
  which is a yes too.
- A failure is a code and its facts. `worker/cli/revoking.py` makes the sentence.
"""

from dataclasses import replace
from enum import StrEnum
from functools import partial

from worker.core import lifecycle
from worker.core.grant import Grant
from worker.core.policy import Rules
from worker.core.ports import (
    Clients,
    Clock,
    Lease,
    LeasedElsewhere,
    ReplyKept,
    Sealer,
    Store,
    TokenEndpoint,
    UnsealError,
)
from worker.core.providers import Client
from worker.core.registry import Registry, StoredGrant
from worker.core.revocation import NotRevoked, RevocationUnanswered, Revoked
from worker.fleet.configured import configured_client
from worker.fleet.interrupts import to_its_end
from worker.fleet.leasing import lease_when_free, longest_wait_seconds


class RevocationFailure(StrEnum):
    """Why a grant is not revoked, or not forgotten."""

    NO_SUCH_GRANT = "no_such_grant"
    CLIENT_NOT_CONFIGURED = "client_not_configured"
    NO_ENDPOINT = "no_endpoint"  # nobody says where the client's revocation endpoint is
    CANNOT_UNSEAL = "cannot_unseal"
    LEASED_ELSEWHERE = "leased_elsewhere"  # another process had the lease for as long as the caller waited
    STORE_RECOVERING = "store_recovering"
    LEASE_TOO_SHORT = "lease_too_short"  # this process was frozen: nothing was sent
    REPLY_KEPT = "reply_kept"  # the living tokens are most likely in a reply that could not be read
    REFUSED = "refused"
    NO_ANSWER = "no_answer"
    REPLACED = "replaced"  # the pair was revoked, and another one is stored by now


class RevocationError(Exception):
    """A grant that is not revoked, or not forgotten.

    Attributes:
        code: why.
        grant_id: which grant.
        detail: the client's name, the provider's error code, or what the sealer said.
    """

    def __init__(self, code: RevocationFailure, grant_id: str, detail: str | None = None) -> None:
        super().__init__(f"{grant_id}: {code.value}")
        self.code = code
        self.grant_id = grant_id
        self.detail = detail


class Revoking:
    """Revokes grants at their providers.

    Args:
        registry: where grants are read and forgotten.
        store: gives leases.
        endpoint: the providers'.
        clients: the configured clients.
        sealer: opens tokens.
        clock: the store's.
        rules: the deployment's; they say when a grant that is given back is due.
        request_ms: the longest that one request takes; none is sent under a lease that ends sooner.
        lease_ms: how long a lease, and a recovery of the store, lasts at most.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        store: Store,
        endpoint: TokenEndpoint,
        clients: Clients,
        sealer: Sealer,
        clock: Clock,
        rules: Rules,
        request_ms: int,
        lease_ms: int,
    ) -> None:
        self._registry = registry
        self._store = store
        self._endpoint = endpoint
        self._clients = clients
        self._sealer = sealer
        self._clock = clock
        self._rules = rules
        self._request_ms = request_ms
        self._wait_seconds = longest_wait_seconds(lease_ms)

    async def check(self, grant_id: str) -> StoredGrant:
        """Find out whether a revocation can be tried; returns the grant as it is stored. Needs no heartbeat.

        Raises:
            RevocationError: it cannot.
        """
        stored = await self._registry.find(grant_id)
        if stored is None:
            raise RevocationError(RevocationFailure.NO_SUCH_GRANT, grant_id)
        if self._client_of(stored.grant).revoke_url is None:
            raise RevocationError(RevocationFailure.NO_ENDPOINT, grant_id, stored.grant.client)
        return stored

    async def revoke(self, grant_id: str) -> Grant:
        """Revoke a grant at its provider and forget it; returns it as it was.

        It is `in_doubt` where an earlier reply was lost: the provider may have issued tokens that nobody has.

        Raises:
            RevocationError: the provider has not said yes, and the grant stays; or it was replaced meanwhile.
            StoreUnavailableError: the store went away; the grant may be revoked, and is stored still.
        """
        before = await self.check(grant_id)
        lease = await self._lease(grant_id)
        return await to_its_end(self._revoke(before, lease))

    async def _lease(self, grant_id: str) -> Lease:
        lease = partial(self._store.lease, grant_id, even_paused=True)
        match await lease_when_free(lease, self._wait_seconds):
            case Lease() as given:
                return given
            case None:
                raise RevocationError(RevocationFailure.NO_SUCH_GRANT, grant_id)
            case ReplyKept(number=number):
                raise RevocationError(RevocationFailure.REPLY_KEPT, grant_id, str(number))
            case LeasedElsewhere():
                raise RevocationError(RevocationFailure.LEASED_ELSEWHERE, grant_id)
            case _:
                raise RevocationError(RevocationFailure.STORE_RECOVERING, grant_id)

    async def _revoke(self, before: StoredGrant, lease: Lease) -> Grant:
        problem = await self._ask(lease)
        if problem is not None:
            await self._give_back(before, lease)
            raise problem
        if not await self._registry.forget_revoked(lease):
            raise RevocationError(RevocationFailure.REPLACED, lease.grant.id)
        return lease.grant

    async def _ask(self, lease: Lease) -> RevocationError | None:
        """Ask the provider to revoke the leased pair; returns why it has not, `None` after its yes."""
        grant_id = lease.grant.id
        try:
            pair = self._sealer.open(lease.grant)
        except UnsealError as problem:
            return RevocationError(RevocationFailure.CANNOT_UNSEAL, grant_id, str(problem))
        client = self._clients.reread(lease.grant.client)
        if client.revoke_url is None:
            return RevocationError(RevocationFailure.NO_ENDPOINT, grant_id, client.name)
        # After a freeze the pair may have been rotated: some servers end the successor with its predecessor.
        now = self._clock.now()
        if now + self._request_ms >= lease.until:
            return RevocationError(RevocationFailure.LEASE_TOO_SHORT, grant_id)
        match await self._endpoint.revoke(client, pair, self._clock.by_redis(now)):
            case Revoked():
                return None
            case NotRevoked(code=code):
                return RevocationError(RevocationFailure.REFUSED, grant_id, code)
            case RevocationUnanswered(detail=detail):
                return RevocationError(RevocationFailure.NO_ANSWER, grant_id, detail)

    async def _give_back(self, before: StoredGrant, lease: Lease) -> None:
        grant = lease.grant
        client = self._clients.get(grant.client, 0)
        if replace(grant, in_doubt=before.grant.in_doubt) == before.grant:
            change = lifecycle.leave(grant, before.due_at, client, self._rules)
        else:  # another's attempt ended while this process waited for its lease
            change = lifecycle.give_back(grant, client, self._rules, self._clock.now())
        await self._store.record_outcome(lease, change)

    def _client_of(self, grant: Grant) -> Client:
        client = configured_client(self._clients, grant.client)
        if client is None:
            raise RevocationError(RevocationFailure.CLIENT_NOT_CONFIGURED, grant.id, grant.client)
        return client
