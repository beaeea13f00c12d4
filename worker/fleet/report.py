"""The fleet at a glance: each client's numbers, and what is wrong, for whom, until when, and what to do."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker.core.delivery import FAILING_MS, DisabledFor
from worker.core.destinations import origin_of
from worker.core.events import rfc3339
from worker.core.grant import NO_END, Status
from worker.core.lifecycle import waits_for_key
from worker.core.outcomes import EVERY_GRANT_REJECTED
from worker.core.ports import CLOCK_ADVICE, ClockJump
from worker.core.protocol import REDIRECT
from worker.core.reasons import FAILED, Reason
from worker.core.registry import (
    BEAT_ALIVE_MS,
    WORKER_ALIVE_MS,
    ClientState,
    FleetState,
    Registry,
    Replies,
    StoredGrant,
    StoredReply,
    UnreadableRecordError,
    Workers,
)
from worker.core.webhooks import WebhookState, WebhookStore
from worker.fleet.idleness import OVERDUE_MS, Idleness, why_idle
from worker.fleet.losses import Losses

Called = Callable[[str, str], str]
KeyOf = Callable[[bytes], str]

MOST_NAMED: Final = 20
MOST_COUNTED: Final = 1_000  # grants whose key is missing
JUMP_TOLD_MS: Final = 86_400_000
NEARLY_FULL: Final = 0.9  # of the store's memory: the alert's share
AHEAD_TOLD_MS: Final = 5_000  # as much as `evergrant doctor` lets pass between two machines
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

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": "incident",
            "incident": self.kind,
            "subject": self.subject,
            "problem": self.problem,
            "ends_at": rfc3339(self.ends_at),
            "advice": self.advice,
            "needs_a_person": self.needs_a_person,
        }


@dataclass(frozen=True, slots=True)
class Process:
    """A worker's child or a beat, as it was last heard of.

    Attributes:
        role: `worker` or `beat`.
        name: its host, process id, and for a worker what tells it from a former process of that id.
        last_heartbeat_at: Unix ms.
        is_alive: it was heard of in the last seconds.
        trouble: why it claims nothing; `None` where it claims.
    """

    role: str
    name: str
    last_heartbeat_at: int
    is_alive: bool
    trouble: str | None

    @property
    def host(self) -> str:
        """The machine, or container, where it runs."""
        return self.name.partition(":")[0]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": self.role,
            "name": self.name,
            "host": self.host,
            "alive": self.is_alive,
            "last_heartbeat_at": rfc3339(self.last_heartbeat_at),
            "trouble": self.trouble,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What `evergrant status` shows; `more` counts the failed grants it does not name."""

    now: int
    clients: Sequence[ClientState]
    incidents: Sequence[Incident]
    more: int
    processes: Sequence[Process] = ()

    @property
    def needs_a_person(self) -> bool:
        """Whether something will expire unless a person acts."""
        return any(incident.needs_a_person for incident in self.incidents)

    @property
    def noteworthy(self) -> Sequence[ClientState]:
        """The clients of which there is something to say, those that an incident names first."""
        subjects = {incident.subject for incident in self.incidents}
        return sorted(
            (client for client in self.clients if client.name in subjects or _has_trouble(client)),
            key=lambda client: client.name not in subjects,
        )

    @property
    def most_urgent(self) -> Sequence[Incident]:
        """The incidents, those first that need a person; otherwise in their order."""
        return sorted(self.incidents, key=lambda incident: not incident.needs_a_person)

    def documents(self) -> Iterator[dict[str, Any]]:
        """The report as JSON lines: each client, each worker and beat, then each incident."""
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
        for process in self.processes:
            yield process.document()
        for incident in self.incidents:
            yield incident.document()


