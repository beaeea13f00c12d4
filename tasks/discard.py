"""`tasks.discard`: revoke what nobody is to use any more.

That is what a sign-in brought that nobody confirmed, and the pairs that a new sign-in replaced.
"""

from worker.celery import app
from worker.runtime.celery_worker import this_process


@app.task(name="tasks.discard")
def discard() -> None:
    """Ask the providers; what they do not answer is asked again later."""
    this_process.run(lambda runtime: runtime.discarding.revoke_discarded())
