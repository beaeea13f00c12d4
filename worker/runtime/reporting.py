"""The report on the fleet that every face gives: `status`, `doctor`, the HTTP service and the console."""

from worker.fleet.losses import Losses
from worker.fleet.report import Report, report_on
from worker.runtime.assembly import Runtime


async def report_of(runtime: Runtime, losses: Losses | None = None) -> Report:
    """What there is to say of the fleet now.

    Args:
        runtime: of the deployment.
        losses: what the store lacks of this machine's journals; `None` for nothing, or where nobody looked.
    """
    return await report_on(
        runtime.registry,
        runtime.fleet_state,
        runtime.replies,
        list(runtime.clients.names()),
        runtime.deployment.settings.name_of,
        losses,
        runtime.webhook_store,
        key_of=runtime.deployment.keys.key_of,
    )
