"""Keys, certificates and their authorities for tests, as files."""

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate with its chain, its key, and the authority that vouches for it."""

    certificate: Path
    key: Path
    authority: Path


def issue_certificate(home: Path, name: str) -> CertificateFiles:
    """A certificate of an authority of its own, for `127.0.0.1` and with `name` as its common name."""
    home.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost", common_name=name)
    files = CertificateFiles(home / "certificate.pem", home / "key.pem", home / "authority.pem")
    files.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    files.key.write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(files.authority))
    return files


def new_key(kind: str) -> PrivateKey:
    """A private key: `rsa` with its bits, `ed25519`, `dsa`, or the name of a curve."""
    match kind:
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "dsa":
            return dsa.generate_private_key(2048)
        case "P-256" | "P-384" | "P-521" | "secp256k1":
            curves: dict[str, ec.EllipticCurve] = {
                "P-256": ec.SECP256R1(),
                "P-384": ec.SECP384R1(),
                "P-521": ec.SECP521R1(),
            }
            return ec.generate_private_key(curves.get(kind, ec.SECP256K1()))
        case _:
            return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def write_key(home: Path, kind: str, *, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """A new private key and its public half, each as a file in PEM."""
    home.mkdir(parents=True, exist_ok=True)
    key = new_key(kind)
    private, public = home / f"{kind}.pem", home / f"{kind}.pub.pem"
    protection: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        protection = BestAvailableEncryption(passphrase)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public
