"""Webhooks: which events go where, what is known of each, and what their delivery needs of the store.

Rules:
- A webhook has its own place in the event stream and its own queue of events that wait for a try. An event
  comes into the queue before it is sent, and leaves it when it is delivered or given up. So a trimmed stream
  takes nothing from it, and a process that dies costs a second delivery, never the event.
- The queue is bounded. While it is full the place stays where it is. What the stream loses beyond a place is
  counted, and told.
- A webhook that is bound to labels is told of grants that have all of them, and of nothing else.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from worker.core.audit import By
from worker.core.delivery import Answer, Decision
from worker.core.events import Event, EventType

MOST_WEBHOOKS: Final = 50  # of a deployment: one task serves them all, with some requests to each at once
MOST_WAITING: Final = 1_000  # events in the queue of one webhook
SECRET_BYTES: Final = 32
SECRET_PREFIX: Final = "whsec_"
OVERLAP_MS: Final = 24 * 3_600_000  # for which a replaced secret signs beside the new one

TYPES: Final = tuple(each for each in EventType if each is not EventType.WEBHOOK_TEST)
_PREFIX: Final = "evergrant."

is_stream_id: Final = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?").fullmatch


@dataclass(frozen=True, slots=True)
class SigningSecret:
    """One secret, sealed; `until` is when it signs no more, `None` for never."""

    sealed: bytes = field(repr=False)
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook as a person set it up. Instants are Unix ms.

    Attributes:
        types: of the events that it is told of; empty for all.
        labels: those that a grant must have; none for every event.
        secrets: the newest first; a second one while it is replaced.
    """

    id: str
    url: str = field(repr=False)
    types: frozenset[str]
    labels: Mapping[str, str]
    created_at: int
    secrets: tuple[SigningSecret, ...]

    def wants(self, event: Mapping[str, Any]) -> bool:
        """Whether it is told of an event of the stream."""
        labels = event["data"].get("labels") or {}
        is_of_type = not self.types or event["type"] in self.types
        return is_of_type and self.labels.items() <= labels.items()

    def signing(self, now: int) -> Sequence[SigningSecret]:
        """The secrets that sign now."""
        return [each for each in self.secrets if each.until is None or each.until > now]


@dataclass(frozen=True, slots=True)
class WebhookState:
    """How a webhook is getting on. Instants are Unix ms, `None` where there is none.

    Attributes:
        disabled_for: why it is sent nothing more.
        failing_since: since when it has met nothing but failures.
        failed_with: what the last failure was.
        waiting: events in its queue.
        oldest_at: when the oldest event was written that it has not been sent.
        delivered: how many it has taken.
        given_up: events that were tried as often as they are.
        lost: events that the stream lost before they came into its queue.
    """

    webhook: Webhook
    disabled_at: int | None
    disabled_for: str | None
    failing_since: int | None
    failed_with: str | None
    waiting: int
    oldest_at: int | None
    delivered: int
    given_up: int
    lost: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event in a webhook's queue.

    Attributes:
        place: its stream id.
        tries: how often it has been tried.
        body: the CloudEvents object as the stream has it.
    """

    place: str
    tries: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """What a webhook is to be sent now, and what the stream has for it.

    Attributes:
        now: by the store's clock.
        signed_at: the same by the server's: what receivers compare with their own.
        due: of its queue.
        place: up to where the stream has been looked at.
        page: what follows there, by stream id; empty while the queue is full or enough is due.
    """

    webhook: Webhook
    now: int
    signed_at: int
    failing_since: int | None
    due: Sequence[Waiting]
    place: str
    page: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery of an event of a grant, as its page shows it.

    Attributes:
        at: when, Unix ms.
        outcome: `delivered`, or what the try ended with, such as `http_500`.
        tries: the number of this try.
    """

    webhook: str
    event: str
    at: int
    outcome: str
    tries: int


@dataclass(frozen=True, slots=True)
class Message:
    """One request to be signed and sent.

    Attributes:
        at: Unix ms, as receivers count it.
        secrets: 32 bytes each; the newest first.
    """

    url: str = field(repr=False)
    event_id: str
    body: bytes
    at: int
    secrets: Sequence[bytes] = field(repr=False)


