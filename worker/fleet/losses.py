"""What the store has lost, as far as this machine's journals still know it.

A store that was flushed, or is another one, began later than the answers in the journals. A store that was
restored from a backup, or into which an old record was put back, has older pairs than the journals.

Rules:
- A grant that is not there counts only if the store began after its answer: otherwise somebody deleted it.
- A record that is behind an answer of the last moments is not: that answer is on its way.
- A kept reply counts by the pair that was presented: a store with an older one has lost that.
- Reading the journals takes a while where much is refreshed, so `evergrant status` looks only while there is
  reason to: the store is empty, began lately, or has lately recovered. `evergrant doctor` always looks.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from worker.core.grant import Grant
from worker.core.ports import Entry
from worker.core.registry import FleetState, Registry, StoreLife, UnreadableRecordError

AT_ONCE: Final = 100
ON_ITS_WAY_MS: Final = 30_000
BEGAN_LATELY_MS: Final = 86_400_000
RECOVERED_LATELY_MS: Final = 900_000  # as long as a journal keeps an answer by default


@dataclass(frozen=True, slots=True)
class Losses:
    """What the journals hold and the store lacks.

    Attributes:
        life: of the store.
        missing: how many grants are not there at all.
        behind: how many have an older pair than the journals.
    """

    life: StoreLife
    missing: int
    behind: int


@dataclass(frozen=True, slots=True)
class _Newest:
    fence: int
    version: int
    issued_at: int
    root: bytes

    def is_ahead_of(self, stored: Grant) -> bool:
        """Whether the stored pair is an older one of the same line."""
        older = stored.version < self.version and stored.issued_at < self.issued_at
        return stored.root == self.root and older


def is_worth_a_look(life: StoreLife, now: int) -> bool:
    """Whether the store may have lost something lately."""
    began_lately = life.began_at is not None and now - life.began_at < BEGAN_LATELY_MS
    recovered_lately = life.epoch is not None and now - life.epoch < RECOVERED_LATELY_MS
    return life.is_empty or began_lately or recovered_lately


async def find_losses(
    registry: Registry, fleet_state: FleetState, journaled: Callable[[], Iterable[Entry]], *, always: bool
) -> Losses | None:
    """Compare the store with this machine's journals; `None` where nothing is lost, or nothing was read.

    Args:
        registry: the grants.
        fleet_state: knows the life of the store.
        journaled: reads the answers in this machine's journals.
        always: read them even without a reason to.
    """
    now, life = await registry.now(), await fleet_state.life()
    if not always and not is_worth_a_look(life, now):
        return None
    missing = behind = 0
    # In a thread: a long journal takes seconds to read, and a service goes on meanwhile.
    newest = iter((await asyncio.to_thread(lambda: _newest_of_each(journaled()))).items())
    while group := list(islice(newest, AT_ONCE)):
        for (_, known), stored in zip(
            group, await asyncio.gather(*(_find(registry, each) for each, _ in group)), strict=True
        ):
            if stored is None:
                missing += life.lacks(known.fence)
            else:
                is_settled = known.issued_at <= now - ON_ITS_WAY_MS
                behind += is_settled and isinstance(stored, Grant) and known.is_ahead_of(stored)
    return Losses(life, missing, behind) if missing or behind else None


def _newest_of_each(entries: Iterable[Entry]) -> dict[str, _Newest]:
    newest: dict[str, _Newest] = {}
    for entry in entries:
        grant = entry.change.grant
        known = newest.get(grant.id)
        if known is None or known.fence < entry.fence:
            newest[grant.id] = _Newest(entry.fence, grant.version, grant.issued_at, grant.root)
    return newest


async def _find(registry: Registry, grant_id: str) -> Grant | UnreadableRecordError | None:
    try:
        stored = await registry.find(grant_id)
    except UnreadableRecordError as problem:
        return problem
    return None if stored is None else stored.grant
