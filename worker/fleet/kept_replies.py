"""Replies that could not be read: shown, adopted, given up, and what becomes of their grants.

Rules:
- A reply is adopted by committing its tokens like any answer: under a lease, journaled, its lifetimes counted
  from when the request left. The commit takes the reply away in the same step.
- It is read by this release's reader, for a newer release may read what an older one could not. Else its
  tokens are searched for, or a person says where they are (core/salvage.py).
- Its endpoint works again at once when no other reply of it is kept. Until then half-open probes find out.
- A grant whose access token ends before that fails, with an event; its reply can be adopted all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from worker.core import lifecycle
from worker.core.events import EventType, provider_event
from worker.core.grant import TokenPair
from worker.core.lifecycle import Phase
from worker.core.outcomes import Refreshed, Reply
from worker.core.policy import Rules
from worker.core.ports import (
    Clients,
    Commit,
    Lease,
    LeasedElsewhere,
    Recovering,
    Sealer,
    Store,
    StoreUnavailableError,
    UnsealError,
)
from worker.core.protocol import read_reply
from worker.core.providers import Client
from worker.core.registry import Registry, Replies, StoredGrant, StoredReply, UnreadableRecordError
from worker.core.salvage import Directions, SalvageError, salvage
from worker.fleet.leasing import lease_when_free
from worker.refreshing.answers import Answers

LEASE_SECONDS: Final = 10.0  # how long an adoption waits for the lease of a grant that another works on

log = structlog.get_logger(__name__)


class KeptReplyError(Exception):
    """It cannot be done; the message is one line that says why."""


class WaitsError(KeptReplyError):
    """The store is away: the tokens are on this process's disk, and are offered again."""


@dataclass(frozen=True, slots=True)
class OpenedReply:
    """A kept reply in the clear."""

    stored: StoredReply
    reply: Reply = field(repr=False)


