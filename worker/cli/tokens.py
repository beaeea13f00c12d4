"""`evergrant token` and `evergrant grants refresh`: tokens on demand, and why there is none."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.at_hand import MOST_SECONDS, show, this_request
from worker.cli.output import until, write_line
from worker.cli.session import (
    BAD_STATE,
    NO_SUCH_GRANT,
    TRY_AGAIN,
    UNREACHABLE,
    CommandError,
    heartbeat_kept,
    run,
    this_user,
    utf8,
)

if TYPE_CHECKING:
    from worker.core.grant import Status
    from worker.core.promises import HandedOut
    from worker.fleet.handing_out import HandOutError
    from worker.fleet.tokens import TokenError
    from worker.runtime.assembly import Runtime

GrantId = Annotated[str, typer.Argument(metavar="ID", help="The grant's id.", callback=utf8)]


def token(
    grant_id: GrantId,
    min_ttl: Annotated[
        float | None,
        typer.Option(
            "--min-ttl",
            min=0,
            max=MOST_SECONDS,
            metavar="SECONDS",
            help="How long it must work at least. [default: until the next refresh is due]",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With the promise in seconds (expires_in), as one JSON object.")
    ] = False,
) -> None:
    """Print an access token that works long enough, refreshing the grant if it must.

    Evergrant does not rotate the grant before the promise ends; `--json` says when that is.

    Exit codes: 1 the grant is failed or paused, or no token of it works so long; 3 a server cannot be
    reached; 4 there is no such grant; 5 try again later.

    Example: curl -H "Authorization: Bearer $(evergrant token user-42/buddy)" https://api.buddy.works/user
    """
    handed_out = run(
        lambda runtime: _token(runtime, grant_id, None if min_ttl is None else int(min_ttl * 1000))
    )
    show(handed_out, as_json=as_json)


def refresh(grant_id: GrantId) -> None:
    """Refresh one grant now, due or not, under the same lease as the worker.

    It ends the promise of a token that was handed out.

    Example: evergrant grants refresh user-42/buddy
    """
    run(lambda runtime: _refresh(runtime, grant_id))


async def _token(runtime: "Runtime", grant_id: str, min_ttl_ms: int | None) -> "HandedOut":
    from worker.core.promises import Request
    from worker.fleet.handing_out import HandOutError

    by = this_user()
    request = Request(grant_id, min_ttl_ms, actor=by.actor, origin=by.origin)
    try:
        handed_out = await runtime.handing_out.at_hand(request, this_request())
        if handed_out is None:
            async with heartbeat_kept(runtime, grant_id):
                handed_out = await runtime.handing_out.hand_out(request)
    except HandOutError as problem:
        raise _refusal(problem) from None
    return handed_out


def _refusal(problem: "HandOutError") -> CommandError:
    from worker.core.promises import Refusal
    from worker.fleet.tokens import TokenFailure

    exit_codes = {
        Refusal.NO_SUCH_GRANT: NO_SUCH_GRANT,
        Refusal.GRANT_FAILED: BAD_STATE,
        Refusal.GRANT_PAUSED: BAD_STATE,
        Refusal.TTL_UNREACHABLE: BAD_STATE,
        Refusal.STORE_UNAVAILABLE: UNREACHABLE,
    }
    cause = problem.cause
    # What is in the way is on this machine.
    if cause is not None and cause.code in {TokenFailure.NO_ROOM_ON_DISK, TokenFailure.CANNOT_UNSEAL}:
        return CommandError(sentence(cause), BAD_STATE)
    line = no_token(problem) if cause is None else sentence(cause)
    return CommandError(line, exit_codes.get(problem.refusal, TRY_AGAIN))


def no_token(problem: "HandOutError") -> str:
    """One line: why there is no token, where no refresh was tried."""
    from worker.core.promises import Refusal

    grant_id, grant = problem.grant_id, problem.grant
    soon = f"in {problem.retry_after} s" if problem.retry_after_ms else "in a moment"
    reason = "" if grant is None or not grant.reason else f" ({grant.reason})"
    if (
        problem.refusal is Refusal.PROVIDER_UNAVAILABLE
        and grant is not None
        and grant.rejected_at is not None
    ):
        return f"{grant_id} was rejected and is confirmed {soon}: look again then"
    sentences = {
        Refusal.NO_SUCH_GRANT: f"no grant has the id {grant_id!r}",
        Refusal.GRANT_FAILED: (
            f"{grant_id} is failed{reason}, and its access token has ended: the person must connect again"
        ),
        Refusal.GRANT_PAUSED: f"{grant_id} is paused; `evergrant grants resume` puts it back to work",
        Refusal.TTL_UNREACHABLE: (
            f"{grant_id}: a fresh access token is promised for {until(problem.reach_ms or 0, 0)} at most"
        ),
        Refusal.PROMISED: f"{grant_id}: its token is promised to others until then: try again {soon}",
        Refusal.TOO_MANY_REQUESTS: f"{grant_id} was refreshed for a refused token just now: try again {soon}",
        Refusal.PROVIDER_UNAVAILABLE: f"{grant_id}: its provider gives no new tokens now: try again {soon}",
        Refusal.CLIENT_REJECTED: f"{grant_id}: its provider rejects the client: try again {soon}",
        Refusal.STORE_UNAVAILABLE: f"{grant_id}: the store is recovering: try again {soon}",
    }
    return sentences[problem.refusal]


async def _refresh(runtime: "Runtime", grant_id: str) -> None:
    from worker.core.audit import What
    from worker.fleet.tokens import TokenError

    try:
        # A heartbeat would only say again what is wrong with the disk.
        await runtime.tokens.check(grant_id)
        await runtime.audit_trail.note(What.REFRESH, this_user(), grant_id=grant_id)
        async with heartbeat_kept(runtime, grant_id):
            stored = await runtime.tokens.refresh(grant_id)
    except TokenError as problem:
        raise _command_error(problem) from None
    ends = until(stored.grant.access_expires_at, await runtime.registry.now())
    write_line(f"refreshed: version {stored.grant.version}, the access token ends in {ends}")


def _command_error(problem: "TokenError") -> CommandError:
    from worker.fleet.tokens import TokenFailure

    is_store_away = problem.code is TokenFailure.ANSWER_WAITS
    return CommandError(sentence(problem), UNREACHABLE if is_store_away else BAD_STATE)


def sentence(problem: "TokenError") -> str:
    """One line: why there is no token, and what happens to the grant next."""
    from worker.fleet.tokens import TokenFailure

    grant_id, detail, span_ms = problem.grant_id, problem.detail, problem.span_ms or 0
    sentences = {
        TokenFailure.NO_SUCH_GRANT: f"no grant has the id {grant_id!r}",
        TokenFailure.CLIENT_NOT_CONFIGURED: f"{grant_id}: its client {detail!r} is not configured",
        TokenFailure.NO_REFRESH_TOKEN: f"{grant_id} has no refresh token: the person must connect again",
        TokenFailure.PAUSED: f"{grant_id} is paused; `evergrant grants resume` puts it back to work",
        TokenFailure.BEING_CONFIRMED: (
            f"{grant_id} was rejected and is confirmed in {span_ms // 1000} s: look again then"
        ),
        TokenFailure.NO_ROOM_ON_DISK: (
            f"{grant_id} was not refreshed: its new tokens could not be kept safe: {detail}"
        ),
        TokenFailure.LEASED_ELSEWHERE: f"{grant_id}: another process refreshes it; try again in a moment",
        TokenFailure.STORE_RECOVERING: f"{grant_id}: the store is recovering; try again in a moment",
        TokenFailure.CLIENT_UNPROVEN: (
            f"{grant_id}: its client {detail!r} has refreshed no grant with its present settings yet, and"
            " another grant is tried first; `evergrant status` shows what became of it"
        ),
        TokenFailure.ANSWER_WAITS: f"{grant_id}: the store was away, and has its new tokens only now",
        TokenFailure.REPLY_UNREAD: (
            f"{grant_id}: a reply came whose tokens could not be read; it is kept, and the old token is not"
            f" presented again: see `evergrant answers show {detail or 'N'}`"
        ),
        TokenFailure.PROMISED: f"{grant_id}: its token is promised to somebody; try again in a moment",
        TokenFailure.REFUSED_LATELY: (
            f"{grant_id} was refreshed for a refused token less than a minute ago; try again in a minute"
        ),
    }
    if problem.code in sentences:
        return sentences[problem.code]
    if problem.status is None:
        return detail or ""  # what the sealer said
    reasons = {
        TokenFailure.PROVIDER_REJECTED: f"the provider rejected its refresh token ({detail})",
        TokenFailure.CLIENT_REJECTED: f"the provider rejected the client's credentials ({detail})",
        TokenFailure.NO_ANSWER: f"no usable answer from the provider ({detail})",
        TokenFailure.CLIENT_NOT_CONFIRMED: f"no usable answer from the provider ({problem.code.value})",
        TokenFailure.LEASE_TOO_SHORT: f"no usable answer from the provider ({problem.code.value})",
        TokenFailure.CANNOT_UNSEAL: "its tokens cannot be unsealed with the keys in EVERGRANT_KEYS",
    }
    return f"{grant_id} was not refreshed: {reasons[problem.code]}; {_what_next(problem.status)}"


def _what_next(status: "Status") -> str:
    match status.value:
        case "failed":
            return "it is failed: the person must connect again"
        case "failing":
            return "it is failing and will be tried again"
        case _:
            return f"it is {status.value} as before"
