"""The fleet at a glance: each client's numbers, and what is wrong, for whom, until when, and what to do."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker.core.events import rfc3339
from worker.core.grant import Status
from worker.core.reasons import FAILED, Reason
from worker.core.registry import UNREADABLE, WAY_OUT, ClientState, FleetState, Registry, StoredGrant

MOST_NAMED: Final = 20
OVERDUE_MS: Final = 60_000  # a grant that has been due for longer is late
CLOSE_MS: Final = 1_800_000  # an outage this near to an expiry is worth waking a person


@dataclass(frozen=True, slots=True)
class Incident:
    """One thing that is wrong.

    Attributes:
        ends_at: until when there is time; `None` where nothing is about to end.
        needs_a_person: whether something will expire unless a person acts.
    """

    kind: str
    subject: str
    problem: str
    ends_at: int | None
    advice: str
    needs_a_person: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What `evergrant status` shows; `more` counts the failed grants it does not name."""

    now: int
    clients: Sequence[ClientState]
    incidents: Sequence[Incident]
    more: int

    @property
    def needs_a_person(self) -> bool:
        """Whether something will expire unless a person acts."""
        return any(incident.needs_a_person for incident in self.incidents)

    def documents(self) -> Iterator[dict[str, Any]]:
        """The report as JSON lines: each client, then each incident."""
        for client in self.clients:
            yield {
                "kind": "client",
                "client": client.name,
                "state": client.state,
                "reason": client.reason,
                "provider_state": client.provider_state,
                "provider_reason": client.provider_reason,
                "provider_unavailable_since": rfc3339(client.unavailable_since),
                "throttled_until": rfc3339(_ahead(client.throttled_until, self.now)),
                "grants": {status.value: number for status, number in client.grants.items()},
                "due": client.due,
                "next_due_at": rfc3339(client.next_due_at),
                "soonest_expiry_at": rfc3339(client.soonest_expiry_at),
                "refreshed": client.refreshed,
                "late": client.late,
            }
        for incident in self.incidents:
            yield {
                "kind": "incident",
                "incident": incident.kind,
                "subject": incident.subject,
                "problem": incident.problem,
                "ends_at": rfc3339(incident.ends_at),
                "advice": incident.advice,
                "needs_a_person": incident.needs_a_person,
            }


async def report_on(registry: Registry, fleet_state: FleetState, configured: Collection[str]) -> Report:
    """Look at every client that is configured or has grants.

    Args:
        registry: the grants.
        fleet_state: the state of clients, token endpoints and processes.
        configured: the names of the clients that have settings.
    """
    now = await registry.now()
    names = sorted({*configured, *await fleet_state.client_names()})
    unreadable = await registry.noted_unreadable(MOST_NAMED)
    clients = [await fleet_state.of_client(name, unreadable=unreadable.append) for name in names]
    troubled = await registry.needing_attention(MOST_NAMED, unreadable=unreadable.append)
    incidents = [incident for client in clients for incident in _of_client(client, configured, now)]
    incidents += [_of_grant(stored, ends_at) for stored, ends_at in troubled]
    met = sorted({problem.grant_id for problem in unreadable})
    incidents += [_of_unreadable(grant_id) for grant_id in met[:MOST_NAMED]]
    incidents += [_of_worker(owner, trouble) for owner, trouble in (await fleet_state.troubles()).items()]
    failed = sum(client.grants[Status.FAILED] for client in clients)
    named = sum(stored.grant.status is Status.FAILED for stored, _ in troubled)
    return Report(now, clients, incidents, max(failed - named, 0))


