"""How long things last, derived from the settings.

A lease outlasts a whole refresh: the claim's reply, the request, the pause, the same request once more, the
check that tells a client's failure from a grant's, and the commit. A refresh task claims for a while, and a
stop waits until all it has in flight is stored.
"""

from typing import Final

from config import Settings
from worker.adapters.store.redis_store import StoreLimits
from worker.adapters.store.scripts import GROUP_SECONDS
from worker.fleet.leasing import longest_wait_seconds
from worker.fleet.tokens import OFFERED_SECONDS
from worker.refresher import Effort
from worker.runtime.derived import COMMIT_SECONDS, lease_ms, refresh_seconds

REDIS_TIMEOUT_SECONDS: Final = GROUP_SECONDS
RUN_SECONDS: Final = 10.0  # how long a refresh task claims; then other tasks get their turn
HARD_LIMIT_SLACK_SECONDS: Final = 30.0
VISIBILITY_SLACK_SECONDS: Final = 60.0

# Between two probes of a rejected client the pauses grow from one `probe_seconds` to this many.
LONGEST_PROBE_SHARE: Final = 5
# Between two half-open probes of an endpoint they grow from this part of one `probe_seconds` to a whole one.
FIRST_ENDPOINT_PROBE_SHARE: Final = 12


def effort(settings: Settings) -> Effort:
    """How hard one refresher works."""
    return Effort(in_flight=settings.in_flight, request_ms=int(settings.http_timeout_seconds * 1000))


def in_flight_seconds(settings: Settings) -> float:
    """How long a stop waits for what is in flight, while the store answers."""
    return refresh_seconds(settings) + COMMIT_SECONDS


def longest_call_seconds(settings: Settings) -> float:
    """The longest that a call of the HTTP service can take: it waits for another's lease, then refreshes."""
    return longest_wait_seconds(lease_ms(settings)) + in_flight_seconds(settings) + OFFERED_SECONDS


def longest_run_seconds(settings: Settings) -> float:
    """The longest that a refresh task can take, even while the store is away.

    After its time it goes on for the endpoints that answer while requests to others hang: at most one lease.
    """
    store_seconds = 3 * effort(settings).store_patience_seconds
    claiming_seconds = RUN_SECONDS + lease_ms(settings) / 1000
    return claiming_seconds + in_flight_seconds(settings) + store_seconds + 4 * 2 * REDIS_TIMEOUT_SECONDS


def hard_limit_seconds(settings: Settings) -> float:
    """When Celery kills a task: beyond everything that a task waits for."""
    return longest_run_seconds(settings) + HARD_LIMIT_SLACK_SECONDS


def visibility_timeout_seconds(settings: Settings) -> float:
    """When a message that nobody acknowledged is delivered again: after its task can no longer live."""
    return hard_limit_seconds(settings) + VISIBILITY_SLACK_SECONDS


def store_limits(settings: Settings) -> StoreLimits:
    """How long things last at the store."""
    first_probe_ms = int(settings.probe_seconds * 1000)
    return StoreLimits(
        lease_ms=lease_ms(settings),
        events_kept=settings.events_kept,
        first_probe_ms=first_probe_ms,
        longest_probe_ms=first_probe_ms * LONGEST_PROBE_SHARE,
        first_endpoint_probe_ms=first_probe_ms // FIRST_ENDPOINT_PROBE_SHARE,
        longest_endpoint_probe_ms=first_probe_ms,
    )
