"""What an outcome makes of a grant: a table from (phase, finding) to the next status and its event.

Rules:
- The table is the whole truth; a pair that is not in it cannot happen, and asking for it raises.
- A fault of the client is no finding about a grant: it is not in the table.
- A rejection is believed when a second, spaced try says the same; one that comes while an earlier reply
  is in doubt is believed at once, for asking again would present a token that may be superseded.
- One `failing` event a bout, one `failed` or `recovered` at its end.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from worker.core import policy
from worker.core.events import Event, EventType, grant_event, retold
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.outcomes import Outcome, Refreshed, Rejected, Unavailable, Unknown
from worker.core.policy import Due, Reason, Rules
from worker.core.providers import Client, GrantType


class Phase(Enum):
    """The status, with a failing grant's two kinds told apart."""

    ACTIVE = auto()
    RETRYING = auto()  # failing: no usable answer yet
    CONFIRMING = auto()  # failing: rejected once
    FAILED = auto()


class Finding(Enum):
    """What one attempt says of one grant."""

    NO_ANSWER = auto()
    REJECTED = auto()
    REJECTED_IN_DOUBT = auto()
    EXPIRED = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """Where a finding leads."""

    phase: Phase
    event: EventType | None


_FAILING = EventType.GRANT_FAILING
_FAILED = Step(Phase.FAILED, EventType.GRANT_FAILED)

TABLE: dict[tuple[Phase, Finding], Step] = {
    (Phase.ACTIVE, Finding.NO_ANSWER): Step(Phase.RETRYING, _FAILING),
    (Phase.RETRYING, Finding.NO_ANSWER): Step(Phase.RETRYING, None),
    (Phase.CONFIRMING, Finding.NO_ANSWER): Step(Phase.CONFIRMING, None),
    (Phase.ACTIVE, Finding.REJECTED): Step(Phase.CONFIRMING, _FAILING),
    (Phase.RETRYING, Finding.REJECTED): Step(Phase.CONFIRMING, None),
    (Phase.CONFIRMING, Finding.REJECTED): _FAILED,
    (Phase.ACTIVE, Finding.REJECTED_IN_DOUBT): _FAILED,
    (Phase.RETRYING, Finding.REJECTED_IN_DOUBT): _FAILED,
    (Phase.CONFIRMING, Finding.REJECTED_IN_DOUBT): _FAILED,
    (Phase.ACTIVE, Finding.EXPIRED): _FAILED,
    (Phase.RETRYING, Finding.EXPIRED): _FAILED,
    (Phase.CONFIRMING, Finding.EXPIRED): _FAILED,
    # An operator asked for one more try.
    (Phase.FAILED, Finding.NO_ANSWER): Step(Phase.FAILED, None),
    (Phase.FAILED, Finding.REJECTED): Step(Phase.FAILED, None),
    (Phase.FAILED, Finding.REJECTED_IN_DOUBT): Step(Phase.FAILED, None),
}

REJECTED_ONCE = "rejected"
UNAVAILABLE = "unavailable"
REPLY_UNKNOWN = "reply_unknown"
REPLY_LOST = "reply_lost"
CANNOT_UNSEAL = "cannot_unseal"  # no key in the ring opens its tokens

SAME_END_MS = 2_000  # servers state whole seconds
NO_END = 2**53 - 1  # later than any instant, and still exact in Redis's doubles

_STATUS = {
    Phase.ACTIVE: Status.ACTIVE,
    Phase.RETRYING: Status.FAILING,
    Phase.CONFIRMING: Status.FAILING,
    Phase.FAILED: Status.FAILED,
}


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


@dataclass(frozen=True, slots=True)
class Successor:
    """The answer's tokens and the grant that will hold them, still to be sealed."""

    pair: TokenPair
    grant: Grant
    due_at: int | None
    attention_at: int | None
    event: Event

    def sealed(self, sealed: bytes) -> Change:
        """As it is to be stored."""
        return Change(replace(self.grant, sealed=sealed), self.due_at, self.attention_at, self.event)


def phase_of(grant: Grant) -> Phase:
    """Read a grant's phase; a paused one is judged as what it would be if it were resumed."""
    if grant.status is Status.FAILED:
        return Phase.FAILED
    if grant.status is Status.FAILING:
        return Phase.CONFIRMING if grant.reason == REJECTED_ONCE else Phase.RETRYING
    return Phase.ACTIVE