class WebhookSender(Protocol):
    """Sends webhooks."""

    async def send(self, message: Message) -> Answer:
        """Send once, within a deadline; never raises because of what a receiver does."""


class WebhookSealer(Protocol):
    """Seals signing secrets."""

    def is_current(self, sealed: bytes) -> bool:
        """Whether a value is sealed as it would be now."""

    def key_of(self, sealed: bytes) -> str:
        """The id of the key that sealed a value."""

    def seal_secret(self, webhook_id: str, secret: bytes) -> bytes:
        """Seal a webhook's secret with the first key of the ring; it opens as nothing else."""

    def open_secret(self, webhook_id: str, sealed: bytes) -> bytes:
        """Open it.

        Raises:
            UnsealError: no key of the ring fits.
        """


class WebhookStore(Protocol):
    """The webhooks of a deployment."""

    async def clocks(self) -> tuple[int, int]:
        """The store's clock, and the server's own: what others outside compare with theirs. Unix ms."""

    async def add(self, webhook: Webhook, by: By | None = None) -> bool:
        """Store a webhook, which begins with the next event; returns whether there was room."""

    async def find(self, webhook_id: str) -> Webhook | None:
        """One webhook, or `None`."""

    async def all(self) -> Sequence[Webhook]:
        """Every webhook, the oldest first."""

    async def states(self) -> Sequence[WebhookState]:
        """How every webhook is getting on, the oldest first."""

    async def oldest_undelivered(self) -> Mapping[str, int]:
        """When the oldest event was written that a webhook has not been sent, Unix ms, by the webhook's id.

        Events that were not looked at yet count. Webhooks that were sent everything are not in it, nor those
        whose receiver answered 410: it asked to be sent nothing more.
        """

    async def deliveries_of(self, grant_id: str) -> Sequence[Delivered]:
        """The last deliveries of a grant's events, newest first; a refresh that went well is none of them."""

    async def replace(self, old: Webhook, new: Webhook, by: By | None = None) -> bool:
        """Replace a webhook's secrets, unless it has changed meanwhile; without `by`, they are resealed."""

    async def remove(self, webhook_id: str, by: By | None = None) -> bool:
        """Forget a webhook and its queue; returns whether there was one."""

    async def enable(self, webhook_id: str, by: By | None = None) -> bool:
        """Let a webhook be sent to from now on, and try at once what waits; returns whether there is one.

        What was lost or given up is told no longer.
        """

    async def rewind(self, webhook_id: str, since: str, by: By | None = None) -> int | None:
        """Send what follows a stream id once more; returns how many events lie between it and the place.

        `None` where there is no such webhook.
        """


class DeliveryQueue(Protocol):
    """The queues of all webhooks, served by one task at a time: the one that has the place."""

    async def reserve(self, task: str, *, is_at_work: bool) -> bool:
        """Reserve the deployment's one place for a delivering task; returns whether this one has it.

        Where nothing is to be delivered there is none, unless the task is at work already. Such a task calls
        this again and again: the place ends after a while.
        """

    async def release(self, task: str) -> None:
        """Give the place back."""

    async def ids(self) -> Sequence[str]:
        """Every webhook."""

    async def serve(self, webhook_id: str, task: str, most: int) -> Turn | None:
        """Read up to `most` events that are due, and what follows in the stream.

        `None` where it is gone or disabled, or the task has lost its place.
        """

    async def enqueue(self, turn: Turn) -> None:
        """Put what the webhook wants of a turn's page into its queue, and move its place on."""

    async def record(
        self, turn: Turn, event: Waiting, answer: Answer, decision: Decision, told: Event | None
    ) -> None:
        """Record a try; `told` is the event of a webhook that is disabled by it."""


def event_type(text: str) -> EventType:
    """A type with or without its `evergrant.`.

    Raises:
        ValueError: there is no such type.
    """
    named = text if text.startswith(_PREFIX) else _PREFIX + text
    if named not in TYPES:
        raise ValueError(f"takes {', '.join(each.removeprefix(_PREFIX) for each in TYPES)}")
    return EventType(named)
