"""The promises that this process gave, for a store that forgets its last writes.

Rules:
- A promise is noted when the store's answer arrives. In each epoch all that are outstanding are given back
  before this process finishes its recovery, so before anything is claimed.
- An epoch may begin between the store's answer and the note. Then the promise may be forgotten and not among
  those that were given back: the caller asks again.
- Where the store has an older pair, another journal may still bring the promised one: the promise is
  given back again with each step.
- A process that ends takes its notes with it: what it promised is as durable as the store.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from worker.core.ports import Epoch, StoreRefusedError
from worker.core.promises import PromiseStore, Renewal

log = structlog.get_logger(__name__)

AT_ONCE: Final = 500
LEAST_PURGED: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Given:
    version: int
    until: int


class PromisesGiven:
    """Notes promises, and gives them back.

    Args:
        promises: the store's.
    """

    def __init__(self, promises: PromiseStore) -> None:
        self._promises = promises
        self._given: dict[str, _Given] = {}  # by grant
        self._behind: list[str] = []
        self._epoch = 0  # the last one in which they were given back, or began to be
        self._purge_at = LEAST_PURGED

    def note(self, grant_id: str, version: int, until: int, *, now: int, epoch: int) -> bool:
        """Note a promise that the store gave in an epoch; returns whether later epochs are given it back."""
        if len(self._given) >= self._purge_at:
            self._given = {name: given for name, given in self._given.items() if given.until > now}
            self._purge_at = max(2 * len(self._given), LEAST_PURGED)
        self._given[grant_id] = _Given(version, until)
        return epoch >= self._epoch

    async def give_back(self, epoch: Epoch) -> None:
        """Give the store what it may have forgotten; does nothing more in an epoch in which it has it all.

        Raises:
            StoreUnavailableError: the store went away; the next step gives everything back again.
        """
        if epoch.number == self._epoch and not self._behind:
            return
        names = list(self._behind if epoch.number == self._epoch else self._given)
        self._epoch, self._behind = epoch.number, names  # all of them, until the store has said otherwise
        behind: list[str] = []
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            renewals = await asyncio.gather(*(self._renew(name, epoch.now) for name in some))
            behind += [
                name for name, renewal in zip(some, renewals, strict=True) if renewal is Renewal.BEHIND
            ]
        self._behind = behind

    async def _renew(self, grant_id: str, now: int) -> Renewal:
        given = self._given.get(grant_id)
        if given is None or given.until <= now:
            return Renewal.GONE
        try:
            return await self._promises.renew(grant_id, given.version, given.until)
        except StoreRefusedError as problem:
            log.error("promise.not_renewed", grant=grant_id, problem=str(problem))  # noqa: TRY400
            return Renewal.GONE
