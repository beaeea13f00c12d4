"""`evergrant grants revoke` and `evergrant grants delete --revoke`."""

from typing import TYPE_CHECKING

from worker.cli import tokens
from worker.cli.output import note, write_line
from worker.cli.session import BAD_STATE, UNREACHABLE, CommandError, heartbeat_kept, run, this_user

if TYPE_CHECKING:
    from worker.fleet.revoking import RevocationError
    from worker.runtime.assembly import Runtime


def revoke(grant_id: tokens.GrantId) -> None:
    """End one grant at its provider (RFC 7009), then forget it and its tokens.

    Where the provider refuses or is away, the grant stays as it was: exit 1 or 3.

    Example: evergrant grants revoke user-42/buddy
    """
    run(lambda runtime: _revoke(runtime, grant_id))


async def _revoke(runtime: "Runtime", grant_id: str) -> None:
    from worker.core.audit import What
    from worker.fleet.revoking import RevocationError

    try:
        await runtime.revoking.check(grant_id)  # before a heartbeat: most failures are found here
        await runtime.audit_trail.note(What.REVOKE, this_user(), grant_id=grant_id)
        async with heartbeat_kept(runtime, grant_id):
            grant = await runtime.revoking.revoke(grant_id)
    except RevocationError as problem:
        raise _command_error(problem) from None
    write_line(f"revoked {grant_id}")
    if grant.in_doubt:
        note(f"evergrant: an earlier reply was lost: the provider may have issued newer tokens of {grant_id}")


def _command_error(problem: "RevocationError") -> CommandError:
    from worker.fleet.revoking import RevocationFailure

    is_away = problem.code is RevocationFailure.NO_ANSWER
    return CommandError(sentence(problem), UNREACHABLE if is_away else BAD_STATE)


def sentence(problem: "RevocationError") -> str:
    """One line: why the grant is not revoked, and what became of it."""
    from worker.fleet.revoking import RevocationFailure

    grant_id, detail = problem.grant_id, problem.detail or ""
    sentences = {
        RevocationFailure.NO_SUCH_GRANT: f"no grant has the id {grant_id!r}",
        RevocationFailure.CLIENT_NOT_CONFIGURED: f"{grant_id}: its client {detail!r} is not configured",
        RevocationFailure.NO_ENDPOINT: (
            f"{grant_id} was not revoked: its client has no revocation endpoint; set"
            f" EVERGRANT_CLIENTS__{detail.upper()}__REVOKE_URL, or forget the grant with"
            " `evergrant grants delete`"
        ),
        RevocationFailure.CANNOT_UNSEAL: detail,
        RevocationFailure.LEASED_ELSEWHERE: (
            f"{grant_id} was not revoked: another process refreshes it; try again in a moment"
        ),
        RevocationFailure.STORE_RECOVERING: (
            f"{grant_id} was not revoked: the store is recovering; try again in a moment"
        ),
        RevocationFailure.LEASE_TOO_SHORT: (
            f"{grant_id} was not revoked: this command stood still for too long; try again"
        ),
        RevocationFailure.REPLY_KEPT: (
            f"{grant_id}: its living tokens are most likely in a reply that could not be read:"
            f" `evergrant answers adopt {detail}` takes them in,"
            f" `evergrant answers drop {detail}` gives them up"
        ),
        RevocationFailure.REFUSED: (
            f"{grant_id} was not revoked: the provider refused ({detail}); the grant stays as it was"
        ),
        RevocationFailure.NO_ANSWER: (
            f"{grant_id}: no usable answer from the revocation endpoint ({detail}); the grant stays as it was"
        ),
        RevocationFailure.REPLACED: (
            f"{grant_id} was revoked, and is stored still: other tokens were imported for it meanwhile"
        ),
    }
    return sentences[problem.code]
