"""Whether a request proves that it comes from the client, by the method that the server was told to ask for.

Without a method the server takes the secret in the form, and by Basic where its profile does. With one it
takes that method alone, and strictly:
    - `none`: the id, and no secret of any kind.
    - `client_secret_basic`: both halves form-encoded; `client_secret_basic_raw`: both as they are.
    - `private_key_jwt`, `client_secret_jwt`: signature, `iss` and `sub`, an `aud` that is one of the server's
      names, times, and a `jti` that was never seen before (RFC 7523 section 3).
    - `tls_client_auth`: a certificate of the clients' authority whose common name is the client's id.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from joserfc import jwk, jwt
from joserfc.errors import JoseError, SecurityWarning

if TYPE_CHECKING:
    from worker.sandbox.form import ReceivedRequest
    from worker.sandbox.issuer import IssuerRules
    from worker.sandbox.judge import Judge

METHODS: Final = (
    *("client_secret_post", "client_secret_basic", "client_secret_basic_raw", "none"),
    *("private_key_jwt", "client_secret_jwt", "tls_client_auth"),
)
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LONGEST_SECONDS = 60
_KEY_TYPES: Final = (
    (jwk.RSAKey.import_key, ["RS256"]),
    (jwk.ECKey.import_key, ["ES256", "ES384", "ES512"]),
    (jwk.OKPKey.import_key, ["EdDSA"]),
)


class Proofs:
    """Judges proofs, and remembers the assertions that it has seen."""

    def __init__(self, rules: IssuerRules, judge: Judge) -> None:
        self._rules = rules
        self._judge = judge
        self._seen: set[str] = set()

    def are_good(self, request: ReceivedRequest, now: float) -> bool:
        """Whether the client has proved itself."""
        rules = self._rules
        known = (rules.client_id, rules.client_secret)
        match rules.authentication:
            case None:
                if request.basic is not None:
                    revokes = not request.grant_type
                    takes_basic = revokes or request.grant_type in rules.profile.basic_for
                    return takes_basic and request.basic_decoded == known
                return (request.client_id, request.client_secret) == known
            case "client_secret_post":
                return request.basic is None and (request.client_id, request.client_secret) == known
            case "client_secret_basic":
                return request.basic_decoded == known
            case "client_secret_basic_raw":
                return request.basic == known
            case "none":
                return request.client_id == rules.client_id and not request.has_secret
            case "tls_client_auth":
                named = request.client_id == rules.client_id and not request.has_secret
                return named and request.certificate_name == rules.client_id
            case _:
                return self._asserts(request, now)

    def _asserts(self, request: ReceivedRequest, now: float) -> bool:
        claims = self._claims(request)
        if claims is None or request.parameters.get("client_assertion_type") != (_ASSERTION_TYPE,):
            return False
        client_id, names = self._rules.client_id, {request.url, *self._rules.audiences}
        good = (
            claims.get("iss") == claims.get("sub") == client_id
            and request.client_id in {"", client_id}
            and claims.get("aud") in names
            and claims.get("iat", 0) <= now < claims.get("exp", 0) <= now + _LONGEST_SECONDS
        )
        if not good or not claims.get("jti"):
            return False
        if claims["jti"] in self._seen:
            self._judge.count("assertions_reused", None)
            return False
        self._seen.add(claims["jti"])
        return True

    def _claims(self, request: ReceivedRequest) -> dict[str, Any] | None:
        assertion = "".join(request.parameters.get("client_assertion", ()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # short secrets, and EdDSA by its old name
            try:
                if self._rules.authentication == "client_secret_jwt":
                    key: Any = jwk.OctKey.import_key(self._rules.client_secret)
                    return dict(jwt.decode(assertion, key, algorithms=["HS256"]).claims)
                return self._claims_by_public_key(assertion)
            except (JoseError, ValueError):
                return None

    def _claims_by_public_key(self, assertion: str) -> dict[str, Any] | None:
        pem = Path(self._rules.client_key or "").read_bytes()
        for read_key, algorithms in _KEY_TYPES:
            try:
                return dict(jwt.decode(assertion, read_key(pem), algorithms=algorithms).claims)
            except (JoseError, ValueError, TypeError):
                continue
        return None
