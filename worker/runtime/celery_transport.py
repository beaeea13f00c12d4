"""Kombu's Redis transports, without what lets one message or one refused command end a worker.

Kombu decodes an element of the queue after it has taken it, outside of any handler: an element that is no
JSON raises in the worker's main loop. So it is checked as it arrives. The same holds for the messages of dead
workers, which kombu puts back every few seconds.
"""

from functools import partial
from typing import Any

from kombu import transport
from kombu.transport import redis as kombu_redis
from redis.exceptions import ResponseError

from worker.runtime.celery_messages import fault_of_envelope, log, report_dropped


def use_checked_transports() -> None:
    """Have kombu use the transports below for Redis and Sentinel URLs."""
    transport.TRANSPORT_ALIASES.update(
        redis=f"{__name__}:CheckedTransport",
        rediss=f"{__name__}:CheckedTransport",
        sentinel=f"{__name__}:CheckedSentinelTransport",
    )


class CheckedClient(kombu_redis.PrefixedStrictRedis):
    """Takes elements from the queue, and drops those that kombu cannot read."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Read a reply; an element that was dropped reads as none."""
        reply = super().parse_response(connection, command_name, **options)
        if command_name == "BRPOP" and reply and (fault := fault_of_envelope(reply[1])):
            report_dropped(fault)
            return None
        return reply


class CheckedQoS(kombu_redis.QoS):
    """Puts the messages of dead workers back."""

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Put back what is overdue; where the server refuses, wait for the next time."""
        try:
            super().restore_visible(*args, **options)
        except ResponseError as problem:
            log.warning("broker.restore_refused", problem=str(problem))

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 the base class's signature
        """Put one message back, or drop it if it cannot be read."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except (ValueError, TypeError, LookupError, RecursionError):  # what decoding an entry raises
            report_dropped("a message of a dead worker cannot be read")
            self.ack(tag)


class CheckedChannel(kombu_redis.Channel):
    """A channel to a Redis server."""

    QoS = CheckedQoS

    def _get_client(self) -> Any:
        return partial(CheckedClient, global_keyprefix=self.global_keyprefix)


class CheckedSentinelChannel(CheckedChannel, kombu_redis.SentinelChannel):
    """A channel to the server that Sentinel names."""


class CheckedTransport(kombu_redis.Transport):
    """`redis://` and `rediss://`."""

    Channel = CheckedChannel


class CheckedSentinelTransport(kombu_redis.SentinelTransport):
    """`sentinel://`."""

    Channel = CheckedSentinelChannel
