"""`tasks.refresh`: refresh one client's due grants, many at once, until none is left."""

import time
from typing import Any

from celery import shared_task

from worker.celery import this_process
from worker.process import is_draining
from worker.sweeper import run_refresher

RUN_SECONDS = 10.0  # then others get their turn; the next sweep goes on where this one stopped


@shared_task(name="tasks.refresh", bind=True)
def refresh(self: Any, client: str) -> None:
    """Pull what is due; the message names a client and no grant."""
    end = time.monotonic() + RUN_SECONDS
    this_process.run(
        lambda runtime: run_refresher(
            runtime, client, self.request.id, lambda: is_draining() or time.monotonic() > end
        )
    )
