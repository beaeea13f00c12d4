"""What a caller is told where a call fails: RFC 9457 problems, each with a stable code.

Rules:
- The codes stand here, once: the OpenAPI document and docs/http.md are made from them or compared with them.
- A code is added, never renamed: callers match on it.
- A detail is one line for people. It never repeats what came in, which may be a token.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Self

from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"
LATER_SECONDS: Final = 5  # where nobody knows better


class Code(StrEnum):
    """Why a call failed.

    Attributes:
        status: of the answer.
        meaning: what it says, as the end of a sentence.
    """

    status: HTTPStatus
    meaning: str

    # Each member below is given as its value, its status and its meaning.
    def __new__(cls, value: str, status: HTTPStatus, meaning: str) -> Self:  # noqa: D102 it is the enum's own constructor
        member = str.__new__(cls, value)
        member._value_ = value
        member.status = status
        member.meaning = meaning
        return member

    UNAUTHORIZED = "unauthorized", HTTPStatus.UNAUTHORIZED, "the key is missing, wrong or revoked"
    FORBIDDEN = "forbidden", HTTPStatus.FORBIDDEN, "the key may not do this"
    NOT_FOUND = "not_found", HTTPStatus.NOT_FOUND, "there is no such call"
    NO_SUCH_GRANT = "no_such_grant", HTTPStatus.NOT_FOUND, "no grant of this id exists for the key"
    NO_SUCH_CODE = (
        "no_such_code",
        HTTPStatus.NOT_FOUND,
        "the code is unknown, or was not confirmed within ten minutes",
    )
    METHOD_NOT_ALLOWED = (
        "method_not_allowed",
        HTTPStatus.METHOD_NOT_ALLOWED,
        "there is such a path, with another method",
    )
    REQUEST_TIMEOUT = "request_timeout", HTTPStatus.REQUEST_TIMEOUT, "the body took too long to arrive"
    GRANT_EXISTS = "grant_exists", HTTPStatus.CONFLICT, "a grant of this id exists, and may not be replaced"
    OUTDATED_TOKENS = "outdated_tokens", HTTPStatus.CONFLICT, "what is stored is newer than these tokens"
    CODE_USED = "code_used", HTTPStatus.CONFLICT, "the code was confirmed before"
    GRANT_FAILED = "grant_failed", HTTPStatus.CONFLICT, "the grant needs its person again"
    GRANT_PAUSED = "grant_paused", HTTPStatus.CONFLICT, "an operator took the grant out of work"
    GRANT_UNREADABLE = "grant_unreadable", HTTPStatus.CONFLICT, "the grant's record cannot be read"
    NOT_REFRESHABLE = "not_refreshable", HTTPStatus.CONFLICT, "the grant has no refresh token"
    NOT_REVOCABLE = (
        "not_revocable",
        HTTPStatus.CONFLICT,
        "the client has no revocation endpoint, or other tokens were stored meanwhile",
    )
    REPLY_KEPT = (
        "reply_kept",
        HTTPStatus.CONFLICT,
        "a reply is kept for the grant that a person must read first",
    )
    TTL_UNREACHABLE = "ttl_unreachable", HTTPStatus.CONFLICT, "no token of the grant lives so long"
    PROMISED = "promised", HTTPStatus.CONFLICT, "another caller was promised the present token"
    BODY_TOO_LARGE = "body_too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large"
    INVALID_REQUEST = "invalid_request", HTTPStatus.UNPROCESSABLE_ENTITY, "the request cannot be read"
    TOO_MANY_REQUESTS = (
        "too_many_requests",
        HTTPStatus.TOO_MANY_REQUESTS,
        "too many calls, or too many with a wrong key",
    )
    INTERNAL_ERROR = "internal_error", HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of this service"
    PROVIDER_UNAVAILABLE = (
        "provider_unavailable",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the provider gave no usable answer",
    )
    CLIENT_REJECTED = (
        "client_rejected",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the provider refuses the client's credentials, or the client is not configured",
    )
    STORE_UNAVAILABLE = (
        "store_unavailable",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the store is away or recovering, or new tokens could not be kept safe",
    )

    @property
    def has_retry_after(self) -> bool:
        """Whether the answer says when to try again."""
        return self.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


class Problem(Exception):  # noqa: N818 RFC 9457's word
    """Ends a call.

    Attributes:
        code: why.
        detail: the same in one line.
        facts: further members of the document.
        retry_after: seconds, where it makes sense to try again.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        facts: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code.value)
        self.code = code
        self.detail = detail
        self.facts = dict(facts or {})
        if retry_after is None and code.has_retry_after:
            retry_after = LATER_SECONDS
        self.retry_after = None if retry_after is None else max(1, round(retry_after))

    def document(self) -> dict[str, Any]:
        """The problem as JSON."""
        status = self.code.status
        return {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "code": self.code.value,
            "detail": self.detail,
            **self.facts,
        }

    def response(self) -> Response:
        """The answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.code is Code.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="evergrant"'
        return Response(
            json.dumps(self.document(), ensure_ascii=False, separators=(",", ":")),
            self.code.status,
            headers,
            MEDIA_TYPE,
        )
