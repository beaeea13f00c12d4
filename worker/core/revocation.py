"""Revocation requests, and what any reply to one means (RFC 7009).

Rules:
- Any status with any bytes gives an answer: no function here raises because of what a server sent.
- Only a clear yes is a yes: after it the grant is forgotten, and nobody could revoke its tokens any more.
- An answer repeats a server's text only if it is a registered code: other text could hold a secret.
"""

import json
from dataclasses import dataclass
from typing import Final

from worker.core.grant import TokenPair
from worker.core.outcomes import Reply
from worker.core.protocol import TokenRequest, headers_of
from worker.core.providers import Client

# RFC 6749 section 5.2 and RFC 7009 section 2.2.1. `unsupported_token_type` is a refusal: that token lives on.
REFUSED: Final = frozenset(
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client"}
    | {"unsupported_grant_type", "unsupported_token_type"}
)
# RFC 7009 section 2.2 wants a 200 for a token that is dead. Servers that answer with an error all the same
# take the code of RFC 6750 section 3.1, as Google does.
DEAD: Final = frozenset({"invalid_token"})
CLIENT_REFUSED: Final = frozenset({"invalid_client", "unauthorized_client"})
AWAY: Final = frozenset({408, 429})


@dataclass(frozen=True, slots=True)
class Revoked:
    """The server has revoked the token, or knows it as dead."""


@dataclass(frozen=True, slots=True)
class NotRevoked:
    """The server answers and does not revoke the token.

    Attributes:
        code: the server's error code, or `http_<status>` where it sent none that is registered.
        of_client: it may have refused the client; other credentials may do.
    """

    code: str
    of_client: bool = False


@dataclass(frozen=True, slots=True)
class RevocationUnanswered:
    """No usable answer came; the token may have been revoked all the same.

    Attributes:
        detail: `http_<status>`, or a word of ours for what went wrong.
    """

    detail: str


Revocation = Revoked | NotRevoked | RevocationUnanswered


def revocation_request(url: str, client: Client, pair: TokenPair) -> TokenRequest | None:
    """RFC 7009 section 2.1, not yet authenticated; `None` where nothing was issued that could be revoked.

    The refresh token is sent where there is one: the server ends the whole consent with it (section 2.1).
    """
    if pair.refresh_token:
        form = {"token": pair.refresh_token, "token_type_hint": "refresh_token"}
    elif pair.access_token:
        form = {"token": pair.access_token, "token_type_hint": "access_token"}
    else:
        return None
    return TokenRequest(url, form, headers_of(client))


def read_revocation_reply(reply: Reply) -> Revocation:
    """What a revocation endpoint's reply means; never raises.

    A body after a 200 has no meaning in RFC 7009, but servers report failures in one.
    """
    code, has_errors = _errors(reply.body)
    status = reply.status
    if code in DEAD:
        return Revoked()
    if status in AWAY or status >= 500:  # noqa: PLR2004 where the class of server errors begins
        return RevocationUnanswered(f"http_{status}")
    if 200 <= status < 300 and not has_errors:  # noqa: PLR2004 the class of success
        return Revoked()
    named = code if code in REFUSED else None
    return NotRevoked(named or f"http_{status}", named in CLIENT_REFUSED or status == 401)  # noqa: PLR2004


def _errors(body: bytes) -> tuple[str | None, bool]:
    """The error code of a body, and whether it speaks of any error (Buddy: a list of `errors`)."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None, False
    if not isinstance(document, dict):
        return None, False
    code = document.get("error")
    return (code if isinstance(code, str) else None), bool(code or document.get("errors"))
