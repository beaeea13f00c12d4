"""Why a grant is due when it is."""

from worker.core import lifecycle, policy
from worker.core.grant import Status
from worker.core.lifecycle import Phase
from worker.core.policy import Rules
from worker.core.providers import Client
from worker.core.reasons import Reason
from worker.core.registry import StoredGrant


def reason_of_due(stored: StoredGrant, client: Client | None, rules: Rules, now: int) -> Reason | None:
    """Why the grant is due at its due time.

    Args:
        stored: the grant.
        client: whose grant it is; `None` where it is not configured.
        rules: the deployment's.
        now: Unix ms.

    Returns `None` for a grant that is out of work: failed, paused, with a kept reply, or of a client without
    settings.
    """
    grant = stored.grant
    is_out_of_work = grant.status in {Status.FAILED, Status.PAUSED} or grant.kept_reply is not None
    if client is None or is_out_of_work:
        return None
    if stored.due_at is None:
        return Reason.NOTHING_EXPIRES
    if stored.lease_until is not None and stored.lease_until > now:
        return Reason.LEASED
    if lifecycle.phase_of(grant) is Phase.CONFIRMING:
        return Reason.REJECTED
    return policy.decide(grant, client, rules, stored.due_at).reason
