"""What the server says of itself (RFC 8414)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.sandbox.codes import S256

if TYPE_CHECKING:
    from worker.sandbox.issuer import IssuerRules


def metadata_of(rules: IssuerRules, issuer: str) -> dict[str, Any]:
    """Return the document; `issuer` is the server's URL as the client names it."""
    profile = rules.profile
    document: dict[str, Any] = {
        "issuer": issuer,
        "authorization_endpoint": issuer + profile.authorize_path,
        "token_endpoint": issuer + profile.token_path,
        "revocation_endpoint": issuer + profile.revoke_path,
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": [S256],
    }
    if rules.scopes:
        document["scopes_supported"] = list(rules.scopes)
    if profile.states_issuer:
        document["authorization_response_iss_parameter_supported"] = True
    if rules.authentication is not None:
        method = rules.authentication.removesuffix("_raw")  # a word of ours for a reading of Basic
        document["token_endpoint_auth_methods_supported"] = [method]
    return document
