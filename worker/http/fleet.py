"""Calls about the whole fleet: its status, what is ahead of it, and its events."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

from starlette.responses import Response

from worker.core.registry import StreamEntry
from worker.http import models
from worker.http.answering import as_json
from worker.http.calls import Call, room_in
from worker.runtime.reporting import fleet_report

LOOK_SECONDS: Final = 1.0  # between two looks whether this process was told to stop


async def status(call: Call) -> Response:
    """The fleet at a glance."""
    call.refuse_bound()
    report = await fleet_report(call.runtime)
    documents = list(report.documents())
    return as_json(
        {
            "needs_a_person": report.needs_a_person,
            "clients": [each for each in documents if each["kind"] == "client"],
            "processes": [process.document() for process in report.processes],
            "incidents": [each for each in documents if each["kind"] == "incident"],
        }
    )


async def forecast(call: Call) -> Response:
    """What is ahead of the fleet."""
    call.refuse_bound()
    query = cast("models.ForecastQuery", call.query)
    foreseen = await call.runtime.forecasting.forecast(hours=query.hours, only=query.client)
    return as_json(foreseen.document())


async def events(call: Call) -> Response:
    """The events after a place in the stream; waits for one where the call says so."""
    query = cast("models.EventsQuery", call.query)
    since = query.since
    if since is None:
        since = await call.runtime.event_stream.last_id() if query.wait else "0-0"
    if not query.wait:
        found = await call.runtime.event_stream.read(since, most=query.limit)
        return _page(call, found, found[-1].id if found else since)
    async with room_in(call.service.waiters):
        return await _wait(call, query, since)


async def _wait(call: Call, query: models.EventsQuery, since: str) -> Response:
    """Wait for an event that the key sees; others are passed over."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + query.wait
    while True:
        left = min(give_up_at - loop.time(), LOOK_SECONDS)
        wait_ms = max(int(left * 1000), 1)  # 0 would wait for ever
        found = await call.runtime.event_stream.read(since, most=query.limit, wait_ms=wait_ms)
        since = found[-1].id if found else since
        is_over = loop.time() >= give_up_at or call.service.stopping.is_set()
        if is_over or any(_is_seen(call, entry) for entry in found):
            return _page(call, found, since)


def _page(call: Call, found: Sequence[StreamEntry], following: str) -> Response:
    seen: list[dict[str, Any]] = [
        {**entry.event, "streamid": entry.id} for entry in found if _is_seen(call, entry)
    ]
    return as_json({"events": seen, "next": following})


def _is_seen(call: Call, entry: StreamEntry) -> bool:
    """Whether an event concerns what exists for the key; clients and providers have no labels."""
    return call.key.sees_labels(entry.event["data"].get("labels") or {})
