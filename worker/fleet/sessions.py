"""Sessions of the console: begun with a key, looked up with each page, renewed, ended.

Rule: the key is looked up each time, as it is for each call of the API. What it may see is what the stored
key may see now.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from worker.core.api_keys import ApiKey
from worker.core.ports import UnsealError
from worker.core.sessions import ID_BYTES, RENEWED_MS, Session, SessionSealer, SessionStore
from worker.fleet.api_keys import ApiKeys


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in.

    Attributes:
        key: as it is stored now.
    """

    session: Session
    key: ApiKey


class Sessions:
    """The sessions of a deployment.

    Args:
        store: knows those that were ended.
        sealer: seals them for their browsers.
        keys: the API keys.
        now: the store's clock, Unix ms.
    """

    def __init__(
        self,
        store: SessionStore,
        sealer: SessionSealer,
        keys: ApiKeys,
        now: Callable[[], Awaitable[int]],
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._keys = keys
        self._now = now

    async def begin(self, key: ApiKey) -> bytes:
        """A new session of a key's holder, sealed."""
        now = await self._now()
        session = Session(secrets.token_bytes(ID_BYTES), key.id, key.digest, began_at=now, used_at=now)
        return self._sealer.seal_session(session)

    async def visitor(self, sealed: bytes, origin: str) -> Visitor | None:
        """Who shows a session; `None` where it is none, or is over.

        Args:
            sealed: what the browser shows.
            origin: where it is, for the audit stream.

        Raises:
            StoreUnavailableError: the store went away.
        """
        try:
            session = self._sealer.open_session(sealed)
        except UnsealError:
            return None
        if await self._now() >= session.ends_at or await self._store.has_ended(session):
            return None
        key = await self._keys.stored(session.key_id, origin)
        if key is None or not hmac.compare_digest(key.digest, session.digest):
            return None
        return Visitor(session, key)

    async def renewed(self, session: Session) -> bytes | None:
        """The session as used now, sealed; `None` where that was noted a moment ago."""
        now = await self._now()
        if now - session.used_at < RENEWED_MS:
            return None
        return self._sealer.seal_session(replace(session, used_at=now))

    async def end(self, session: Session) -> None:
        """Let nobody in with a session from now on.

        Raises:
            StoreUnavailableError: the store went away, or takes no writes.
        """
        await self._store.end(session)
