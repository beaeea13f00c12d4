"""Client authentication by the shared secret itself (RFC 6749 section 2.3.1)."""

import base64
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import quote_plus

from worker.core.protocol import TokenRequest


@dataclass(frozen=True, slots=True)
class ClientSecretPost:
    """`client_secret_post`: the client's id and secret are in the form."""

    secret: str = field(repr=False)
    method: ClassVar[str] = "client_secret_post"

    def authenticate(self, request: TokenRequest, client_id: str, now: int) -> TokenRequest:  # noqa: ARG002 the port
        """Add the two fields."""
        return request.adding({"client_id": client_id, "client_secret": self.secret})


@dataclass(frozen=True, slots=True)
class ClientSecretBasic:
    """`client_secret_basic`: the client's id and secret are in the `Authorization` header."""

    secret: str = field(repr=False)
    method: ClassVar[str] = "client_secret_basic"

    def authenticate(self, request: TokenRequest, client_id: str, now: int) -> TokenRequest:  # noqa: ARG002 the port
        """Add the header; id and secret are form-encoded before they are joined, as section 2.3.1 asks."""
        return request.with_header("Authorization", _basic(quote_plus(client_id), quote_plus(self.secret)))


@dataclass(frozen=True, slots=True)
class ClientSecretBasicRaw:
    """`client_secret_basic_raw`: the header as RFC 7617 has it, id and secret as they are.

    Many servers decode the header no further. For an id and a secret without special characters it is the
    same as `client_secret_basic`.
    """

    secret: str = field(repr=False)
    method: ClassVar[str] = "client_secret_basic_raw"

    def authenticate(self, request: TokenRequest, client_id: str, now: int) -> TokenRequest:  # noqa: ARG002 the port
        """Add the header."""
        return request.with_header("Authorization", _basic(client_id, self.secret))


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
