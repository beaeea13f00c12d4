"""API keys: who may call the HTTP service, for what, and which grants a caller sees.

Rules:
- A key is `evg_<id>_<secret>`. The id is the fingerprint of the key's name: a look-up is one read, and two
  keys of one name cannot be stored side by side.
- The secret is 32 random bytes. Only the key's SHA-256 is stored. A slow hash guards passwords, which people
  choose and others guess; nobody guesses 256 bits, and a slow hash would cost each call its milliseconds.
- A key that is bound to labels sees the grants that have all of them. Any other grant does not exist for it.
- The pure part only: where keys are stored is the business of an adapter.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from worker.core.audit import By
from worker.core.grant import Grant

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
NAME_TAKES: Final = "1 to 64 letters, digits, dots, hyphens, underscores and @"
SECRET_BYTES: Final = 32
ID_BYTES: Final = 6
USE_NOTED_MS: Final = 60_000  # a key's last use is written at most this often

_FORM: Final = re.compile(r"evg_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NO_DIGEST: Final = bytes(hashlib.sha256().digest_size)


class Scope(StrEnum):
    """What a key may do."""

    TOKENS = "tokens"  # take access tokens
    GRANTS = "grants"  # put grants in, list and operate on them
    CONNECT = "connect"  # send people to a provider
    FLEET = "fleet"  # see the fleet and its events
    ADMIN = "admin"  # everything


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is stored. Instants are Unix ms.

    Attributes:
        digest: of the whole key.
        labels: those that a grant must have to be seen; none for every grant.
        used_at: when it was last used, to the minute; `None` for never.
    """

    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope]
    labels: Mapping[str, str]
    created_at: int
    used_at: int | None = None

    @property
    def id(self) -> str:
        """What finds it in the store."""
        return id_of(self.name)

    @property
    def actor(self) -> str:
        """Its holder in the audit stream."""
        return f"key:{self.name}"

    @property
    def is_bound(self) -> bool:
        """Whether it sees some grants only."""
        return bool(self.labels)

    def may(self, scope: Scope) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def sees(self, grant: Grant) -> bool:
        """Whether a grant exists for it."""
        return self.sees_labels(grant.labels)

    def sees_labels(self, labels: Mapping[str, str]) -> bool:
        """Whether whatever has these labels exists for it."""
        return self.labels.items() <= labels.items()


class ApiKeyStore(Protocol):
    """The stored keys of a deployment."""

    async def add(self, key: ApiKey, by: By | None = None) -> bool:
        """Store a key; returns whether its name was free. Storing the same key twice is harmless."""

    async def find(self, key_id: str) -> ApiKey | None:
        """One key, or `None`."""

    async def all(self) -> Sequence[ApiKey]:
        """Every key, by its name."""

    async def remove(self, name: str, by: By | None = None) -> bool:
        """Forget a key; returns whether there was one."""

    async def note_use(self, key_id: str, by: By | None = None) -> None:
        """Note that a key was used now, unless that was noted within the last minute.

        The first use is audited.
        """


def id_of(name: str) -> str:
    """The id of the key with this name."""
    return hashlib.sha256(name.encode()).digest()[:ID_BYTES].hex()


def id_in(text: str) -> str | None:
    """The id that a key names; `None` where the text is no key."""
    match = _FORM.fullmatch(text)
    return None if match is None else match[1]


def key_text(name: str, secret: str) -> str:
    """A key as its holder has it; `secret` is 32 bytes as URL-safe base64 without padding."""
    return f"evg_{id_of(name)}_{secret}"


def digest_of(text: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(text.encode()).digest()


def is_key(text: str, stored: ApiKey | None) -> bool:
    """Whether a text is the stored key; takes as long where it is not, or where there is none."""
    known = _NO_DIGEST if stored is None else stored.digest
    return hmac.compare_digest(digest_of(text), known) and stored is not None
