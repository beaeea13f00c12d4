"""What becomes of a grant: one table from (phase, trigger) to the next phase and its event.

Rules:
- The table is the whole truth, for outcomes and operators, in Python and in Lua: the scripts' own tables
  are made from it when they are loaded. A pair that is not in it cannot happen, and looking it up raises.
- A fault of the client, of the provider or of the deployment, such as a lost sealing key, is no trigger: it
  leaves its grants as they are.
- A rejection is believed when a second, spaced try says the same; not yet while every grant of the client is
  rejected.
- A reply that could not be read most likely holds the only living tokens. Until somebody reads it or gives
  it up, no other outcome moves its grant, for none can be better.
- A bout has at most one `failing` event, and at most one `failed` or `recovered` at its end. An outcome
  without an event leaves the status as it was.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from worker.core import lifetimes, policy
from worker.core.events import Event, EventType, grant_event, rebased
from worker.core.grant import NO_END as NO_END  # noqa: PLC0414 found here by others
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.narrowing import missing_after
from worker.core.outcomes import (
    AnswerKnown,
    AttemptOutcome,
    CannotUnseal,
    ClientNotConfirmed,
    Outcome,
    Refreshed,
    Rejected,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.policy import Due, Rules
from worker.core.providers import Client, GrantType
from worker.core.reasons import Reason


class Phase(Enum):
    """Where a grant stands: its status, with the kinds of failing kept apart."""

    ACTIVE = auto()
    RETRYING = auto()  # failing: no usable answer yet
    CONFIRMING = auto()  # failing: rejected once
    UNREAD = auto()  # failing: a reply is kept that nobody could read
    FAILED = auto()
    PAUSED = auto()


class Trigger(Enum):
    """What happens to one grant."""

    REFRESHED = auto()
    NO_ANSWER = auto()
    REJECTED = auto()
    REJECTED_WITH_ALL = auto()  # so is every grant of its client, and that is not believed yet
    UNREAD = auto()  # a reply came that could not be read, and is kept
    EXPIRED = auto()  # its access token ended, and it cannot be refreshed
    PAUSE = auto()
    RESUME = auto()
    RESUME_IN_BOUT = auto()  # attempts had failed before it was paused or failed
    DROP = auto()  # its kept reply was given up
    CONNECTED = auto()  # its person has signed in again


OUTCOMES = (Trigger.NO_ANSWER, Trigger.REJECTED, Trigger.REJECTED_WITH_ALL, Trigger.EXPIRED)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a trigger leads."""

    phase: Phase
    event: EventType | None = None


_ACTIVE, _RETRYING, _CONFIRMING, _UNREAD, _PAUSED = map(
    Step, (Phase.ACTIVE, Phase.RETRYING, Phase.CONFIRMING, Phase.UNREAD, Phase.PAUSED)
)
_STAYS_FAILED = Step(Phase.FAILED)
_REFRESHED = Step(Phase.ACTIVE, EventType.GRANT_REFRESHED)
_RECOVERED = Step(Phase.ACTIVE, EventType.GRANT_RECOVERED)
_FAILED = Step(Phase.FAILED, EventType.GRANT_FAILED)

