"""What the refresher needs of the world.

Each Protocol is a noun the refresher orders effects on; the adapters implement them, the simulation
replaces those that are not under test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from worker.core.events import Event
from worker.core.grant import Grant, Status, TokenPair
from worker.core.lifecycle import Change
from worker.core.outcomes import AttemptOutcome, Outcome
from worker.core.protocol import TokenRequest
from worker.core.providers import Client


class JournalError(Exception):
    """The journal cannot take an answer now; the message is one line that says why and where."""


class UnsealError(Exception):
    """A sealed pair cannot be opened: its key is not in the ring, or it was tampered with."""


class StoreUnavailableError(Exception):
    """The store did not answer, or cannot do it now; what was asked of it may have happened."""

    @classmethod
    def because(cls, cause: Exception) -> Self:
        """With the cause's first line, or its name where it says nothing."""
        return cls((str(cause) or type(cause).__name__).splitlines()[0])


class StoreRefusedError(StoreUnavailableError):
    """The store is there and broke off at what it was asked or found: to ask again will not help."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh one grant until `until`.

    Attributes:
        grant: the record as it was when the lease was taken; `in_doubt` tells of an intent whose
            outcome nobody knows.
        fence: the lease's number, growing; every outcome is stored under it, once.
        until: when the lease ends.
        client_probe: this grant finds out whether its rejected client is accepted again.
        endpoint_probe: this grant finds out whether its unavailable token endpoint answers again.
    """

    grant: Grant
    fence: int
    until: int
    client_probe: bool = False
    endpoint_probe: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk of due grants, each under its lease.

    Attributes:
        now: Redis's clock.
        leases: what was claimed.
        drained: nothing more is due.
        wait_ms: the rate budget is spent for this long.
        generation: grows when the client is accepted again; its secrets are to be read anew.
        recovering: nothing was claimed: the store is recovering, or this process has not recovered in its
            present epoch.
    """

    now: int
    leases: Sequence[Lease]
    drained: bool
    wait_ms: int
    generation: int
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class LeasedElsewhere:
    """Another process refreshes this grant, or may have its answer; it is waited for until `until`."""

    until: int


@dataclass(frozen=True, slots=True)
class Recovering:
    """The store restarted or was away, and nothing can be leased until what it forgot is given back."""


@dataclass(frozen=True, slots=True)
class Paused:
    """An operator took this grant out of work."""


class Verdict(StrEnum):
    """What became of an outcome at the store."""

    STORED = "stored"
    KNOWN = "known"  # it was stored before
    SUPERSEDED = "superseded"
    STALE = "stale"
    GONE = "gone"
    REBASE = "rebase"


@dataclass(frozen=True, slots=True)
class Commit:
    """An answer on its way into the store; what the journal keeps of it.

    Attributes:
        fence: of the lease that the answer was asked for under.
        base_lineage: the refresh token the answer was made from.
        base_version: of the record it follows.
        base_status: of that record: it decides which event tells of the commit.
        change: the successor, its pair sealed for its version, when it is due, and the event.
    """

    fence: int
    base_lineage: bytes
    base_version: int
    base_status: Status
    change: Change


@dataclass(frozen=True, slots=True)
class Committed:
    """What the store made of a commit, and the version and status that an answer has to follow.

    `status` is `None` where the grant is gone.
    """

    verdict: Verdict
    version: int
    status: Status | None


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stretch of the store's life without a restart or a silence; at its begin it settles.

    Attributes:
        number: growing, and none is used twice by a store that forgot.
        recovering: no claim passes until all that are present have confirmed it, or a time has passed.
    """

    number: int
    recovering: bool


