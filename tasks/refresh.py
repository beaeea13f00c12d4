"""`tasks.refresh`: refresh what is due, of every client, many at once, until nothing is left."""

from typing import Any

from worker.celery import app
from worker.runtime.celery_worker import this_process
from worker.runtime.process import should_stop


@app.task(name="tasks.refresh", bind=True)
def refresh(self: Any) -> None:
    """Pull what is due for a while; the next sweep goes on where this one stopped."""
    runner = self.request.id  # read in this thread: Celery keeps the request here
    this_process.run(lambda runtime: runtime.sweeping.run_refresher(runner, should_stop))
