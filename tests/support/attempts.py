"""What a refresher makes of an attempt, for tests that speak to a store in its place."""

from dataclasses import replace

from worker.core import lifecycle
from worker.core.events import Event, EventType, client_event, provider_event
from worker.core.grant import TokenPair
from worker.core.lifecycle import Change
from worker.core.outcomes import Outcome, Refreshed
from worker.core.policy import Rules
from worker.core.ports import Commit, Committed, Lease
from worker.core.providers import Client

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
    successor = lifecycle.succeed(
        base, TokenPair("a0", used), refreshed, client, RULES, attempt=lease.fence, sent_at=now, now=now
    )
    sealed = f"sealed {gives} by {lease.fence}".encode()
    return Commit(lease.fence, base.lineage, base.version, base.status, successor.sealed(sealed))


def failure(lease: Lease, client: Client, outcome: Outcome, now: int) -> Change:
    """An outcome without tokens, ready to be stored."""
    return lifecycle.fail(
        lease.grant,
        outcome,
        client,
        RULES,
        in_doubt=lease.grant.in_doubt,
        attempt=lease.fence,
        now=now,
        chance=1.0,
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
