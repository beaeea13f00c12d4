"""One grant as the faces show it, without its tokens: the export line, and where the grant stands."""

from typing import Any

from worker.core.events import rfc3339
from worker.core.interchange import write_line
from worker.core.policy import Rules
from worker.core.providers import Client
from worker.core.registry import StoredGrant
from worker.fleet.due_reason import reason_of_due


def describe(stored: StoredGrant, client: Client | None, rules: Rules, now: int) -> dict[str, Any]:
    """A grant as JSON; docs/json.md names the fields.

    Args:
        stored: the grant.
        client: whose grant it is; `None` where it is not configured.
        rules: the deployment's.
        now: Unix ms.
    """
    grant = stored.grant
    reason = reason_of_due(stored, client, rules, now)
    return {
        **write_line(grant, None),
        "reason": grant.reason,
        "failures": grant.streak,
        "kept_reply": grant.kept_reply,
        "narrowed": None if grant.narrowed is None else grant.narrowed.split(" "),
        "token_type": grant.token_type,
        "next_due_at": rfc3339(stored.due_at),
        "next_due_reason": None if reason is None else reason.value,
    }
