"""The failures of the use cases as problems: which code, what is said, when to try again."""

from collections.abc import Callable, Mapping
from typing import Final

from worker.core.events import rfc3339
from worker.core.grant import Grant, Status
from worker.core.promises import Refusal
from worker.core.registry import StoredGrant
from worker.fleet.handing_out import HandOutError
from worker.fleet.importing import LineProblem
from worker.fleet.revoking import RevocationError, RevocationFailure
from worker.fleet.tokens import TokenError, TokenFailure
from worker.http.problems import Code, Problem

CONFIRMED_SECONDS: Final = 60  # after a first rejection the second try comes within a minute
PERSON_SECONDS: Final = 300  # a person has to act first

OF_TOKENS: Final[Mapping[TokenFailure, tuple[Code, str]]] = {
    TokenFailure.NO_SUCH_GRANT: (Code.NO_SUCH_GRANT, "there is no such grant"),
    TokenFailure.CLIENT_NOT_CONFIGURED: (Code.CLIENT_REJECTED, "the grant's client is not configured"),
    TokenFailure.NO_REFRESH_TOKEN: (Code.NOT_REFRESHABLE, "the grant has no refresh token"),
    TokenFailure.PAUSED: (Code.GRANT_PAUSED, "the grant is paused; POST /v1/resume puts it back to work"),
    TokenFailure.BEING_CONFIRMED: (
        Code.PROVIDER_UNAVAILABLE,
        "the provider rejected the grant once, and a second try follows",
    ),
    TokenFailure.NO_ROOM_ON_DISK: (
        Code.STORE_UNAVAILABLE,
        "nothing was sent: new tokens could not be kept safe on this service's disk",
    ),
    TokenFailure.LEASED_ELSEWHERE: (Code.STORE_UNAVAILABLE, "another process is refreshing the grant"),
    TokenFailure.STORE_RECOVERING: (Code.STORE_UNAVAILABLE, "the store is recovering"),
    TokenFailure.CLIENT_UNPROVEN: (
        Code.CLIENT_REJECTED,
        "the client has refreshed nothing with its present settings yet, and another grant is tried first",
    ),
    TokenFailure.ANSWER_WAITS: (Code.STORE_UNAVAILABLE, "the store was away when the new tokens came"),
    TokenFailure.PROVIDER_REJECTED: (
        Code.PROVIDER_UNAVAILABLE,
        "the provider rejected the grant once, and a second try follows",
    ),
    TokenFailure.CLIENT_REJECTED: (Code.CLIENT_REJECTED, "the provider refuses the client's credentials"),
    TokenFailure.NO_ANSWER: (Code.PROVIDER_UNAVAILABLE, "no usable answer came from the provider"),
    TokenFailure.REPLY_UNREAD: (
        Code.REPLY_KEPT,
        "a reply came whose tokens could not be read; it is kept, and a person must look at it",
    ),
    TokenFailure.CLIENT_NOT_CONFIRMED: (
        Code.PROVIDER_UNAVAILABLE,
        "the provider's refusal may mean the grant or the client",
    ),
    TokenFailure.LEASE_TOO_SHORT: (Code.STORE_UNAVAILABLE, "this service stood still; nothing was sent"),
    TokenFailure.CANNOT_UNSEAL: (Code.STORE_UNAVAILABLE, "no sealing key here opens the grant's tokens"),
    TokenFailure.PROMISED: (Code.PROMISED, "another caller was promised the present token"),
    TokenFailure.REFUSED_LATELY: (
        Code.TOO_MANY_REQUESTS,
        "the grant was refreshed for a refused token less than a minute ago",
    ),
}

OF_REVOCATIONS: Final[Mapping[RevocationFailure, tuple[Code, str]]] = {
    RevocationFailure.NO_SUCH_GRANT: (Code.NO_SUCH_GRANT, "there is no such grant"),
    RevocationFailure.CLIENT_NOT_CONFIGURED: (Code.CLIENT_REJECTED, "the grant's client is not configured"),
    RevocationFailure.NO_ENDPOINT: (Code.NOT_REVOCABLE, "the grant's client has no revocation endpoint"),
    RevocationFailure.CANNOT_UNSEAL: (Code.STORE_UNAVAILABLE, "no sealing key here opens the grant's tokens"),
    RevocationFailure.LEASED_ELSEWHERE: (Code.STORE_UNAVAILABLE, "another process is refreshing the grant"),
    RevocationFailure.STORE_RECOVERING: (Code.STORE_UNAVAILABLE, "the store is recovering"),
    RevocationFailure.LEASE_TOO_SHORT: (Code.STORE_UNAVAILABLE, "this service stood still; nothing was sent"),
    RevocationFailure.REPLY_KEPT: (
        Code.REPLY_KEPT,
        "a reply is kept that most likely has the living tokens; a person must look at it",
    ),
    RevocationFailure.REFUSED: (
        Code.PROVIDER_UNAVAILABLE,
        "the provider refused to revoke it; the grant stays as it was",
    ),
    RevocationFailure.NO_ANSWER: (
        Code.PROVIDER_UNAVAILABLE,
        "no usable answer came from the revocation endpoint; the grant stays as it was",
    ),
    RevocationFailure.REPLACED: (
        Code.NOT_REVOCABLE,
        "it was revoked, and other tokens were stored meanwhile: those stay",
    ),
}

