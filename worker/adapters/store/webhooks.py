"""Webhooks in Redis: what a person set up, how each is getting on, and the queue of each.

Rules:
- What was set up is packed, one field a webhook. All that delivering changes is in keys of the webhook's own.
- Events are read in the script that also reads the place: what is trimmed in between is noticed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgpack

from worker.adapters.cloud_events import to_json
from worker.adapters.store import signatures
from worker.adapters.store.reads import Reads
from worker.adapters.store.registry import signed
from worker.adapters.store.store_clock import read_clocks
from worker.core.delivery import DisabledFor
from worker.core.events import EventType
from worker.core.webhooks import (
    MOST_WAITING,
    MOST_WEBHOOKS,
    Delivered,
    SigningSecret,
    Turn,
    Waiting,
    Webhook,
    WebhookState,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.store.scripts import Scripts
    from worker.core.audit import By
    from worker.core.delivery import Answer, Decision
    from worker.core.events import Event

PLACE_MS: Final = 10_000  # a task at work renews its place more often; a killed one costs as much
PAGE: Final = 200
MOST_SHOWN: Final = 10
SHOWN_MS: Final = 7 * 86_400_000
REWIND_TRIES: Final = 10  # the place moves on meanwhile


class RedisWebhooks:
    """The webhooks of a deployment, as `core.webhooks` asks for them in its two ports.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
        source: of the events that this process emits.
        events_kept: about how many events the stream holds.
        audit_kept: about how many entries the audit stream holds.
    """

    def __init__(
        self,
        redis: "Redis",
        scripts: "Scripts",
        prefix: str,
        *,
        source: str,
        events_kept: int,
        audit_kept: int,
    ) -> None:
        self._redis: Any = Reads(redis)
        self._scripts = scripts
        self._prefix = prefix
        self._source = source
        self._events_kept = events_kept
        self._audit_kept = audit_kept

    async def clocks(self) -> tuple[int, int]:
        """The store's clock, and the server's own, which is what others outside compare with theirs."""
        now, ahead_ms = await read_clocks(self._redis, self._prefix)
        return now, now - ahead_ms

    async def add(self, webhook: Webhook, by: "By | None" = None) -> bool:
        """Store a webhook, which begins with the next event; returns whether there was room."""
        call = signatures.AddWebhook(webhook.id, _pack(webhook), MOST_WEBHOOKS, signed(by), self._audit_kept)
        return bool(await self._scripts.run(call) == b"done")

    async def find(self, webhook_id: str) -> Webhook | None:
        """One webhook, or `None`."""
        packed = await self._redis.hget(self._prefix + "webhooks", webhook_id)
        return None if packed is None else _unpack(webhook_id, packed)

    async def all(self) -> list[Webhook]:
        """Every webhook, the oldest first."""
        found = await self._redis.hgetall(self._prefix + "webhooks")
        webhooks = [_unpack(webhook_id.decode(), packed) for webhook_id, packed in found.items()]
        return sorted(webhooks, key=lambda webhook: (webhook.created_at, webhook.id))

    async def ids(self) -> list[str]:
        """Every webhook."""
        return [webhook_id.decode() for webhook_id in await self._redis.hgetall(self._prefix + "webhooks")]

    async def states(self) -> list[WebhookState]:
        """How every webhook is getting on, the oldest first."""
        webhooks = await self.all()
        known = await self._redis.together(
            [("hgetall", (self._key("webhook", webhook.id),), {}) for webhook in webhooks]
        )
        counts = await self._redis.together(
            [("zcard", (self._key("retries", webhook.id),), {}) for webhook in webhooks]
        )
        oldest = await self._oldest([webhook.id for webhook in webhooks])
        return [
            _state(webhook, fields, waiting, oldest.get(webhook.id))
            for webhook, fields, waiting in zip(webhooks, known, counts, strict=True)
        ]

    async def oldest_undelivered(self) -> dict[str, int]:
        """When the oldest event was written that a webhook has not been sent, Unix ms, by its id."""
        ids = await self.ids()
        disabled_for = await self._redis.together(
            [("hget", (self._key("webhook", each), "disabled_for"), {}) for each in ids]
        )
        return await self._oldest(
            [each for each, why in zip(ids, disabled_for, strict=True) if why != DisabledFor.GONE.encode()]
        )

    async def _oldest(self, ids: Sequence[str]) -> dict[str, int]:
        waiting = await self._redis.together(
            [("zrange", (self._key("retries", each), 0, -1), {}) for each in ids]
        )
        places = await self._redis.together(
            [("hget", (self._key("webhook", each), "place"), {}) for each in ids]
        )
        following = await self._redis.together(
            [
                ("xrange", (self._prefix + "events",), {"min": "(" + (place or b"0-0").decode(), "count": 1})
                for place in places
            ]
        )
        return {
            webhook_id: min(map(_written_at, undelivered))
            for webhook_id, queue, unread in zip(ids, waiting, following, strict=True)
            if (undelivered := [*queue, *(entry_id for entry_id, _ in unread)])
        }

    async def deliveries_of(self, grant_id: str) -> list[Delivered]:
        """The last deliveries of a grant's events, newest first."""
        packed = await self._redis.get(self._key("deliveries", grant_id))
        return [] if packed is None else [Delivered(*each) for each in msgpack.unpackb(packed)]

    async def replace(self, old: Webhook, new: Webhook, by: "By | None" = None) -> bool:
        """Replace a webhook's secrets, unless it has changed meanwhile."""
        call = signatures.ReplaceWebhook(old.id, _pack(old), _pack(new), signed(by), self._audit_kept)
        return bool(await self._scripts.run(call))

    async def remove(self, webhook_id: str, by: "By | None" = None) -> bool:
        """Forget a webhook and its queue; returns whether there was one."""
        call = signatures.RemoveWebhook(webhook_id, signed(by), self._audit_kept)
        return bool(await self._scripts.run(call))

    async def enable(self, webhook_id: str, by: "By | None" = None) -> bool:
        """Let a webhook be sent to from now on, and try at once what waits; returns whether there is one."""
        call = signatures.EnableWebhook(webhook_id, signed(by), self._audit_kept)
        return bool(await self._scripts.run(call))

    async def rewind(self, webhook_id: str, since: str, by: "By | None" = None) -> int | None:
        """Send what follows a stream id once more; returns how many events lie between it and the place."""
        for _ in range(REWIND_TRIES):
            place = await self._redis.hget(self._key("webhook", webhook_id), "place")
            if place is None:
                return None
            number = await self._number_between(since, place.decode())
            if not number:
                return 0
            call = signatures.RewindWebhook(
                webhook_id, since, place.decode(), number, signed(by), self._audit_kept
            )
            if await self._scripts.run(call):
                return number
        return 0

    async def _number_between(self, since: str, place: str) -> int:
        number, after = 0, since
        while _parts(after) < _parts(place):
            page = await self._redis.xrange(self._prefix + "events", min="(" + after, max=place, count=PAGE)
            if not page:
                break
            number, after = number + len(page), page[-1][0].decode()
        return number

    async def reserve(self, task: str, *, is_at_work: bool) -> bool:
        """Reserve the deployment's one place for a delivering task; returns whether this one has it."""
        call = signatures.ReserveDeliverer(task, PLACE_MS, MOST_WAITING, is_at_work)
        return bool(await self._scripts.run(call))

    async def release(self, task: str) -> None:
        """Give the place back."""
        await self._scripts.run(signatures.ReleaseDeliverer(task))

    async def serve(self, webhook_id: str, task: str, most: int) -> Turn | None:
        """Read up to `most` events that are due, and what follows in the stream."""
        answer = await self._scripts.run(signatures.ServeWebhook(webhook_id, task, most, PAGE, MOST_WAITING))
        if isinstance(answer, bytes):
            return None
        now, signed_at, packed, failing_since, place, due, page = answer
        return Turn(
            webhook=_unpack(webhook_id, packed),
            now=now,
            signed_at=signed_at,
            failing_since=failing_since or None,
            due=[Waiting(at.decode(), *msgpack.unpackb(each, raw=True)) for at, each in due],
            place=place.decode(),
            page=[(at.decode(), body) for at, body in page],
        )

    async def enqueue(self, turn: Turn) -> None:
        """Put what the webhook wants of a turn's page into its queue, and move its place on."""
        wanted = tuple((at, body) for at, body in turn.page if _is_wanted(turn.webhook, body))
        await self._scripts.run(
            signatures.EnqueueDeliveries(
                id=turn.webhook.id,
                from_place=turn.place,
                to_place=turn.page[-1][0],
                number=len(turn.page),
                events=wanted,
            )
        )

    async def record(
        self, turn: Turn, event: Waiting, answer: "Answer", decision: "Decision", told: "Event | None"
    ) -> None:
        """Record a try."""
        document = json.loads(event.body)
        is_shown = document["type"].startswith("evergrant.grant.")
        is_shown = is_shown and document["type"] != EventType.GRANT_REFRESHED
        await self._scripts.run(
            signatures.RecordDelivery(
                id=turn.webhook.id,
                place=event.place,
                tries=event.tries,
                outcome=decision.next,
                in_ms=decision.in_ms,
                hold_ms=decision.hold_ms,
                detail=answer.detail,
                disables=decision.disables,
                event=None if told is None else to_json(told, self._source),
                events_kept=self._events_kept,
                grant=document["subject"] if is_shown else None,
                event_id=document["id"],
                most_shown=MOST_SHOWN,
                shown_ms=SHOWN_MS,
            )
        )

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"


