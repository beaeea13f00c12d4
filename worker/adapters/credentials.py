"""How a client proves to a token endpoint who it is, with a shared secret (RFC 6749 section 2.3.1).

Rules:
- A `repr` shows no secret.
- Two credentials are equal exactly when they authenticate alike: the refresher compares clients to see
  whether a secret was replaced.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote_plus

from worker.core.ports import ClientCredentials
from worker.core.protocol import TokenRequest


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """`client_secret_post`: the client's id and secret are in the form."""

    secret: str = field(repr=False)

    def authenticate(self, request: TokenRequest, client_id: str) -> TokenRequest:
        """Add the two fields."""
        form = {**request.form, "client_id": client_id, "client_secret": self.secret}
        return TokenRequest(request.url, form, request.headers)


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """`client_secret_basic`: the client's id and secret are in the `Authorization` header."""

    secret: str = field(repr=False)

    def authenticate(self, request: TokenRequest, client_id: str) -> TokenRequest:
        """Add the header; id and secret are form-encoded before they are joined, as section 2.3.1 asks."""
        pair = f"{quote_plus(client_id)}:{quote_plus(self.secret)}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        return TokenRequest(request.url, request.form, {**request.headers, "Authorization": authorization})


# By the method's registered name (RFC 7591 section 2), each made from the secret.
SECRET_METHODS: Final[Mapping[str, Callable[[str], ClientCredentials]]] = {
    "client_secret_post": ClientSecretPost,
    "client_secret_basic": ClientSecretBasic,
}
