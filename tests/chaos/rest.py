"""Waiting for rest: every grant has failed, or has its own tokens and waits for its time."""

import time
from collections.abc import Mapping

from tests.support.live import LiveDeployment

REST_SECONDS = 3.0  # that a due grant may wait for the next sweep while all is well


def restless(
    live: LiveDeployment,
    seconds: float,
    *,
    since: Mapping[str, int] | None = None,
    rest: float = REST_SECONDS,
) -> list[str]:
    """Wait until every grant is at rest; returns those that are not at the end, with their state.

    Args:
        seconds: how long to wait at most.
        since: versions that every grant has to have left behind; `None` where it does not matter.
        rest: how many seconds a due grant may wait for the next sweep.
    """
    end = time.monotonic() + seconds
    while (left := _restless(live, since or {}, rest)) and time.monotonic() < end:
        time.sleep(1)
    return left


def _restless(live: LiveDeployment, since: Mapping[str, int], rest: float) -> list[str]:
    lost = set(live.lost())
    latest_due_at = (time.time() - rest) * 1000
    return [
        f"{grant_id} ({stored.grant.status.value}, {stored.grant.reason})"
        for grant_id, stored in live.grants().items()
        if stored.grant.status != "failed"
        and (
            grant_id in lost
            or stored.grant.status != "active"
            or stored.lease_until is not None
            or stored.due_at is None
            or stored.due_at < latest_due_at
            or stored.grant.version == since.get(grant_id)
        )
    ]
