"""What consumers learn: CloudEvents 1.0, never with a token in them.

One script makes a change and writes its event, so no event is lost or written twice. An event's id is made
from the attempt that caused it, so a consumer can drop what it has seen. `docs/events.md` is the public
description.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from worker.core.grant import Grant
from worker.core.providers import Client


class EventType(StrEnum):
    """Every type there is."""

    GRANT_REFRESHED = "evergrant.grant.refreshed"
    GRANT_FAILING = "evergrant.grant.failing"
    GRANT_FAILED = "evergrant.grant.failed"
    GRANT_RECOVERED = "evergrant.grant.recovered"
    GRANT_EXPIRING = "evergrant.grant.expiring"
    CLIENT_REJECTED = "evergrant.client.rejected"
    CLIENT_RECOVERED = "evergrant.client.recovered"
    PROVIDER_UNAVAILABLE = "evergrant.provider.unavailable"
    PROVIDER_RECOVERED = "evergrant.provider.recovered"
    WEBHOOK_DISABLED = "evergrant.webhook.disabled"
    WEBHOOK_TEST = "evergrant.webhook.test"  # sent on request, and never in the stream


FAILURES = frozenset({EventType.GRANT_FAILING, EventType.GRANT_FAILED, EventType.GRANT_EXPIRING})


@dataclass(frozen=True, slots=True)
class Event:
    """One CloudEvent; `at` becomes its `time`; `subject`: a grant's, client's or webhook's name, or a URL."""

    type: EventType
    id: str
    subject: str
    at: int
    data: Mapping[str, Any]


def grant_event(
    event_type: EventType,
    grant: Grant,
    client: Client,
    *,
    attempt: int,
    now: int,
    expires_at: int | None,
    detail: str | None = None,
    narrowed: Sequence[str] = (),
) -> Event:
    """The event of a change of a grant.

    Args:
        event_type: its type.
        grant: the record after the change.
        client: whose grant it is.
        attempt: the fence of the attempt that made the change: it makes the id.
        now: when.
        expires_at: the end that this event is about, `None` for never.
        detail: the server's registered error code, or what happened on the wire.
        narrowed: scopes and audiences that this refresh was the first not to give.
    """
    data: dict[str, Any] = {
        "client": client.name,
        "provider": client.provider.name,
        "status": grant.status.value,
        "reason": grant.reason,
        "version": grant.version,
        "expires_at": rfc3339(expires_at),
        "labels": dict(grant.labels),
    }
    if event_type in FAILURES:
        data["access_token_expires_at"] = rfc3339(grant.access_expires_at)
        page = reconnect_page(client, grant.id)
        if page is not None:
            data["reconnect_url"] = page
    if detail is not None:
        data["detail"] = detail
    if narrowed:
        data["narrowed"] = list(narrowed)
    if grant.token_type is not None:
        data["token_type"] = grant.token_type
    return Event(event_type, _event_id(event_type, attempt), grant.id, now, data)


def rebased(event: Event, event_type: EventType, grant: Grant, *, attempt: int) -> Event:
    """The same event of the same attempt, for a record that had moved on."""
    data = {**event.data, "status": grant.status.value, "version": grant.version}
    return replace(event, type=event_type, id=_event_id(event_type, attempt), data=data)


def client_event(
    event_type: EventType, client: Client, *, attempt: int, now: int, reason: str | None = None
) -> Event:
    """The event of a change of a client; its grants are left as they are."""
    status = "rejected" if event_type is EventType.CLIENT_REJECTED else "accepted"
    data = {
        "client": client.name,
        "provider": client.provider.name,
        "status": status,
        "reason": reason,
    }
    return Event(event_type, _event_id(event_type, attempt), client.name, now, data)


def provider_event(
    event_type: EventType, client: Client, *, attempt: int, now: int, reason: str | None = None
) -> Event:
    """The event of a change of a token endpoint, which every client with its URL shares.

    `client` is the client whose request showed the change.
    """
    unavailable = event_type is EventType.PROVIDER_UNAVAILABLE
    data = {
        "client": client.name,
        "provider": client.provider.name,
        "endpoint": client.token_url,
        "status": "unavailable" if unavailable else "available",
        "reason": reason,
    }
    return Event(event_type, _event_id(event_type, attempt), client.token_url, now, data)


def webhook_event(
    event_type: EventType, webhook_id: str, endpoint: str, *, now: int, reason: str | None = None
) -> Event:
    """The event of a webhook: it is sent no more, or is tested.

    `endpoint` is its URL's scheme and host alone: a path may hold what only its receiver is to know.
    """
    status = "disabled" if event_type is EventType.WEBHOOK_DISABLED else "active"
    data = {"webhook": webhook_id, "endpoint": endpoint, "status": status, "reason": reason}
    return Event(event_type, f"{webhook_id}-{_event_id(event_type, now)}", webhook_id, now, data)


def rfc3339(at: int | None) -> str | None:
    """Unix milliseconds as RFC 3339 in UTC; `None`, which means never, stays `None`."""
    if at is None:
        return None
    seconds, milliseconds = divmod(at, 1000)
    return f"{_to_the_second(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=64)  # grants that are refreshed together end together
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


def reconnect_page(client: Client, grant_id: str) -> str | None:
    """The application's page on which a grant's person connects again; `None` where nobody says it."""
    if client.reconnect_url is None:
        return None
    return _page(client.reconnect_url, grant=grant_id, client=client.name)


def _page(template: str, **values: str) -> str:
    """A template's URL: each `{name}` stands for that value, percent-encoded."""
    for name, value in values.items():
        template = template.replace("{" + name + "}", quote(value, safe=""))
    return template


def _event_id(event_type: EventType, attempt: int) -> str:
    """Without dots: `webhook-id` is signed with dots between it and what follows."""
    return f"{attempt}-{event_type.removeprefix('evergrant.').replace('.', '-')}"
