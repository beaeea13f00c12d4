"""`tasks.sweep`: count what is due per client and start as many `tasks.refresh` as it takes."""

from tasks.refresh import refresh
from worker.celery import app
from worker.runtime.celery_worker import this_process


@app.task(name="tasks.sweep")
def sweep() -> None:
    """Start runners; two sweeps at once start no more than one would."""
    for client, runner in this_process.run(lambda runtime: runtime.sweeping.reserve_runners()):
        refresh.apply_async(args=(client,), task_id=runner)
