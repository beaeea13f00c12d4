"""Token pairs, kept replies and webhooks' secrets sealed with AES-256-GCM, bound to what they belong to.

Rules:
- The first key of the ring seals and every key opens: to retire a key, put another in front of it.
- What a value belongs to is associated data: a sealed pair opens for no other client, no other grant and no
  other version of its grant. So are its kind and its format: a reply passes for no pair, and no pair for a
  reply. A session of the console belongs to no grant.
- What is sealed is one byte of format, one byte of key id length, the key id, 12 bytes of nonce, and the
  ciphertext with its tag.
- Format 1, of earlier releases, does not bind the client. It is still opened, and never written. A value of
  format 2 whose first byte is changed to 1 does not open: the associated data of the formats differ.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker.core.failures import MissingKeyError, UnsealError
from worker.core.grant import Grant, TokenPair
from worker.core.outcomes import Reply
from worker.core.sessions import Session

FORMAT: Final = 2
NONCE_BYTES: Final = 12  # 96 bits, NIST SP 800-38D section 5.2.1.1
PAIR: Final = "pair"
REPLY: Final = "reply"
SECRET: Final = "webhook secret"
SESSION: Final = "session"


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

    def is_current(self, sealed: bytes) -> bool:
        """Whether a value is sealed as this ring would seal it now: with its first key, in this format."""
        return sealed.startswith(self._header)

    def key_of(self, sealed: bytes) -> str:
        """The id of the key that sealed a value; empty where it says none."""
        return sealed[2 : 2 + sealed[1]].decode(errors="replace") if len(sealed) >= 2 else ""  # noqa: PLR2004

    def seal(self, grant: Grant, pair: TokenPair) -> bytes:
        """Seal with the first key of the ring, for the record that `grant` will be."""
        return self._seal_pair(pair, grant, grant.version)

    def seal_successor(self, grant: Grant, pair: TokenPair) -> bytes:
        """The same, for the version that follows the grant's."""
        return self._seal_pair(pair, grant, grant.version + 1)

    def open(self, grant: Grant) -> TokenPair:
        """Open a grant's pair with the key that sealed it.

        Raises:
            MissingKeyError: the key is not in the ring.
            UnsealError: a newer release sealed the pair, or it is not that of this client's grant at this
                version.
        """
        access_token, refresh_token = self._open(grant.sealed, PAIR, grant.client, grant.id, grant.version)
        return TokenPair(access_token, refresh_token)

    def seal_reply(self, client: str, grant_id: str, version: int, reply: Reply) -> bytes:
        """Seal with the first key of the ring; `version` is that of the pair that was presented."""
        plain = msgpack.packb(
            [reply.status, list(reply.headers.items()), reply.body], unicode_errors="surrogatepass"
        )
        return self._seal(plain, REPLY, client, grant_id, version)

    def open_reply(self, client: str, grant_id: str, version: int, sealed: bytes) -> Reply:
        """Open a kept reply with the key that sealed it.

        Raises:
            UnsealError: the key is not in the ring, a newer release sealed the reply, or it did not come to
                this client's grant at this version.
        """
        status, headers, body = self._open(sealed, REPLY, client, grant_id, version)
        return Reply(status, dict(headers), body)

    def seal_secret(self, webhook_id: str, secret: bytes) -> bytes:
        """Seal a webhook's signing secret with the first key of the ring; it opens as nothing else."""
        return self._seal(msgpack.packb(secret), SECRET, "", webhook_id, 0)

    def open_secret(self, webhook_id: str, sealed: bytes) -> bytes:
        """Open a webhook's signing secret with the key that sealed it.

        Raises:
            UnsealError: the key is not in the ring, a newer release sealed the secret, or it is another's.
        """
        secret: bytes = self._open(sealed, SECRET, "", webhook_id, 0)
        return secret

    def seal_session(self, session: Session) -> bytes:
        """Seal a session of the console with the first key of the ring."""
        plain = msgpack.packb(
            [session.id, session.key_id, session.digest, session.began_at, session.used_at], use_bin_type=True
        )
        return self._seal(plain, SESSION, "", "", 0)

    def open_session(self, sealed: bytes) -> Session:
        """Open a session of the console.

        Raises:
            UnsealError: it is none of this deployment's.
        """
        if sealed[:1] != bytes([FORMAT]):  # what a browser shows may be anything; format 1 never had sessions
            raise UnsealError("no session")
        session_id, key_id, digest, began_at, used_at = self._open(sealed, SESSION, "", "", 0)
        return Session(session_id, key_id, digest, began_at, used_at)

    def _seal_pair(self, pair: TokenPair, grant: Grant, version: int) -> bytes:
        plain = msgpack.packb([pair.access_token, pair.refresh_token])
        return self._seal(plain, PAIR, grant.client, grant.id, version)

    def _seal(self, plain: bytes, kind: str, client: str, grant_id: str, version: int) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        bound_to = _bound_to(kind, client, grant_id, version)
        return self._header + nonce + self._ciphers[self._sealing_id].encrypt(nonce, plain, bound_to)

    def _open(self, sealed: bytes, kind: str, client: str, grant_id: str, version: int) -> Any:
        number = sealed[0] if len(sealed) >= 2 else 0  # noqa: PLR2004 format and key id length
        bind = BINDINGS.get(number)
        if bind is None:
            raise UnsealError(f"{grant_id}: the sealed {kind} {_unknown(number)}")
        body_at = 2 + sealed[1]
        key_id = sealed[2:body_at]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            name = key_id.decode(errors="replace")
            problem = f"{grant_id}: sealed with the key {name!r}, which is not in EVERGRANT_KEYS"
            raise MissingKeyError(problem, name)
        nonce, secret = sealed[body_at : body_at + NONCE_BYTES], sealed[body_at + NONCE_BYTES :]
        try:
            plain = cipher.decrypt(nonce, secret, bind(kind, client, grant_id, version))
        except (InvalidTag, ValueError):
            raise UnsealError(f"{grant_id}: the sealed {kind} does not belong to this record") from None
        return msgpack.unpackb(plain, unicode_errors="surrogatepass")


def _bound_to(kind: str, client: str, grant_id: str, version: int) -> bytes:
    # One array, so that no two records give the same bytes, whatever is in a name.
    bound_to: bytes = msgpack.packb(["evergrant", FORMAT, kind, client, grant_id, version])
    return bound_to


def _bound_to_1(kind: str, _client: str, grant_id: str, version: int) -> bytes:
    return f"{'evergrant' if kind == PAIR else 'evergrant reply'}\n{version}\n{grant_id}".encode()


BINDINGS: Final[Mapping[int, Callable[[str, str, str, int], bytes]]] = {1: _bound_to_1, FORMAT: _bound_to}


def _unknown(number: int) -> str:
    if number > FORMAT:
        return f"has format {number}, of a newer release; this one reads up to {FORMAT}"
    return "has no format that is known"
