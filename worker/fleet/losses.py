"""What the store has lost, as far as this machine's journals still know it.

A store that was flushed, or is another one, began later than the answers in the journals. A store that was
restored from a backup, or into which an old record was put back, has older pairs than the journals.

Rules:
- A grant that is not there counts only if the store began after its answer: otherwise somebody deleted it.
- A record that is behind an answer of the last moments is not: that answer is on its way.
- A kept reply counts by the pair that was presented: a store with an older one has lost that.
- Long journals take a while to read, so `evergrant status` only glances: while there is reason to (the store
  is empty, began lately, or has lately recovered), for `GLANCE_SECONDS`, at the answers from before that, the
  latest first: they have most of what may be lost. `evergrant doctor` reads all.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from worker.core.grant import Grant
from worker.core.ports import Entry
from worker.core.registry import FleetState, Registry, StoreLife

AT_ONCE: Final = 500
GLANCE_SECONDS: Final = 2.0
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
        is_all: whether every answer was compared; if not, there may be more of both.
    """

    life: StoreLife
    missing: int
    behind: int
    is_all: bool


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
    registry: Registry,
    fleet_state: FleetState,
    journaled: Callable[[int | None], Iterable[Entry]],
    *,
    seconds: float | None,
) -> Losses | None:
    """Compare the store with this machine's journals; `None` where nothing is lost, or nothing was read.

    Args:
        registry: the grants.
        fleet_state: knows the life of the store.
        journaled: reads the answers in this machine's journals, all or those from before an instant.
        seconds: only glance: read nothing without a reason to, and for so long those from before it.
            Comparing what was read takes about as long again. `None` reads all, however long it takes.
    """
    now, life = await registry.now(), await fleet_state.life()
    if seconds is None:
        ends_at, before = None, None
    elif is_worth_a_look(life, now):
        ends_at, before = time.monotonic() + seconds, life.changed_at(now)
    else:
        return None
    # In a thread: a long journal takes seconds to read, and a service goes on meanwhile.
    newest, is_all = await asyncio.to_thread(lambda: _newest_of_each(journaled(before), ends_at))
    missing = behind = 0
    ids = iter(newest)
    while group := list(islice(ids, AT_ONCE)):
        for grant_id, stored in zip(group, await registry.find_each(group), strict=True):
            known = newest[grant_id]
            if stored is None:
                missing += life.lacks(known.fence)
            else:
                is_settled = known.issued_at <= now - ON_ITS_WAY_MS
                behind += is_settled and isinstance(stored, Grant) and known.is_ahead_of(stored)
    if behind and (await fleet_state.workers()).untaken:
        behind = 0  # the store fails at those answers, and `report_on` says that
    return Losses(life, missing, behind, is_all) if missing or behind else None


def _newest_of_each(entries: Iterable[Entry], ends_at: float | None) -> tuple[dict[str, _Newest], bool]:
    """The newest answer of each grant, as far as there is time to read, and whether all were read."""
    newest: dict[str, _Newest] = {}
    for number, entry in enumerate(entries):
        if ends_at is not None and number and number % AT_ONCE == 0 and time.monotonic() >= ends_at:
            return newest, False
        grant = entry.change.grant
        known = newest.get(grant.id)
        if known is None or known.fence < entry.fence:
            newest[grant.id] = _Newest(entry.fence, grant.version, grant.issued_at, grant.root)
    return newest, True
