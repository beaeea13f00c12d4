"""What the refresher needs of the world.

The adapters implement these protocols; the simulation replaces those that are not under test.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from worker.core.audit import By
from worker.core.connecting import (
    CodeProblem,
    Confirmed,
    Consent,
    Returned,
    StoredConsent,
    Ticket,
    ToRevoke,
    Wanted,
)
from worker.core.events import Event
from worker.core.failures import StoreRefusedError as StoreRefusedError  # noqa: PLC0414 found here by others
from worker.core.failures import StoreUnavailableError as StoreUnavailableError  # noqa: PLC0414 found here by others
from worker.core.failures import UnsealError as UnsealError  # noqa: PLC0414 found here by others
from worker.core.failures import WritesRefusedError as WritesRefusedError  # noqa: PLC0414 found here by others
from worker.core.grant import Grant, Status, TokenPair
from worker.core.lifecycle import Change
from worker.core.outcomes import AttemptOutcome, Counted, Outcome, Reply
from worker.core.promises import Refusal as TokenRefusal
from worker.core.protocol import TokenRequest
from worker.core.providers import Client
from worker.core.revocation import Revocation


class JournalError(Exception):
    """The journal cannot take an answer now; the message is one line that says why and where."""


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
        comparison: this grant is tried, due or not, to find out whom the refusals of others mean.
        due_at: when it came due, Unix ms; `None` where it was not due.
    """

    grant: Grant
    fence: int
    until: int
    client_probe: bool = False
    endpoint_probe: bool = False
    comparison: bool = False
    due_at: int | None = None

    @property
    def out_of_turn(self) -> bool:
        """Whether the grant is tried whether it is due or not."""
        return self.client_probe or self.endpoint_probe or self.comparison or self.grant.in_doubt


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
class DueClients:
    """One page of the clients that something may be claimed of now.

    Attributes:
        names: those that are due first come first.
        has_more: the next page begins after all the names that were returned so far.
    """

    names: Sequence[str]
    has_more: bool


@dataclass(frozen=True, slots=True)
class LeasedElsewhere:
    """Another process refreshes this grant, or may have its answer: a lease is possible from `until` on."""

    until: int


@dataclass(frozen=True, slots=True)
class Unproven:
    """The client's registration has not refreshed anything yet, so one grant at a time is tried.

    Another one is being tried until `until`; `None` where its reply could not be read, so that a person must
    look at it first.
    """

    until: int | None


@dataclass(frozen=True, slots=True)
class Recovering:
    """The store restarted or was away: nothing is leased until its recovery is over."""


@dataclass(frozen=True, slots=True)
class Paused:
    """An operator took this grant out of work."""


@dataclass(frozen=True, slots=True)
class ReplyKept:
    """A reply that could not be read is kept for this grant: its token is not presented again.

    Attributes:
        number: of the reply.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Promised:
    """The grant's access token was handed out, and is not to be ended before `until`."""

    until: int


@dataclass(frozen=True, slots=True)
class RefusedLately:
    """The grant was refreshed for a token that an API refused; it is not for another before `until`."""

    until: int


@dataclass(frozen=True, slots=True)
class Moved:
    """The refused version is not the stored one any more."""


NotLeased = LeasedElsewhere | Unproven | Recovering | Paused | ReplyKept | Promised | RefusedLately | None
"""Why there is no lease; `None` where there is no such grant."""


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

    @property
    def used_up(self) -> bytes:
        """The lineage of the refresh token that this answer replaced; empty where it replaced none."""
        return b"" if self.change.grant.lineage == self.base_lineage else self.base_lineage


@dataclass(frozen=True, slots=True)
class KeptReply:
    """A reply that nobody could read, on its way into the store; what the journal keeps of it.

    Attributes:
        fence: of the lease under which it came.
        change: the grant, with the pair that was presented, and the event of a bout that begins with it.
        sealed: the reply.
        size: bytes of its body.
        detail: what is wrong with it.
        sent_at: when the request left, Unix ms: the lifetimes in it count from there.
        received_at: when it came.
        registration: of the client, as it was then (`Client.registration`).
        endpoint_probe: the request was a half-open probe of the endpoint.
        outage: the event of the endpoint, which is stopped; its subject is the token URL.
    """

    fence: int
    change: Change
    sealed: bytes = field(repr=False)
    size: int
    detail: str
    sent_at: int
    received_at: int
    registration: str
    endpoint_probe: bool
    outage: Event

    @property
    def used_up(self) -> bytes:
        """The lineage of the refresh token that was presented; empty where there was none."""
        return self.change.grant.lineage


