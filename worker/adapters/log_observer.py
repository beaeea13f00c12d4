"""What happens, as lines of the log: ids, codes and counts, never a token."""

import structlog

from worker.core import lifetimes
from worker.core.outcomes import AnswerKnown, ClientRejected, NoLifetime, Refreshed, Stopped
from worker.core.ports import Claim, Commit, RefreshReport, Verdict
from worker.core.promises import Refusal
from worker.core.providers import Client

log = structlog.get_logger(__name__)


class LogObserver:
    """Logs failures as warnings, and what went well for debugging."""

    def __init__(self) -> None:
        self._noticed: set[str] = set()  # clients whose tokens' lifetime nobody states

    def claimed(self, client: Client, claim: Claim) -> None:
        """A claim was answered."""
        if claim.leases:
            log.debug("grants.claimed", client=client.name, grants=len(claim.leases))

    def refreshed(self, report: RefreshReport) -> None:
        """A refresh ended."""
        if isinstance(report.outcome, Refreshed):
            self._notice_assumption(report, report.outcome)
            return  # the commit logs the rest
        if isinstance(report.outcome, Stopped | AnswerKnown):
            return  # it was never sent; of an answer that is known the log has more
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

    def _notice_assumption(self, report: RefreshReport, answer: Refreshed) -> None:
        """Say once for each client that its tokens' lifetime is a guess, which a setting would end."""
        client = report.client
        is_known = report.grant.stated_life_ms is not None or lifetimes.documented_ms(client) is not None
        if answer.expires_in_ms is not NoLifetime.UNKNOWN or is_known or client.name in self._noticed:
            return
        self._noticed.add(client.name)
        setting = f"EVERGRANT_CLIENTS__{client.name.upper()}__ACCESS_LIFETIME_SECONDS"
        log.warning(
            "lifetime.assumed",
            client=client.name,
            grant=report.grant.id,
            seconds=lifetimes.FALLBACK_LIFETIME_MS // 1000,
            advice=f"replies state no lifetime of access tokens; {setting} can",
        )

    def committed(self, commit: Commit, verdict: Verdict) -> None:
        """The store decided about an answer."""
        grant = commit.change.grant
        if verdict in {Verdict.STORED, Verdict.KNOWN}:
            log.debug("grant.refreshed", grant=grant.id, client=grant.client, version=grant.version)
        else:
            log.warning("grant.answer_not_used", grant=grant.id, client=grant.client, verdict=verdict.value)

    def token_refused(self, client: str | None, refusal: Refusal) -> None:
        """A caller got no token, and was told why."""
        log.debug("token.refused", client=client, refusal=refusal.value)

    def recovered(self, epoch: int, *, offered: int, repaired: int) -> None:
        """This process has given back what it knows."""
        if repaired:
            log.warning("journal.repaired_the_store", epoch=epoch, answers=offered, repaired=repaired)
        else:
            log.debug("journal.given_back", epoch=epoch, answers=offered)
