"""API keys made, listed, revoked, and recognized when a caller shows one.

Rules:
- A key is returned once, when it is made. The store has its digest alone.
- A revoked key opens nothing from then on: every call looks it up. Calls that show one key at once share a
  look-up that begins after the last of them came.
- When a key was last used is noted at most once a minute, and never costs a call: a store that takes no
  writes keeps nobody out.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from math import inf

from worker.core import api_keys
from worker.core.api_keys import NAME, SECRET_BYTES, USE_NOTED_MS, ApiKey, ApiKeyStore, Scope
from worker.core.audit import By
from worker.core.ports import StoreUnavailableError
from worker.fleet.flights import Rounds


class KeyProblem(StrEnum):
    """Why a key is not made."""

    BAD_NAME = "bad_name"
    NO_SCOPES = "no_scopes"
    NAME_TAKEN = "name_taken"


class ApiKeyError(Exception):
    """A key that is not made; `code` says why."""

    def __init__(self, code: KeyProblem) -> None:
        super().__init__(code.value)
        self.code = code


class ApiKeys:
    """The keys of a deployment.

    Args:
        store: where they are.
        now: the store's clock, Unix ms.
    """

    def __init__(self, store: ApiKeyStore, now: Callable[[], Awaitable[int]]) -> None:
        self._store = store
        self._now = now
        self._look_ups: Rounds[ApiKey | None] = Rounds()
        self._noted: dict[str, float] = {}  # by id; only keys that are, or were, stored

    async def make(
        self, name: str, scopes: Collection[Scope], labels: Mapping[str, str], by: By | None = None
    ) -> str:
        """Make a key; returns it, which nothing does again.

        Raises:
            ApiKeyError: its name is taken or is none, or it could do nothing.
            StoreUnavailableError: the store went away.
        """
        if not NAME.fullmatch(name):
            raise ApiKeyError(KeyProblem.BAD_NAME)
        if not scopes:
            raise ApiKeyError(KeyProblem.NO_SCOPES)
        text = api_keys.key_text(name, secrets.token_urlsafe(SECRET_BYTES))
        key = ApiKey(name, api_keys.digest_of(text), frozenset(scopes), dict(labels), await self._now())
        if not await self._store.add(key, by):
            raise ApiKeyError(KeyProblem.NAME_TAKEN)
        return text

    async def all(self) -> Sequence[ApiKey]:
        """Every key, by its name."""
        return await self._store.all()

    async def revoke(self, name: str, by: By | None = None) -> bool:
        """Let nobody in with a key from now on; returns whether there was one."""
        return await self._store.remove(name, by)

    async def holder(self, text: str, origin: str = "") -> ApiKey | None:
        """The stored key that a caller shows; `None` where it is none, or was revoked.

        Args:
            text: what is shown.
            origin: where the caller is, for the audit stream.

        Raises:
            StoreUnavailableError: the store went away.
        """
        key_id = api_keys.id_in(text)
        stored = None if key_id is None else await self._look_up(key_id)
        if not api_keys.is_key(text, stored) or stored is None:
            return None
        await self._note_use(stored, origin)
        return stored

    async def stored(self, key_id: str, origin: str = "") -> ApiKey | None:
        """The stored key of this id, used now by whoever proved before that it is theirs; `None` if revoked.

        Raises:
            StoreUnavailableError: the store went away.
        """
        key = await self._look_up(key_id)
        if key is not None:
            await self._note_use(key, origin)
        return key

    async def _look_up(self, key_id: str) -> ApiKey | None:
        return await self._look_ups.join(key_id, lambda: self._store.find(key_id))

    async def _note_use(self, key: ApiKey, origin: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._noted.get(key.id, -inf) < USE_NOTED_MS / 1000:
            return
        self._noted[key.id] = now
        with suppress(StoreUnavailableError):
            await self._store.note_use(key.id, By(key.actor, origin))