Entry = Commit | KeptReply | Consent | Confirmed
"""What a journal holds: all that a server answered and the store may lack."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The store's verdict about a commit, and the version and status that are stored now.

    `status` is `None` where the grant is gone.
    """

    verdict: Verdict
    version: int
    status: Status | None


@dataclass(frozen=True, slots=True)
class ClockJump:
    """The server's clock was set by more than a second. The store's own clock never runs back.

    Attributes:
        at: when it was noticed, Unix ms.
        by_ms: by how much; negative if it was set back. A second or so may be missing.
        ahead_ms: how far the store's clock is ahead of the server's now.
    """

    at: int
    by_ms: int
    ahead_ms: int

    @property
    def problem(self) -> str:
        """What happened, and how it stands with refreshes."""
        by = f"{abs(self.by_ms) / 1_000:.0f} s"
        if self.by_ms > 0:
            return (
                f"Redis's clock was set forward by about {by}: grants are refreshed early, but those whose"
                " requests were in flight keep their leases for a while"
            )
        return (
            f"Redis's clock was set back by about {by}: refreshes go on by the store's own clock, which is"
            f" {self.ahead_ms / 1_000:.0f} s ahead of Redis's now, and so are the times that are shown"
        )


CLOCK_ADVICE: Final = (
    "Keep the clock of every server that can become the primary by NTP, and let it slew instead of step."
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stretch of the store's life without a restart or a silence; it begins with a recovery.

    Attributes:
        number: grows with each epoch; a store that forgot its last epoch does not use its number again.
        recovering: nothing is claimed until every live process has finished its recovery, or its time is up.
        began_at: when the store began, Unix ms: a store that was flushed begins anew. 0 where nobody knows.
        now: when this was known, Unix ms.
        jump: how the server's clock was last set; `None` where it never was.
    """

    number: int
    recovering: bool
    began_at: int = field(default=0, compare=False)
    now: int = field(default=0, compare=False)
    jump: ClockJump | None = field(default=None, compare=False)


class RefusalWords(StrEnum):
    """What the words of a refusal mean."""

    CLIENT = "client"  # the client, for certain
    EITHER = "either"  # they name the client, but servers say it of single grants too
    NOTHING = "nothing"  # there are none, or none that we know
    GRANT = "grant"  # the grant is dead


class Refusal(StrEnum):
    """The store's verdict about a refusal, found by comparison with the client's other grants."""

    GRANT = "grant"  # another grant was accepted after this one was refused first: it is the grant's own
    CHANGED = "changed"  # the client is paused from now on
    UNCHANGED = "unchanged"  # it is paused already, or was accepted again since the request left
    UNDECIDED = "undecided"  # other grants are tried first
    ALONE = "alone"  # there is no other grant to compare with


@dataclass(frozen=True, slots=True)
class RefusalVerdict:
    """Whom a refusal means, and whether the client's claims stop for now."""

    whom: Refusal
    claims_stop: bool


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

    Its methods are on the path of every refresh: they return at once. What they raise is logged, and breaks
    nothing.
    """

    def claimed(self, client: Client, claim: Claim) -> None:
        """A claim was answered; it may hold no lease."""

    def refreshed(self, report: RefreshReport) -> None:
        """A refresh ended, with any outcome. A refresh that the store broke off is not reported."""

    def committed(self, commit: Commit, verdict: Verdict) -> None:
        """The store decided about an answer."""

    def token_refused(self, client: str | None, refusal: TokenRefusal) -> None:
        """A caller got no token; `client` is `None` where nothing is known of the grant."""

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

    def by_redis(self, at: int) -> int:
        """An instant by the server's own clock: what others outside compare with theirs."""


class Sealer(Protocol):
    """Authenticated encryption of token pairs and kept replies, bound to client, grant and version."""

    def is_current(self, sealed: bytes) -> bool:
        """Whether a value is sealed as it would be now: with the first key of the ring, in today's format."""

    def key_of(self, sealed: bytes) -> str:
        """The id of the key that sealed a value; empty where it says none."""

    def seal(self, grant: Grant, pair: TokenPair) -> bytes:
        """Seal with the first key of the ring, for the record that `grant` will be."""

    def seal_successor(self, grant: Grant, pair: TokenPair) -> bytes:
        """The same, for the version that follows the grant's."""

    def open(self, grant: Grant) -> TokenPair:
        """Open with the key that sealed it.

        Raises:
            UnsealError: no key of the ring fits.
        """

    def seal_reply(self, client: str, grant_id: str, version: int, reply: Reply) -> bytes:
        """Seal a reply that came to the pair of this version; it opens as nothing else."""

    def open_reply(self, client: str, grant_id: str, version: int, sealed: bytes) -> Reply:
        """Open a kept reply.

        Raises:
            UnsealError: no key of the ring fits.
        """


class Clients(Protocol):
    """The configured clients, read from their source when they may have changed.

    Clients come and go while the process runs. One that was removed is no longer among the names; `get` and
    `reread` still know it as it was, so that what is under way ends in order.
    """

    def __iter__(self) -> Iterator[Client]:
        """Every configured client."""

    def names(self) -> Collection[str]:
        """The names of the configured clients."""

    def get(self, name: str, generation: int) -> Client:
        """The client as it is configured; read anew when `generation` has grown.

        Raises:
            KeyError: no client has had that name since the process started.
        """

    def reread(self, name: str) -> Client:
        """The client as its source has it now."""


class ClientCredentials(Protocol):
    """Proof to a token endpoint that a request comes from the client.

    Two that authenticate alike are equal, so that a replaced secret shows as a changed client. Their `repr`
    shows no secret.
    """

    @property
    def method(self) -> str:
        """The method's name, as the setting has it: it says how, and holds no secret."""

    def authenticate(self, request: TokenRequest, client_id: str, now: int) -> TokenRequest:
        """A copy of `request` with the proof in its form, its headers or its connection; never raises.

        Called for each request that is sent: an assertion that may be used once is made anew each time.
        `now`, in Unix milliseconds by the store's clock, is when the request is sent.
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

    async def write(self, entry: Entry) -> None:
        """Put an answer on the disk; it is there when this returns.

        Raises:
            JournalError: it may not be there.
        """

    def acknowledge(self, entry: Entry) -> None:
        """The store has this answer, or a later one in its place: it may be removed after the retention."""

    def read(self) -> list[Entry]:
        """The last answer of each grant in this journal and every kept reply, oldest first."""

    async def answer_to(self, lineage: bytes) -> Entry | None:
        """The answer that used up the refresh token of this lineage; `None` where this journal has none.

        Asked before each request: it reads the disk only where there is such an answer.

        Raises:
            JournalError: there is one, and it cannot be read.
        """

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

    def read(self) -> list[Entry]:
        """The last answer of each grant in it and every kept reply, oldest first."""

    def acknowledge(self, *, repaired: bool) -> None:
        """The store has all its answers, or later ones: they may be removed after the retention.

        Args:
            repaired: the store had lost some of them, and took them just now.
        """


class Journals(Protocol):
    """The journals of all processes in one data directory, to be read."""

    def entries(self, before: int | None = None) -> Iterator[Entry]:
        """Each answer in them, those of one file in the order they were written. Blocks.

        Args:
            before: only those whose lease began before this instant, in Unix ms; what was written about then
                comes first.

        Raises:
            JournalError: the directory cannot be read.
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

    def look(self, own: str) -> None:
        """Take note of what the other journals have gained since the last look, whoever holds them. Blocks.

        Args:
            own: the owner of this process's journal.

        Raises:
            JournalError: the directory cannot be read.
        """

    async def answer_to(self, lineage: bytes) -> Entry | None:
        """As `Journal.answer_to`, of the other journals as of the last look."""

    def sweep(self) -> None:
        """Remove the journals that have been kept long enough."""


class TokenEndpoint(Protocol):
    """The authorization server's endpoints. No method raises on what a server does."""

    async def refresh(self, client: Client, pair: TokenPair, now: int) -> Outcome:
        """Ask once for new tokens, within the total deadline."""

    async def check(self, client: Client, now: int) -> ClientCheck:
        """Ask whether the client itself is accepted."""

    async def revoke(self, client: Client, pair: TokenPair, now: int) -> Revocation:
        """Ask once to revoke a pair, at the client's revocation endpoint, within the total deadline."""


class CodeEndpoint(Protocol):
    """The authorization servers' endpoints, where codes are exchanged for tokens."""

    async def exchange(
        self, client: Client, code: str, *, redirect_uri: str, verifier: str, now: int
    ) -> Outcome:
        """Ask once for the tokens of a code, within the total deadline; what a server does raises nothing."""


class Store(Protocol):
    """Grants, leases, schedule and events. Every method is one atomic script."""

    async def due_clients(self, offset: int, limit: int) -> DueClients:
        """One page of the clients that something may be claimed of now.

        Args:
            offset: how many names the pages before this one returned.
            limit: how long a page is.
        """

    async def claim(self, client: Client, limit: int, runner: str) -> Claim:
        """Lease up to `limit` due grants of a client, each with its intent."""

    async def lease(
        self,
        grant_id: str,
        *,
        even_paused: bool = False,
        reply: int | None = None,
        ends_promise: bool = False,
        refused_version: int | None = None,
    ) -> Lease | Moved | NotLeased:
        """Lease one grant whether it is due or not; `None` where there is no such grant.

        Args:
            grant_id: of the grant.
            even_paused: lease it though an operator took it out of work.
            reply: the number of its kept reply, to be adopted under this lease; a paused grant is leased for
                it too. Without it a grant that has a kept reply is not leased.
            ends_promise: lease it though its access token was handed out with a promise. A paused grant, and
                one for its kept reply, is leased so at any rate: a person asks for it.
            refused_version: an API refused the access token of this version: its promise ends too, at most
                once a minute. No other version is leased.
        """

    async def commit(self, commit: Commit) -> Committed:
        """Store an answer if and only if the lineage is still its own."""

    async def keep_reply(self, kept: KeptReply) -> Verdict:
        """Keep a reply that nobody could read, and stop its endpoint at once.

        Where the stored pair is an older one of the same line, the one that was presented takes its place.
        """

    async def record_outcome(
        self,
        lease: Lease,
        change: Change,
        answered_at: int | None = None,
        believed_at: int | None = None,
        counted: Counted | None = None,
    ) -> Verdict:
        """Store an outcome without tokens, if the lease is still ours.

        Args:
            lease: the attempt's.
            change: what becomes of the grant.
            answered_at: when the request left that the endpoint answered readably; `None` where it did not.
            believed_at: when a rejection is believed that is not believed yet.
            counted: as what the attempt counts; `None` where none was made.
        """

    async def record_refusal(
        self,
        client: Client,
        event: Event,
        lease: Lease,
        *,
        words: RefusalWords,
        sent_at: int,
        believe_ms: int,
    ) -> RefusalVerdict:
        """Find out whom a refusal means; the client is paused where it is the client.

        Args:
            client: whose request it was.
            event: emitted if this refusal pauses the client.
            lease: the attempt's. A refused probe puts the next one off.
            words: what the refusal says.
            sent_at: when the request left.
            believe_ms: how long the rejection of every grant is not believed.
        """

    async def accept_client(self, client: Client, event: Event, lease: Lease, *, is_refreshed: bool) -> bool:
        """Let a rejected client's grants be claimed again; returns whether it was rejected.

        `is_refreshed` says that the grant got tokens. Where every grant was rejected, nothing less will do.
        """

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

    async def heartbeat(self, trouble: str, untaken: Sequence[str] = ()) -> Epoch:
        """Say that this process lives.

        Args:
            trouble: why it claims nothing; empty where it claims.
            untaken: the grants whose answers the store fails at.
        """

    async def finish_recovery(self, epoch: Epoch) -> Epoch:
        """Say that this process has given back what it knows; from then on it claims in this epoch."""

    async def reassert(self, lease: Lease) -> None:
        """Take back a lease that the store may have forgotten."""

    async def leave(self, owner: str | None = None) -> None:
        """Say that this process is gone, or that `owner` is dead."""


class SignInStore(Protocol):
    """The sign-ins of a deployment."""

    async def open(self, link: Ticket, wanted: Wanted, by: By) -> int:
        """Note a new sign-in; returns when its link ends, Unix ms."""

    async def start(self, link: Ticket, state: Ticket, browser: bytes) -> Wanted:
        """Note that a browser sets out to the provider.

        Args:
            link: what it opened.
            state: what it is sent with.
            browser: the SHA-256 of its cookie.

        Raises:
            ConnectError: there is no such link, it was used, or it has ended.
        """

    async def come_back(self, state: Ticket, browser: bytes, attempt: str) -> Returned:
        """Use a state up; the same attempt gets the same answer again.

        Raises:
            ConnectError: there is no such state, it was used, another browser left with it, or it has ended.
        """

    async def fail(self, sign_in: str, by: By) -> None:
        """End a sign-in that brought nothing."""

    async def keep(self, consent: Consent) -> Verdict:
        """Keep what a provider gave for a code, until somebody confirms it or its time is over."""

    async def find(self, code: Ticket) -> StoredConsent | CodeProblem:
        """The consent that a code confirms."""

    async def confirm(self, confirmed: Confirmed) -> Committed:
        """Make a confirmed consent a grant, in place of the stored one if and only if that is its base."""

    async def any_to_revoke(self) -> bool:
        """Whether there are pairs to be revoked now."""

    async def to_revoke(self, most: int) -> list[ToRevoke]:
        """Pairs to be revoked now; each is given again after a pause, unless it is forgotten.

        There are none while the store recovers: a confirmation may be about to come back.
        """

    async def forget(self, sign_in: str) -> None:
        """Forget the pair of a sign-in: it was revoked, or cannot be."""