def _of_client(client: ClientState, configured: Collection[str], now: int) -> Iterator[Incident]:
    has_grants = any(client.grants.values())
    if client.state == "rejected":
        yield Incident(
            "client_rejected",
            client.name,
            f"the provider rejects this client's credentials ({client.reason}),"
            f" next probe {_in(client.probe_at, now)}",
            client.soonest_expiry_at,
            f"Put the right secret into EVERGRANT_CLIENTS__{client.name.upper()}__CLIENT_SECRET: in .env or"
            " its secret file it is read again at the next probe, in a worker's environment at its restart.",
            needs_a_person=has_grants,
        )
    elif client.name not in configured and has_grants:
        yield Incident(
            "client_not_configured",
            client.name,
            "it has grants but no settings",
            client.soonest_expiry_at,
            f"Set EVERGRANT_CLIENTS__{client.name.upper()}__PROVIDER and the rest, or delete its grants.",
            needs_a_person=True,
        )
    elif client.provider_state == "unavailable":
        yield _provider_unavailable(client, now, has_grants=has_grants)
    elif _ahead(client.throttled_until, now) is not None:
        yield Incident(
            "throttled",
            client.name,
            f"its token endpoint told it to wait, and it goes on {_in(client.throttled_until, now)}",
            client.soonest_expiry_at,
            "Nothing to do yet. If it comes often, set"
            f" EVERGRANT_CLIENTS__{client.name.upper()}__RATE_PER_SECOND to what the provider allows.",
            needs_a_person=False,
        )
    elif client.next_due_at is not None and now - client.next_due_at > OVERDUE_MS:
        nobody_claims = client.claimed_at is None or now - client.claimed_at > OVERDUE_MS
        yield Incident(
            "not_refreshing" if nobody_claims else "behind",
            client.name,
            f"{'nobody refreshes its grants' if nobody_claims else 'its refreshes are late'},"
            f" overdue: {client.due}",
            client.soonest_expiry_at,
            "Are a worker and beat running, and can they reach Redis?"
            if nobody_claims
            else "They are being worked off; more workers or a higher rate budget make it faster.",
            needs_a_person=nobody_claims,
        )


def _provider_unavailable(client: ClientState, now: int, *, has_grants: bool) -> Incident:
    """An outage needs no person while every token lives on and a worker keeps trying."""
    nobody_tries = (
        client.endpoint_probe_at is not None and now - client.endpoint_probe_at > OVERDUE_MS and has_grants
    )
    is_close = client.soonest_expiry_at is not None and client.soonest_expiry_at - now < CLOSE_MS
    if nobody_tries:
        advice = "Nobody tries: are a worker and beat running, and can they reach Redis?"
    elif is_close:
        advice = "`evergrant doctor` says whether it can be reached from here; if it can, ask the provider."
    else:
        advice = "Nothing to do yet: its grants wait unharmed. The provider's status page may say more."
    return Incident(
        "provider_unavailable",
        client.name,
        f"its token endpoint gives no usable answer ({client.provider_reason}) since"
        f" {rfc3339(client.unavailable_since)}, next try {_in(client.endpoint_probe_at, now)}",
        client.soonest_expiry_at,
        advice,
        needs_a_person=nobody_tries or is_close,
    )


def _ahead(at: int | None, now: int) -> int | None:
    """An instant, unless it has passed."""
    return at if at is not None and at > now else None


def _in(at: int | None, now: int) -> str:
    return "is due" if at is None or at <= now else f"in {(at - now) // 1000} s"


def _of_worker(owner: str, trouble: str) -> Incident:
    return Incident(
        "worker_stopped_claiming",
        owner,
        f"it claims nothing ({trouble})",
        None,
        "Mend that; a full disk by making room, or with another EVERGRANT_DATA_DIR. It goes on by itself.",
        needs_a_person=True,
    )


def _of_unreadable(grant_id: str) -> Incident:
    return Incident("grant_unreadable", grant_id, UNREADABLE, None, WAY_OUT, needs_a_person=True)


def _of_grant(stored: StoredGrant, ends_at: int | None) -> Incident:
    grant = stored.grant
    if grant.status is Status.FAILED:
        advice = next((reason.advice for reason in FAILED if reason == grant.reason), Reason.REVOKED.advice)
        return Incident(
            "grant_failed", grant.id, _said("failed", grant.reason), ends_at, advice, needs_a_person=True
        )
    if grant.status is Status.FAILING and grant.reason == Reason.CANNOT_UNSEAL:
        problem = "its tokens cannot be read: the key that sealed them is not in EVERGRANT_KEYS"
        advice = Reason.CANNOT_UNSEAL.advice
        return Incident("key_missing", grant.id, problem, ends_at, advice, needs_a_person=True)
    if grant.status is Status.FAILING:
        problem = _said("failing", grant.reason, f"tries: {grant.streak}")
        advice = "It is being tried again; nothing to do yet."
        return Incident("grant_failing", grant.id, problem, ends_at, advice, needs_a_person=False)
    return Incident(
        "grant_expiring",
        grant.id,
        "comes to an end that no refresh can move",
        ends_at,
        "The person must connect again before then.",
        needs_a_person=True,
    )


def _said(*facts: str | None) -> str:
    return ", ".join(fact for fact in facts if fact)