def _pack(webhook: Webhook) -> bytes:
    """As it is stored. A new field goes to the end, and has a default."""
    packed: bytes = msgpack.packb(
        [
            *(webhook.url, sorted(webhook.types), dict(sorted(webhook.labels.items())), webhook.created_at),
            [[secret.sealed, secret.until] for secret in webhook.secrets],
        ]
    )
    return packed


def _unpack(webhook_id: str, packed: bytes) -> Webhook:
    url, types, labels, created_at, secrets, *_ = msgpack.unpackb(packed)
    return Webhook(
        id=webhook_id,
        url=url,
        types=frozenset(types),
        labels=labels,
        created_at=created_at,
        secrets=tuple(SigningSecret(sealed, until) for sealed, until in secrets),
    )


def _state(
    webhook: Webhook, fields: Mapping[bytes, bytes], waiting: int, oldest_at: int | None
) -> WebhookState:
    def number(name: bytes) -> int | None:
        return int(fields[name]) if name in fields else None

    def text(name: bytes) -> str | None:
        return fields[name].decode() if name in fields else None

    return WebhookState(
        webhook=webhook,
        disabled_at=number(b"disabled_at"),
        disabled_for=text(b"disabled_for"),
        failing_since=number(b"failing_since"),
        failed_with=text(b"failed_with"),
        waiting=waiting,
        oldest_at=oldest_at,
        delivered=number(b"delivered") or 0,
        given_up=number(b"given_up") or 0,
        lost=number(b"lost") or 0,
    )


def _is_wanted(webhook: Webhook, body: bytes) -> bool:
    """Whether a webhook is told of an entry; of one that somebody else wrote into the stream nobody is."""
    try:
        return webhook.wants(json.loads(body))
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _written_at(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])


def _parts(stream_id: str) -> list[int]:
    return [int(part) for part in stream_id.split("-")]
