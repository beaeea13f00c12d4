"""What a Celery worker and beat do when they start, fork and stop.

Rules:
- Before anything connects, the embedded server runs, and the settings and the store are fit. Otherwise the
  worker or beat says what is wrong in one line and exits with 2.
- Each child of a worker opens its runtime after the fork, and is known to the store without a task.
- A stopping worker claims nothing more, and closes a child after all it has in flight is stored.
"""

import atexit
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import billiard
import structlog
from celery import signals
from celery.utils.nodenames import node_format

from config import SettingsError, load_settings
from worker.adapters.embedded import EmbeddedServer, EmbeddedServerError
from worker.runtime import celery_logging, deployment
from worker.runtime.beat_presence import BeatPresence
from worker.runtime.celery_config import settings
from worker.runtime.celery_pools import refusal_of_options
from worker.runtime.deployment import Deployment
from worker.runtime.liveness import Heartbeat
from worker.runtime.process import Process, start_draining
from worker.runtime.store_checks import check_store

SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 where the kernel keeps semaphores

log = structlog.get_logger(__name__)


def tell(line: str) -> None:
    """Log a line for people."""
    log.warning("notice", said=line)


@cache
def server() -> EmbeddedServer | None:
    """This process's use of the embedded server; `None` where the settings name another one."""
    return deployment.embedded_server(settings())


def _deploy() -> Deployment:
    return deployment.deploy(settings(), tell)


def _deploy_in_child() -> Deployment:
    """Where things are, with the clients as they are now: its worker may have started days ago."""
    try:
        newest = load_settings()
        return deployment.deploy(settings().with_clients(newest.clients, newest.from_file), tell)
    except SettingsError:
        return _deploy()


_warnings: list[str] = []  # about the store, at start
_heartbeats: list[Heartbeat | BeatPresence] = []  # of this process, once it has started
this_process = Process(_deploy_in_child, _warnings)


def connect_signals() -> None:
    """Connect Celery's signals to the functions below."""
    signals.setup_logging.connect(_configure_logging)
    signals.celeryd_init.connect(_prepare_worker)
    signals.beat_init.connect(_prepare_beat)
    signals.worker_process_init.connect(_start)
    signals.worker_shutting_down.connect(_stop_claiming)
    signals.worker_process_shutdown.connect(_close)


def _configure_logging(logfile: str | None = None, **_: Any) -> None:
    celery_logging.configure(settings(), logfile)


def _prepare_worker(sender: str, instance: Any, options: dict[str, Any], **_: Any) -> None:
    if refusal := refusal_of_options(options):
        _refuse(refusal)
    instance.quiet = True  # no banner
    logfile = options.get("logfile")
    _configure_logging(node_format(logfile, sender) if logfile else None)
    _prepare("worker")


def _prepare_beat(**_: Any) -> None:
    presence = BeatPresence(_prepare("beat"))
    presence.begin()
    atexit.register(presence.end)
    _heartbeats.append(presence)


def _refuse(line: str) -> None:
    sys.stderr.write(f"evergrant: {line}\n")
    raise SystemExit(2)


def _prepare(role: str) -> Deployment:
    try:
        there = _deploy()
        _have_temporary_files(there.settings.data_dir)
        embedded = server()
        if embedded is not None:
            embedded.open()
            atexit.register(embedded.close)
        _warnings.extend(check_store(there))
        for warning in there.warnings:
            tell(warning)
    except (SettingsError, EmbeddedServerError) as problem:
        _refuse(str(problem))
    for warning in _warnings:
        tell(warning)
    _begin_heartbeat(Heartbeat(there.heartbeats, role))
    return there


def _begin_heartbeat(heartbeat: Heartbeat) -> None:
    try:
        heartbeat.begin()
    except OSError as problem:
        tell(f"`evergrant health` will find no heartbeat: {problem.filename}: {problem.strerror}")
        return
    atexit.register(heartbeat.end)
    _heartbeats.append(heartbeat)


def beat() -> None:
    """Show probes that this worker's or beat's main loop turns."""
    for heartbeat in _heartbeats:
        heartbeat.beat()


def _have_temporary_files(data_dir: Path) -> None:
    """Where only the data directory can be written, put temporary files there: Celery's pool needs one.

    Raises:
        SettingsError: nothing can be written, or no semaphore can be made.
    """
    try:
        billiard.Semaphore()
    except OSError as problem:
        raise SettingsError(
            f"{SHARED_MEMORY} cannot be used: {problem.strerror};"
            " a worker shares semaphores with its children there"
        ) from None
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=data_dir):
                tempfile.tempdir = str(data_dir)
        except OSError as problem:
            raise SettingsError(
                f"EVERGRANT_DATA_DIR takes a directory that can be written: {problem.strerror};"
                " neither can any temporary directory"
            ) from None


def _start(**_: Any) -> None:
    this_process.start()


def _stop_claiming(**_: Any) -> None:
    start_draining()


def _close(**_: Any) -> None:
    this_process.close()
