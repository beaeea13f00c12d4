"""A public client: it has no secret (RFC 6749 section 2.1), as those of MCP servers and PKCE."""

from dataclasses import dataclass
from typing import ClassVar

from worker.core.protocol import TokenRequest


@dataclass(frozen=True, slots=True)
class PublicClient:
    """`none`: the client only names itself."""

    method: ClassVar[str] = "none"

    def authenticate(self, request: TokenRequest, client_id: str, now: int) -> TokenRequest:  # noqa: ARG002 the port
        """Add `client_id` (RFC 6749 section 3.2.1)."""
        return request.adding({"client_id": client_id})
