"""What happened to one grant, newest first, as far back as the streams reach.

A call looks at a bounded number of entries. What lies further back is the business of the next call, which
begins where this one stopped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from worker.core.registry import EventStream, StreamEntry

READ_AT_ONCE: Final = 1_000
MOST_LOOKED_AT: Final = 20_000


@dataclass(frozen=True, slots=True)
class History:
    """Some entries; `before` is where the next call begins, `None` where nothing is left."""

    entries: list[StreamEntry]
    before: str | None


async def history_of(
    grant_id: str,
    events: EventStream,
    sees_labels: Callable[[Mapping[str, str]], bool],
    *,
    before: str | None,
    limit: int,
) -> History:
    """The events of a grant before a stream id.

    Args:
        grant_id: whose.
        events: all of the deployment's.
        sees_labels: whether a grant with these labels exists for the caller: an earlier grant of this id may
            have been another's.
        before: a stream id; `None` begins with the newest event.
        limit: the most entries.
    """
    found: list[StreamEntry] = []
    for _ in range(MOST_LOOKED_AT // READ_AT_ONCE):
        page = await events.read_back(before, most=READ_AT_ONCE)
        for entry in page:
            before = entry.id
            if entry.event["subject"] == grant_id and sees_labels(entry.event["data"].get("labels") or {}):
                found.append(entry)
            if len(found) == limit:
                return History(found, before)
        if len(page) < READ_AT_ONCE:
            return History(found, None)
    return History(found, before)
