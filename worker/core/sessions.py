"""Sessions of the console: a person who signed in with an API key, and for how long that holds.

Rules:
- A session is in the browser's cookie, sealed, and nowhere else: signing in needs no write, so that whoever
  looks why the store takes none can look.
- It names its key by id and digest. A key that was revoked, or made anew under the same name, ends it.
- It ends after an hour in which nobody did anything, after twelve hours at the latest, and when its holder
  signs out: the store remembers that for as long as the cookie could be shown.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Final, Protocol

ID_BYTES: Final = 16
IDLE_MS: Final = 3_600_000
LONGEST_MS: Final = 12 * 3_600_000
RENEWED_MS: Final = 60_000  # a session's last use is noted in its cookie at most this often


@dataclass(frozen=True, slots=True)
class Session:
    """One session. Instants are Unix ms by the store's clock.

    Attributes:
        id: random; its form token is made from it.
        key_id: of its API key.
        digest: of that key, as it is stored.
        began_at: when its holder signed in.
        used_at: when its holder last did something.
    """

    id: bytes = field(repr=False)
    key_id: str
    digest: bytes = field(repr=False)
    began_at: int
    used_at: int

    @property
    def ends_at(self) -> int:
        """When it is over, if nothing more is done."""
        return min(self.used_at + IDLE_MS, self.began_at + LONGEST_MS)

    @property
    def form_token(self) -> str:
        """What each form of it holds, so that no other site can send one (CSRF)."""
        return form_token(self.id)


def form_token(secret: bytes) -> str:
    """A token that shows that a form came from a page of this browser; it does not give the secret away."""
    mac = hmac.new(secret, b"evergrant form", hashlib.sha256).digest()
    return urlsafe_b64encode(mac).decode().rstrip("=")


class SessionSealer(Protocol):
    """Seals sessions for the browser that holds them."""

    def seal_session(self, session: Session) -> bytes:
        """Seal a session; nothing else can be opened as one."""

    def open_session(self, sealed: bytes) -> Session:
        """Open one.

        Raises:
            UnsealError: it is none of this deployment's.
        """


class SessionStore(Protocol):
    """Remembers which sessions were ended before their time."""

    async def end(self, session: Session) -> None:
        """End a session for as long as its cookie could be shown. Ending it twice is harmless."""

    async def has_ended(self, session: Session) -> bool:
        """Whether it was ended."""
