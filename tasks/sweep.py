"""`tasks.sweep`: count what is due and start as many `tasks.refresh` as it takes.

It also lets the grants fail whose access tokens ended while their replies could not be read, and starts a
`tasks.discard` where there is something to revoke, and a `tasks.deliver` where a webhook is to be told.
"""

import structlog

from tasks import deliver
from tasks.discard import discard
from tasks.refresh import refresh
from worker.celery import app
from worker.runtime.celery_worker import this_process

log = structlog.get_logger(__name__)


@app.task(name="tasks.sweep")
def sweep() -> None:
    """Start runners; two sweeps at once start no more than one would."""
    this_process.run(lambda runtime: runtime.kept_replies.expire_overdue())
    unsent = this_process.run(lambda runtime: runtime.sweeping.reserve_runners())
    try:
        while unsent:
            refresh.apply_async(task_id=unsent[-1])
            unsent.pop()
        if this_process.run(lambda runtime: runtime.discarding.is_due()):
            discard.apply_async()
    except Exception as problem:  # noqa: BLE001 each broker has errors of its own
        log.warning("sweep.broker_away", problem=str(problem))
        this_process.run(lambda runtime: runtime.sweeping.give_back(unsent))
        return
    deliver.start()