OF_LINES: Final[Mapping[LineProblem, Code]] = {
    LineProblem.BAD_LINE: Code.INVALID_REQUEST,
    LineProblem.EXISTS: Code.GRANT_EXISTS,
    LineProblem.OUTDATED: Code.OUTDATED_TOKENS,
    LineProblem.OTHER_LABELS: Code.FORBIDDEN,
    LineProblem.FOREIGN: Code.FORBIDDEN,
    LineProblem.NEWER_FORMAT: Code.GRANT_UNREADABLE,
    LineProblem.BUSY: Code.STORE_UNAVAILABLE,
}
OF_HAND_OUTS: Final[Mapping[Refusal, str]] = {
    Refusal.NO_SUCH_GRANT: OF_TOKENS[TokenFailure.NO_SUCH_GRANT][1],
    Refusal.GRANT_FAILED: "the person must connect again",
    Refusal.GRANT_PAUSED: OF_TOKENS[TokenFailure.PAUSED][1],
    Refusal.TTL_UNREACHABLE: "no token of the grant can be promised for so long",
    Refusal.PROMISED: "the refresh that it takes would end a token that was promised to others",
    Refusal.TOO_MANY_REQUESTS: OF_TOKENS[TokenFailure.REFUSED_LATELY][1],
    Refusal.PROVIDER_UNAVAILABLE: "the provider gives no new tokens now",
    Refusal.CLIENT_REJECTED: "the provider refuses the client's credentials, or it is not configured",
    Refusal.STORE_UNAVAILABLE: "the store is recovering, or new tokens could not be kept safe",
}

EXISTS_DETAIL: Final = "a grant with this id exists; ?replace=true puts this one in its place"


def no_such_grant() -> Problem:
    """The grant does not exist for the caller."""
    return Problem(Code.NO_SUCH_GRANT, OF_TOKENS[TokenFailure.NO_SUCH_GRANT][1])


def failed(grant: Grant) -> Problem:
    """The grant needs its person again."""
    facts = {"reason": grant.reason, "access_token_expires_at": rfc3339(grant.access_expires_at)}
    return Problem(Code.GRANT_FAILED, f"the person must connect again ({grant.reason})", facts=facts)


def of_token_error(error: TokenError, after: StoredGrant | None) -> Problem:
    """Why there are no new tokens, and of the grant as it is stored afterwards."""
    if after is not None and after.grant.status is Status.FAILED and error.status is Status.FAILED:
        return failed(after.grant)
    code, detail = OF_TOKENS[error.code]
    return Problem(code, detail, retry_after=_when(error))


def of_hand_out_error(error: HandOutError) -> Problem:
    """Why there is no token."""
    if error.refusal is Refusal.GRANT_FAILED and error.grant is not None:
        return failed(error.grant)
    code = next(code for code in Code if code.value == error.refusal.value)
    detail = OF_HAND_OUTS[error.refusal] if error.cause is None else OF_TOKENS[error.cause.code][1]
    facts = {}
    if error.refusal is Refusal.TTL_UNREACHABLE and error.reach_ms is not None:
        facts["longest_ttl"] = max(error.reach_ms, 0) // 1000
    return Problem(code, detail, facts=facts, retry_after=error.retry_after)


def of_revocation_error(error: RevocationError) -> Problem:
    """Why the grant is not revoked."""
    code, detail = OF_REVOCATIONS[error.code]
    return Problem(code, detail)


def of_line(problem: LineProblem, reason: str) -> Problem:
    """Why a line was not stored; its reason names no value of it."""
    return Problem(OF_LINES[problem], EXISTS_DETAIL if problem is LineProblem.EXISTS else reason)


def _when(error: TokenError) -> float | None:
    waits: Mapping[TokenFailure, Callable[[], float]] = {
        TokenFailure.BEING_CONFIRMED: lambda: (error.span_ms or 0) / 1000,
        TokenFailure.PROVIDER_REJECTED: lambda: CONFIRMED_SECONDS,
        TokenFailure.CLIENT_NOT_CONFIGURED: lambda: PERSON_SECONDS,
        TokenFailure.CANNOT_UNSEAL: lambda: PERSON_SECONDS,
        TokenFailure.REFUSED_LATELY: lambda: CONFIRMED_SECONDS,
    }
    return waits[error.code]() if error.code in waits else None
