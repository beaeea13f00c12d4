"""What happened to one grant, newest first, as far back as the streams reach.

A call looks at a bounded number of entries. What lies further back is the business of the next call, which
begins where this one stopped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.core.audit import concerns
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
    audit: EventStream,
    sees_labels: Callable[[Mapping[str, str]], bool],
    *,
    before: str | None,
    limit: int,
) -> History:
    """The events and the audit entries of a grant before a stream id.

    Args:
        grant_id: whose.
        events: all of the deployment's.
        audit: likewise.
        sees_labels: whether a grant with these labels exists for the caller: an earlier grant of this id may
            have been another's.
        before: a stream id; `None` begins with the newest entry.
        limit: about the most entries: those of one moment stay together.
    """

    def is_event(entry: Mapping[str, Any]) -> bool:
        return entry["subject"] == grant_id and sees_labels(entry["data"].get("labels") or {})

    def is_entry(entry: Mapping[str, Any]) -> bool:
        return concerns(entry, grant_id=grant_id) and sees_labels(entry.get("labels") or {})

    told = await _some(events, is_event, before, limit)
    done = await _some(audit, is_entry, before, limit)
    # What lies before the end of either page may have neighbours that were not read.
    ends = [page.before for page in (told, done) if page.before is not None]
    end = max(ends, key=_place, default=None)
    found = sorted((*told.entries, *done.entries), key=lambda entry: _place(entry.id), reverse=True)
    found = [entry for entry in found if end is None or _place(entry.id) >= _place(end)]
    if len(found) > limit:
        end = found[limit - 1].id
        found = [entry for entry in found if _place(entry.id) >= _place(end)]
    return History(found, end)


async def _some(
    stream: EventStream, is_meant: Callable[[Mapping[str, Any]], bool], before: str | None, limit: int
) -> History:
    found: list[StreamEntry] = []
    for _ in range(MOST_LOOKED_AT // READ_AT_ONCE):
        page = await stream.read_back(before, most=READ_AT_ONCE)
        for entry in page:
            before = entry.id
            if is_meant(entry.event):
                found.append(entry)
            if len(found) == limit:
                return History(found, before)
        if len(page) < READ_AT_ONCE:
            return History(found, None)
    return History(found, before)


def _place(stream_id: str) -> tuple[int, int]:
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)
