"""`tasks.refresh`: refresh one client's due grants, many at once, until none is left."""

import time
from typing import Any

from worker.celery import app
from worker.runtime.celery_worker import this_process
from worker.runtime.process import should_stop
from worker.runtime.timing import RUN_SECONDS


@app.task(name="tasks.refresh", bind=True)
def refresh(self: Any, client: str) -> None:
    """Pull what is due for a while; the next sweep goes on where this one stopped."""
    end = time.monotonic() + RUN_SECONDS
    runner = self.request.id  # read in this thread: Celery keeps the request here
    this_process.run(
        lambda runtime: runtime.sweeping.run_refresher(
            client, runner, stop=lambda: should_stop() or time.monotonic() > end
        )
    )
