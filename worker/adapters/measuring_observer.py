"""What happens, as counts: gathered in this process, and added to the store with its heartbeat."""

from worker.core.measures import Gathered, Spread
from worker.core.outcomes import CannotUnseal, Refreshed, counted_as
from worker.core.ports import Claim, Commit, Observer, RefreshReport, Verdict
from worker.core.promises import Refusal
from worker.core.providers import Client


class MeasuringObserver:
    """Counts, and passes on to another observer.

    Args:
        following: hears the same.
        gathered: what this process has counted.
    """

    def __init__(self, following: Observer, gathered: Gathered) -> None:
        self._following = following
        self._gathered = gathered

    def claimed(self, client: Client, claim: Claim) -> None:
        """A claim was answered."""
        self._following.claimed(client, claim)

    def refreshed(self, report: RefreshReport) -> None:
        """A refresh ended."""
        outcome, due_at = report.outcome, report.lease.due_at
        is_refreshed = isinstance(outcome, Refreshed)
        if isinstance(outcome, CannotUnseal):
            if outcome.missing_key is not None:
                self._gathered.not_unsealed(outcome.missing_key)
        elif is_refreshed or counted_as(outcome) is not None:
            self._gathered.measured(Spread.DURATION, report.ended_at - report.began_at)
        if is_refreshed and due_at is not None:
            self._gathered.measured(Spread.LATENESS, report.ended_at - due_at)
        self._following.refreshed(report)

    def committed(self, commit: Commit, verdict: Verdict) -> None:
        """The store decided about an answer."""
        self._following.committed(commit, verdict)

    def token_refused(self, client: str | None, refusal: Refusal) -> None:
        """A caller got no token."""
        self._gathered.refused(client, refusal.value)
        self._following.token_refused(client, refusal)

    def recovered(self, epoch: int, *, offered: int, repaired: int) -> None:
        """This process has given back what it knows."""
        self._following.recovered(epoch, offered=offered, repaired=repaired)
