"""What the refresher needs of the world.

The adapters implement these protocols; the simulation replaces those that are not under test.
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
    """The store did not answer, or cannot do it now; the change may have been made all the same."""

    @classmethod
    def because(cls, cause: Exception) -> Self:
        """With the cause's first line, or its name where it says nothing."""
        return cls((str(cause) or type(cause).__name__).splitlines()[0])


class StoreRefusedError(StoreUnavailableError):
    """The store answers, but fails at this request or at a record it found: asking again will not help."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh one grant until `until`.

    Attributes:
        grant: the record as it was when the lease was taken; it is `in_doubt` where an earlier intent has
            no outcome.
        fence: the lease's number. Fences only grow, and one outcome is stored for each.
        until: when the lease ends.
        client_probe: this grant tests whether its rejected client is accepted again.
        endpoint_probe: this grant is the half-open probe of its unavailable token endpoint.
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
        wait_ms: how long the rate budget allows nothing more.
        generation: grows when the client is accepted again; then its secrets are read anew.
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
    """Another process refreshes this grant, or may have its answer: a lease is possible from `until` on."""

    until: int


@dataclass(frozen=True, slots=True)
class Recovering:
    """The store restarted or was away: nothing is leased until its recovery is over."""


@dataclass(frozen=True, slots=True)
class Paused:
    """An operator took this grant out of work."""


class Verdict(StrEnum):
    """What became of an outcome at the store."""

    STORED = "stored"
    KNOWN = "known"  # it was stored before
    SUPERSEDED = "superseded"  # the stored refresh token is another one
    STALE = "stale"  # the lease is another's by now
    GONE = "gone"
    REBASE = "rebase"  # the answer stands, but must be made anew: the record moved on


@dataclass(frozen=True, slots=True)
class Commit:
    """An answer on its way into the store; what the journal keeps of it.

    Attributes:
        fence: of the lease under which the answer was asked for.
        base_lineage: of the refresh token that the answer was made from.
        base_version: of the record that the answer follows.
        base_status: of that record; it decides which event the commit emits.
        change: the successor with its sealed pair, its due time and its event.
    """

    fence: int
    base_lineage: bytes
    base_version: int
    base_status: Status
    change: Change


@dataclass(frozen=True, slots=True)
class Committed:
    """The store's verdict about a commit, and the version and status that are stored now.

    `status` is `None` where the grant is gone.
    """

    verdict: Verdict
    version: int
    status: Status | None


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stretch of the store's life without a restart or a silence; it begins with a recovery.

    Attributes:
        number: grows with each epoch; a store that forgot its last epoch does not use its number again.
        recovering: nothing is claimed until every live process has finished its recovery, or its time is up.
    """

    number: int
    recovering: bool


class Refusal(StrEnum):
    """The store's verdict about a refused client."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"  # it is rejected already, or was accepted again since the request left
    GRANT = "grant"  # the client is well: the same grant was refused before, and others were not


class FailureOf(StrEnum):
    """Whose failure an attempt without a usable answer is."""

    GRANT = "grant"  # the endpoint answers others
    PROVIDER = "provider"  # it may be the endpoint's: the grant is left as it is


@dataclass(frozen=True, slots=True)
class FailureVerdict:
    """The store's verdict about an attempt without a usable answer.

    Attributes:
        whose: whose failure it is.
        claims_stop: the client is throttled or rejected, or its endpoint is unavailable: for now only probes
            are sent.
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
    """Is called once for each thing that happens, in the process where it happens: a log, or metrics.

    Its methods are on the path of every refresh: they return at once and raise nothing.
    """

    def claimed(self, client: Client, claim: Claim) -> None:
        """A claim was answered; it may hold no lease."""

    def refreshed(self, report: RefreshReport) -> None:
        """A refresh ended, with any outcome. A refresh that the store broke off is not reported."""

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
    """The store's clock, carried forward between calls by a monotonic clock."""

    def now(self) -> int:
        """Unix milliseconds."""


class Sealer(Protocol):
    """Authenticated encryption of token pairs, bound to the grant and its version."""

    def seal(self, grant_id: str, version: int, pair: TokenPair) -> bytes:
        """Seal under the first key of the ring."""

    def open(self, grant: Grant) -> TokenPair:
        """Open with the key that sealed it.

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
        """Make sure that so many answers can be written, even if the disk fills up meanwhile.

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
        """The store has this answer, or a later one in its place: it may be removed after the retention."""

    def read(self) -> list[Commit]:
        """The last answer of each grant in this journal, oldest first."""

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
        """Whether the last `read` could read all of it."""

    def read(self) -> list[Commit]:
        """The last answer of each grant in it, oldest first."""

    def acknowledge(self, *, repaired: bool) -> None:
        """The store has all its answers, or later ones: they may be removed after the retention.

        Args:
            repaired: the store had lost some of them, and took them just now.
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
        """Attribute an attempt without a usable answer; the endpoint's failures are counted.

        Args:
            client: whose request it was. All grants of a throttled client wait.
            event: emitted if this failure makes the endpoint unavailable; its reason is what happened.
            lease: the attempt's. A failed half-open probe puts the next one off.
            sent_at: when the request left.
            retry_after_ms: how long the server asked to wait, bounded; `None` where it named no time.
            throttled: whether the server asked for fewer requests.
            chance: 0 to 1, for the jitter.
        """

    async def record_recovery(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let an unavailable endpoint's grants be claimed again; returns whether it was unavailable."""

    async def heartbeat(self, trouble: str) -> Epoch:
        """Say that this process lives, and why it claims nothing; `trouble` is empty where it claims."""

    async def finish_recovery(self, epoch: Epoch) -> Epoch:
        """Say that this process has given back what it knows; from then on it claims in this epoch."""

    async def reassert(self, lease: Lease) -> None:
        """Take back a lease that the store may have forgotten."""

    async def leave(self, owner: str | None = None) -> None:
        """Say that this process is gone, or that `owner` is."""
