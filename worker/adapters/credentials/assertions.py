"""Client authentication by a signed assertion: RFC 7523 section 3, OpenID Connect Core section 9.

Rules:
- An assertion is made anew for each request: a server may refuse one that it has seen.
- It lives for a minute, and begins a few seconds in the past: servers' clocks differ, and many refuse an
  `iat` that is still to come or an `exp` that is more than a minute away.
- Its `aud` is one text. What servers take differs, so it is data: the issuer where it is known (FAPI 2.0,
  draft-ietf-oauth-rfc7523bis), else the token endpoint (RFC 7523 section 3).
"""

import secrets
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from worker.core.protocol import TokenRequest

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIFETIME_SECONDS: Final = 60
CLOCK_SKEW_SECONDS: Final = 5
LEAST_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
# RFC 7518 section 3.4, by the curve's name.
EC_ALGORITHMS: Final[Mapping[str, str]] = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
KEY_KINDS: Final = "an RSA key of 2048 bits or more, an EC key on P-256, P-384 or P-521, or an Ed25519 key"


class PrivateKeyError(Exception):
    """A key that cannot sign; the message is one clause without anything of the key."""


@dataclass(frozen=True, slots=True)
class PrivateKeyJwt:
    """`private_key_jwt`: the assertion is signed with the client's private key.

    Attributes:
        pem: the key's text, by which two are compared.
        key_id: the `kid` of the header, by which the server finds the public key; `None` for none.
        audience: who the assertion is for.
        thumbprint: the `x5t#S256` of the header (RFC 7515 section 4.1.8), by which some servers find the
            public key, such as Entra ID; `None` for none.
    """

    pem: bytes = field(repr=False)
    key_id: str | None
    audience: str
    thumbprint: str | None
    algorithm: str
    _key: RSAKey | ECKey | OKPKey = field(repr=False, compare=False)
    method: ClassVar[str] = "private_key_jwt"

    @classmethod
    def load(cls, pem: bytes, key_id: str | None, audience: str, *, certificate: bytes | None = None) -> Self:
        """Read a key; its kind decides the algorithm.

        Args:
            pem: the key.
            key_id: its name at the server.
            audience: who the assertions are for.
            certificate: of this key, in PEM, for servers that find the public key by it.

        Raises:
            PrivateKeyError: it is no key, none that can sign, or another one than the certificate's.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except TypeError:
            raise PrivateKeyError("takes a key without a passphrase") from None
        except (ValueError, UnsupportedAlgorithm):
            raise PrivateKeyError("takes a private key in PEM") from None
        algorithm: str | None = None
        imported: RSAKey | ECKey | OKPKey
        match key:
            case RSAPrivateKey(key_size=size) if size >= LEAST_RSA_BITS:
                algorithm, imported = "RS256", RSAKey.import_key(pem)
            case EllipticCurvePrivateKey() if key.curve.name in EC_ALGORITHMS:
                algorithm, imported = EC_ALGORITHMS[key.curve.name], ECKey.import_key(pem)
            case Ed25519PrivateKey():
                algorithm, imported = "EdDSA", OKPKey.import_key(pem)
        if algorithm is None:
            raise PrivateKeyError(f"takes {KEY_KINDS}")
        thumbprint = None if certificate is None else _thumbprint(certificate, key.public_key())
        return cls(pem, key_id, audience, thumbprint, algorithm, imported)

    def authenticate(self, request: TokenRequest, client_id: str, now: int) -> TokenRequest:
        """Add an assertion."""
        header = {"alg": self.algorithm} | ({} if self.key_id is None else {"kid": self.key_id})
        if self.thumbprint is not None:
            header["x5t#S256"] = self.thumbprint
        return _asserted(request, header, _claims(client_id, self.audience, now), self._key)


@dataclass(frozen=True, slots=True)
class ClientSecretJwt:
    """`client_secret_jwt`: the assertion is signed with the client's secret (HS256).

    Attributes:
        audience: who the assertion is for.
    """

    secret: str = field(repr=False)
    key_id: str | None
    audience: str
    method: ClassVar[str] = "client_secret_jwt"

    def authenticate(self, request: TokenRequest, client_id: str, now: int) -> TokenRequest:
        """Add an assertion."""
        header = {"alg": "HS256"} | ({} if self.key_id is None else {"kid": self.key_id})
        return _asserted(request, header, _claims(client_id, self.audience, now), _secret_key(self.secret))


def _thumbprint(certificate: bytes, public_key: object) -> str:
    try:
        read = load_pem_x509_certificate(certificate)
    except ValueError:
        raise PrivateKeyError("and CERTIFICATE_FILE take PEM: a certificate and its key") from None
    if read.public_key() != public_key:
        raise PrivateKeyError("does not belong to the certificate in CERTIFICATE_FILE")
    return urlsafe_b64encode(read.fingerprint(SHA256())).rstrip(b"=").decode()


@lru_cache(maxsize=100)
def _secret_key(secret: str) -> OctKey:
    with _own_choice():
        return OctKey.import_key(secret)


@contextmanager
def _own_choice() -> Iterator[None]:
    """Without the library's warnings.

    How long a secret is, its server decides; and servers know the name `EdDSA`, but not yet RFC 9864's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        yield


def _claims(client_id: str, audience: str, now: int) -> dict[str, Any]:
    issued_at = now // 1000 - CLOCK_SKEW_SECONDS
    return {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": secrets.token_urlsafe(16),
        "iat": issued_at,
        "exp": issued_at + LIFETIME_SECONDS,
    }


def _asserted(
    request: TokenRequest,
    header: dict[str, str],
    claims: dict[str, Any],
    key: RSAKey | ECKey | OKPKey | OctKey,
) -> TokenRequest:
    with _own_choice():
        assertion = jwt.encode(header, claims, key, algorithms=[header["alg"]])
    return request.adding({"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion})
