"""When a grant is due, and why.

Pure functions over a grant, its provider's promises and the deployment's rules; every answer carries a
reason code. Chance is no input: the jitter is hashed from the grant's id, so that asking twice gives the
same answer and a fleet imported at once still spreads out.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from worker.core.grant import Grant, Status
from worker.core.providers import DAY_MS, MINUTE_MS, SECOND_MS, Client, GrantType
from worker.core.reasons import Reason

JITTER = 0.05  # of the lifetime, either way
MARGIN_SHARE = 0.25  # of a short lifetime: what the floor may take at most
LAST_SHARE = 0.1  # of a lifetime: no promise puts a refresh off into it
LEAST_INTERVAL_MS = 2 * SECOND_MS  # between two refreshes of one grant, however short its tokens live
NOTICE_STEPS_MS = (30 * DAY_MS, 7 * DAY_MS, 1 * DAY_MS)

RESEND_PAUSE_SECONDS = 0.5  # before the same token is sent once more, half of it either way
BACKOFF_BASE_MS = 2 * SECOND_MS
BACKOFF_CAP_MS = 15 * MINUTE_MS
RETRY_AFTER_CAP_MS = 60 * MINUTE_MS
CONFIRM_MIN_MS = 1 * SECOND_MS
CONFIRM_MAX_MS = 60 * SECOND_MS
LEAST_DISBELIEF_MS = 60 * SECOND_MS
REFUSALS_TO_THE_END = 6


class Action(StrEnum):
    """What being due calls for."""

    REFRESH = "refresh"
    ANNOUNCE = "announce"
    EXPIRE = "expire"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Rules:
    """The deployment's choice, or one client's.

    Attributes:
        refresh_at: share of a lifetime after which a token is refreshed, 0 to 1.
        min_margin_ms: never refresh later than this before the end, unless the lifetime is so short
            that this margin would be most of it.
        believe_ms: how long a rejection is not believed where every grant of a client is rejected.
        never_earlier: the server refuses a refresh before `refresh_at`, so the jitter may only add to it.
    """

    refresh_at: float = 2 / 3
    min_margin_ms: int = 5 * MINUTE_MS
    believe_ms: int = 60 * MINUTE_MS
    never_earlier: bool = False


def rules_for(client: Client, rules: Rules) -> Rules:
    """The deployment's rules with what the client has of its own; the same again for its own result.

    A client's share without a margin of its own has none: the deployment's would bring the refresh forward.
    """
    if client.refresh_at is not None:
        return replace(
            rules, refresh_at=client.refresh_at, min_margin_ms=client.min_margin_ms or 0, never_earlier=True
        )
    if client.min_margin_ms is not None:
        return replace(rules, min_margin_ms=client.min_margin_ms)
    return rules


class Due(NamedTuple):
    """One thing that will have to be done; `at` is `None` for never."""

    at: int | None
    action: Action
    reason: Reason


NEVER = Due(None, Action.WAIT, Reason.NOTHING_EXPIRES)


class End(NamedTuple):
    """An end that no refresh can move, of a life that began at `start`."""

    start: int
    at: int
    reason: Reason


def next_due(grant: Grant, client: Client, rules: Rules) -> Due:
    """The first thing this grant will need, as things stand; `NEVER` where nothing expires."""
    first = NEVER
    for due in _candidates(grant, client, rules_for(client, rules)):
        if due.at is not None and (first.at is None or due.at < first.at):
            first = due
    return first


def decide(grant: Grant, client: Client, rules: Rules, now: int) -> Due:
    """What to do with a grant that was found due at `now`; a `WAIT` says until when.

    A refresh comes before an expiry, and an expiry before a notice: an end that has come needs no notice.
    """
    rules = rules_for(client, rules)
    if grant.status is Status.FAILING and is_refreshable(grant, client):
        return Due(now, Action.REFRESH, Reason.RETRY)
    overdue = []
    for due in _candidates(grant, client, rules):
        if due.at is not None and due.at <= now:
            if due.action is Action.REFRESH:
                return due
            overdue.append(due)
    for action in (Action.EXPIRE, Action.ANNOUNCE):
        for due in overdue:
            if due.action is action:
                return due
    due = next_due(grant, client, rules)
    return Due(due.at, Action.WAIT, due.reason)


def promisable_until(grant: Grant, client: Client, rules: Rules) -> int | None:
    """The latest safe refresh of the present pair, up to which a promise may put it off; `None` for no end.

    A pair that no refresh of ours ends may be promised for its own life.
    """
    if not is_refreshable(grant, client) or not client.refresh_kills_access_token:
        return grant.access_expires_at
    rules = rules_for(client, rules)
    latest = (_latest_for_access(grant, rules), _latest_for_refresh_token(grant, rules))
    return min((at for at in latest if at is not None), default=None)


def fixed_end(grant: Grant, client: Client, rules: Rules) -> End | None:
    """The first end that no refresh can move: the person will have to connect again by then."""
    rules = rules_for(client, rules)
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        return None
    if not grant.has_refresh_token:
        if grant.access_expires_at is None:
            return None
        return End(grant.issued_at, grant.access_expires_at, Reason.NO_REFRESH_TOKEN)
    ends = []
    absolute_at = absolute_limit_at(grant, client)
    if absolute_at is not None and grant.authorized_at is not None:
        ends.append(End(grant.authorized_at, absolute_at, Reason.ABSOLUTE_LIMIT))
    if grant.refresh_expires_at is not None and _refresh_limit_stands(grant, rules):
        limit_at = grant.refresh_expires_at
        ends.append(End(grant.refresh_issued_at, limit_at, Reason.REFRESH_TOKEN_LIMIT))
    return min(ends, key=lambda end: end.at, default=None)


def absolute_limit_at(grant: Grant, client: Client) -> int | None:
    """The provider's limit counted from the person's consent; `None` where either is unknown."""
    absolute_ms = client.provider.absolute_lifetime_ms
    if absolute_ms is None or grant.authorized_at is None:
        return None
    return grant.authorized_at + absolute_ms


def is_refreshable(grant: Grant, client: Client) -> bool:
    """Whether there is anything to ask for new tokens with; a token whose reply is kept is used up."""
    if grant.kept_reply is not None:
        return False
    return grant.has_refresh_token or client.grant_type is GrantType.CLIENT_CREDENTIALS


@lru_cache(maxsize=1024)  # asked for several times while a grant is at hand
def jitter(grant_id: str) -> float:
    """A number from -1 to 1 that belongs to the grant."""
    digest = hashlib.blake2b(grant_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**63 - 1


def backoff_ms(streak: int, chance: float, life_left_ms: int | None) -> int:
    """How long to leave a grant alone after `streak` failures: exponential, full jitter.

    Args:
        streak: failures in a row, from 1.
        chance: 0 to 1, drawn by the caller.
        life_left_ms: of the access token; negative when it is dead, `None` when it never dies. While it
            lives, the wait is at most a third of that, so that several more attempts fit.
    """
    ceiling = min(BACKOFF_BASE_MS * 2 ** min(streak - 1, 16), BACKOFF_CAP_MS)
    return int(chance * _within_life(ceiling, life_left_ms))


def key_pause_ms(chance: float, life_left_ms: int | None) -> int:
    """How long to leave a grant alone whose sealing key is missing, as `backoff_ms` has it.

    A key comes back with a restart, not by itself; and it is missing to many grants at once.
    """
    return int((0.5 + chance / 2) * _within_life(BACKOFF_CAP_MS, life_left_ms))


def retry_after_ms(asked_ms: int) -> int:
    """How much of a server's `Retry-After` to grant: at most an hour.

    The server means the whole client, so the life of one grant's token does not shorten the wait.
    """
    return min(max(asked_ms, 0), RETRY_AFTER_CAP_MS)


def confirm_ms(life_left_ms: int | None) -> int:
    """How far to space the second try that confirms a rejection: a tenth of the life left, in bounds."""
    if life_left_ms is None or life_left_ms < 0:
        return CONFIRM_MAX_MS
    return min(max(life_left_ms // 10, CONFIRM_MIN_MS), CONFIRM_MAX_MS)


def believed_at(grant: Grant, rejected_at: int, rules: Rules) -> int:
    """When a rejection is believed although every grant of the client is rejected.

    That is first taken for a fault of the client. But people may really have withdrawn everything, and have
    to hear of it when their access tokens stop working.
    """
    end_at = rejected_at + rules.believe_ms
    if grant.access_expires_at is None:
        return end_at
    least_at = rejected_at + min(LEAST_DISBELIEF_MS, rules.believe_ms)
    return min(end_at, max(grant.access_expires_at, least_at))


def is_refused_to_the_end(grant: Grant, streak: int, now: int) -> bool:
    """Whether refusals that say nothing are believed, for nothing is left to wait for."""
    return streak >= REFUSALS_TO_THE_END and (
        grant.access_expires_at is None or now >= grant.access_expires_at
    )


def _candidates(grant: Grant, client: Client, rules: Rules) -> Iterator[Due]:
    if is_refreshable(grant, client):
        yield _access_due(grant, rules)
        yield _refresh_token_due(grant, rules)
    elif grant.access_expires_at is not None:
        yield Due(grant.access_expires_at, Action.EXPIRE, Reason.ACCESS_TOKEN_END)
    end = fixed_end(grant, client, rules)
    if end is not None:
        yield Due(_next_notice(grant, end, rules), Action.ANNOUNCE, end.reason)


def _access_due(grant: Grant, rules: Rules) -> Due:
    if grant.access_expires_at is None:
        return NEVER
    lifetime_ms = grant.access_expires_at - grant.issued_at
    if lifetime_ms <= 0:
        return Due(grant.access_expires_at, Action.REFRESH, Reason.NO_ACCESS_TOKEN)
    share_at = _share_at(grant, grant.issued_at, lifetime_ms, rules)
    floor_at = grant.access_expires_at - int(min(rules.min_margin_ms, MARGIN_SHARE * lifetime_ms))
    if share_at <= floor_at:
        return Due(_spaced(grant, share_at), Action.REFRESH, Reason.ACCESS_TOKEN_SHARE)
    return Due(_spaced(grant, floor_at), Action.REFRESH, Reason.ACCESS_TOKEN_FLOOR)


def _latest_for_access(grant: Grant, rules: Rules) -> int | None:
    """As late as the floor allows, with some of the life left; never before the refresh is due."""
    due_at, ends_at = _access_due(grant, rules).at, grant.access_expires_at
    if due_at is None or ends_at is None:
        return None
    lifetime_ms = max(ends_at - grant.issued_at, 0)
    margin_ms = max(min(rules.min_margin_ms, MARGIN_SHARE * lifetime_ms), LAST_SHARE * lifetime_ms)
    return min(max(due_at, ends_at - int(margin_ms)), max(ends_at, grant.issued_at))


def _latest_for_refresh_token(grant: Grant, rules: Rules) -> int | None:
    """Halfway from the due time to the end: what is lost there is the whole grant."""
    due_at, ends_at = _refresh_token_due(grant, rules).at, grant.refresh_expires_at
    if due_at is None or ends_at is None:
        return None
    return due_at + max(ends_at - due_at, 0) // 2


def _refresh_token_due(grant: Grant, rules: Rules) -> Due:
    if grant.refresh_expires_at is None or _refresh_limit_stands(grant, rules):
        return NEVER
    due_at = _spaced(grant, _refresh_share_at(grant, rules))
    return Due(due_at, Action.REFRESH, Reason.REFRESH_TOKEN_SHARE)


def _spaced(grant: Grant, due_at: int) -> int:
    return max(due_at, grant.issued_at + LEAST_INTERVAL_MS)


def _refresh_limit_stands(grant: Grant, rules: Rules) -> bool:
    """Whether a refresh past its due time has left the refresh token's end where it was.

    Such a server counts from the consent: another refresh would only load it.
    """
    return grant.refresh_issued_at < grant.issued_at and _refresh_share_at(grant, rules) <= grant.issued_at


def _refresh_share_at(grant: Grant, rules: Rules) -> int:
    if grant.refresh_expires_at is None:
        raise ValueError("a refresh token without an end has no due time")
    lifetime_ms = max(grant.refresh_expires_at - grant.refresh_issued_at, 0)
    return _share_at(grant, grant.refresh_issued_at, lifetime_ms, rules)


def _share_at(grant: Grant, start: int, lifetime_ms: int, rules: Rules) -> int:
    if rules.never_earlier:
        room = min(2 * JITTER, (1.0 - rules.refresh_at) / 2)
        share = rules.refresh_at + room * (1.0 + jitter(grant.id)) / 2
    else:
        share = min(max(rules.refresh_at + JITTER * jitter(grant.id), 0.0), 1.0 - MARGIN_SHARE / 2)
    return start + int(lifetime_ms * share)


def _next_notice(grant: Grant, end: End, rules: Rules) -> int | None:
    """When the next notice is due. A life too short for the steps in days gets one notice, at its share."""
    steps = [end.at - step_ms for step_ms in NOTICE_STEPS_MS if end.at - step_ms > end.start]
    if not steps:
        steps = [end.start + int((end.at - end.start) * rules.refresh_at)]
    return next((at for at in steps if grant.noticed_at is None or at > grant.noticed_at), None)


def _within_life(span_ms: int, life_left_ms: int | None) -> int:
    if life_left_ms is None or life_left_ms <= 0:
        return span_ms
    return min(span_ms, life_left_ms // 3)