async def report_on(
    registry: Registry,
    fleet_state: FleetState,
    replies: Replies,
    configured: Collection[str],
    called: Called,
    losses: Losses | None = None,
    webhooks: WebhookStore | None = None,
    *,
    key_of: KeyOf,
) -> Report:
    """Look at every client that is configured or has grants.

    Args:
        registry: the grants.
        fleet_state: the state of clients, token endpoints and processes.
        replies: those that could not be read.
        configured: the names of the clients that have settings.
        called: what a person calls a client's setting, by the client's name and the setting's.
        losses: what the store lacks of this machine's journals; `None` where it lacks nothing.
        webhooks: how they are getting on; `None` where that is not asked.
        key_of: the id of the key that sealed a pair.
    """
    now = await registry.now()
    names = sorted({*configured, *await fleet_state.client_names()})
    unreadable = await registry.noted_unreadable(MOST_NAMED)
    clients = await fleet_state.of_clients(names, unreadable=unreadable.append)
    troubled = await registry.needing_attention(MOST_NAMED, unreadable=unreadable.append)
    workers = await fleet_state.workers()
    incidents = list(_of_store_now(workers))
    incidents += [] if losses is None else of_losses(losses)
    incidents += of_clock(workers.clock_jump, now)
    incidents += _of_dead_processes(workers, clients, now)
    incidents += [
        incident for client in clients for incident in _of_client(client, configured, called, workers, now)
    ]
    if any(waits_for_key(stored.grant) for stored, _ in troubled):
        listed = await registry.needing_attention(MOST_COUNTED, unreadable=unreadable.append)
        incidents += _of_missing_keys(listed, key_of)
    for stored, ends_at in troubled:
        if waits_for_key(stored.grant):
            continue
        number = stored.grant.kept_reply
        reply = None if number is None else await replies.find(number)
        incidents.append(_of_grant(stored, ends_at) if reply is None else _of_reply(stored, reply, ends_at))
    met = {problem.grant_id: problem for problem in unreadable}
    incidents += [_of_unreadable(met[grant_id]) for grant_id in sorted(met)[:MOST_NAMED]]
    incidents += [_of_untaken(grant_id) for grant_id in workers.untaken[:MOST_NAMED]]
    incidents += [_of_worker(owner, trouble) for owner, trouble in workers.troubles.items()]
    for state in await webhooks.states() if webhooks is not None else ():
        incidents += _of_webhook(state)
    failed = sum(client.grants[Status.FAILED] for client in clients)
    named = sum(stored.grant.status is Status.FAILED for stored, _ in troubled)
    return Report(now, clients, incidents, max(failed - named, 0), processes_of(workers, now))


def processes_of(workers: Workers, now: int) -> list[Process]:
    """Every worker and beat that was heard of lately, the latest first."""
    known = [("worker", *each, WORKER_ALIVE_MS) for each in workers.heard.items()]
    known += [("beat", *each, BEAT_ALIVE_MS) for each in workers.beats.items()]
    return [
        Process(role, name, at, now - at <= alive_ms, workers.troubles.get(name))
        for role, name, at, alive_ms in known
    ]


def _of_dead_processes(workers: Workers, clients: Sequence[ClientState], now: int) -> Iterator[Incident]:
    """Workers or beats that were there, and all went without a word. Those that were stopped left one."""
    processes = processes_of(workers, now)
    is_needed = any(client.next_due_at is not None for client in clients)
    for role, begin in (("worker", "Start one."), ("beat", "Start it: it tells the workers to look.")):
        of_role = [process for process in processes if process.role == role]
        if of_role and is_needed and not any(process.is_alive for process in of_role):
            others = f", and of {len(of_role) - 1} more" if len(of_role) > 1 else ""
            soonest = min((client.soonest_expiry_at or NO_END for client in clients), default=NO_END)
            yield Incident(
                f"{role}_dead",
                of_role[0].name,
                f"no {role} is alive: nothing was heard of this one since"
                f" {rfc3339(of_role[0].last_heartbeat_at)}{others}",
                None if soonest == NO_END else soonest,
                f"It was killed, is frozen, or cannot reach Redis. {begin}",
                needs_a_person=True,
            )


def _has_trouble(client: ClientState) -> bool:
    return (
        client.state != "accepted"
        or client.provider_state != "available"
        or bool(client.grants[Status.FAILING] or client.grants[Status.FAILED])
    )