class KeptReplies:
    """What a person, or a release that can read them, does with kept replies.

    Args:
        replies: where they are kept.
        registry: where grants are read.
        store: gives leases.
        answers: of this process; they bring tokens to the disk and to the store.
        clients: the configured clients.
        sealer: opens replies and seals tokens.
        rules: the deployment's; they say when a grant is due.
    """

    def __init__(
        self,
        *,
        replies: Replies,
        registry: Registry,
        store: Store,
        answers: Answers,
        clients: Clients,
        sealer: Sealer,
        rules: Rules,
    ) -> None:
        self._replies = replies
        self._registry = registry
        self._store = store
        self._answers = answers
        self._clients = clients
        self._sealer = sealer
        self._rules = rules

    async def all(self) -> Sequence[StoredReply]:
        """Every kept reply, the first one first."""
        return await self._replies.all()

    async def open(self, number: int) -> OpenedReply:
        """One kept reply in the clear.

        Raises:
            KeptReplyError: there is none of that number, or no key opens it.
        """
        stored = await self._replies.find(number)
        sealed = None if stored is None else await self._replies.sealed(number)
        if stored is None or sealed is None:
            raise KeptReplyError(_no_reply(number))
        try:
            reply = self._sealer.open_reply(stored.client, stored.grant, stored.version, sealed)
        except UnsealError as problem:
            raise KeptReplyError(str(problem)) from None
        return OpenedReply(stored, reply)

    async def adopt(self, number: int, directions: Directions) -> StoredGrant:
        """Take the tokens of a kept reply in; returns the grant as it is stored then. Needs a heartbeat.

        Raises:
            KeptReplyError: it cannot be read, or its tokens would not follow what is stored.
            WaitsError: the store went away meanwhile; it is given the tokens when it is back.
            StoreUnavailableError: the store is away, and nothing has happened.
        """
        opened = await self.open(number)
        stored = opened.stored
        try:
            client = self._clients.get(stored.client, 0)
        except KeyError:
            raise KeptReplyError(f"{stored.grant}: its client {stored.client!r} is not configured") from None
        held = await self._held(stored)
        answer = _read(opened, client, directions, held)
        lease = await self._lease(stored)
        await self._commit(lease, stored, client, held, answer)
        if self._answers.is_unstored(lease.fence):
            raise WaitsError(f"{stored.grant}: the store went away, and has not its new tokens yet")
        grant = await self._registry.find(stored.grant)
        if grant is None or grant.grant.version <= stored.version:
            raise KeptReplyError(f"{stored.grant}: it was deleted or replaced meanwhile")
        event = provider_event(
            EventType.PROVIDER_RECOVERED, client, attempt=lease.fence, now=await self._registry.now()
        )
        await self._replies.reopen(client, event, stored.grant)
        return grant

    async def drop(self, number: int) -> StoredReply:
        """Give a reply up for good: its grant's token is tried again. Returns what it was.

        Raises:
            KeptReplyError: there is none of that number.
        """
        stored = await self._replies.find(number)
        if stored is None or not await self._replies.drop(number):
            raise KeptReplyError(_no_reply(number))
        return stored

    async def expire_overdue(self) -> None:
        """Let the grants fail whose access tokens have ended. Never raises: the next call goes on."""
        try:
            now = await self._registry.now()
            for reply in await self._replies.overdue(now):
                await self._expire(reply, now)
        except StoreUnavailableError as problem:
            log.warning("sweep.store_away", problem=str(problem))

    async def _expire(self, reply: StoredReply, now: int) -> None:
        try:
            stored = await self._registry.find(reply.grant)
            client = self._clients.get(reply.client, 0)
        except (UnreadableRecordError, KeyError) as problem:
            log.warning("reply.not_expired", grant=reply.grant, problem=str(problem))
            return
        change = None
        if stored is not None and lifecycle.phase_of(stored.grant) is Phase.UNREAD:
            change = lifecycle.expire(stored.grant, client, self._rules, attempt=reply.fence, now=now)
        await self._replies.expire(reply, change)

    async def _lease(self, reply: StoredReply) -> Lease:
        lease = partial(self._store.lease, reply.grant, reply=reply.number)
        match await lease_when_free(lease, LEASE_SECONDS):
            case Lease() as given:
                return given
            case LeasedElsewhere():
                raise KeptReplyError(f"{reply.grant}: another process works on it; try again in a moment")
            case Recovering():
                raise KeptReplyError(f"{reply.grant}: the store is recovering; try again in a moment")
            case _:
                raise KeptReplyError(_no_reply(reply.number))

    async def _held(self, reply: StoredReply) -> TokenPair:
        """The pair that was presented."""
        stored = await self._registry.find(reply.grant)
        if stored is None or stored.grant.version != reply.version:
            raise KeptReplyError(f"{reply.grant}: it was deleted or replaced meanwhile")
        try:
            return self._sealer.open(stored.grant)
        except UnsealError as problem:
            raise KeptReplyError(str(problem)) from None

    async def _commit(
        self, lease: Lease, reply: StoredReply, client: Client, held: TokenPair, answer: Refreshed
    ) -> None:
        base = lease.grant
        change = lifecycle.succeed(
            base,
            held,
            answer,
            client,
            self._rules,
            sealed=self._sealer.seal_successor(base, lifecycle.pair_after(held, answer, client)),
            attempt=lease.fence,
            sent_at=reply.sent_at,
            now=await self._registry.now(),
        )
        await self._answers.keep(Commit(lease.fence, base.lineage, base.version, base.status, change))


def _read(opened: OpenedReply, client: Client, directions: Directions, held: TokenPair) -> Refreshed:
    if directions == Directions():
        answer = read_reply(opened.reply, client, opened.stored.received_at)
        if isinstance(answer, Refreshed):
            return answer
    try:
        return salvage(opened.reply.body, directions, held.access_token)
    except SalvageError as problem:
        raise KeptReplyError(f"reply {opened.stored.number} was not adopted: {problem}") from None


def _no_reply(number: int) -> str:
    return f"no reply is kept under the number {number}; `evergrant answers list` names those that are"