TABLE: dict[tuple[Phase, Trigger], Step] = {
    (Phase.ACTIVE, Trigger.REFRESHED): _REFRESHED,
    (Phase.ACTIVE, Trigger.NO_ANSWER): Step(Phase.RETRYING, EventType.GRANT_FAILING),
    (Phase.ACTIVE, Trigger.REJECTED): Step(Phase.CONFIRMING, EventType.GRANT_FAILING),
    (Phase.ACTIVE, Trigger.REJECTED_WITH_ALL): Step(Phase.CONFIRMING, EventType.GRANT_FAILING),
    (Phase.ACTIVE, Trigger.UNREAD): Step(Phase.UNREAD, EventType.GRANT_FAILING),
    (Phase.ACTIVE, Trigger.EXPIRED): _FAILED,
    (Phase.ACTIVE, Trigger.PAUSE): _PAUSED,
    (Phase.ACTIVE, Trigger.CONNECTED): _ACTIVE,
    (Phase.RETRYING, Trigger.REFRESHED): _RECOVERED,
    (Phase.RETRYING, Trigger.NO_ANSWER): _RETRYING,
    (Phase.RETRYING, Trigger.REJECTED): _CONFIRMING,
    (Phase.RETRYING, Trigger.REJECTED_WITH_ALL): _CONFIRMING,
    (Phase.RETRYING, Trigger.UNREAD): _UNREAD,
    (Phase.RETRYING, Trigger.EXPIRED): _FAILED,
    (Phase.RETRYING, Trigger.PAUSE): _PAUSED,
    (Phase.RETRYING, Trigger.CONNECTED): _RECOVERED,
    (Phase.CONFIRMING, Trigger.REFRESHED): _RECOVERED,
    (Phase.CONFIRMING, Trigger.NO_ANSWER): _CONFIRMING,
    (Phase.CONFIRMING, Trigger.REJECTED): _FAILED,
    (Phase.CONFIRMING, Trigger.REJECTED_WITH_ALL): _CONFIRMING,
    (Phase.CONFIRMING, Trigger.UNREAD): _UNREAD,
    (Phase.CONFIRMING, Trigger.EXPIRED): _FAILED,
    (Phase.CONFIRMING, Trigger.PAUSE): _PAUSED,
    (Phase.CONFIRMING, Trigger.CONNECTED): _RECOVERED,
    # Only an outcome that was under way already can come here: the token is not presented any more.
    (Phase.UNREAD, Trigger.REFRESHED): _RECOVERED,
    (Phase.UNREAD, Trigger.NO_ANSWER): _UNREAD,
    (Phase.UNREAD, Trigger.REJECTED): _UNREAD,
    (Phase.UNREAD, Trigger.REJECTED_WITH_ALL): _UNREAD,
    (Phase.UNREAD, Trigger.UNREAD): _UNREAD,
    (Phase.UNREAD, Trigger.EXPIRED): _FAILED,
    (Phase.UNREAD, Trigger.PAUSE): _PAUSED,
    (Phase.UNREAD, Trigger.DROP): _RETRYING,
    (Phase.UNREAD, Trigger.CONNECTED): _RECOVERED,
    # A failed grant is tried only on demand; nothing but tokens, `resume` or its person brings it back.
    (Phase.FAILED, Trigger.REFRESHED): _RECOVERED,
    (Phase.FAILED, Trigger.NO_ANSWER): _STAYS_FAILED,
    (Phase.FAILED, Trigger.REJECTED): _STAYS_FAILED,
    (Phase.FAILED, Trigger.REJECTED_WITH_ALL): _STAYS_FAILED,
    (Phase.FAILED, Trigger.UNREAD): _STAYS_FAILED,
    (Phase.FAILED, Trigger.PAUSE): _PAUSED,
    (Phase.FAILED, Trigger.RESUME): _RETRYING,
    (Phase.FAILED, Trigger.RESUME_IN_BOUT): _RETRYING,
    (Phase.FAILED, Trigger.DROP): _RETRYING,
    (Phase.FAILED, Trigger.CONNECTED): _RECOVERED,
    # A refresh that was under way when its grant was paused changes nothing but the tokens.
    (Phase.PAUSED, Trigger.REFRESHED): Step(Phase.PAUSED, EventType.GRANT_REFRESHED),
    (Phase.PAUSED, Trigger.NO_ANSWER): _PAUSED,
    (Phase.PAUSED, Trigger.REJECTED): _PAUSED,
    (Phase.PAUSED, Trigger.REJECTED_WITH_ALL): _PAUSED,
    (Phase.PAUSED, Trigger.UNREAD): _PAUSED,
    (Phase.PAUSED, Trigger.EXPIRED): _PAUSED,
    (Phase.PAUSED, Trigger.RESUME): _ACTIVE,
    (Phase.PAUSED, Trigger.RESUME_IN_BOUT): _RETRYING,
    (Phase.PAUSED, Trigger.DROP): _PAUSED,
    (Phase.PAUSED, Trigger.CONNECTED): _PAUSED,
}

