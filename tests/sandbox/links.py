"""What a client's link to the authorization endpoint says, and what the browser brings back."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from tests.support.servers import CALLBACK

if TYPE_CHECKING:
    import httpx

# RFC 7636, appendix B.
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

LINK = {
    "type": "web_server",
    "response_type": "code",
    "client_id": "sandbox-client",
    "redirect_uri": CALLBACK,
    "scope": "WORKSPACE USER_INFO",
    "state": "a state",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


def brought_back(answer: httpx.Response) -> dict[str, str]:
    """The parameters with which a redirect sends the browser back to the client."""
    address, _, query = answer.headers["location"].partition("?")
    assert address == CALLBACK
    return dict(parse_qsl(query))
