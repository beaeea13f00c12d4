"""Grants listed page by page, in an order that no refresh changes: by client, then by id.

Rules:
- A grant that is there all the while is listed once, whatever happens to others meanwhile.
- A page looks at a bounded number of grants. Where few of them are wanted it may be short, or empty, and
  still have a next page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from worker.core.grant import Grant
from worker.core.registry import FleetState, OnUnreadable, Registry, StoredGrant
from worker.fleet.selecting import Selection

READ_AT_ONCE: Final = 500
MOST_LOOKED_AT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a listing stopped: after this id of this client."""

    client: str
    id: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One page; `next` is where the next one begins, `None` where this is the last."""

    grants: Sequence[StoredGrant]
    next: Place | None


class Listing:
    """Pages through the grants of a deployment.

    Args:
        registry: the grants.
        fleet_state: knows the clients.
    """

    def __init__(self, registry: Registry, fleet_state: FleetState) -> None:
        self._registry = registry
        self._fleet_state = fleet_state

    async def page(
        self,
        selection: Selection,
        sees: Callable[[Grant], bool],
        *,
        after: Place | None,
        limit: int,
        unreadable: OnUnreadable,
        prefix: str = "",
    ) -> Listed:
        """The grants of a selection that follow a place.

        Args:
            selection: which.
            sees: whether a grant exists for the caller.
            after: where the page before stopped; `None` begins.
            limit: the most grants.
            unreadable: called for each record that cannot be read.
            prefix: what the ids begin with.
        """
        listed: list[StoredGrant] = []
        looked_at, number = 0, min(limit, READ_AT_ONCE)  # most selections have most of what is read
        for client in await self._clients(selection, after):
            last = after.id if after is not None and after.client == client else ""
            while True:
                page = await self._registry.page(client, last, number, prefix=prefix, unreadable=unreadable)
                for stored in page.grants:
                    if selection.has(stored.grant) and sees(stored.grant):
                        listed.append(stored)
                    if len(listed) == limit:
                        return Listed(listed, Place(client, stored.grant.id))
                looked_at, number = looked_at + number, READ_AT_ONCE
                if page.last is None:
                    break
                last = page.last
                if looked_at >= MOST_LOOKED_AT:
                    return Listed(listed, Place(client, last))
        return Listed(listed, None)

    async def _clients(self, selection: Selection, after: Place | None) -> list[str]:
        """Those that are still to be looked at, in order."""
        names = [selection.client] if selection.client is not None else await self._fleet_state.client_names()
        return [name for name in sorted(names) if after is None or name >= after.client]
