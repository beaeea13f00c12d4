"""Webhooks as people set them up: added, tested, replayed, enabled again, removed, given a new secret.

Rules:
- A secret is returned once, when it is made. The store has it sealed.
- A replaced secret signs beside the new one for a day, so that no receiver meets a signature it cannot check.
"""

import base64
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.core.audit import By
from worker.core.delivery import Answer
from worker.core.destinations import Network, origin_of, read_url
from worker.core.events import Event, EventType, webhook_event
from worker.core.webhooks import (
    OVERLAP_MS,
    SECRET_BYTES,
    SECRET_PREFIX,
    Message,
    SigningSecret,
    Webhook,
    WebhookSealer,
    WebhookSender,
    WebhookStore,
)


class WebhookProblem(StrEnum):
    """Why something is not done with a webhook."""

    BAD_URL = "bad_url"
    TOO_MANY = "too_many"
    NO_SUCH_WEBHOOK = "no_such_webhook"
    CHANGED = "changed"


class WebhookError(Exception):
    """What was asked for was not done; `code` says why, the message what is accepted."""

    def __init__(self, code: WebhookProblem, message: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook's id, and its secret as its receiver needs it."""

    id: str
    secret: str


class Webhooks:
    """The webhooks of a deployment.

    Args:
        store: where they are.
        sender: tests one.
        sealer: seals secrets.
        allowed: private ranges that may be sent to.
        to_json: an event as it is sent.
    """

    def __init__(
        self,
        *,
        store: WebhookStore,
        sender: WebhookSender,
        sealer: WebhookSealer,
        allowed: Sequence[Network],
        to_json: Callable[[Event], bytes],
    ) -> None:
        self._store = store
        self._sender = sender
        self._sealer = sealer
        self._allowed = allowed
        self._to_json = to_json

    async def add(
        self, url: str, types: Collection[EventType], labels: Mapping[str, str], by: By | None = None
    ) -> NewWebhook:
        """Set a webhook up; it begins with the next event.

        Raises:
            WebhookError: there are too many, or the URL is none to send to.
        """
        try:
            read_url(url, self._allowed)
        except ValueError as problem:
            raise WebhookError(WebhookProblem.BAD_URL, str(problem)) from None
        now, _ = await self._store.clocks()
        webhook_id, secret = f"wh_{secrets.token_hex(6)}", secrets.token_bytes(SECRET_BYTES)
        sealed = SigningSecret(self._sealer.seal_secret(webhook_id, secret))
        webhook = Webhook(webhook_id, url, frozenset(types), dict(labels), now, (sealed,))
        if not await self._store.add(webhook, by):
            raise WebhookError(WebhookProblem.TOO_MANY)
        return NewWebhook(webhook_id, _text_of(secret))

    async def rotate_secret(self, webhook_id: str, by: By | None = None) -> str:
        """Replace a webhook's secret; the one before signs beside it for a day. Returns the new one.

        Raises:
            WebhookError: there is none of that id, or it was changed meanwhile.
        """
        webhook = await self._found(webhook_id)
        now, _ = await self._store.clocks()
        secret = secrets.token_bytes(SECRET_BYTES)
        fresh = SigningSecret(self._sealer.seal_secret(webhook_id, secret))
        former = replace(webhook.secrets[0], until=now + OVERLAP_MS)
        if not await self._store.replace(webhook, replace(webhook, secrets=(fresh, former)), by):
            raise WebhookError(WebhookProblem.CHANGED)
        return _text_of(secret)

    async def remove(self, webhook_id: str, by: By | None = None) -> None:
        """Forget a webhook and what waits for it.

        Raises:
            WebhookError: there is none of that id.
        """
        if not await self._store.remove(webhook_id, by):
            raise WebhookError(WebhookProblem.NO_SUCH_WEBHOOK)

    async def enable(self, webhook_id: str, by: By | None = None) -> None:
        """Let a webhook be sent to again, from where it stopped.

        Raises:
            WebhookError: there is none of that id.
        """
        if not await self._store.enable(webhook_id, by):
            raise WebhookError(WebhookProblem.NO_SUCH_WEBHOOK)

    async def replay(self, webhook_id: str, since: str, by: By | None = None) -> int:
        """Send what follows a stream id once more; returns how many events of any kind lie there.

        Raises:
            WebhookError: there is none of that id.
        """
        stream_id = since if "-" in since else f"{since}-0"
        number = await self._store.rewind(webhook_id, stream_id, by)
        if number is None:
            raise WebhookError(WebhookProblem.NO_SUCH_WEBHOOK)
        return number

    async def test(self, webhook_id: str) -> Answer:
        """Send an event of the type `evergrant.webhook.test` at once, and no second time.

        Raises:
            WebhookError: there is none of that id.
            UnsealError: no key opens its secret.
        """
        webhook = await self._found(webhook_id)
        now, by_redis = await self._store.clocks()
        event = webhook_event(EventType.WEBHOOK_TEST, webhook_id, origin_of(webhook.url), now=now)
        opened = [self._sealer.open_secret(webhook_id, each.sealed) for each in webhook.signing(now)]
        message = Message(webhook.url, event.id, self._to_json(event), by_redis, opened)
        return await self._sender.send(message)

    async def _found(self, webhook_id: str) -> Webhook:
        webhook = await self._store.find(webhook_id)
        if webhook is None:
            raise WebhookError(WebhookProblem.NO_SUCH_WEBHOOK)
        return webhook


def _text_of(secret: bytes) -> str:
    return SECRET_PREFIX + base64.b64encode(secret).decode()