STATUS_OF = {
    Phase.ACTIVE: Status.ACTIVE,
    Phase.RETRYING: Status.FAILING,
    Phase.CONFIRMING: Status.FAILING,
    Phase.UNREAD: Status.FAILING,
    Phase.FAILED: Status.FAILED,
    Phase.PAUSED: Status.PAUSED,
}

SAME_END_MS = 2_000  # servers state whole seconds


@dataclass(frozen=True, slots=True)
class Change:
    """A grant's next state, to be stored in one step with its event.

    Attributes:
        due_at: when to look at it again; `None` is never.
        attention_at: when something ends that a person may have to see to; `None` where all is well.
    """

    grant: Grant
    due_at: int | None
    attention_at: int | None
    event: Event | None


def phase_of(grant: Grant) -> Phase:
    """Where a grant stands."""
    match grant.status:
        case Status.ACTIVE:
            return Phase.ACTIVE
        case Status.FAILING if grant.kept_reply is not None:
            return Phase.UNREAD
        case Status.FAILING:
            return Phase.RETRYING if grant.rejected_at is None else Phase.CONFIRMING
        case Status.FAILED:
            return Phase.FAILED
        case Status.PAUSED:
            return Phase.PAUSED


def next_statuses(trigger: Trigger) -> dict[Status, Status]:
    """Where a trigger leads, by the status it comes in; without the statuses it cannot come in.

    Raises:
        ValueError: two phases of one status lead to different statuses, so the status does not decide.
    """
    found: dict[Status, Status] = {}
    for (phase, each), step in TABLE.items():
        if each is trigger:
            status = STATUS_OF[step.phase]
            if found.setdefault(STATUS_OF[phase], status) is not status:
                raise ValueError(f"{trigger.name} leads from {STATUS_OF[phase]} to two statuses")
    return found


def unmoved_by_outcomes() -> list[Status]:
    """The statuses in which an outcome without tokens changes nothing."""
    return [
        STATUS_OF[phase]
        for phase in Phase
        if all(TABLE.get((phase, trigger)) == Step(phase) for trigger in OUTCOMES)
    ]


def next_step_when_connected(status: Status | None) -> tuple[Status, EventType | None]:
    """Where a grant stands once its person has signed in, and its event.

    `status` is where it stood; `None` where there was no grant.
    """
    if status is None:
        return Status.ACTIVE, None
    steps = {TABLE[phase, Trigger.CONNECTED] for phase in Phase if STATUS_OF[phase] is status}
    (step,) = steps
    return STATUS_OF[step.phase], step.event


def pair_after(pair: TokenPair, refreshed: Refreshed, client: Client) -> TokenPair:
    """The tokens that an answer leaves: a new refresh token replaces the old one.

    Without one the old one stays good (RFC 6749 section 6). With client credentials each access token is
    asked for afresh (section 4.4.3): there is no refresh token.
    """
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        return TokenPair(refreshed.access_token)
    return TokenPair(refreshed.access_token, refreshed.refresh_token or pair.refresh_token)


