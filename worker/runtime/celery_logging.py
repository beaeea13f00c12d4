"""Celery's own output, in the format of every other line.

Its banners are left out: `evergrant doctor` says where things are. Warnings and billiard's errors go through
the log. So does what Celery writes when it is told to stop.
"""

import logging
import os
import sys
from typing import Any

from billiard.util import get_logger
from celery.apps import worker as celery_worker_app
from celery.apps.beat import Beat

from config import Settings
from config.logging import configure_logging, rendered


class QuietBeat(Beat):
    """Beat without its banner."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"quiet": True})


def configure(settings: Settings, logfile: str | None = None) -> None:
    """Format the lines of Evergrant, of Celery and of Python's warnings alike.

    Args:
        settings: the deployment's, for level and format.
        logfile: where `--logfile` sends them; else they go to standard error.
    """
    configure_logging(settings.log_level, settings.log_format, logfile)
    logging.captureWarnings(capture=True)
    billiard = get_logger()  # it reports children that died
    billiard.propagate = True
    billiard.setLevel(logging.ERROR)

    def say(message: str, _: Any = None) -> None:
        """Celery says this in a signal handler, where a logger may be in the middle of a line: one write."""
        stream = sys.stderr.fileno() if logfile is None else os.open(logfile, os.O_WRONLY | os.O_APPEND)
        os.write(stream, f"{rendered(settings.log_format, 'warning', __name__, message)}\n".encode())
        if logfile is not None:
            os.close(stream)

    celery_worker_app.safe_say = say  # type: ignore[attr-defined]
