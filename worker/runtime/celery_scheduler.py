"""Beat's scheduler: Celery's own, in memory, that adds nothing to a queue which no worker empties."""

from typing import Any, Final

from celery.beat import Scheduler

from worker.runtime.celery_worker import server, tell

MOST_QUEUED: Final = 100  # messages


class BoundedScheduler(Scheduler):
    """Publishes a task only while the queue is short."""

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:  # noqa: FBT001, FBT002 the base class's signature
        """Publish an entry's task unless the queue is full; first start an embedded server that died."""
        embedded = server()
        if embedded is not None:
            embedded.keep_running(tell)
        if self._queued() >= MOST_QUEUED:
            return None
        return super().apply_async(entry, producer, advance, **options)

    def _queued(self) -> int:
        with self.app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            queue = self.app.amqp.queues[self.app.conf.task_default_queue](channel)
            queue.queue_declare()
            waiting: int = channel._size(queue.name)  # noqa: SLF001 kombu's Redis transport counts nowhere else
        return waiting
