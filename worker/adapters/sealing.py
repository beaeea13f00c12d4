"""Token pairs sealed with AES-256-GCM, bound to their grant and its version.

Rules:
- The first key of the ring seals and every key opens: to retire a key, put another in front of it.
- The grant's id and version are associated data, so that a sealed pair passes neither for another grant's nor
  for a later one of the same grant.
- A sealed pair is one byte of format, one byte of key id length, the key id, 12 bytes of nonce, and the
  ciphertext with its tag.
"""

import os
from collections.abc import Mapping
from typing import Final

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker.core.grant import Grant, TokenPair
from worker.core.ports import UnsealError

FORMAT: Final = 1
NONCE_BYTES: Final = 12  # 96 bits, NIST SP 800-38D section 5.2.1.1


class KeyRing:
    """Sealing keys by id.

    Args:
        keys: 32 bytes by key id, at least one; the first one seals.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {key_id.encode(): AESGCM(key) for key_id, key in keys.items()}
        self._sealing_id = next(iter(self._ciphers))
        self._header = bytes([FORMAT, len(self._sealing_id)]) + self._sealing_id

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.ids())})"

    def ids(self) -> list[str]:
        """The key ids; the first one seals."""
        return [key_id.decode() for key_id in self._ciphers]

    def seal(self, grant_id: str, version: int, pair: TokenPair) -> bytes:
        """Seal with the first key of the ring; `version` is that of the record that will hold the pair."""
        nonce = os.urandom(NONCE_BYTES)
        plain = msgpack.packb([pair.access_token, pair.refresh_token])
        cipher = self._ciphers[self._sealing_id]
        return self._header + nonce + cipher.encrypt(nonce, plain, _bound_to(grant_id, version))

    def open(self, grant: Grant) -> TokenPair:
        """Open a grant's pair with the key that sealed it.

        Raises:
            UnsealError: the key is not in the ring, or the pair is not this grant's at this version.
        """
        sealed = grant.sealed
        if len(sealed) < 2 or sealed[0] != FORMAT:  # noqa: PLR2004 format and key id length
            raise UnsealError(f"{grant.id}: the sealed tokens have an unknown format")
        body_at = 2 + sealed[1]
        key_id = sealed[2:body_at]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            name = key_id.decode(errors="replace")
            raise UnsealError(f"{grant.id}: sealed with the key {name!r}, which is not in EVERGRANT_KEYS")
        nonce, secret = sealed[body_at : body_at + NONCE_BYTES], sealed[body_at + NONCE_BYTES :]
        try:
            plain = cipher.decrypt(nonce, secret, _bound_to(grant.id, grant.version))
        except (InvalidTag, ValueError):
            raise UnsealError(f"{grant.id}: the sealed tokens do not belong to this record") from None
        access_token, refresh_token = msgpack.unpackb(plain)
        return TokenPair(access_token, refresh_token)


def _bound_to(grant_id: str, version: int) -> bytes:
    return f"evergrant\n{version}\n{grant_id}".encode()
