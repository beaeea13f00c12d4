"""The report on the fleet that every face gives: `status`, `doctor`, the HTTP service and the console."""

from collections.abc import Callable, Iterable

from worker.core.ports import Entry
from worker.fleet.losses import GLANCE_SECONDS, Losses, find_losses
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


async def fleet_report(
    runtime: Runtime, journaled: Callable[[int | None], Iterable[Entry]] | None = None
) -> Report:
    """The report, with what a glance shows that this machine's journals have beyond the store.

    Args:
        runtime: of the deployment.
        journaled: reads the journals, as `find_losses` asks for it; `None` for as they are.
    """
    journaled = journaled or runtime.journals.entries
    losses = await find_losses(runtime.registry, runtime.fleet_state, journaled, seconds=GLANCE_SECONDS)
    return await report_of(runtime, losses)
