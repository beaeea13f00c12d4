"""Authorization codes and PKCE: what a person allowed, until the client exchanges it (RFC 6749, RFC 7636).

Rules:
    - `now` is an argument, in Unix seconds.
    - A code lives a minute. The first request of the proven client that presents it spends it, even one
      that is refused.
    - A verifier and a challenge go together. A server that took one without the other would let an
      attacker switch PKCE off (RFC 9700 section 2.1.1).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.sandbox.judge import RequestVerdict

if TYPE_CHECKING:
    from worker.sandbox.form import ReceivedRequest
    from worker.sandbox.issuer import IssuedGrant

CODE_SECONDS: Final = 60
S256: Final = "S256"
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # a SHA-256 in base64url
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")  # RFC 7636 section 4.1


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a person allowed, and what the exchange must bring along."""

    person: str
    scope: str | None
    """The scopes; None where neither the client nor the server named any."""
    states_scope: bool
    """Whether replies state the scope."""
    redirect_uri: str = ""
    """As the authorization request had it; empty if it had none."""
    challenge: str = ""


@dataclass(slots=True)
class IssuedCode:
    """A code that was issued once."""

    allowed: Allowed
    expires_at: float
    spent: bool = False
    grant: IssuedGrant | None = None
    """What it gave."""


class Codes:
    """Every code that was ever issued."""

    def __init__(self) -> None:
        self._codes: dict[str, IssuedCode] = {}

    def issue(self, allowed: Allowed, now: float) -> str:
        """Return a new code for what a person has just allowed."""
        code = secrets.token_urlsafe(32)
        self._codes[code] = IssuedCode(allowed, now + CODE_SECONDS)
        return code

    def examine(self, request: ReceivedRequest, now: float) -> tuple[RequestVerdict, IssuedCode | None]:
        """Say what a code exchange is, and which code it presents. Nothing changes."""
        code = self._codes.get(request.parameter("code"))
        if code is None:
            return RequestVerdict.CODE_NEVER_ISSUED, None
        return _examine(code, request, now), code


def _examine(code: IssuedCode, request: ReceivedRequest, now: float) -> RequestVerdict:
    if code.spent:
        return RequestVerdict.CODE_REPLAYED
    if now > code.expires_at:
        return RequestVerdict.CODE_EXPIRED
    if request.parameter("redirect_uri") != code.allowed.redirect_uri:
        return RequestVerdict.WRONG_REDIRECT_URI
    if not _proves(request.parameter("code_verifier"), code.allowed.challenge):
        return RequestVerdict.WRONG_VERIFIER
    return RequestVerdict.LIVE_CODE


def _proves(verifier: str, challenge: str) -> bool:
    if not verifier or not challenge:
        return verifier == challenge
    return _VERIFIER.fullmatch(verifier) is not None and challenge_of(verifier) == challenge


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_challenge(text: str) -> bool:
    """Tell whether a text may be an S256 challenge."""
    return _CHALLENGE.fullmatch(text) is not None