def succeed(
    grant: Grant,
    pair: TokenPair,
    refreshed: Refreshed,
    client: Client,
    rules: Rules,
    *,
    attempt: int,
    sent_at: int,
    now: int,
) -> Successor:
    """Make the successor of `grant` from an answer.

    Args:
        grant: the record that the successor follows: its version and status are the stored ones.
        pair: the tokens it was made with.
        refreshed: the answer.
        client: whose grant it is.
        rules: the deployment's.
        attempt: the fence it was made under.
        sent_at: when the request left: lifetimes count from here.
        now: when the answer was read.
    """
    refresh_token = _next_refresh_token(pair, refreshed, client)
    rotated = refresh_token != pair.refresh_token
    refresh_issued_at, refresh_expires_at = _refresh_times(
        grant, refreshed, client, rotated=rotated, sent_at=sent_at
    )
    expires_in_ms = refreshed.expires_in_ms
    successor = replace(
        grant,
        status=_status_after_success(grant.status),
        version=grant.version + 1,
        lineage=lineage_of(grant.id, refresh_token),
        issued_at=sent_at,
        access_expires_at=None if expires_in_ms is None else sent_at + expires_in_ms,
        refresh_issued_at=refresh_issued_at,
        refresh_expires_at=refresh_expires_at,
        scope=refreshed.scope or grant.scope,
        streak=0,
        reason=None,
        in_doubt=False,
    )
    event = grant_event(
        _told_of_success(grant.status),
        successor,
        client,
        attempt=attempt,
        now=now,
        expires_at=successor.access_expires_at,
    )
    return Successor(
        pair=TokenPair(refreshed.access_token, refresh_token),
        grant=successor,
        due_at=policy.next_due(successor, client, rules).at,
        attention_at=attention_at(successor, client, rules),
        event=event,
    )


def rebase(change: Change, version: int, status: Status, *, attempt: int) -> Change:
    """Let an answer follow a record that moved on while its refresh token stayed unused.

    Args:
        change: what the answer made of the record as it was.
        version: of the record as it stands.
        status: of the record as it stands.
        attempt: the fence that the answer was asked for under.

    Returns the change anew; its pair is still sealed for the version it had before.
    """
    if change.event is None:
        raise ValueError("an answer without its event cannot be rebased")
    grant = replace(change.grant, version=version + 1, status=_status_after_success(status))
    return replace(
        change, grant=grant, event=retold(change.event, _told_of_success(status), grant, attempt=attempt)
    )


def fail(
    grant: Grant,
    outcome: Outcome,
    client: Client,
    rules: Rules,
    *,
    in_doubt: bool,
    attempt: int,
    now: int,
    chance: float,
) -> Change:
    """What an outcome without tokens makes of a grant.

    Args:
        grant: the record as it was claimed.
        outcome: `Rejected`, `Unavailable` or `Unknown`; a client's fault is none of the grant's.
        client: whose grant it is.
        rules: the deployment's.
        in_doubt: an earlier request with this refresh token may have been acted on.
        attempt: the fence.
        now: when the outcome was read.
        chance: 0 to 1, for the backoff.
    """
    finding, detail = _finding(outcome, in_doubt=in_doubt)
    step = TABLE[phase_of(grant), finding]
    streak = grant.streak + 1
    failed = step.phase is Phase.FAILED
    changed = replace(
        grant,
        status=_STATUS[step.phase],
        streak=streak,
        reason=_reason(grant, client, step.phase, finding, outcome, detail, now),
        in_doubt=still_in_doubt(outcome, in_doubt=in_doubt),
    )
    wait_ms = _wait_ms(outcome, step.phase, _life_left_ms(grant, now), streak, chance)
    return _changed(
        changed,
        client,
        rules,
        due_at=None if failed else now + wait_ms,
        event=step.event,
        attempt=attempt,
        now=now,
        detail=detail,
    )


def still_in_doubt(outcome: Outcome, *, in_doubt: bool) -> bool:
    """Whether a request with the stored refresh token may have been acted on, after this outcome too."""
    match outcome:
        case Unknown() | Unavailable(may_have_acted=True):
            return True
        case _:
            return in_doubt


def throttle_ms(outcome: Outcome) -> int | None:
    """How long the server's own wish keeps the client waiting; `None` where it named no time."""
    if not isinstance(outcome, Unavailable) or outcome.retry_after_ms is None:
        return None
    return policy.retry_after_ms(outcome.retry_after_ms)


def expire(grant: Grant, client: Client, rules: Rules, *, attempt: int, now: int) -> Change:
    """The access token of a grant that cannot be refreshed has ended."""
    step = TABLE[phase_of(grant), Finding.EXPIRED]
    changed = replace(grant, status=_STATUS[step.phase], reason="access_token_expired")
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
    """Put a grant back as it was: nothing was learnt of it."""
    return Change(grant, due_at, attention_at(grant, client, rules), None)


def admit(grant: Grant, client: Client, rules: Rules, now: int) -> Change:
    """Take in a grant from outside: nothing is told of it, a failing one is tried at once."""
    is_failing = grant.status is Status.FAILING
    return leave(grant, now if is_failing else policy.next_due(grant, client, rules).at, client, rules)


