"""Handing out access tokens that keep working: `evergrant token`, and the HTTP face.

Rules:
- The store promises, plans the next refresh and writes the audit entry in one step (`core/promises.py`). This
  file asks, and brings about the refresh that a caller needs.
- One refresh serves all callers: in this process they share it, and whoever finds the grant leased by another
  process waits for that outcome.
- A refresh that a caller needs comes after outstanding promises. A refresh that could not help is not tried.
- Nothing is sent for a caller's sake where the last attempt failed and the next one has its time, where the
  client is rejected, and where the endpoint is unavailable. The token is then handed out without a promise,
  if it works for as long as was asked.
- An API that refused a token is believed at most once a minute a grant.
- Every wait has an end; then a code says when to come back.
"""

import asyncio
import math
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

from worker.core import promises
from worker.core.failures import UnsealError
from worker.core.grant import Grant, Status, StoredGrant
from worker.core.policy import Rules, is_refreshable
from worker.core.ports import Clients, Observer, Sealer
from worker.core.promises import Answer, HandedOut, PromiseStore, Refusal, Request, Verdict
from worker.core.providers import SECOND_MS
from worker.core.registry import Registry
from worker.fleet.at_hand import HANDED_OUT, AtHand
from worker.fleet.configured import configured_client
from worker.fleet.flights import Flights
from worker.fleet.leasing import LOOK_AGAIN_SECONDS, longest_wait_seconds
from worker.fleet.tokens import TokenError, TokenFailure, Tokens
from worker.refreshing.promises_given import PromisesGiven

T = TypeVar("T")

WATCH_SECONDS: Final = 1.0  # after which a grant that another refreshes is asked for again

# What a refresh that brought nothing means to a caller; a rejected grant may have failed with it.
REFUSAL_OF: Final = {
    TokenFailure.NO_SUCH_GRANT: Refusal.NO_SUCH_GRANT,
    TokenFailure.PAUSED: Refusal.GRANT_PAUSED,
    TokenFailure.NO_REFRESH_TOKEN: Refusal.GRANT_FAILED,
    TokenFailure.PROMISED: Refusal.PROMISED,
    TokenFailure.REFUSED_LATELY: Refusal.TOO_MANY_REQUESTS,
    TokenFailure.CLIENT_NOT_CONFIGURED: Refusal.CLIENT_REJECTED,
    TokenFailure.CLIENT_REJECTED: Refusal.CLIENT_REJECTED,
    TokenFailure.NO_ROOM_ON_DISK: Refusal.STORE_UNAVAILABLE,
    TokenFailure.STORE_RECOVERING: Refusal.STORE_UNAVAILABLE,
    TokenFailure.ANSWER_WAITS: Refusal.STORE_UNAVAILABLE,
    TokenFailure.CANNOT_UNSEAL: Refusal.STORE_UNAVAILABLE,
}
# With these the grant may be left as it is for a while, and its token with it.
LEAVE_THE_TOKEN: Final = frozenset(
    {Refusal.PROVIDER_UNAVAILABLE, Refusal.CLIENT_REJECTED, Refusal.STORE_UNAVAILABLE, Refusal.GRANT_FAILED}
)


class HandOutError(Exception):
    """No token.

    Attributes:
        refusal: why.
        grant_id: of which grant.
        grant: as it is stored; `None` where that is not known.
        retry_after_ms: when to ask again; `None` where that does not help, 0 where nobody knows.
        reach_ms: how long a fresh token can be promised, where that is too short.
        cause: what became of the refresh.
    """

    def __init__(
        self,
        refusal: Refusal,
        grant_id: str,
        grant: Grant | None = None,
        *,
        retry_after_ms: int | None = None,
        reach_ms: int | None = None,
        cause: TokenError | None = None,
    ) -> None:
        super().__init__(f"{grant_id}: {refusal.value}")
        self.refusal = refusal
        self.grant_id = grant_id
        self.grant = grant
        self.retry_after_ms = retry_after_ms
        self.reach_ms = reach_ms
        self.cause = cause

    @property
    def retry_after(self) -> int | None:
        """In whole seconds, at least one."""
        if self.retry_after_ms is None:
            return None
        return max(math.ceil(self.retry_after_ms / SECOND_MS), 1)


@dataclass(frozen=True, slots=True)
class _No:
    """Why no refresh is tried, or what came of it."""

    refusal: Refusal
    until: int = 0  # Unix ms; 0 where nobody knows
    cause: TokenError | None = None
    reach_ms: int | None = None


