"""What a refresher makes of an attempt, for tests that speak to a store in its place."""

from dataclasses import replace

from worker.core import lifecycle
from worker.core.events import Event, EventType, client_event, provider_event
from worker.core.grant import TokenPair
from worker.core.lifecycle import Change
from worker.core.outcomes import Outcome, Refreshed, Reply, Unread
from worker.core.policy import Rules
from worker.core.ports import Commit, Committed, KeptReply, Lease
from worker.core.providers import Client
from worker.core.reasons import Reason

RULES = Rules()


def answer(
    lease: Lease,
    client: Client,
    now: int,
    gives: str = "r1",
    *,
    used: str = "r0",
    onto: Committed | None = None,
) -> Commit:
    """A server's tokens, ready to be stored; `onto` is the record that they have to follow."""
    base = lease.grant
    if onto is not None and onto.status is not None:
        base = replace(base, version=onto.version, status=onto.status)
    refreshed = Refreshed("a1", gives, 3_600_000, None, None)
    held, sealed = TokenPair("a0", used), f"sealed {gives} by {lease.fence}".encode()
    change = lifecycle.succeed(
        base, held, refreshed, client, RULES, sealed=sealed, attempt=lease.fence, sent_at=now, now=now
    )
    return Commit(lease.fence, base.lineage, base.version, base.status, change)


def failure(lease: Lease, client: Client, outcome: Outcome, now: int) -> Change:
    """An outcome without tokens, ready to be stored."""
    return lifecycle.fail(
        lease.grant,
        outcome,
        client,
        RULES,
        with_all=False,
        in_doubt=lease.grant.in_doubt,
        attempt=lease.fence,
        now=now,
        chance=1.0,
    )


def unread(
    lease: Lease, client: Client, now: int, *, sent_at: int | None = None, sealed: bytes = b"sealed reply"
) -> KeptReply:
    """A reply that nobody could read, ready to be kept."""
    reply = Unread("http_200_not_json", Reply(200, {}, b"?"))
    return KeptReply(
        fence=lease.fence,
        change=lifecycle.keep(lease.grant, reply, client, RULES, attempt=lease.fence, now=now),
        sealed=sealed,
        size=1,
        detail=reply.detail,
        sent_at=now if sent_at is None else sent_at,
        received_at=now,
        registration=client.registration,
        endpoint_probe=lease.endpoint_probe,
        outage=unavailable(client, lease, now, Reason.REPLY_UNREAD),
    )


def put_back(lease: Lease, client: Client, due_at: int | None) -> Change:
    """A lease that is given back: nothing was learnt about its grant."""
    return lifecycle.leave(lease.grant, due_at, client, RULES)


def rejected(client: Client, lease: Lease, now: int) -> Event:
    """The event of a rejected client."""
    return client_event(
        EventType.CLIENT_REJECTED, client, attempt=lease.fence, now=now, reason="invalid_client"
    )


def accepted(client: Client, lease: Lease, now: int) -> Event:
    """The event of a client that is accepted again."""
    return client_event(EventType.CLIENT_RECOVERED, client, attempt=lease.fence, now=now)


def unavailable(client: Client, lease: Lease, now: int, reason: str = "http_502") -> Event:
    """The event of an unavailable endpoint."""
    return provider_event(EventType.PROVIDER_UNAVAILABLE, client, attempt=lease.fence, now=now, reason=reason)


def recovered(client: Client, lease: Lease, now: int) -> Event:
    """The event of an endpoint that is available again."""
    return provider_event(EventType.PROVIDER_RECOVERED, client, attempt=lease.fence, now=now)
