"""Tokens on demand: a refresh of one grant now.

Rules:
- A refresh runs under the same kind of lease as a worker's. The store gives leases only to processes that it
  knows, so the process must keep a heartbeat (recovery/membership.py), one for all its refreshes.
- Nothing is presented unless the disk has room for the answer.
- A grant that is being refreshed already, by another process or for another caller, is not refreshed again:
  the caller waits for that outcome, at most as long as a lease. If the outcome is a first rejection, the
  caller does not confirm it before its time.
- Once a request may have left, every interrupt waits until the outcome is stored, or its answer on disk. If
  the store is away, the answer is offered for a few seconds more, or until the next interrupt.
- A caller gets what the store has afterwards.
- A person's order ends the promise of a token that was handed out; so does an API that refused that token.
  Nobody else may (worker/fleet/handing_out.py).
- The caller bounds how many refreshes run at once: neither the client's rate limit nor its pause, nor an open
  breaker, holds back what somebody asks for.
- A failure is a code and its facts. `worker/cli/tokens.py` makes the sentence.
"""

import asyncio
from enum import StrEnum
from typing import Final

from worker.core import lifecycle, policy
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Phase
from worker.core.outcomes import (
    AnswerKnown,
    AttemptOutcome,
    CannotUnseal,
    ClientNotConfirmed,
    ClientRejected,
    LeaseTooShort,
    Refreshed,
    Rejected,
    Stopped,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.policy import Rules
from worker.core.ports import (
    Clients,
    Journal,
    JournalError,
    Lease,
    LeasedElsewhere,
    Moved,
    NotLeased,
    Paused,
    Promised,
    Recovering,
    RefusedLately,
    ReplyKept,
    Store,
    Unproven,
)
from worker.core.providers import Client
from worker.core.registry import Registry, StoredGrant
from worker.fleet.configured import configured_client
from worker.fleet.interrupts import to_its_end
from worker.fleet.leasing import LOOK_AGAIN_SECONDS, longest_wait_seconds
from worker.refresher import Refresher
from worker.refreshing.answers import Answers

OFFERED_SECONDS: Final = 10.0  # how long a caller waits until a store that is away has the new tokens


class TokenFailure(StrEnum):
    """Why there is no token, or no new one."""

    NO_SUCH_GRANT = "no_such_grant"
    CLIENT_NOT_CONFIGURED = "client_not_configured"
    NO_REFRESH_TOKEN = "no_refresh_token"
    PAUSED = "paused"
    BEING_CONFIRMED = "being_confirmed"  # rejected once; the second try has its time
    NO_ROOM_ON_DISK = "no_room_on_disk"  # for an answer: nothing was sent
    LEASED_ELSEWHERE = "leased_elsewhere"  # another process had the lease for as long as the caller waited
    STORE_RECOVERING = "store_recovering"
    CLIENT_UNPROVEN = "client_unproven"  # its registration has refreshed nothing yet: one grant at a time
    ANSWER_WAITS = "answer_waits"  # this process has the new tokens, and the store does not yet
    PROVIDER_REJECTED = "provider_rejected"
    CLIENT_REJECTED = "client_rejected"
    NO_ANSWER = "no_answer"
    REPLY_UNREAD = "reply_unread"  # a reply is kept that could not be read; its token is not presented again
    CLIENT_NOT_CONFIRMED = "client_not_confirmed"  # a rejection that may have meant the client
    LEASE_TOO_SHORT = "lease_too_short"  # this process was frozen: nothing was sent
    CANNOT_UNSEAL = "cannot_unseal"
    PROMISED = "promised"  # its token was handed out, and the promise is not over
    REFUSED_LATELY = "refused_lately"  # it was refreshed for a refused token less than a minute ago


class TokenError(Exception):
    """No token, or no new one.

    Attributes:
        code: why.
        grant_id: of which grant.
        detail: the client's name, the provider's error code, what the disk or the sealer said, or the number
            of a kept reply.
        status: the grant's, after a refresh that brought nothing.
        until: Unix ms; when the second try after a rejection is due, or when it is worth asking again.
        span_ms: how long until then.
    """

    def __init__(
        self,
        code: TokenFailure,
        grant_id: str,
        *,
        detail: str | None = None,
        status: Status | None = None,
        until: int | None = None,
        span_ms: int | None = None,
    ) -> None:
        super().__init__(f"{grant_id}: {code.value}")
        self.code = code
        self.grant_id = grant_id
        self.detail = detail
        self.status = status
        self.until = until
        self.span_ms = span_ms


class Tokens:
    """Gives out access tokens, and refreshes grants on demand; any number at once.

    Args:
        registry: where grants are read.
        store: gives leases.
        journal: must have room for every answer.
        answers: of this process; its recovery loop offers them to a store that was away.
        refresher: this process's.
        clients: the configured clients.
        rules: the deployment's; they say when a grant that is given back is due.
        lease_ms: how long a lease, and a recovery of the store, lasts at most.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        store: Store,
        journal: Journal,
        answers: Answers,
        refresher: Refresher,
        clients: Clients,
        rules: Rules,
        lease_ms: int,
    ) -> None:
        self._registry = registry
        self._store = store
        self._journal = journal
        self._answers = answers
        self._refresher = refresher
        self._clients = clients
        self._rules = rules
        self._wait_seconds = longest_wait_seconds(lease_ms)
        self._at_work = 0  # callers whose refresh may bring an answer

    async def check(self, grant_id: str) -> StoredGrant:
        """Find out whether a refresh can be tried; returns the grant as it is stored. Needs no heartbeat.

        Raises:
            TokenError: it cannot.
        """
        stored = await self._find(grant_id)
        await self._check(stored)
        return stored

    async def refresh(
        self, grant_id: str, *, keeps_promise: bool = False, refused_version: int | None = None
    ) -> StoredGrant:
        """Refresh a grant, due or not, or wait for another's refresh; returns the grant as it is stored then.

        Args:
            grant_id: of the grant.
            keeps_promise: do not refresh it while its token is promised to somebody.
            refused_version: an API refused the token of this version: refresh no other.

        Raises:
            TokenError: there are no new tokens, or the store does not have them yet.
            StoreUnavailableError: the store went away.
        """
        self._at_work += 1
        try:
            before = await self.check(grant_id)
            ends_promise = not keeps_promise
            lease = await self._lease_or_outcome(before, ends_promise, refused_version)
            if isinstance(lease, StoredGrant):
                return lease
            if lease.grant.version > before.grant.version or _rejected_since(before, lease.grant):
                return await self._outcome_of_another(lease)  # it ended just before
            return await self._refresh(lease)
        finally:
            self._at_work -= 1

    async def _check(self, stored: StoredGrant) -> None:
        grant = stored.grant
        if grant.kept_reply is not None:
            raise _unread(grant.id, grant.kept_reply)
        if not policy.is_refreshable(grant, self._client_of(grant)):
            raise TokenError(TokenFailure.NO_REFRESH_TOKEN, grant.id)
        is_confirming = lifecycle.phase_of(grant) is Phase.CONFIRMING
        if is_confirming and (stored.due_at or 0) > await self._registry.now():
            raise await self._being_confirmed(stored)
        await self._reserve(grant.id)

    async def _lease_or_outcome(
        self,
        before: StoredGrant,
        ends_promise: bool,  # noqa: FBT001 as it was asked for
        refused_version: int | None,
    ) -> Lease | StoredGrant:
        """A lease, or the grant that another's refresh stored meanwhile."""
        grant_id = before.grant.id
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._wait_seconds
        while True:
            await self._reserve(grant_id)
            found = await self._store.lease(
                grant_id, ends_promise=ends_promise, refused_version=refused_version
            )
            if isinstance(found, Lease):
                return found
            if isinstance(found, Moved):
                return await self._find(grant_id)
            refusal = _refusal_of(before.grant, found, waited=loop.time() >= give_up_at)
            if refusal is not None:
                raise refusal
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            after = await self._find(grant_id)
            if after.grant.version > before.grant.version:
                return after
            if _rejected_since(before, after.grant):
                raise await self._rejected(after)

    async def _outcome_of_another(self, lease: Lease) -> StoredGrant:
        """Give back a lease that came just after another's refresh ended; returns that refresh's grant."""
        grant = lease.grant
        now = await self._registry.now()
        as_it_was = lifecycle.give_back(grant, self._clients.get(grant.client, 0), self._rules, now)
        await self._store.record_outcome(lease, as_it_was)
        after = await self._find(grant.id)
        if lifecycle.phase_of(grant) in {Phase.CONFIRMING, Phase.FAILED}:
            raise await self._rejected(after)
        return after

    async def _refresh(self, lease: Lease) -> StoredGrant:
        grant_id = lease.grant.id
        try:
            outcome = await to_its_end(self._refresher.refresh_one(lease))
        finally:
            await self._until_stored(lease)
        if self._answers.is_unstored(lease.fence):
            raise TokenError(TokenFailure.ANSWER_WAITS, grant_id)
        after = await self._find(grant_id)
        if isinstance(outcome, Refreshed) or outcome == AnswerKnown(is_stored=True):
            return after
        raise _failure_of(outcome, after.grant)

    async def _until_stored(self, lease: Lease) -> None:
        """Wait until the store has the answer, but not for long. The recovery loop offers it."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + OFFERED_SECONDS
        while self._answers.is_unstored(lease.fence) and loop.time() < give_up_at:  # noqa: ASYNC110 the loop offers it
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _reserve(self, grant_id: str) -> None:
        """Make sure that the disk has room for every answer that may come to this process."""
        answers = len(self._refresher.held()) + max(self._at_work, 1)
        try:
            await self._journal.reserve(answers)
        except JournalError as problem:
            raise TokenError(TokenFailure.NO_ROOM_ON_DISK, grant_id, detail=str(problem)) from None

    async def _find(self, grant_id: str) -> StoredGrant:
        stored = await self._registry.find(grant_id)
        if stored is None:
            raise TokenError(TokenFailure.NO_SUCH_GRANT, grant_id)
        return stored

    def _client_of(self, grant: Grant) -> Client:
        client = configured_client(self._clients, grant.client)
        if client is None:
            raise TokenError(TokenFailure.CLIENT_NOT_CONFIGURED, grant.id, detail=grant.client)
        return client

    async def _rejected(self, after: StoredGrant) -> TokenError:
        grant = after.grant
        if lifecycle.phase_of(grant) is Phase.CONFIRMING:
            return await self._being_confirmed(after)
        return TokenError(TokenFailure.PROVIDER_REJECTED, grant.id, detail=grant.reason, status=grant.status)

    async def _being_confirmed(self, stored: StoredGrant) -> TokenError:
        until = stored.due_at or 0
        span_ms = until - await self._registry.now()
        return TokenError(TokenFailure.BEING_CONFIRMED, stored.grant.id, until=until, span_ms=max(span_ms, 0))


def _refusal_of(
    grant: Grant,
    found: NotLeased,
    *,
    waited: bool,
) -> TokenError | None:
    """Why there is no lease; `None` where it may come yet."""
    detail: str | None = None
    until: int | None = None
    match found:
        case ReplyKept(number=number):
            return _unread(grant.id, number)
        case None:
            code = TokenFailure.NO_SUCH_GRANT
        case Paused():
            code = TokenFailure.PAUSED
        case Promised(until=until):
            code = TokenFailure.PROMISED
        case RefusedLately(until=until):
            code = TokenFailure.REFUSED_LATELY
        case LeasedElsewhere() | Recovering() | Unproven(until=int()) if not waited:
            return None
        case LeasedElsewhere():
            code = TokenFailure.LEASED_ELSEWHERE
        case Recovering():
            code = TokenFailure.STORE_RECOVERING
        case Unproven():
            code, detail = TokenFailure.CLIENT_UNPROVEN, grant.client
    return TokenError(code, grant.id, detail=detail, until=until)


def _failure_of(outcome: AttemptOutcome, after: Grant) -> TokenError:
    """The error of an attempt that brought no tokens, and of the grant as it then is."""
    grant_id, status = after.id, after.status
    match outcome:
        case Rejected(code=code):
            return TokenError(TokenFailure.PROVIDER_REJECTED, grant_id, detail=code, status=status)
        case ClientRejected(code=code):
            return TokenError(TokenFailure.CLIENT_REJECTED, grant_id, detail=code, status=status)
        case Unread():
            return _unread(grant_id, after.kept_reply)
        case Unavailable(detail=detail) | Unknown(detail=detail):
            return TokenError(TokenFailure.NO_ANSWER, grant_id, detail=detail, status=status)
        case ClientNotConfirmed():
            return TokenError(TokenFailure.CLIENT_NOT_CONFIRMED, grant_id, status=status)
        case CannotUnseal():
            return TokenError(TokenFailure.CANNOT_UNSEAL, grant_id, status=status)
        case AnswerKnown() | Refreshed():
            return TokenError(TokenFailure.ANSWER_WAITS, grant_id)
        case LeaseTooShort() | Stopped():
            return TokenError(TokenFailure.LEASE_TOO_SHORT, grant_id, status=status)


def _unread(grant_id: str, number: int | None) -> TokenError:
    return TokenError(TokenFailure.REPLY_UNREAD, grant_id, detail=None if number is None else str(number))


def _rejected_since(before: StoredGrant, grant: Grant) -> bool:
    """Whether another's refresh was rejected since: presenting the token again now would be no spaced try."""
    phase = lifecycle.phase_of(grant)
    return phase in {Phase.CONFIRMING, Phase.FAILED} and phase is not lifecycle.phase_of(before.grant)