def of_losses(losses: Losses) -> Iterator[Incident]:
    """The store lacks what this machine's journals hold."""
    at_least = "" if losses.is_all else "at least "
    if losses.missing:
        what = "is empty" if losses.life.is_empty else f"began anew at {rfc3339(losses.life.began_at)}"
        yield Incident(
            "store_lost",
            "Redis",
            f"it {what}, and this machine's journals hold answers of {at_least}{losses.missing} grants that"
            " it lacks: was it flushed, restored from a backup, or is it another one?",
            None,
            "Stop every worker, import your newest export, start them again: the journals give those grants"
            " their newest tokens (docs/operations.md, `Redis lost everything`).",
            needs_a_person=True,
        )
    if losses.behind:
        yield Incident(
            "store_behind",
            "Redis",
            f"it has older tokens of {at_least}{losses.behind} grants than this machine's journals:"
            " was a backup restored, or a record put back?",
            None,
            "Restart the workers of this machine: they give the newest tokens back before they refresh.",
            needs_a_person=True,
        )


def of_clock(jump: ClockJump | None, now: int) -> Iterator[Incident]:
    """The server's clock was set, lately or so far back that the store's is still well ahead of it."""
    if jump is not None and (now - jump.at < JUMP_TOLD_MS or jump.ahead_ms > AHEAD_TOLD_MS):
        problem = f"at {rfc3339(jump.at)} {jump.problem}"
        yield Incident("clock_set", "Redis", problem, None, CLOCK_ADVICE, needs_a_person=False)


def _of_client(
    client: ClientState, configured: Collection[str], called: Called, workers: Workers, now: int
) -> Iterator[Incident]:
    has_grants = any(client.grants.values())
    if client.state == "rejected":
        yield _client_rejected(client, called, workers, now, has_grants=has_grants)
    elif client.name not in configured and has_grants:
        yield Incident(
            "client_not_configured",
            client.name,
            "it has grants but no settings",
            client.soonest_expiry_at,
            f"Set {called(client.name, 'provider')} and the rest, or put it back into the clients file;"
            " or delete its grants.",
            needs_a_person=True,
        )
    elif client.provider_state == "unavailable":
        yield _provider_unavailable(client, workers, now, has_grants=has_grants)
    elif _ahead(client.throttled_until, now) is not None:
        yield Incident(
            "throttled",
            client.name,
            f"its token endpoint told it to wait, and it goes on {_in(client.throttled_until, now)}",
            client.soonest_expiry_at,
            "Nothing to do yet. If it comes often, set"
            f" {called(client.name, 'rate_per_second')} to what the provider allows.",
            needs_a_person=False,
        )
    elif client.unanswered:
        yield _unanswered(client)
    elif client.next_due_at is not None and now - client.next_due_at > OVERDUE_MS:
        yield _overdue(client, workers, now)


def _client_rejected(
    client: ClientState, called: Called, workers: Workers, now: int, *, has_grants: bool
) -> Incident:
    probe = _next_try("probe", client.probe_at, why_idle(client, workers, now), now)
    return Incident(
        "client_rejected",
        client.name,
        f"the provider rejects this client's credentials ({client.reason}) since"
        f" {rfc3339(client.rejected_at)}, {probe}",
        client.soonest_expiry_at,
        _advice_to_rejected(client, called),
        needs_a_person=has_grants,
    )


def _advice_to_rejected(client: ClientState, called: Called) -> str:
    if (client.reason or "").startswith(REDIRECT):
        return (
            f"Its token endpoint's URL is wrong: set {called(client.name, 'token_url')} to where it"
            " redirects, which `evergrant doctor` shows."
        )
    if client.reason == EVERY_GRANT_REJECTED:
        return (
            f"Compare {called(client.name, 'client_id')}, its secret and its endpoint with the registration"
            " at the provider: more likely they are another client's than that everybody has withdrawn the"
            " consent."
        )
    return (
        f"Put the right secret into {called(client.name, 'client_secret')}: in .env, in the clients file or"
        " in its secret file it is read again at the next probe, in a worker's environment at its restart."
    )


