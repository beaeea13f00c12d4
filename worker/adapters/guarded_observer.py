"""An observer that raises must cost no lease, no answer and no recovery: a log or a metric is worth none."""

from types import TracebackType

import structlog

from worker.core.ports import Claim, Commit, Observer, RefreshReport, Verdict
from worker.core.promises import Refusal
from worker.core.providers import Client

log = structlog.get_logger(__name__)


class GuardedObserver:
    """Passes on to another observer, and logs what that one raises.

    The log names the exception's type alone: its text may quote what the observer was given.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def claimed(self, client: Client, claim: Claim) -> None:
        """A claim was answered."""
        with _Guarded("claimed"):
            self._observer.claimed(client, claim)

    def refreshed(self, report: RefreshReport) -> None:
        """A refresh ended."""
        with _Guarded("refreshed"):
            self._observer.refreshed(report)

    def committed(self, commit: Commit, verdict: Verdict) -> None:
        """The store decided about an answer."""
        with _Guarded("committed"):
            self._observer.committed(commit, verdict)

    def token_refused(self, client: str | None, refusal: Refusal) -> None:
        """A caller got no token."""
        with _Guarded("token_refused"):
            self._observer.token_refused(client, refusal)

    def recovered(self, epoch: int, *, offered: int, repaired: int) -> None:
        """This process has given back what it knows."""
        with _Guarded("recovered"):
            self._observer.recovered(epoch, offered=offered, repaired=repaired)


class _Guarded:
    """Logs an exception of the block and ends it there; each refresh enters two, so it is no generator."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):  # a cancellation is not the observer's
            return False
        log.error("observer.failed", what=self._what, error=type(error).__name__)
        return True
