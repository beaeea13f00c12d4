"""What the refresher needs of the world.

Each Protocol is a noun the refresher orders effects on; the adapters implement them, the simulation
replaces those that are not under test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self

from worker.core.events import Event
from worker.core.grant import Grant, Status, TokenPair
from worker.core.lifecycle import Change, Successor
from worker.core.protocol import Outcome
from worker.core.providers import Client


class UnsealError(Exception):
    """A sealed pair cannot be opened: its key is not in the ring, or it was tampered with."""


class StoreUnavailableError(Exception):
    """The store did not answer, or cannot do it now; what was asked of it may have happened."""

    @classmethod
    def because(cls, cause: Exception) -> Self:
        """With the cause's first line, or its name where it says nothing."""
        return cls((str(cause) or type(cause).__name__).splitlines()[0])


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh one grant until `until`.

    Attributes:
        grant: the record as it was when the lease was taken; `in_doubt` tells of an intent whose
            outcome nobody knows.
        fence: the lease's number, growing; every outcome is stored under it, once.
        until: when the lease ends.
        probe: this grant was let through to find out whether its rejected client is accepted again.
    """

    grant: Grant
    fence: int
    until: int
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk of due grants, each under its lease.

    Attributes:
        now: Redis's clock.
        leases: what was claimed.
        drained: nothing more is due.
        wait_ms: the rate budget is spent for this long.
        generation: grows when the client is accepted again; its secrets are to be read anew.
    """

    now: int
    leases: Sequence[Lease]
    drained: bool
    wait_ms: int
    generation: int


@dataclass(frozen=True, slots=True)
class Held:
    """Another process refreshes this grant; its lease ends at `until`."""

    until: int


@dataclass(frozen=True, slots=True)
class Paused:
    """An operator took this grant out of work."""


class Verdict(StrEnum):
    """What became of an outcome at the store."""

    STORED = "stored"
    SUPERSEDED = "superseded"
    STALE = "stale"
    GONE = "gone"
    REBASE = "rebase"


@dataclass(frozen=True, slots=True)
class Commit:
    """An answer on its way into the store.

    Attributes:
        base_lineage: the refresh token the answer was made from.
        base_version: of the record it follows.
        base_status: of that record: it decides which event tells of the commit.
        sealed: the successor's pair, sealed for its version.
    """

    fence: int
    base_lineage: bytes
    base_version: int
    base_status: Status
    successor: Successor
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Committed:
    """What the store made of a commit, and the version and status of the record as it stands.

    `status` is `None` where the grant is gone.
    """

    verdict: Verdict
    version: int
    status: Status | None


class Refusal(StrEnum):
    """What the store made of a client's refusal."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    GRANT = "grant"  # the client is well: the same grant was refused before, and others were not


class ClientCheck(StrEnum):
    """What a client-credentials request said of the client."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


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

    def get(self, name: str, generation: int) -> Client:
        """The client as it is configured; read anew when `generation` has grown.

        Raises:
            KeyError: no client has that name any more.
        """

    def reread(self, name: str) -> Client:
        """The client as its source has it now."""


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

    async def lease(self, grant_id: str) -> Lease | Held | Paused | None:
        """Lease one grant whether it is due or not; `None` where there is no such grant."""

    async def commit(self, commit: Commit) -> Committed:
        """Store an answer if and only if the lineage is still its own."""

    async def settle(self, lease: Lease, change: Change) -> Verdict:
        """Store an outcome without tokens, if the lease is still ours."""

    async def reject_client(self, client: Client, event: Event, lease: Lease, *, sent_at: int) -> Refusal:
        """Pause a client that was refused under `lease`. A refused probe puts the next one off."""

    async def accept_client(self, client: Client, event: Event, lease: Lease) -> bool:
        """Let a rejected client's grants be claimed again; returns whether it was rejected."""
