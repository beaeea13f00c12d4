"""What a Celery worker and beat do when they start, fork and stop.

Rules:
- Before anything connects, the embedded server runs, and the settings and the store are fit. Otherwise the
  worker or beat says what is wrong in one line and exits with 2.
- Each child of a worker opens its runtime after the fork, and is known to the store without a task.
- A stopping worker claims nothing more, and closes a child after all it has in flight is stored.
"""

import atexit
import sys
from functools import cache
from typing import Any

from celery import signals

from config import SettingsError
from config.logging import configure_logging
from worker.adapters.embedded import EmbeddedServer, EmbeddedServerError
from worker.runtime import deployment
from worker.runtime.celery_config import settings
from worker.runtime.deployment import Deployment
from worker.runtime.process import Process, start_draining
from worker.runtime.store_checks import check_store


def tell(line: str) -> None:
    """Write a line to the standard error of this worker or beat."""
    sys.stderr.write(f"evergrant: {line}\n")


@cache
def server() -> EmbeddedServer | None:
    """This process's use of the embedded server; `None` where the settings name another one."""
    return deployment.embedded_server(settings())


def _deploy() -> Deployment:
    return deployment.deploy(settings(), tell)


_warnings: list[str] = []  # about the store, at start
this_process = Process(_deploy, _warnings)


def connect_signals() -> None:
    """Connect Celery's signals to the functions below."""
    signals.setup_logging.connect(_configure_logging)
    signals.celeryd_init.connect(_prepare)
    signals.beat_init.connect(_prepare)
    signals.worker_process_init.connect(_start)
    signals.worker_shutting_down.connect(_stop_claiming)
    signals.worker_process_shutdown.connect(_close)
    signals.worker_shutdown.connect(_close)  # a pool without child processes


def _configure_logging(**_: Any) -> None:
    configure_logging(settings().log_level, settings().log_format)


def _prepare(**_: Any) -> None:
    try:
        there = _deploy()
        embedded = server()
        if embedded is not None:
            embedded.open()
            atexit.register(embedded.close)
        _warnings.extend(check_store(there))
    except (SettingsError, EmbeddedServerError) as problem:
        tell(str(problem))
        raise SystemExit(2) from None
    for warning in _warnings:
        tell(warning)


def _start(**_: Any) -> None:
    this_process.start()


def _stop_claiming(**_: Any) -> None:
    start_draining()


def _close(**_: Any) -> None:
    this_process.close()