class Refusal(StrEnum):
    """What the store made of a client's refusal."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"  # it is rejected already, or was accepted again since the request left
    GRANT = "grant"  # the client is well: the same grant was refused before, and others were not


class FailureOf(StrEnum):
    """Whose trouble it is that an attempt brought no usable answer."""

    GRANT = "grant"  # the endpoint answers others
    PROVIDER = "provider"  # the endpoint's, or nobody can tell: the grant is left as it is


@dataclass(frozen=True, slots=True)
class FailureVerdict:
    """What the store made of an attempt without a usable answer.

    Attributes:
        whose: trouble it is.
        claims_stop: the client is to wait, or it or its endpoint is in trouble: for now nothing of it is sent
            but what is let through alone.
    """

    whose: FailureOf
    claims_stop: bool


class ClientCheck(StrEnum):
    """What a client-credentials request said of the client."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """One refresh, from when it was taken up until its outcome was handed to the store.

    New tokens may still wait for a store that is away: `Observer.committed` says what became of them.

    Attributes:
        began_at: Unix ms.
        ended_at: Unix ms.
        grant: as it is stored afterwards, as far as this process knows.
    """

    lease: Lease
    client: Client
    outcome: AttemptOutcome
    began_at: int
    ended_at: int
    grant: Grant


class Observer(Protocol):
    """Hears what happens, once each, in the process where it happens. The log is one; metrics are another.

    Its methods are on the path of every refresh: they return at once and raise nothing.
    """

    def claimed(self, client: Client, claim: Claim) -> None:
        """A claim was answered; it may hold no lease."""

    def refreshed(self, report: RefreshReport) -> None:
        """A refresh ended, whatever its outcome; nothing is heard of one that the store broke off."""

    def committed(self, commit: Commit, verdict: Verdict) -> None:
        """The store decided about an answer."""

    def recovered(self, epoch: int, *, offered: int, repaired: int) -> None:
        """This process has given back what it knows in an epoch, or a journal that it took over since.

        Args:
            epoch: its number.
            offered: the answers that were given back.
            repaired: those among them that the store had lost.
        """


class Clock(Protocol):
    """Redis TIME, carried forward between calls by a monotonic clock."""

    def now(self) -> int:
        """Unix milliseconds."""


class Sealer(Protocol):
    """Authenticated encryption of token pairs, bound to the grant and its version."""

    def seal(self, grant_id: str, version: int, pair: TokenPair) -> bytes:
        """Seal under the first key of the ring."""

    def open(self, grant: Grant) -> TokenPair:
        """Open under whichever key sealed it.

        Raises:
            UnsealError: no key of the ring fits.
        """


class Clients(Protocol):
    """The configured clients, their secrets read from the source when they may have changed."""

    def __iter__(self) -> Iterator[Client]:
        """Every configured client."""

    def get(self, name: str, generation: int) -> Client:
        """The client as it is configured; read anew when `generation` has grown.

        Raises:
            KeyError: no client has that name any more.
        """

    def reread(self, name: str) -> Client:
        """The client as its source has it now."""


class ClientCredentials(Protocol):
    """Proof to a token endpoint that a request comes from the client.

    Two that authenticate alike are equal, so that a replaced secret shows as a changed client. Their `repr`
    shows no secret.
    """

    def authenticate(self, request: TokenRequest, client_id: str) -> TokenRequest:
        """A copy of `request` with the proof in its form or its headers; never raises.

        Called for each request that is sent: an assertion that may be used once is made anew each time.
        """


class Journal(Protocol):
    """Answers on this machine's disk, from before their commit until a while after it."""

    async def reserve(self, answers: int) -> None:
        """Make sure that so many answers can be written, whatever becomes of the disk meanwhile.

        Args:
            answers: all that may come, those in flight included.

        Raises:
            JournalError: there is no room for them, or the directory cannot be used.
        """

    async def write(self, commit: Commit) -> None:
        """Put an answer on the disk; it is there when this returns.

        Raises:
            JournalError: it may not be there.
        """

    def acknowledge(self, commit: Commit) -> None:
        """The store has taken this answer, or another in its place: it may be forgotten after a while."""

    def read(self) -> list[Commit]:
        """What this journal holds, the last answer of each grant, oldest first."""

    async def sweep(self) -> None:
        """Remove what has been kept long enough."""