def succeed(
    grant: Grant,
    pair: TokenPair,
    refreshed: Refreshed,
    client: Client,
    rules: Rules,
    *,
    sealed: bytes,
    attempt: int,
    sent_at: int,
    now: int,
) -> Change:
    """Make the successor of `grant` from an answer.

    Args:
        grant: the record that the successor follows: its version and status are the stored ones.
        pair: the tokens that the request was made with.
        refreshed: the answer.
        client: whose grant it is.
        rules: the deployment's.
        sealed: the answer's `pair_after`, sealed for the version that follows the grant's.
        attempt: the fence of the request's lease.
        sent_at: when the request left: lifetimes count from here.
        now: when the answer was read.
    """
    refresh_token = pair_after(pair, refreshed, client).refresh_token
    rotated = refresh_token != pair.refresh_token
    refresh_issued_at, refresh_expires_at = _refresh_times(
        grant, refreshed, client, rotated=rotated, sent_at=sent_at
    )
    life = lifetimes.after_refresh(refreshed.expires_in_ms, grant.stated_life_ms, client)
    step = TABLE[phase_of(grant), Trigger.REFRESHED]
    narrowed, newly_missing = missing_after(grant, refreshed, client)
    successor = replace(
        grant,
        status=STATUS_OF[step.phase],
        version=grant.version + 1,
        lineage=lineage_of(grant.id, refresh_token),
        sealed=sealed,
        issued_at=sent_at,
        access_expires_at=life.end(sent_at),
        refresh_issued_at=refresh_issued_at,
        refresh_expires_at=refresh_expires_at,
        scope=refreshed.scope or grant.scope,
        streak=0,
        reason=None,
        in_doubt=False,
        rejected_at=None,
        stated_life_ms=life.stated_ms,
        kept_reply=None,
        narrowed=narrowed,
        token_type=refreshed.token_type,
    )
    event = grant_event(
        _event_of(step),
        successor,
        client,
        attempt=attempt,
        now=now,
        expires_at=successor.access_expires_at,
        narrowed=newly_missing,
    )
    return Change(
        grant=successor,
        due_at=policy.next_due(successor, client, rules).at,
        attention_at=attention_at(successor, client, rules),
        event=event,
    )


def rebase(change: Change, version: int, status: Status, *, attempt: int) -> Change:
    """Let an answer follow a record that moved on while its refresh token stayed unused.

    Args:
        change: the answer's change of the record as it was claimed.
        version: of the record as it stands.
        status: of the record as it stands.
        attempt: the fence of the answer's lease.

    Returns the new change; its pair is still sealed for its former version.
    """
    if change.event is None:
        raise ValueError("an answer without its event cannot be rebased")
    # An answer leads to the same status from every kind of failing.
    step = TABLE[phase_of(replace(change.grant, status=status)), Trigger.REFRESHED]
    grant = replace(change.grant, version=version + 1, status=STATUS_OF[step.phase])
    return replace(change, grant=grant, event=rebased(change.event, _event_of(step), grant, attempt=attempt))


def fail(
    grant: Grant,
    outcome: AttemptOutcome,
    client: Client,
    rules: Rules,
    *,
    in_doubt: bool,
    with_all: bool,
    attempt: int,
    now: int,
    chance: float,
) -> Change:
    """What an outcome without tokens makes of a grant.

    Args:
        grant: the record as it was claimed.
        outcome: one that counts against the grant; a fault of the client or of the provider does not.
        client: whose grant it is.
        rules: the deployment's.
        in_doubt: an earlier request with this refresh token may have been acted on.
        with_all: every grant of the client is rejected.
        attempt: the fence.
        now: when the outcome was read.
        chance: 0 to 1, for the backoff.
    """
    streak = grant.streak + 1
    trigger, detail = _read(outcome, grant, rules, with_all=with_all, streak=streak, now=now)
    step = TABLE[phase_of(grant), trigger]
    is_confirming = step.phase is Phase.CONFIRMING
    changed = replace(
        grant,
        status=STATUS_OF[step.phase],
        streak=streak,
        reason=_reason(grant, client, step.phase, outcome, in_doubt=in_doubt, now=now),
        in_doubt=still_in_doubt(outcome, in_doubt=in_doubt),
        rejected_at=(grant.rejected_at or now) if is_confirming else None,
    )
    return _changed(
        changed,
        client,
        rules,
        due_at=_next_try_at(grant, outcome, step.phase, streak, now, chance),
        event=step.event,
        attempt=attempt,
        now=now,
        detail=detail,
    )


