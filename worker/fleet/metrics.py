"""What a scrape is told: read from the store, put into the words of Prometheus.

Rules:
- Everything is read at scrape time, so any process tells the same, and a restart loses nothing.
- Scrapes at the same time share one reading.
- Making the text of thousands of clients takes a while, and is done beside the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from worker.core.measures import FleetMeasures, Measures
from worker.fleet.flights import Flights

Expose = Callable[[FleetMeasures, str], tuple[bytes, str]]
Undelivered = Callable[[], Awaitable[Mapping[str, int]]]


class Metrics:
    """Tells scrapes.

    Args:
        measures: reads the store.
        configured: the token URLs of the clients that have settings, by their names.
        expose: makes the text, of the kind that an `Accept` header asks for; returns it and what it is.
        undelivered: when the oldest event was emitted that a webhook has not taken, by the webhook's id, in
            Unix ms; those that have taken all, or asked for nothing more, are left out.
    """

    def __init__(
        self,
        *,
        measures: Measures,
        configured: Callable[[], Mapping[str, str]],
        expose: Expose,
        undelivered: Undelivered,
    ) -> None:
        self._measures = measures
        self._configured = configured
        self._expose = expose
        self._undelivered = undelivered
        self._readings: Flights[FleetMeasures] = Flights()

    async def text(self, accept: str = "") -> tuple[bytes, str]:
        """What is measured now, and its media type.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        measures = await self._readings.join("reading", self.read)
        return await asyncio.to_thread(self._expose, measures, accept)

    async def read(self) -> FleetMeasures:
        """What is measured now."""
        measures = await self._measures.read(self._configured())
        return replace(measures, undelivered=await self._undelivered())