class HandingOut:
    """Hands out tokens; any number at once.

    Args:
        promises: hands out at the store.
        promises_given: notes what was promised.
        registry: where grants are read.
        tokens: refreshes them.
        clients: the configured clients.
        sealer: opens tokens.
        rules: the deployment's.
        lease_ms: how long a lease lasts at most: a caller waits a little longer.
        observer: is told of callers who get no token.
    """

    def __init__(
        self,
        *,
        promises: PromiseStore,
        promises_given: PromisesGiven,
        registry: Registry,
        tokens: Tokens,
        clients: Clients,
        sealer: Sealer,
        rules: Rules,
        lease_ms: int,
        observer: Observer,
    ) -> None:
        self._promises = promises
        self._promises_given = promises_given
        self._registry = registry
        self._tokens = tokens
        self._clients = clients
        self._rules = rules
        self._observer = observer
        self._at_hand = AtHand(
            promises=promises,
            client_named=partial(configured_client, clients),
            sealer=sealer,
            rules=rules,
        )
        self._wait_seconds = longest_wait_seconds(lease_ms)
        self._refreshes: Flights[StoredGrant] = Flights()
        self._watches: Flights[None] = Flights()

    async def at_hand(self, request: Request, request_id: str | None = None) -> HandedOut | None:
        """The stored token; `None` where a refresh may bring one. Needs no heartbeat.

        Args:
            request: what is asked for.
            request_id: of an earlier try, so that both promise the same and are audited once.

        Raises:
            HandOutError: there is no such token, and no refresh can be tried.
            StoreUnavailableError: the store is away.
        """
        return await self._told(self._find_at_hand(request, request_id))

    async def hand_out(self, request: Request) -> HandedOut:
        """A token that works for as long as was asked, after a refresh if need be. Needs a heartbeat.

        Raises:
            HandOutError: there is none.
            StoreUnavailableError: the store went away.
        """
        return await self._told(self._bring_about(request))

    async def _told(self, work: Coroutine[None, None, T]) -> T:
        """Do it; who gets no token is counted."""
        try:
            return await work
        except HandOutError as error:
            client = None if error.grant is None else error.grant.client
            self._observer.token_refused(client, error.refusal)
            raise

    async def _find_at_hand(self, request: Request, request_id: str | None) -> HandedOut | None:
        answer = await self._ask(request, request_id)
        if answer.verdict in HANDED_OUT:
            return self._opened(answer)
        if answer.verdict in {Verdict.LEASED, Verdict.RECOVERING}:
            return None
        no = self._hindrance(request, answer)
        if no is None:
            try:
                await self._tokens.check(request.grant_id)
            except TokenError as problem:
                no = _no_of(problem)
        return None if no is None else await self._without(request, answer, no)

    async def _bring_about(self, request: Request) -> HandedOut:
        give_up_at = asyncio.get_running_loop().time() + self._wait_seconds
        refreshed: StoredGrant | None = None
        while True:
            answer = await self._ask(request)
            if answer.verdict in HANDED_OUT:
                return self._opened(answer)
            waits = await self._wait(request, answer, give_up_at)
            if isinstance(waits, HandedOut):
                return waits
            if waits:
                continue
            no = self._hindrance(request, answer, refreshed)
            if no is None:
                try:
                    refreshed = await self._refresh(request, answer)
                    continue
                except TokenError as problem:
                    if problem.code is TokenFailure.PROMISED:
                        continue  # to somebody, just now
                    no = _no_of(problem)
            return await self._without(request, answer, no)

    async def _ask(self, request: Request, request_id: str | None = None) -> Answer:
        """The store's answer. What it promised is given back to a store that forgets it."""
        request_id = request_id or secrets.token_hex(16)
        while True:
            answer = await self._at_hand.ask(request, request_id)
            if answer.verdict is not Verdict.PROMISED or answer.stored is None:
                return answer
            grant = answer.stored.grant
            if self._promises_given.note(
                grant.id, grant.version, answer.until, now=answer.now, epoch=answer.epoch
            ):
                return answer
            request_id = secrets.token_hex(16)

    async def _wait(self, request: Request, answer: Answer, give_up_at: float) -> HandedOut | bool:
        """Wait for another's refresh, a recovery, or the end of a promise that holds the refresh back.

        Returns whether to ask again; false where there is nothing to wait for, a token where the time is up.
        """
        loop = asyncio.get_running_loop()
        left_ms = int((give_up_at - loop.time()) * SECOND_MS)
        match answer.verdict:
            case Verdict.RECOVERING:
                no = _No(Refusal.STORE_UNAVAILABLE)
            case Verdict.LEASED:
                no = _No(Refusal.PROVIDER_UNAVAILABLE, answer.until)
            case Verdict.SHORT if answer.until > answer.now and self._hindrance(request, answer) is None:
                no = _No(Refusal.PROMISED, answer.until)
                if answer.until - answer.now > left_ms:
                    return await self._without(request, answer, no)
                await asyncio.sleep((answer.until - answer.now + 1) / SECOND_MS)
                return True
            case _:
                return False
        if left_ms <= 0:
            return await self._without(request, answer, no)
        if answer.stored is None:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        else:
            version = answer.stored.grant.version
            await self._watches.join(request.grant_id, lambda: self._watch(request.grant_id, version))
        return True

    async def _watch(self, grant_id: str, version: int) -> None:
        """Look at a leased grant until its refresh has ended, for a second at most."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + WATCH_SECONDS
        while loop.time() < give_up_at:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            stored = await self._registry.find(grant_id)
            if stored is None or stored.grant.version != version or stored.lease_until is None:
                return

    async def _refresh(self, request: Request, answer: Answer) -> StoredGrant:
        refused = request.refused_version if answer.verdict is Verdict.REFUSED else None
        return await self._refreshes.join(
            request.grant_id,
            lambda: self._tokens.refresh(request.grant_id, keeps_promise=True, refused_version=refused),
        )

    def _hindrance(
        self, request: Request, answer: Answer, refreshed: StoredGrant | None = None
    ) -> _No | None:
        """Why no refresh is to be tried for this caller; `None` where it is."""
        stored = answer.stored
        if stored is None:
            return _No(Refusal.NO_SUCH_GRANT)
        grant = stored.grant
        client = configured_client(self._clients, grant.client)
        if client is None:
            problem = TokenError(TokenFailure.CLIENT_NOT_CONFIGURED, grant.id, detail=grant.client)
            return _No(Refusal.CLIENT_REJECTED, cause=problem)
        state = promises.refusal_of(stored, answer.now)
        if state is not None:
            return _No(*state)
        if not is_refreshable(grant, client):
            return _No(_end_of(grant, answer.now), cause=TokenError(TokenFailure.NO_REFRESH_TOKEN, grant.id))
        reach_ms = promises.reach_ms(grant, client, self._rules)
        is_too_short = reach_ms is not None and reach_ms < (request.min_ttl_ms or 0)
        is_fresh = refreshed is not None and grant.version == refreshed.grant.version
        if answer.verdict is Verdict.SHORT and (is_too_short or is_fresh):
            return _No(Refusal.TTL_UNREACHABLE, reach_ms=reach_ms)
        if answer.obstacle is not None:
            return _No(answer.obstacle, answer.opens_at)
        return None

    async def _without(self, request: Request, answer: Answer, no: _No) -> HandedOut:
        """The token as it is, if it works for as long as was asked and nobody is about to end it.

        Raises:
            HandOutError: it does not.
        """
        if no.refusal in LEAVE_THE_TOKEN:
            bare = await self._promises.hand_out(request, secrets.token_hex(16), is_unpromised=True)
            if bare.verdict is Verdict.UNPROMISED:
                return self._opened(bare, no)
        grant = None if answer.stored is None else answer.stored.grant
        retry_after_ms = None
        if no.refusal in promises.TRY_AGAIN:
            retry_after_ms = max(no.until - answer.now, 0)
        raise HandOutError(
            no.refusal,
            request.grant_id,
            grant,
            retry_after_ms=retry_after_ms,
            reach_ms=no.reach_ms,
            cause=no.cause,
        )

    def _opened(self, answer: Answer, no: _No | None = None) -> HandedOut:
        if answer.stored is None:
            raise ValueError("a token was handed out of no grant")
        grant = answer.stored.grant
        try:
            handed_out = self._at_hand.opened(answer)
        except UnsealError as problem:
            cause = TokenError(TokenFailure.CANNOT_UNSEAL, grant.id, detail=str(problem))
            raise HandOutError(Refusal.STORE_UNAVAILABLE, grant.id, grant, cause=cause) from None
        if handed_out is None:
            raise HandOutError(Refusal.PROVIDER_UNAVAILABLE, grant.id, grant, retry_after_ms=0)
        if no is None:
            return handed_out
        return replace(handed_out, until=answer.now, unpromised=no.refusal, opens_at=no.until)


def _no_of(problem: TokenError) -> _No:
    """What a refresh that brought nothing means to a caller."""
    is_failed = problem.status is Status.FAILED
    refusal = Refusal.GRANT_FAILED if is_failed else Refusal.PROVIDER_UNAVAILABLE
    return _No(REFUSAL_OF.get(problem.code, refusal), problem.until or 0, problem)


def _end_of(grant: Grant, now: int) -> Refusal:
    """What it means that a grant without a refresh token has no token for so long."""
    is_over = grant.access_expires_at is not None and grant.access_expires_at <= now
    return Refusal.GRANT_FAILED if is_over else Refusal.TTL_UNREACHABLE
