"""The Celery app and its schedule: what `celery -A worker` finds.

A task carries a client's name and nothing else; its grants come from the store. So a lost, late or repeated
task costs a delay or a needless look at the schedule.

Importing this module reads no settings: Celery asks for its configuration when it first needs it.
"""

from functools import cached_property
from typing import Any

from celery import Celery

from worker.runtime import celery_config, celery_logging, celery_transport, celery_worker


class Application(Celery):
    """Celery, with a beat that prints no banner."""

    @cached_property
    def Beat(self) -> Any:  # noqa: N802 Celery's name
        """What `celery beat` runs."""
        return self.subclass_with_self(celery_logging.QuietBeat)


app = Application("evergrant", include=["tasks.sweep", "tasks.refresh", "tasks.discard", "tasks.deliver"])


def _configuration() -> dict[str, Any]:
    every = celery_config.settings().sweep_seconds
    schedule = {"sweep": {"task": "tasks.sweep", "schedule": every}}
    return celery_config.configuration() | {"beat_schedule": schedule}


app.add_defaults(_configuration)
celery_transport.use_checked_transports()
celery_worker.connect_signals()