def keep(grant: Grant, unread: Unread, client: Client, rules: Rules, *, attempt: int, now: int) -> Change:
    """What a reply that could not be read makes of a grant; the store gives the reply its number.

    The event is always there. It is for a store in which this begins the bout: another may have forgotten how
    the grant came to be failing.

    Args:
        grant: the record as it was claimed.
        unread: the reply, which is kept.
        client: whose grant it is.
        rules: the deployment's.
        attempt: the fence.
        now: when the reply came.
    """
    is_failed = grant.status is Status.FAILED
    step = TABLE[phase_of(grant), Trigger.UNREAD]
    changed = replace(
        grant,
        status=STATUS_OF[step.phase],
        streak=grant.streak + 1,
        reason=grant.reason if is_failed else Reason.REPLY_UNREAD,
        in_doubt=True,
        rejected_at=None,
    )
    event = grant_event(
        EventType.GRANT_FAILING,
        replace(changed, status=Status.FAILING, reason=Reason.REPLY_UNREAD),
        client,
        attempt=attempt,
        now=now,
        expires_at=grant.access_expires_at,
        detail=unread.detail,
    )
    return Change(changed, due_at=None, attention_at=attention_at(changed, client, rules), event=event)


def still_in_doubt(outcome: AttemptOutcome, *, in_doubt: bool) -> bool:
    """Whether, after this outcome, a request with the stored refresh token may have been acted on."""
    match outcome:
        case Unknown() | Unavailable(may_have_acted=True) | AnswerKnown():
            return True
        case _:
            return in_doubt


def throttle_ms(outcome: Outcome) -> int | None:
    """How long the server asked the client to wait, bounded; `None` where it named no time."""
    if not isinstance(outcome, Unavailable) or outcome.retry_after_ms is None:
        return None
    return policy.retry_after_ms(outcome.retry_after_ms)


def expire(grant: Grant, client: Client, rules: Rules, *, attempt: int, now: int) -> Change:
    """The access token of a grant that cannot be refreshed has ended."""
    step = TABLE[phase_of(grant), Trigger.EXPIRED]
    reason = Reason.ACCESS_TOKEN_EXPIRED if grant.kept_reply is None else Reason.REPLY_UNREAD
    changed = replace(grant, status=STATUS_OF[step.phase], reason=reason, rejected_at=None)
    return _changed(changed, client, rules, due_at=None, event=step.event, attempt=attempt, now=now)


def announce(grant: Grant, due: Due, client: Client, rules: Rules, *, attempt: int, now: int) -> Change:
    """Announce an end that no refresh can move; the grant stays as it is."""
    end = policy.fixed_end(grant, client, rules)
    noticed = replace(grant, noticed_at=now)
    event = grant_event(
        EventType.GRANT_EXPIRING,
        replace(noticed, reason=due.reason.value),
        client,
        attempt=attempt,
        now=now,
        expires_at=None if end is None else end.at,
    )
    return Change(
        grant=noticed,
        due_at=policy.next_due(noticed, client, rules).at,
        attention_at=attention_at(noticed, client, rules),
        event=event,
    )


def leave(grant: Grant, due_at: int | None, client: Client, rules: Rules) -> Change:
    """Put a grant back as it was: nothing was learnt about it."""
    return Change(grant, due_at, attention_at(grant, client, rules), None)


def wait_for_key(grant: Grant, client: Client, rules: Rules, *, now: int, chance: float) -> Change:
    """Put a grant back whose sealing key this process lacks: a fault of the deployment, not of the grant.

    Its status stays, without an event: everybody would be told of everybody's grant.
    """
    if phase_of(grant) in {Phase.ACTIVE, Phase.RETRYING}:
        grant = replace(grant, reason=Reason.KEY_MISSING)
    return leave(grant, now + policy.key_pause_ms(chance, _life_left_ms(grant, now)), client, rules)


