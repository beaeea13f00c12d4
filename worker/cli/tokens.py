"""`evergrant token` and `evergrant grants refresh`: tokens on demand, and why there is none."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import note, until, write_line
from worker.cli.session import BAD_STATE, UNREACHABLE, CommandError, heartbeat_kept, run, utf8

if TYPE_CHECKING:
    from worker.core.grant import Status
    from worker.fleet.tokens import AccessToken, TokenError
    from worker.runtime.assembly import Runtime

MOST_SECONDS = 315_360_000  # ten years, as in an import line
GrantId = Annotated[str, typer.Argument(metavar="ID", help="The grant's id.", callback=utf8)]


def token(
    grant_id: GrantId,
    min_ttl: Annotated[
        float,
        typer.Option(
            "--min-ttl", min=0, max=MOST_SECONDS, metavar="SECONDS", help="How long it must live at least."
        ),
    ] = 60,
) -> None:
    """Print an access token that lives long enough, refreshing the grant if it must.

    Example: curl -H "Authorization: Bearer $(evergrant token user-42/buddy)" https://api.buddy.works/user
    """
    write_line(run(lambda runtime: _token(runtime, grant_id, int(min_ttl * 1000))))


def refresh(grant_id: GrantId) -> None:
    """Refresh one grant now, due or not, under the same lease as the worker.

    Example: evergrant grants refresh user-42/buddy
    """
    run(lambda runtime: _refresh(runtime, grant_id))


async def _token(runtime: "Runtime", grant_id: str, min_ttl_ms: int) -> str:
    from worker.fleet.tokens import TokenError

    try:
        token = await runtime.tokens.at_hand(grant_id, min_ttl_ms)
        if token is None:
            async with heartbeat_kept(runtime, grant_id):
                token = await runtime.tokens.token(grant_id, min_ttl_ms)
    except TokenError as problem:
        raise _command_error(problem) from None
    _note_if_last(token)
    return token.value


def _note_if_last(token: "AccessToken") -> None:
    grant = token.stored.grant
    if grant.status.value == "failed":
        note(f"evergrant: {grant.id} is failed ({grant.reason}): this is its last access token")


async def _refresh(runtime: "Runtime", grant_id: str) -> None:
    from worker.fleet.tokens import TokenError

    try:
        await runtime.tokens.check(grant_id)  # a heartbeat would only say again what is wrong with the disk
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
        TokenFailure.NO_ACCESS_TOKEN: f"{grant_id} has no access token yet",
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
        TokenFailure.TTL_UNREACHABLE: f"{grant_id}: a fresh access token lives only {span_ms // 1000} s",
        TokenFailure.TTL_NOT_REACHED: f"{grant_id}: a fresh access token lives only {until(span_ms, 0)}",
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