def attention_at(grant: Grant, client: Client, rules: Rules) -> int | None:
    """When something ends that a person may have to see to; `NO_END` where it has no known end."""
    if grant.status in {Status.FAILING, Status.FAILED}:
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
    told = None
    if event is not None:
        ends_at = grant.access_expires_at
        told = grant_event(event, grant, client, attempt=attempt, now=now, expires_at=ends_at, detail=detail)
    return Change(grant, due_at, attention_at(grant, client, rules), told)


def _next_refresh_token(pair: TokenPair, refreshed: Refreshed, client: Client) -> str | None:
    """The new one discards the old; none leaves the old good (RFC 6749 section 6).

    With client credentials the next token is asked for afresh (section 4.4.3), so none is kept.
    """
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        return None
    return refreshed.refresh_token or pair.refresh_token


def _refresh_times(
    grant: Grant, refreshed: Refreshed, client: Client, *, rotated: bool, sent_at: int
) -> tuple[int, int | None]:
    """When the refresh token was issued and when it ends: stated, else documented, never above the cap."""
    stated_ms = refreshed.refresh_expires_in_ms
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        return sent_at, None
    if not rotated and stated_ms is None:
        return grant.refresh_issued_at, grant.refresh_expires_at
    lifetime_ms = refresh_lifetime_ms(client, stated_ms)
    if lifetime_ms is None:
        return sent_at, None
    ends_at = sent_at + lifetime_ms
    if grant.refresh_expires_at is not None and ends_at <= grant.refresh_expires_at + SAME_END_MS:
        # A new token with the old one's end: to the schedule it is as old as that end is.
        return grant.refresh_issued_at, ends_at
    return sent_at, ends_at


def refresh_lifetime_ms(client: Client, stated_ms: int | None) -> int | None:
    """How long a refresh token may be believed to live: what was stated, capped, else what is documented."""
    lifetime_ms = client.provider.refresh_lifetime_ms if stated_ms is None else stated_ms
    cap_ms = client.provider.refresh_lifetime_cap_ms
    if lifetime_ms is None or cap_ms is None:
        return lifetime_ms
    return min(lifetime_ms, cap_ms)


def _status_after_success(status: Status) -> Status:
    return Status.PAUSED if status is Status.PAUSED else Status.ACTIVE


def _told_of_success(status: Status) -> EventType:
    was_failing = status in {Status.FAILING, Status.FAILED}
    return EventType.GRANT_RECOVERED if was_failing else EventType.GRANT_REFRESHED


def _finding(outcome: Outcome, *, in_doubt: bool) -> tuple[Finding, str]:
    match outcome:
        case Rejected(code=code):
            return (Finding.REJECTED_IN_DOUBT if in_doubt else Finding.REJECTED), code
        case Unavailable(detail=detail) | Unknown(detail=detail):
            return Finding.NO_ANSWER, detail
        case _:
            raise ValueError(f"{type(outcome).__name__} is no failure of a grant")


def _reason(
    grant: Grant,
    client: Client,
    phase: Phase,
    finding: Finding,
    outcome: Outcome,
    code: str,
    now: int,
) -> str:
    if grant.status is Status.FAILED and finding is Finding.NO_ANSWER and grant.reason is not None:
        return grant.reason
    if phase is Phase.FAILED:
        return _cause(grant, client, finding, code, now)
    if phase is Phase.CONFIRMING:
        return REJECTED_ONCE
    if code == CANNOT_UNSEAL:
        return CANNOT_UNSEAL
    return REPLY_UNKNOWN if isinstance(outcome, Unknown) else UNAVAILABLE


def _cause(grant: Grant, client: Client, finding: Finding, code: str, now: int) -> str:
    """Why a grant is dead, the most telling cause first."""
    if finding is Finding.REJECTED_IN_DOUBT:
        return REPLY_LOST
    limit_at = policy.absolute_limit_at(grant, client)
    if limit_at is not None and now >= limit_at:
        return Reason.ABSOLUTE_LIMIT.value
    if grant.refresh_expires_at is not None and now >= grant.refresh_expires_at:
        return "refresh_token_expired"
    return "invalid_request" if code == "invalid_request" else "revoked"


def _wait_ms(outcome: Outcome, phase: Phase, life_left_ms: int | None, streak: int, chance: float) -> int:
    if phase is Phase.CONFIRMING and isinstance(outcome, Rejected):
        return policy.confirm_ms(life_left_ms)
    return policy.backoff_ms(streak, chance, life_left_ms)


def _life_left_ms(grant: Grant, now: int) -> int | None:
    return None if grant.access_expires_at is None else grant.access_expires_at - now