def unsealed(grant: Grant) -> Grant:
    """The grant once its key was there."""
    return replace(grant, reason=None) if waits_for_key(grant) else grant


def waits_for_key(grant: Grant) -> bool:
    """Whether the worker that tried a grant last lacked the key that sealed its tokens."""
    return grant.status in {Status.ACTIVE, Status.FAILING} and grant.reason == Reason.KEY_MISSING


def give_back(grant: Grant, client: Client, rules: Rules, now: int) -> Change:
    """Put a grant back whose lease was not used, because another's attempt at it has just ended."""
    due_at: int | None
    match phase_of(grant):
        case Phase.CONFIRMING:
            due_at = _confirmed_at(grant, now)
        case Phase.FAILED | Phase.PAUSED:
            due_at = None
        case _:
            due_at = policy.next_due(grant, client, rules).at
    return leave(grant, due_at, client, rules)


def admit(grant: Grant, client: Client, rules: Rules, now: int) -> Change:
    """Take in a grant from outside, without an event; a failing grant is due at once.

    What was due before it came is due now: nobody has been late with it here.
    """
    due_at = now if grant.status is Status.FAILING else policy.next_due(grant, client, rules).at
    return leave(grant, None if due_at is None else max(due_at, now), client, rules)


def attention_at(grant: Grant, client: Client, rules: Rules) -> int | None:
    """When something ends that a person may have to see to; `NO_END` where it has no known end."""
    if grant.status in {Status.FAILING, Status.FAILED} or waits_for_key(grant):
        return NO_END if grant.access_expires_at is None else grant.access_expires_at
    if grant.noticed_at is None:
        return None
    end = policy.fixed_end(grant, client, rules)
    return None if end is None else end.at


def _changed(
    grant: Grant,
    client: Client,
    rules: Rules,
    *,
    due_at: int | None,
    event: EventType | None,
    attempt: int,
    now: int,
    detail: str | None = None,
) -> Change:
    emitted = None
    if event is not None:
        end = grant.access_expires_at
        emitted = grant_event(event, grant, client, attempt=attempt, now=now, expires_at=end, detail=detail)
    return Change(grant, due_at, attention_at(grant, client, rules), emitted)


