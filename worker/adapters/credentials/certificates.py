"""Client authentication by a certificate in the TLS handshake (RFC 8705 section 2)."""

import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from worker.adapters.tls import verifying_context
from worker.core.protocol import TokenRequest


class CertificateError(Exception):
    """The certificate and its key cannot be used; the message is one clause without anything of the key."""


@dataclass(frozen=True, slots=True)
class TlsClientAuth:
    """`tls_client_auth`: the connection proves the client, and the form names it (RFC 8705 section 2).

    Attributes:
        fingerprint: of the files' content: a replaced certificate makes another client.
        context: what a connection of this client is made with; connections of others are not used.
    """

    fingerprint: str = field(repr=False)
    context: ssl.SSLContext = field(repr=False, compare=False)
    method: ClassVar[str] = "tls_client_auth"

    @classmethod
    def load(cls, certificate_file: Path, private_key_file: Path, ca_file: Path | None) -> Self:
        """Read the certificate and its key.

        Args:
            certificate_file: the certificate in PEM, followed by the authorities' between it and the root.
            private_key_file: its key in PEM, without a passphrase.
            ca_file: private authorities that may vouch for the server; `None` for the system's only.

        Raises:
            OSError: a file cannot be read.
            CertificateError: they do not fit, or are no PEM.
        """
        fingerprint = hashlib.sha256(
            certificate_file.read_bytes() + private_key_file.read_bytes()
        ).hexdigest()
        context = verifying_context(ca_file)
        try:
            # An empty passphrase: OpenSSL would ask for one at the terminal.
            context.load_cert_chain(certificate_file, private_key_file, password="")
        except ssl.SSLError as problem:
            if problem.reason == "KEY_VALUES_MISMATCH":
                raise CertificateError("does not belong to the certificate in CERTIFICATE_FILE") from None
            raise CertificateError(
                "and CERTIFICATE_FILE take PEM: a certificate and its key, without a passphrase"
            ) from None
        return cls(fingerprint, context)

    def authenticate(self, request: TokenRequest, client_id: str, now: int) -> TokenRequest:  # noqa: ARG002 the port
        """Add `client_id`, and have the request sent over a connection with the certificate."""
        return request.adding({"client_id": client_id}).over(self.context)
