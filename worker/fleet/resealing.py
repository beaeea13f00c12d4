"""What is stored is sealed anew with the first key, while workers run; and which keys are still needed.

Rules:
- Each value is replaced by itself, and only while it is what was read: a pair that a worker replaces in the
  meantime is sealed with that worker's first key, and looked at again in the next pass.
- A leased grant is left to its holder, and looked at again.
- Broken off halfway, it is run again: what is sealed with the first key is left as it is.
- Journals are not rewritten: they keep an answer for a while only. Until then they need its key.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from worker.core.ports import Entry, KeptReply, Sealer, UnsealError
from worker.core.registry import OnUnreadable, Registry, Replies, ResealResult, StoredGrant, StoredReply
from worker.core.webhooks import SigningSecret, Webhook, WebhookSealer, WebhookStore

AT_ONCE: Final = 100
PAUSE_SECONDS: Final = 1.0  # between two passes: a lease ends within a minute


class SealsAll(Sealer, WebhookSealer, Protocol):
    """Seals pairs, kept replies and signing secrets."""


@dataclass(slots=True)
class Tally:
    """How far it has come.

    Attributes:
        resealed: grants, kept replies and webhooks that were sealed anew.
        looked_at: those of them that this pass has met.
        busy: those of this pass that were leased or replaced while they were looked at.
        cannot_open: why some cannot be opened, by grant.
    """

    resealed: int = 0
    looked_at: int = 0
    busy: int = 0
    cannot_open: dict[str, str] = field(default_factory=dict)  # a webhook's has its id


class Resealing:
    """Seals what is stored anew.

    Args:
        registry: the grants.
        replies: the kept replies.
        webhooks: with their signing secrets.
        sealer: opens with any key, and seals with the first one.
        patience_seconds: how long leased grants are waited for, longer than a lease.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        replies: Replies,
        webhooks: WebhookStore,
        sealer: SealsAll,
        patience_seconds: float,
    ) -> None:
        self._registry = registry
        self._replies = replies
        self._webhooks = webhooks
        self._sealer = sealer
        self._patience_seconds = patience_seconds

    async def reseal(self, tally: Tally, unreadable: OnUnreadable, progress: Callable[[Tally], None]) -> None:
        """Go through everything until nothing is left to seal anew, or leased grants outlast the patience.

        Args:
            tally: counted into as the work goes on.
            unreadable: called for each record that cannot be read; its grant is left alone.
            progress: called after each group.

        Raises:
            StoreUnavailableError: the store went away.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience_seconds
        while True:
            tally.looked_at = tally.busy = 0
            await self._pass(tally, unreadable, progress)
            if not tally.busy or loop.time() >= give_up_at:
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _pass(self, tally: Tally, unreadable: OnUnreadable, progress: Callable[[Tally], None]) -> None:
        group: list[StoredGrant] = []
        async for stored in self._registry.walk(unreadable=unreadable):
            group.append(stored)
            if len(group) == AT_ONCE:
                await asyncio.gather(*(self._grant(each, tally) for each in group))
                group.clear()
                progress(tally)
        await asyncio.gather(*(self._grant(each, tally) for each in group))
        for reply in await self._replies.all():
            await self._reply(reply, tally)
        for webhook in await self._webhooks.all():
            await self._webhook(webhook, tally)
        progress(tally)

    async def _grant(self, stored: StoredGrant, tally: Tally) -> None:
        grant = stored.grant
        tally.looked_at += 1
        if self._sealer.is_current(grant.sealed):
            return
        try:
            resealed = self._sealer.seal(grant, self._sealer.open(grant))
        except UnsealError as problem:
            tally.cannot_open[grant.id] = str(problem)
            return
        match await self._registry.reseal(grant.id, grant.sealed, resealed):
            case ResealResult.DONE:
                tally.resealed += 1
            case ResealResult.CHANGED | ResealResult.LEASED:
                tally.busy += 1

    async def _reply(self, stored: StoredReply, tally: Tally) -> None:
        sealed = await self._replies.sealed(stored.number)
        tally.looked_at += 1
        if sealed is None or self._sealer.is_current(sealed):
            return
        owner = stored.client, stored.grant, stored.version
        try:
            resealed = self._sealer.seal_reply(*owner, self._sealer.open_reply(*owner, sealed))
        except UnsealError as problem:
            tally.cannot_open[stored.grant] = str(problem)
            return
        if await self._replies.reseal(stored.number, sealed, resealed):
            tally.resealed += 1

    async def _webhook(self, stored: Webhook, tally: Tally) -> None:
        tally.looked_at += 1
        if all(self._sealer.is_current(each.sealed) for each in stored.secrets):
            return
        try:
            resealed = tuple(replace(each, sealed=self._resealed(stored.id, each)) for each in stored.secrets)
        except UnsealError as problem:
            tally.cannot_open[stored.id] = str(problem)
            return
        if await self._webhooks.replace(stored, replace(stored, secrets=resealed)):
            tally.resealed += 1
        else:
            tally.busy += 1

    def _resealed(self, webhook_id: str, secret: SigningSecret) -> bytes:
        return self._sealer.seal_secret(webhook_id, self._sealer.open_secret(webhook_id, secret.sealed))


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What still needs each key, by the key's id.

    Attributes:
        grants: stored pairs.
        replies: kept replies.
        answers: answers in this machine's journals.
        webhooks: signing secrets.
    """

    grants: Mapping[str, int]
    replies: Mapping[str, int]
    answers: Mapping[str, int]
    webhooks: Mapping[str, int] = field(default_factory=dict)

    def of(self, key_id: str) -> str:
        """What needs a key, in words; empty where nothing does."""
        counts = (
            (self.grants.get(key_id, 0), "grants"),
            (self.replies.get(key_id, 0), "kept replies"),
            (self.webhooks.get(key_id, 0), "webhooks' secrets"),
            (self.answers.get(key_id, 0), "answers in this machine's journals"),
        )
        return ", ".join(f"{number} {what}" for number, what in counts if number)

    def ids(self) -> list[str]:
        """Every key that something needs."""
        return sorted({*self.grants, *self.replies, *self.answers, *self.webhooks})


async def key_use(
    registry: Registry,
    replies: Replies,
    webhooks: WebhookStore,
    sealer: Sealer,
    journaled: Iterable[Entry],
    unreadable: OnUnreadable,
) -> KeyUse:
    """Find out what needs which key.

    Args:
        registry: the grants.
        replies: the kept replies.
        webhooks: with their signing secrets.
        sealer: knows which key sealed a value.
        journaled: the answers in this machine's journals.
        unreadable: called for each record that cannot be read.
    """
    grants, kept, answers = Counter[str](), Counter[str](), Counter[str]()
    async for stored in registry.walk(unreadable=unreadable):
        grants[sealer.key_of(stored.grant.sealed)] += 1
    for reply in await replies.all():
        sealed = await replies.sealed(reply.number)
        if sealed is not None:
            kept[sealer.key_of(sealed)] += 1
    signing = Counter(
        sealer.key_of(secret.sealed) for webhook in await webhooks.all() for secret in webhook.secrets
    )
    for entry in journaled:
        needed = {sealer.key_of(entry.change.grant.sealed)}
        if isinstance(entry, KeptReply):
            needed.add(sealer.key_of(entry.sealed))
        answers.update(needed)
    return KeyUse(grants, kept, answers, signing)
