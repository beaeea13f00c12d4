"""How a client proves itself at a token endpoint: one class for each method (RFC 7591 section 2).

shared_secrets.py  the secret itself, in the form or the header
assertions.py      a short-lived JWT, signed with the secret or with a private key
certificates.py    a certificate in the TLS handshake
public.py          nothing: a client that has no secret

Rules:
- Two that authenticate alike are equal, so that a replaced secret or key shows as a changed client.
- Their `repr` shows no secret and no key.
"""

from worker.adapters.credentials.public import PublicClient
from worker.adapters.credentials.shared_secrets import (
    ClientSecretBasic,
    ClientSecretBasicRaw,
    ClientSecretPost,
)

__all__ = ["ClientSecretBasic", "ClientSecretBasicRaw", "ClientSecretPost", "PublicClient"]
