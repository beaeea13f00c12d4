"""What happens, as lines of the log: ids, codes and counts, never a token."""

import structlog

from worker.core.outcomes import ClientRejected, Refreshed, Stopped
from worker.core.ports import Claim, Commit, RefreshReport, Verdict
from worker.core.providers import Client

log = structlog.get_logger(__name__)


class LogObserver:
    """Logs failures as warnings, and what went well for debugging."""

    def claimed(self, client: Client, claim: Claim) -> None:
        """A claim was answered."""
        if claim.leases:
            log.debug("grants.claimed", client=client.name, grants=len(claim.leases))

    def refreshed(self, report: RefreshReport) -> None:
        """A refresh ended."""
        if isinstance(report.outcome, Refreshed | Stopped):
            return  # the commit logs the first, and the second was never sent
        # A client's refusal is told once as `client.rejected`, however many of its grants meet it.
        say = log.info if isinstance(report.outcome, ClientRejected) else log.warning
        say(
            "refresh.failed",
            grant=report.lease.grant.id,
            client=report.client.name,
            outcome=repr(report.outcome),
            status=report.grant.status.value,
            reason=report.grant.reason,
        )

    def committed(self, commit: Commit, verdict: Verdict) -> None:
        """The store decided about an answer."""
        grant = commit.change.grant
        if verdict in {Verdict.STORED, Verdict.KNOWN}:
            log.debug("grant.refreshed", grant=grant.id, client=grant.client, version=grant.version)
        else:
            log.warning("grant.answer_not_used", grant=grant.id, client=grant.client, verdict=verdict.value)

    def recovered(self, epoch: int, *, offered: int, repaired: int) -> None:
        """This process has given back what it knows."""
        if repaired:
            log.warning("journal.repaired_the_store", epoch=epoch, answers=offered, repaired=repaired)
        else:
            log.debug("journal.given_back", epoch=epoch, answers=offered)