def _refresh_times(
    grant: Grant, refreshed: Refreshed, client: Client, *, rotated: bool, sent_at: int
) -> tuple[int, int | None]:
    """When the refresh token was issued and when it ends: stated, else documented, never above the cap."""
    stated_ms = refreshed.refresh_expires_in_ms
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        return sent_at, None
    if not rotated and stated_ms is None and not _is_documented_end(grant, client):
        return grant.refresh_issued_at, grant.refresh_expires_at
    lifetime_ms = refresh_lifetime_ms(client, stated_ms)
    if lifetime_ms is None:
        return sent_at, None
    ends_at = sent_at + lifetime_ms
    # A server that states its whole life anew moves the end by all the time that has passed.
    moved_at_most = min(SAME_END_MS, (sent_at - grant.issued_at) // 2)
    if grant.refresh_expires_at is not None and ends_at <= grant.refresh_expires_at + moved_at_most:
        # The new token ends when the old one did, so the schedule counts its life from the old one's issue.
        return grant.refresh_issued_at, ends_at
    return sent_at, ends_at


def _is_documented_end(grant: Grant, client: Client) -> bool:
    """Whether the refresh token's end follows from its documented life alone: nobody stated it of this token.

    A server that accepts a token and keeps it has not ended its life, so that life begins again. An end that
    counts from the consent is for the absolute limit to say.
    """
    documented_ms = refresh_lifetime_ms(client, None)
    return documented_ms is not None and grant.refresh_expires_at == grant.refresh_issued_at + documented_ms


def refresh_lifetime_ms(client: Client, stated_ms: int | None) -> int | None:
    """How long a refresh token may be believed to live: what was stated, capped, else what is documented."""
    lifetime_ms = client.provider.refresh_lifetime_ms if stated_ms is None else stated_ms
    cap_ms = client.provider.refresh_lifetime_cap_ms
    if lifetime_ms is None or cap_ms is None:
        return lifetime_ms
    return min(lifetime_ms, cap_ms)


def _event_of(step: Step) -> EventType:
    if step.event is None:
        raise ValueError("tokens that are stored without an event")
    return step.event


def _read(
    outcome: AttemptOutcome, grant: Grant, rules: Rules, *, with_all: bool, streak: int, now: int
) -> tuple[Trigger, str]:
    """What an outcome says of its grant, and the event's `detail`."""
    match outcome:
        case Rejected(code=code):
            believed_at = policy.believed_at(grant, grant.rejected_at or now, rules)
            return (Trigger.REJECTED_WITH_ALL if with_all and now < believed_at else Trigger.REJECTED), code
        case Unavailable(detail=detail, refused=True) if _is_refused_to_the_end(grant, streak, now):
            return Trigger.EXPIRED, detail
        case Unavailable(detail=detail) | Unknown(detail=detail):
            return Trigger.NO_ANSWER, detail
        case ClientNotConfirmed():
            return Trigger.NO_ANSWER, "client_not_confirmed"
        case CannotUnseal():
            return Trigger.NO_ANSWER, Reason.CANNOT_UNSEAL.value
        case _:
            raise ValueError(f"{type(outcome).__name__} is no failure of a grant")


def _is_refused_to_the_end(grant: Grant, streak: int, now: int) -> bool:
    return grant.status is not Status.FAILED and policy.is_refused_to_the_end(grant, streak, now)


def _reason(
    grant: Grant, client: Client, phase: Phase, outcome: AttemptOutcome, *, in_doubt: bool, now: int
) -> str:
    if grant.status is Status.FAILED and not isinstance(outcome, Rejected) and grant.reason is not None:
        return grant.reason
    if phase is Phase.FAILED:
        return _cause(grant, client, outcome, in_doubt=in_doubt, now=now)
    if phase is Phase.CONFIRMING:
        return Reason.REJECTED
    if phase is Phase.UNREAD:
        return Reason.REPLY_UNREAD
    match outcome:
        case CannotUnseal():
            return Reason.CANNOT_UNSEAL
        case Unknown():
            return Reason.REPLY_UNKNOWN
        case _:
            return Reason.UNAVAILABLE


def _cause(grant: Grant, client: Client, outcome: AttemptOutcome, *, in_doubt: bool, now: int) -> Reason:
    """Why a grant is dead, the most telling cause first."""
    if isinstance(outcome, Unavailable):
        return Reason.REFUSED
    if in_doubt:
        return Reason.REPLY_LOST
    limit_at = policy.absolute_limit_at(grant, client)
    if limit_at is not None and now >= limit_at:
        return Reason.ABSOLUTE_LIMIT
    if grant.refresh_expires_at is not None and now >= grant.refresh_expires_at:
        return Reason.REFRESH_TOKEN_EXPIRED
    is_invalid = isinstance(outcome, Rejected) and outcome.code == Reason.INVALID_REQUEST
    return Reason.INVALID_REQUEST if is_invalid else Reason.REVOKED


def _next_try_at(
    grant: Grant, outcome: AttemptOutcome, phase: Phase, streak: int, now: int, chance: float
) -> int | None:
    if phase is Phase.FAILED:
        return None
    if phase is Phase.CONFIRMING and isinstance(outcome, Rejected):
        return _confirmed_at(grant, now)
    return now + policy.backoff_ms(streak, chance, _life_left_ms(grant, now))


def _confirmed_at(grant: Grant, now: int) -> int:
    """When a rejection is confirmed that was heard at `now`: the spaced second try."""
    return now + policy.confirm_ms(_life_left_ms(grant, now))


def _life_left_ms(grant: Grant, now: int) -> int | None:
    return None if grant.access_expires_at is None else grant.access_expires_at - now
