"""Beat's scheduler: Celery's own, in memory, that outlives its broker and never fills a queue.

Rules:
- A queue that no worker empties gets no more messages.
- One connection is kept for all sweeps. After an error of any kind it is made anew, after a pause that grows
  while errors follow each other.
- A sweep that was not published is published after the pause: the next one may be an hour away. However many
  were missed, one is enough.
"""

import time
from contextlib import suppress
from typing import Any, Final

import structlog
from celery.beat import Scheduler

from worker.runtime.celery_worker import beat, server, tell

MOST_QUEUED: Final = 100  # messages
LONGEST_PAUSE_SECONDS: Final = 4.0  # so that a deployment is back ten seconds after its broker

log = structlog.get_logger(__name__)


class BoundedScheduler(Scheduler):
    """Publishes a task only while the queue is short."""

    producer: Any = None  # the base class would connect here, where an error ends beat

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pause_seconds = 0.0
        self._paused_until = 0.0
        self._unsent: Any = None  # the entry whose task was not published

    def tick(self, *args: Any, **options: Any) -> Any:
        """Beat once for each turn of the loop; returns how many seconds the next one may wait."""
        beat()
        wait = super().tick(*args, **options)
        if self._unsent is None:
            return wait
        self.apply_entry(self._unsent)
        return min(wait, max(self._paused_until - time.monotonic(), 0.0))

    def apply_entry(self, entry: Any, producer: Any = None) -> None:  # noqa: ARG002 the base class's signature
        """Publish an entry's task; where that fails, say so in one line and pause."""
        if time.monotonic() < self._paused_until:
            return
        try:
            self._publish(entry)
        except Exception as problem:  # noqa: BLE001 each broker has errors of its own, and none ends beat
            self._unsent = entry
            self._pause_seconds = min(2 * self._pause_seconds or 1.0, LONGEST_PAUSE_SECONDS)
            self._paused_until = time.monotonic() + self._pause_seconds
            log.warning("beat.broker_away", problem=str(problem), pause_seconds=self._pause_seconds)
            with suppress(Exception):
                self.close()  # the next attempt connects
        else:
            self._unsent = None
            self._pause_seconds = 0.0

    def _publish(self, entry: Any) -> None:
        """Publish an entry's task unless the queue is full; first start an embedded server that died."""
        embedded = server()
        if embedded is not None:
            embedded.keep_running(tell)
        channel = self.connection.default_channel
        if self._queued(channel) < MOST_QUEUED:
            self.apply_async(entry, producer=self.app.amqp.Producer(channel), advance=False)

    def _queued(self, channel: Any) -> int:
        queue = self.app.amqp.queues[self.app.conf.task_default_queue]
        declared = channel.queue_declare(
            queue.name, durable=queue.durable, auto_delete=False, arguments=queue.queue_arguments
        )
        waiting: int = declared.message_count
        return waiting
