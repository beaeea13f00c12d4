"""`tasks.deliver`: send what waits for the webhooks, one task of a deployment at a time, in short turns."""

from typing import Any, Final

import structlog

from worker.celery import app
from worker.runtime.celery_worker import this_process
from worker.runtime.process import should_stop

SOFT_LIMIT_SECONDS: Final = 60  # a turn and the requests that it began last take half as long
HARD_LIMIT_SECONDS: Final = 90

log = structlog.get_logger(__name__)


@app.task(name="tasks.deliver", bind=True, soft_time_limit=SOFT_LIMIT_SECONDS, time_limit=HARD_LIMIT_SECONDS)
def deliver(self: Any) -> None:
    """Take a turn; where more is due after it, the next turn is a task of its own, behind the others."""
    task = self.request.id  # read in this thread: Celery keeps the request here
    this_process.run(lambda runtime: runtime.delivering.run_turn(task, should_stop))
    if not should_stop():
        start()


def start() -> None:
    """Start a turn where something is to be delivered and none is under way."""
    task = this_process.run(lambda runtime: runtime.delivering.reserve())
    if task is None:
        return
    try:
        deliver.apply_async(task_id=task)
    except Exception as problem:  # noqa: BLE001 each broker has errors of its own
        log.warning("deliver.broker_away", problem=str(problem))
        this_process.run(lambda runtime: runtime.delivering.give_back(task))
