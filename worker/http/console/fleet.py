"""The fleet at a glance: what `evergrant status` says."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from starlette.responses import Response

from worker.core.api_keys import Scope
from worker.core.grant import Status
from worker.core.registry import ClientState
from worker.http.console.rendering import see, sees_fleet
from worker.http.problems import Code, Problem
from worker.runtime.reporting import fleet_report

if TYPE_CHECKING:
    from worker.fleet.report import Report
    from worker.http.console.queries import LiveQuery
    from worker.http.console.visits import Visit

MOST_CLIENTS: Final = 100  # of more, only those of which there is something to say
MOST_INCIDENTS: Final = 100


async def show_fleet(visit: "Visit") -> Response:
    """`GET /`: the fleet, or what else the key may see."""
    if not sees_fleet(visit.key):
        if visit.key.may(Scope.GRANTS):
            return see("/grants")
        detail = "takes a key with the scope fleet or grants; that of fleet without labels"
        raise Problem(Code.FORBIDDEN, detail)
    report = await fleet_report(visit.call.runtime)
    shown = _shown(report)
    query = cast("LiveQuery", visit.call.query)
    return visit.render(
        "fleet.html",
        is_live=query.still is None,
        report=report,
        clients=shown,
        folded=len(report.clients) - len(shown),
        incidents=report.most_urgent[:MOST_INCIDENTS],
        folded_incidents=max(len(report.incidents) - MOST_INCIDENTS, 0),
        totals=_totals(report.clients),
        statuses=list(Status),
        due=sum(client.due for client in report.clients),
        may_list=visit.key.may(Scope.GRANTS),
    )


def _shown(report: "Report") -> Sequence[ClientState]:
    if len(report.clients) <= MOST_CLIENTS:
        return report.clients
    return report.noteworthy[:MOST_CLIENTS]


def _totals(clients: Sequence[ClientState]) -> Counter[Status]:
    totals: Counter[Status] = Counter()
    for client in clients:
        totals.update(client.grants)
    return totals