def _provider_unavailable(client: ClientState, workers: Workers, now: int, *, has_grants: bool) -> Incident:
    """An outage needs no person while every token lives on and a worker keeps trying."""
    is_overdue = has_grants and _is_overdue(client.endpoint_probe_at, now)
    idleness = why_idle(client, workers, now) if is_overdue else None
    is_close = client.soonest_expiry_at is not None and client.soonest_expiry_at - now < CLOSE_MS
    nobody_tries = idleness is not None and idleness.needs_a_person
    if idleness is not None and (nobody_tries or not is_close):
        advice = idleness.advice
    elif is_close:
        advice = "`evergrant doctor` says whether it can be reached from here; if it can, ask the provider."
    else:
        advice = "Nothing to do yet: its grants wait unharmed. The provider's status page may say more."
    return Incident(
        "provider_unavailable",
        client.name,
        f"its token endpoint gives no usable answer ({client.provider_reason}) since"
        f" {rfc3339(client.unavailable_since)}, {_next_try('try', client.endpoint_probe_at, idleness, now)}",
        client.soonest_expiry_at,
        advice,
        needs_a_person=nobody_tries or is_close,
    )


def _unanswered(client: ClientState) -> Incident:
    return Incident(
        "provider_failing",
        client.name,
        f"its token endpoint has given no usable answer since {rfc3339(client.unanswered_since)},"
        f" refreshes that it left unanswered: {client.unanswered}",
        client.soonest_expiry_at,
        "They are tried again. After five in a row it counts as unavailable, and is only probed.",
        needs_a_person=False,
    )


def _overdue(client: ClientState, workers: Workers, now: int) -> Incident:
    idleness = why_idle(client, workers, now)
    if idleness is None:
        return Incident(
            "behind",
            client.name,
            f"its refreshes are late, overdue: {client.due}",
            client.soonest_expiry_at,
            "They are being worked off; more workers or a higher rate budget make it faster.",
            needs_a_person=False,
        )
    return Incident(
        "not_refreshing",
        client.name,
        f"nobody refreshes its grants ({idleness.why}), overdue: {client.due}",
        client.soonest_expiry_at,
        idleness.advice,
        needs_a_person=idleness.needs_a_person,
    )


def _next_try(what: str, at: int | None, idleness: Idleness | None, now: int) -> str:
    """When the next try comes; where it should have come long ago, why it has not."""
    if idleness is None or not _is_overdue(at, now):
        return f"next {what} {_in(at, now)}"
    return f"next {what} is due, and nobody tries ({idleness.why})"


def _is_overdue(at: int | None, now: int) -> bool:
    return at is not None and now - at > OVERDUE_MS


def _ahead(at: int | None, now: int) -> int | None:
    """An instant, unless it has passed."""
    return at if at is not None and at > now else None


def _in(at: int | None, now: int) -> str:
    return "is due" if at is None or at <= now else f"in {(at - now) // 1000} s"


def _of_store_now(workers: Workers) -> Iterator[Incident]:
    if workers.refusal:
        yield of_store(workers.refusal)
    elif workers.memory_share is not None and workers.memory_share > NEARLY_FULL:
        yield Incident(
            "store_nearly_full",
            "the store",
            f"Redis has used {workers.memory_share:.0%} of its maxmemory",
            None,
            "Raise maxmemory, or make room: when it is full it takes no writes, and nothing is refreshed.",
            needs_a_person=False,
        )


def of_store(refusal: str) -> Incident:
    """The store takes no writes."""
    return Incident(
        "store_refuses_writes",
        "the store",
        f"Redis refuses writes: {refusal}",
        None,
        "Nothing is claimed, and answers wait on the workers' disks. Mend that; they go on by themselves.",
        needs_a_person=True,
    )