class AbandonedJournal(Protocol):
    """The journal of a process that died, taken over by this one."""

    @property
    def owner(self) -> str:
        """The process that wrote it."""

    @property
    def is_expired(self) -> bool:
        """Whether it has been kept long enough, and need not be replayed again."""

    @property
    def is_complete(self) -> bool:
        """Whether all of it could be read the last time."""

    def read(self) -> list[Commit]:
        """What it holds, the last answer of each grant, oldest first."""

    def acknowledge(self, *, repaired: bool) -> None:
        """The store has all its answers, or others in their place: they may be forgotten after the retention.

        Args:
            repaired: the store took some of them just now.
        """


class JournalDirectory(Protocol):
    """The journals of all processes in one data directory."""

    def take_over(self, own: str) -> Sequence[AbandonedJournal]:
        """Take over the journals whose owners are dead; each is returned once.

        Args:
            own: the owner of this process's journal, which is left alone.

        Raises:
            JournalError: the directory cannot be read.
        """

    def sweep(self) -> None:
        """Remove the journals that have been kept long enough."""


class TokenEndpoint(Protocol):
    """The authorization server's token endpoint. Neither method raises on what a server does."""

    async def refresh(self, client: Client, pair: TokenPair, now: int) -> Outcome:
        """Ask once for new tokens, within the total deadline."""

    async def check(self, client: Client, now: int) -> ClientCheck:
        """Ask whether the client itself is accepted."""


class Store(Protocol):
    """Grants, leases, schedule and events. Every method is one atomic script."""

    async def claim(self, client: Client, limit: int, runner: str) -> Claim:
        """Lease up to `limit` due grants of a client, each with its intent."""

    async def lease(self, grant_id: str) -> Lease | LeasedElsewhere | Recovering | Paused | None:
        """Lease one grant whether it is due or not; `None` where there is no such grant."""

    async def commit(self, commit: Commit) -> Committed:
        """Store an answer if and only if the lineage is still its own."""

    async def record_outcome(self, lease: Lease, change: Change, answered_at: int | None = None) -> Verdict:
        """Store an outcome without tokens, if the lease is still ours.

        `answered_at` is when the request left that the endpoint answered readably; `None` where it did not.
        """

    async def reject_client(self, client: Client, event: Event, lease: Lease, *, sent_at: int) -> Refusal:
        """Pause a client that was refused under `lease`. A refused probe puts the next one off."""

    async def accept_client(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let a rejected client's grants be claimed again; returns whether it was rejected."""

    async def record_failure(
        self,
        client: Client,
        event: Event,
        lease: Lease,
        *,
        sent_at: int,
        retry_after_ms: int | None,
        throttled: bool,
        chance: float,
    ) -> FailureVerdict:
        """Find out whose trouble an attempt without a usable answer is; the endpoint's is counted.

        Args:
            client: whose request it was; a client that was told to wait is held as a whole.
            event: tells that the endpoint is unavailable, if this makes it so; its reason is what happened.
            lease: the attempt's. A failed endpoint_probe puts the next one off.
            sent_at: when the request left.
            retry_after_ms: how long to wait, bounded; `None` where the server did not say.
            throttled: whether the server asked for it.
            chance: 0 to 1, for the jitter.
        """

    async def record_recovery(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let an unavailable endpoint's grants be claimed again; returns whether it was unavailable."""

    async def heartbeat(self, trouble: str) -> Epoch:
        """Say that this process is present, and what keeps it from claiming, if anything."""

    async def finish_recovery(self, epoch: Epoch) -> Epoch:
        """Say that this process has given back what it knows; from then on it claims in this epoch."""

    async def reassert(self, lease: Lease) -> None:
        """Take back a lease that the store may have forgotten."""

    async def leave(self, owner: str | None = None) -> None:
        """Say that this process is gone, or another one that is known to be."""
