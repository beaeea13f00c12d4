"""Settings as Celery's configuration.

Rules:
- A message carries no token, and a result is never stored.
- A message is acknowledged when its task ends, and delivered again where the task's process died.
- No task is killed before all it has in flight is stored. The soft time limit only asks a task to claim
  nothing more (see process.py). The hard one is longer than all that a task waits for.
"""

import os
import sys
from functools import cache
from typing import IO, Any, Final

from click import ClickException

from config import Settings, SettingsError, load_settings
from worker.runtime import timing
from worker.runtime.connections import broker

CHILD_START_SECONDS: Final = 60.0
LEAST_CHILDREN: Final = 2  # unless `--concurrency` says less: one may be waiting for a webhook's receiver
BROKER_HEARTBEAT_SECONDS: Final = 30.0
BROKER_TIMEOUT_SECONDS: Final = 10.0  # so that a broker that fell silent is left and named soon

# Kombu connects by itself wherever a channel is asked for, and by default tries for ever in silence, deaf to
# SIGTERM. Bounded, it gets back to where celery_consumer.py and celery_scheduler.py wait.
BOUNDED_CONNECTING: Final = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}


class WrongSettingsError(ClickException):
    """A setting is wrong; the message is one line that names it.

    Celery's command line asks for the configuration while it parses its options, where Click turns this into
    the line and the exit code.
    """

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line alone."""
        (file or sys.stderr).write(f"{self.message}\n")


@cache
def settings() -> Settings:
    """The settings of this worker or beat, read once.

    Raises:
        WrongSettingsError: one of them is wrong.
    """
    try:
        return load_settings()
    except SettingsError as problem:
        raise WrongSettingsError(str(problem)) from None


def configuration() -> dict[str, Any]:
    """The configuration that Celery asks for.

    Raises:
        WrongSettingsError: a setting is wrong.
    """
    chosen = settings()
    messages = broker(chosen)
    return {
        "broker_url": messages.url,
        "broker_use_ssl": messages.tls,
        "broker_heartbeat": BROKER_HEARTBEAT_SECONDS,  # RabbitMQ's alone
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "broker_transport_options": BOUNDED_CONNECTING
        | messages.options
        | ({} if messages.is_rabbitmq else _redis_options(chosen)),
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_backend": None,
        "task_ignore_result": True,
        # Redis's keys carry the namespace; RabbitMQ's queues have nothing but their name.
        "task_default_queue": chosen.namespace if messages.is_rabbitmq else "evergrant",
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_soft_time_limit": timing.longest_run_seconds(chosen),
        "task_time_limit": timing.hard_limit_seconds(chosen),
        "worker_soft_shutdown_timeout": timing.in_flight_seconds(chosen),
        "worker_concurrency": max(os.cpu_count() or 1, LEAST_CHILDREN),
        "worker_prefetch_multiplier": 1,
        "worker_consumer": "worker.runtime.celery_consumer:SteadyConsumer",
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        # A child opens connections before it says that it is up. Celery kills one that takes four seconds for
        # it, and the next one, on a machine that is merely slow.
        "worker_proc_alive_timeout": CHILD_START_SECONDS,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "timezone": "UTC",
        "beat_scheduler": "worker.runtime.celery_scheduler:BoundedScheduler",
        "beat_max_loop_interval": min(chosen.sweep_seconds, 5),
    }


def _redis_options(chosen: Settings) -> dict[str, Any]:
    return {
        "global_keyprefix": f"{{{chosen.namespace}}}:celery:",
        "visibility_timeout": timing.visibility_timeout_seconds(chosen),
        "socket_timeout": BROKER_TIMEOUT_SECONDS,
        "socket_connect_timeout": 5,
        "socket_keepalive": not chosen.uses_embedded_server,
        "health_check_interval": 10,
        # kombu's default is to look for the messages of dead workers every hundred rounds: minutes.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    }