def _of_webhook(state: WebhookState) -> Iterator[Incident]:
    name, enable = state.webhook.id, f"`evergrant webhooks enable {state.webhook.id}`"
    where = origin_of(state.webhook.url)
    if state.disabled_at is not None:
        why = "answered 410" if state.disabled_for == DisabledFor.GONE else "took nothing for five days"
        yield Incident(
            "webhook_disabled",
            name,
            f"{where} {why}, and is told nothing since {rfc3339(state.disabled_at)};"
            f" waiting: {state.waiting}",
            None,
            f"Mend the receiver, then {enable}; or remove it.",
            needs_a_person=True,
        )
    elif state.failing_since is not None:
        yield Incident(
            "webhook_failing",
            name,
            f"{where} has taken nothing since {rfc3339(state.failing_since)} ({state.failed_with});"
            f" waiting: {state.waiting}",
            state.failing_since + FAILING_MS,
            f"Nothing to do if it comes back. `evergrant webhooks test {name}` says what it answers now.",
            needs_a_person=False,
        )
    if state.lost or state.given_up:
        yield Incident(
            "webhook_missed",
            name,
            f"{where} was not told of {state.lost + state.given_up} events: {state.given_up} were given up,"
            f" and {state.lost} had left the stream before they could be sent",
            None,
            "Compare `evergrant grants list --status failed` with what it knows, and replay what the stream"
            f" still has. Then {enable}, which says that you have seen it.",
            needs_a_person=False,
        )


def _of_missing_keys(listed: Sequence[tuple[StoredGrant, int | None]], key_of: KeyOf) -> Iterator[Incident]:
    """One incident for each key, however many grants it sealed."""
    by_key: dict[str, list[int | None]] = {}
    for stored, ends_at in listed:
        if waits_for_key(stored.grant):
            by_key.setdefault(key_of(stored.grant.sealed), []).append(ends_at)
    more = " or more" if len(listed) == MOST_COUNTED else ""
    for key_id, ends in sorted(by_key.items()):
        yield Incident(
            "key_missing",
            key_id,
            f"the tokens of {len(ends)}{more} grants cannot be read: the key {key_id} that sealed them is not"
            " in EVERGRANT_KEYS of the worker that tried",
            min((at for at in ends if at is not None), default=None),
            Reason.KEY_MISSING.advice,
            needs_a_person=True,
        )


def _of_untaken(grant_id: str) -> Incident:
    return Incident(
        "answer_untaken",
        grant_id,
        "its provider has answered, and Redis fails at storing the new tokens: a worker's journal has them",
        None,
        "They are offered again and again. The worker's log says what is in the way (`answer.set_aside`).",
        needs_a_person=True,
    )


def _of_worker(owner: str, trouble: str) -> Incident:
    return Incident(
        "worker_stopped_claiming",
        owner,
        f"it claims nothing ({trouble})",
        None,
        "Mend that; a full disk by making room, or with another EVERGRANT_DATA_DIR. It goes on by itself.",
        needs_a_person=True,
    )


def _of_unreadable(met: UnreadableRecordError) -> Incident:
    return Incident("grant_unreadable", met.grant_id, met.problem, None, met.advice, needs_a_person=True)


def _of_reply(stored: StoredGrant, reply: StoredReply, ends_at: int | None) -> Incident:
    return Incident(
        "reply_unread",
        reply.grant,
        f"{stored.grant.status.value}, {Reason.REPLY_UNREAD} since {rfc3339(reply.received_at)}:"
        f" the provider answered, and its tokens could not be read ({reply.detail})",
        ends_at,
        f"Look at the reply with `evergrant answers show {reply.number}`,"
        f" and take its tokens in with `evergrant answers adopt {reply.number}`.",
        needs_a_person=True,
    )


def _of_grant(stored: StoredGrant, ends_at: int | None) -> Incident:
    grant = stored.grant
    if grant.status is Status.FAILED:
        advice = next((reason.advice for reason in FAILED if reason == grant.reason), Reason.REVOKED.advice)
        return Incident(
            "grant_failed", grant.id, _said("failed", grant.reason), ends_at, advice, needs_a_person=True
        )
    if grant.status is Status.FAILING:
        problem = _said("failing", grant.reason, f"tries: {grant.streak}")
        advice = "It is being tried again; nothing to do yet."
        if grant.reason == Reason.CANNOT_UNSEAL:
            advice = "Its key is there. If this stays, its stored tokens were changed: import it anew."
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
