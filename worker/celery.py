"""The Celery app and its schedule: what `celery -A worker` finds.

Tasks carry a client's name and nothing else; grants are pulled from the store. So a task that is lost, late
or delivered twice costs a delay or a glance at the schedule.
"""

import atexit
import sys
from typing import Any

from celery import Celery, signals
from celery.beat import Scheduler

from config import SettingsError, load_settings
from config.logging import configure_logging
from worker.runtime import connections, deployment, process, timing
from worker.runtime.store_checks import check_store

MOST_QUEUED = 100  # messages; beat adds none beyond them

try:
    settings = load_settings()
    broker_url = connections.broker_url(settings)
except SettingsError as problem:
    sys.stderr.write(f"{problem}\n")
    raise SystemExit(2) from None

server = deployment.embedded_server(settings)
hard_limit_seconds = timing.longest_run_seconds(settings) + 30

app = Celery("evergrant", broker=broker_url, include=["tasks.sweep", "tasks.refresh"])
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    result_backend=None,
    task_ignore_result=True,
    task_default_queue="evergrant",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # No task ends before what it has in flight is stored: the soft limit, struck in the middle, only asks it
    # to claim nothing more (see tasks/refresh.py), and the hard one is beyond everything a task waits for.
    task_soft_time_limit=hard_limit_seconds - 30,
    task_time_limit=hard_limit_seconds,
    worker_soft_shutdown_timeout=timing.in_flight_seconds(settings),
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "global_keyprefix": f"{{{settings.namespace}}}:celery:",
        "visibility_timeout": hard_limit_seconds + 60,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": server is None,
        "health_check_interval": 10,
        # kombu looks for messages of dead workers every hundred rounds otherwise: minutes.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    },
    # kombu's default for rediss:// is to believe any certificate.
    broker_use_ssl=connections.broker_tls(broker_url),
    timezone="UTC",
    beat_scheduler="worker.celery:BoundedScheduler",
    beat_max_loop_interval=min(settings.sweep_seconds, 5),
    beat_schedule={
        "sweep": {
            "task": "tasks.sweep",
            "schedule": settings.sweep_seconds,
        }
    },
)


class BoundedScheduler(Scheduler):
    """Celery's own scheduler, in memory, that adds nothing to a queue nobody empties."""

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:  # noqa: FBT001, FBT002 the base class's signature
        """Publish an entry's task, unless too many wait already; first bring back a server that died."""
        if server is not None:
            server.keep_running(_tell)
        with self.app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            queue = self.app.amqp.queues[app.conf.task_default_queue](channel)
            queue.queue_declare()
            waiting = channel._size(queue.name)  # noqa: SLF001 kombu's Redis transport counts nowhere else
        if waiting >= MOST_QUEUED:
            return None
        return super().apply_async(entry, producer, advance, **options)


def deploy() -> deployment.Deployment:
    """Where this worker's things are."""
    return deployment.deploy(settings, _tell)


def _tell(line: str) -> None:
    sys.stderr.write(f"evergrant: {line}\n")


warnings: list[str] = []  # about the store, at start
this_process = process.Process(deploy, warnings)


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging(settings.log_level, settings.log_format)


@signals.celeryd_init.connect
@signals.beat_init.connect
def _prepare(**_: Any) -> None:
    """Before anything connects: the server must run, and the settings and the store must do."""
    try:
        there = deploy()
        if server is not None:
            server.open()
            atexit.register(server.close)
        warnings.extend(check_store(there))
        for warning in warnings:
            _tell(warning)
    except (SettingsError, deployment.EmbeddedServerError) as problem:
        _tell(str(problem))
        raise SystemExit(2) from None


@signals.worker_process_init.connect
def _be_present(**_: Any) -> None:
    this_process.start()


@signals.worker_shutting_down.connect
def _stop_claiming(**_: Any) -> None:
    process.start_draining()


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect  # a pool without child processes
def _close(**_: Any) -> None:
    this_process.close()
