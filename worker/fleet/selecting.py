"""An operation on many grants at once: all of a client, a status and labels, as far as each is named.

Rules:
- The grants stream through, a group at a time: a fleet need not fit into memory.
- Each grant is changed by itself, in one atomic step, and only while it has the status that was selected:
  one whose person has connected again since it was read is no failed grant any more.
- Broken off halfway, it is run again: a grant that is done is skipped.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from worker.core import lifecycle
from worker.core.audit import By
from worker.core.grant import Grant, Status
from worker.core.lifecycle import Trigger
from worker.core.registry import OnUnreadable, Operation, OperationResult, Registry, StoredGrant

AT_ONCE: Final = 100

# The statuses in which an operation changes a grant.
CHANGES: Final = {
    Operation.PAUSE: frozenset(lifecycle.next_statuses(Trigger.PAUSE)),
    Operation.RESUME: frozenset(lifecycle.next_statuses(Trigger.RESUME)),
    Operation.DELETE: frozenset(Status),
}
SKIPPED_BECAUSE: Final = {
    OperationResult.UNCHANGED: "changed meanwhile",
    OperationResult.OTHER_STATUS: "changed meanwhile",
    OperationResult.KEPT: "a reply is kept",
    OperationResult.GONE: "gone meanwhile",
    OperationResult.UNKNOWN_FORMAT: "of a newer release",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which grants; `None` is any.

    Attributes:
        labels: those that a grant must have, with these values; it may have others.
    """

    client: str | None
    status: Status | None
    labels: Mapping[str, str] = field(default_factory=dict)

    def has(self, grant: Grant) -> bool:
        """Whether a grant of the client has the status and the labels."""
        return self.status in {None, grant.status} and self.labels.items() <= grant.labels.items()


@dataclass(slots=True)
class Tally:
    """What became of the selected grants.

    Attributes:
        done: how many were changed, by the status that they had.
        skipped: how many were not, by the status that forbids it or by what happened meanwhile.
    """

    done: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


async def foresee(
    registry: Registry, selection: Selection, operation: Operation, unreadable: OnUnreadable
) -> Tally:
    """Count what an operation would do, without doing it."""
    tally = Tally()
    async for stored in _selected(registry, selection, unreadable):
        status = stored.grant.status
        (tally.done if status in CHANGES[operation] else tally.skipped)[status] += 1
    return tally


async def operate_on(
    registry: Registry,
    selection: Selection,
    operation: Operation,
    tally: Tally,
    unreadable: OnUnreadable,
    by: By | None = None,
) -> None:
    """Carry an operation out on every selected grant.

    Args:
        registry: where the grants are.
        selection: which.
        operation: what to do.
        tally: counted into as the work goes on. After an interrupt it may lack what was on its way.
        unreadable: called for each record that cannot be read; its grant is left alone.
        by: who asked for it, for the audit stream.

    Raises:
        StoreUnavailableError: the store went away.
    """
    group: list[StoredGrant] = []
    async for stored in _selected(registry, selection, unreadable):
        if stored.grant.status not in CHANGES[operation]:
            tally.skipped[stored.grant.status] += 1
            continue
        group.append(stored)
        if len(group) == AT_ONCE:
            await _operate_on_group(registry, group, selection, operation, tally, by)
            group.clear()
    await _operate_on_group(registry, group, selection, operation, tally, by)


async def _operate_on_group(
    registry: Registry,
    group: list[StoredGrant],
    selection: Selection,
    operation: Operation,
    tally: Tally,
    by: By | None,
) -> None:
    async def operate(stored: StoredGrant) -> None:
        result = await registry.operate(stored.grant.id, operation, only_if=selection.status, by=by)
        if result is OperationResult.DONE:
            tally.done[stored.grant.status] += 1
        else:
            tally.skipped[SKIPPED_BECAUSE[result]] += 1

    # All to their end: what is done although another failed must be counted.
    ended = await asyncio.gather(*map(operate, group), return_exceptions=True)
    for failure in ended:
        if failure is not None:
            raise failure


async def _selected(
    registry: Registry, selection: Selection, unreadable: OnUnreadable
) -> AsyncIterator[StoredGrant]:
    async for stored in registry.walk(selection.client, unreadable=unreadable):
        if selection.has(stored.grant):
            yield stored
