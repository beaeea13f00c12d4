"""One request at the authorization endpoint, read from its query or from the form of the consent page.

Rules:
    - Where the client or the redirect URI is wrong, nothing is redirected: an attacker may have chosen where
      to (RFC 6749 section 4.1.2.1). Everything else that is wrong is told to the client, by a redirect.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from worker.sandbox.codes import S256, is_challenge
from worker.sandbox.form import MAY_REPEAT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.sandbox.issuer import IssuerRules

Problem = tuple[str, str]
"""A code of RFC 6749 section 4.1.2.1, and its description."""


class UntrustedError(ValueError):
    """Nothing may be redirected; the message is one line for the person at the browser."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """What a client asks a person for. A parameter that was not sent is an empty string."""

    pairs: Sequence[tuple[str, str]]
    """Every parameter with its value, as sent."""
    target: str
    """Where the answer goes."""
    problem: Problem | None

    def parameter(self, name: str) -> str:
        """Return a parameter's value."""
        return dict(self.pairs).get(name, "")

    @property
    def scopes(self) -> list[str]:
        """The scopes that are asked for."""
        return self.parameter("scope").split()


def read_authorization_request(pairs: Sequence[tuple[str, str]], rules: IssuerRules) -> AuthorizationRequest:
    """Read an authorization request.

    Raises:
        UntrustedError: The client or the redirect URI is wrong.
    """
    fields = dict(pairs)
    repeated = _repeated(pairs)
    for name in ("client_id", "redirect_uri"):
        if name in repeated:
            message = f"{name} was sent more than once"
            raise UntrustedError(message)
    if fields.get("client_id") != rules.client_id:
        message = "client_id is not that of a registered client"
        raise UntrustedError(message)
    target = _target(fields.get("redirect_uri", ""), rules)
    return AuthorizationRequest(pairs, target, next(_problems(fields, repeated, rules), None))


def _target(redirect_uri: str, rules: IssuerRules) -> str:
    registered = rules.redirect_uris
    if not redirect_uri and len(registered) == 1:
        return registered[0]
    if not redirect_uri:
        message = f"redirect_uri is missing, and {len(registered)} are registered"
        raise UntrustedError(message)
    below = rules.profile.redirects_below and any(_is_below(redirect_uri, each) for each in registered)
    if redirect_uri not in registered and not below:
        message = "redirect_uri is not registered"
        raise UntrustedError(message)
    return redirect_uri


def _is_below(redirect_uri: str, registered: str) -> bool:
    try:
        given, known = urlsplit(redirect_uri), urlsplit(registered)
    except ValueError:
        return False
    is_inside = f"{given.path}/".startswith(f"{known.path.rstrip('/')}/")
    climbs = ".." in unquote(given.path) or "\\" in unquote(given.path)
    return given[:2] == known[:2] and is_inside and not climbs and not given.fragment


def _problems(fields: dict[str, str], repeated: list[str], rules: IssuerRules) -> Iterator[Problem]:
    """Yield what is wrong, the first first."""
    for name in repeated:
        yield "invalid_request", f"{name} was sent more than once"
    for name, value in rules.profile.authorization_needs.items():
        if fields.get(name) != value:
            yield "invalid_request", f"{name} must be {value}"
    response_type = fields.get("response_type", "")
    if not response_type:
        yield "invalid_request", "response_type is missing"
    if response_type != "code":
        yield "unsupported_response_type", "response_type must be code"
    yield from _scope_problems(fields.get("scope", ""), rules)
    yield from _pkce_problems(fields, rules)


def _scope_problems(scope: str, rules: IssuerRules) -> Iterator[Problem]:
    profile = rules.profile
    if not scope:
        if profile.requires_scope:
            yield "invalid_request", "scope is missing"
        return
    if not profile.scope_syntax.fullmatch(scope):
        yield "invalid_scope", "scope must be names divided by spaces"
    if rules.scopes and not profile.drops_unknown_scopes:
        unknown = (name for name in scope.split(" ") if name not in rules.scopes)
        yield from (("invalid_scope", f"there is no scope {name}") for name in unknown)


def _pkce_problems(fields: dict[str, str], rules: IssuerRules) -> Iterator[Problem]:
    challenge, method = fields.get("code_challenge", ""), fields.get("code_challenge_method", "")
    if not challenge and not method:
        if rules.require_pkce:
            yield "invalid_request", "code_challenge is missing"
        return
    if method != S256:
        yield "invalid_request", f"code_challenge_method must be {S256}"
    if not is_challenge(challenge):
        yield "invalid_request", "code_challenge must be a SHA-256 in base64url, without padding"


def _repeated(pairs: Sequence[tuple[str, str]]) -> list[str]:
    counts = Counter(name for name, _ in pairs if name not in MAY_REPEAT)
    return [name for name, count in counts.items() if count > 1]
