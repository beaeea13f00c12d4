"""`tasks.refresh`: refresh what is due, of every client, many at once, until nothing is left."""

from typing import Any

import structlog

from worker.celery import app
from worker.runtime.celery_worker import this_process
from worker.runtime.process import should_stop

log = structlog.get_logger(__name__)


@app.task(name="tasks.refresh", bind=True)
def refresh(self: Any) -> None:
    """Pull what is due for a while; a sweep at its end goes on where this one stopped.

    Beat's next sweep may be seconds away, and a client's budget of these seconds would be lost.
    """
    runner = self.request.id  # read in this thread: Celery keeps the request here
    is_something_left = this_process.run(lambda runtime: runtime.sweeping.run_refresher(runner, should_stop))
    if is_something_left and not should_stop():
        try:
            app.send_task("tasks.sweep")
        except Exception as problem:  # noqa: BLE001 each broker has errors of its own; beat's sweep comes anyway
            log.warning("refresh.broker_away", problem=str(problem))
