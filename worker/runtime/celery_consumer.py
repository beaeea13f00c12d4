"""The part of a worker that talks to the broker, made to outlive whatever the broker does.

Rules:
- An error of any kind, from the broker or from a message, never ends the worker. The connection is made anew,
  after a pause that grows while errors follow each other.
- Only our own tasks get past `create_task_handler`. Anything else is dropped with one line: Celery's own
  lines about such messages show the whole body.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from worker.runtime.celery_messages import fault_of_task, report_dropped
from worker.runtime.celery_worker import beat
from worker.runtime.liveness import HEARTBEAT_SECONDS

LONGEST_PAUSE_SECONDS: Final = 4.0  # so that a deployment is back ten seconds after its broker
PAUSES_SECONDS: Final = (0.0, 1.0, 2.0, LONGEST_PAUSE_SECONDS)  # after the first error, the second, ...
CALM_SECONDS: Final = 30.0  # an error so long after the last one counts as the first
LOOK_SECONDS: Final = 0.5  # how soon a pause notices that the worker is to stop


log = structlog.get_logger(__name__)


class SteadyConsumer(Consumer):
    """Celery's consumer; the setting `worker_consumer` names it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Celery reconnects after these: after MISCONF, READONLY, MOVED and NOPERM, and after any error that
        # kombu does not foresee.
        self.channel_errors = (Exception,)
        # After these it goes on as if nothing had happened where it cannot acknowledge a message. That one
        # keeps its place among those that a worker may have at once. When all places are lost like that,
        # kombu asks the broker for nothing any more, and never notices that the connection is gone.
        self.connection_errors = ()
        self._errors = 0
        self._last_error_at = 0.0

    def register_with_event_loop(self, hub: Any) -> None:
        """Beat from the event loop, for as long as this connection lasts."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(HEARTBEAT_SECONDS, beat)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long the broker is away."""

        def complain(problem: Exception, pause: float) -> None:
            log.warning("broker.away", problem=str(problem), pause_seconds=pause)

        connected = conn.ensure_connection(
            complain, interval_start=1, interval_step=1, interval_max=LONGEST_PAUSE_SECONDS, callback=_wait_on
        )
        self.first_connection_attempt = False
        return connected

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Handle our own tasks, and drop every other message."""
        handle = super().create_task_handler(*args, **options)

        def handle_ours(message: Any) -> None:
            fault = fault_of_task(message, self.app.tasks)
            if fault is None:
                handle(message)
            else:
                self._drop(message, fault)

        return handle_ours

    def on_decode_error(self, message: Any, exc: Exception) -> None:  # noqa: ARG002 its text may show the body
        """Drop a message that kombu could not decode."""
        self._drop(message, "it cannot be decoded")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause before the next attempt to connect."""
        self._pause_after(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the connection, and pause before the next one is made."""
        with warnings.catch_warnings():
            # It asks to decide whether running tasks are cancelled. celery_config.py has decided.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        self._pause_after(exc)

    def _drop(self, message: Any, fault: str) -> None:
        report_dropped(fault)
        message.reject()

    def _pause_after(self, problem: Exception) -> None:
        """Wait, but not for a worker that is to stop."""
        now = time.monotonic()
        if now - self._last_error_at > CALM_SECONDS:
            self._errors = 0
        pause = PAUSES_SECONDS[min(self._errors, len(PAUSES_SECONDS) - 1)]
        self._errors += 1
        log.warning("broker.error", problem=str(problem), pause_seconds=pause)
        end = now + pause
        while (left := end - time.monotonic()) > 0:
            _wait_on()
            time.sleep(min(left, LOOK_SECONDS))
        self._last_error_at = time.monotonic()


def _wait_on() -> None:
    """Between two looks at a broker that is away: the worker may be told to stop, and is alive."""
    maybe_shutdown()
    beat()
