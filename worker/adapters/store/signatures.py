"""The arguments of each Lua script, declared once.

A call is a named tuple: `scripts.run(signatures.Leave(owner="worker-1"))`. Its class names the
script, its fields are the arguments. From the class come the packing here and the line of Lua that
names the arguments there:

    local owner = unpack(cmsgpack.unpack(ARGV[1]), 1, 1)

Rules:
- Numbers arrive as numbers, booleans as booleans, a sequence as a table, and `None` as nil. Text
  and bytes are both Lua strings.
- All arguments of a call travel as one MessagePack array: redis-py encodes each argument of a
  command in Python, which for a commit took longer than sealing it.
- A Lua number is a double. It holds every integer up to 2^53 exactly; fences, the largest, are near
  1.8e15.
- Unless a field says otherwise: an instant is Unix ms (`_at`), a duration is ms (`_ms`), and an
  event is its JSON, or `None` where the change has none.
"""

import re
from typing import Final, NamedTuple, get_args

import msgpack

By = tuple[str, str]
"""Who asked for a change, and from where."""


class Ask(NamedTuple):
    """One client's part of a `Claim`.

    Attributes:
        limit: the most grants to claim.
        rate: requests a second that the client may send; `None` for any number.
        registration: of the client, as the server will see it.
    """

    client: str
    limit: int
    rate: float | None
    token_url: str
    registration: str


class Claim(NamedTuple):
    """Claim due grants of some clients.

    Attributes:
        claim_id: names this attempt; a repeated claim gets the same leases.
        runner: the reserved place that this claim keeps; `None` where it has none.
        recovered_epoch: the epoch in which this process finished its recovery.
        at_least: what the store's clock has reached, as this process knows; `None` if it was never told.
    """

    claim_id: str
    owner: str
    lease_ms: int
    runner: str | None
    recovered_epoch: int
    asks: tuple[Ask, ...]
    at_least: int | None = None


class Lease(NamedTuple):
    """Lease one grant, due or not; the other fields are those of `Claim`.

    Attributes:
        even_paused: lease it though an operator took it out of work.
        reply: the number of its kept reply, to be adopted; `None` where its token is to be presented.
        ends_promise: lease it though its access token was handed out with a promise.
        refused_version: an API refused the access token of this version; the lease is for no other.
    """

    id: str
    claim_id: str
    owner: str
    lease_ms: int
    recovered_epoch: int
    even_paused: bool = False
    reply: int | None = None
    ends_promise: bool = False
    refused_version: int | None = None
    at_least: int | None = None


class HandOut(NamedTuple):
    """Hand out an access token, with a promise until when it is not rotated.

    Attributes:
        request_id: names this request; a repeated one is promised the same.
        actor: who asks, for the audit stream.
        origin: where from.
        min_ttl_ms: how long the token must work; `None` where the caller did not say.
        refused_version: an API refused the access token of this version; `None` where none was refused.
        is_unpromised: hand it out as it is: nothing may be promised, and no refresh can be had.
        planned_version: the version that the next two fields are about; `None` where nothing is planned.
        promisable_until: the latest safe refresh of that version's pair.
        outlives: its access token lives on after a refresh.
        margin_ms: before the access token's end.
        brief_ms: what is enough for a caller who did not say.
        usual_ms: what it lasts where nothing is due sooner.
        longest_ms: of a token that outlives its refresh, and has no end.
        audit_kept: about how many entries the audit stream holds.
        recovery_ms: the longest that a recovery takes.
        at_least: as in `Claim`.
    """

    id: str
    request_id: str
    actor: str
    origin: str
    min_ttl_ms: int | None
    refused_version: int | None
    is_unpromised: bool
    planned_version: int | None
    promisable_until: int | None
    outlives: bool
    margin_ms: int
    brief_ms: int
    usual_ms: int
    longest_ms: int
    audit_kept: int
    recovery_ms: int
    at_least: int | None = None


class RenewPromise(NamedTuple):
    """Give back a promise that the store may have forgotten.

    Attributes:
        version: of the pair that was promised.
    """

    id: str
    version: int
    promised_until: int


class Reassert(NamedTuple):
    """Take back a lease that the store may have forgotten.

    Attributes:
        until_at: when the lease ends.
    """

    id: str
    fence: int
    owner: str
    until_at: int


class Commit(NamedTuple):
    """Store an answer.

    Attributes:
        fence: of the lease under which the answer was asked for.
        base_lineage: of the refresh token that the answer was made from.
        base_version: of the pair that the answer was made from.
        base_status: of the grant when the change was decided.
        issued_at: when the request for this answer left.
        due_at: `None` for never.
        attention_at: when something ends for the grant that may need a person; `None` if nothing does.
        events_kept: about how many events the stream holds.
        root: lineage of the pair that came from outside.
        stated_life_ms: how long an access token lives, as was last stated; `None` where nobody has.
        narrowed: what refreshes stopped to give, divided by spaces.
        token_type: of an access token that is no Bearer token.
        client: that the answer was given to; its pair is sealed for it.
    """

    id: str
    fence: int
    base_lineage: bytes
    base_version: int
    base_status: str
    sealed: bytes
    lineage: bytes
    issued_at: int
    access_expires_at: int | None
    refresh_issued_at: int
    refresh_expires_at: int | None
    scope: str | None
    status: str
    due_at: int | None
    attention_at: int | None
    event: bytes | None
    events_kept: int
    root: bytes
    stated_life_ms: int | None
    narrowed: str | None
    token_type: str | None
    client: str


class RecordOutcome(NamedTuple):
    """Store an outcome that brought no tokens.

    Attributes:
        lineage: of the refresh token that was tried.
        in_doubt: the provider may have rotated the tokens, and the reply is unknown.
        due_at: `None` for never.
        attention_at: as in `Commit`.
        answered_at: when the request left that the endpoint answered readably; `None` where it did not.
        rejected_at: when the provider rejected the grant for the first time, where that awaits confirmation.
        believed_at: when that is believed, where every grant of the client is rejected; else `None`.
        counted: as what the attempt counts (`outcomes.Counted`); `None` where it does not.
    """

    id: str
    fence: int
    lineage: bytes
    status: str
    streak: int
    reason: str | None
    in_doubt: bool
    noticed_at: int | None
    due_at: int | None
    attention_at: int | None
    event: bytes | None
    events_kept: int
    answered_at: int | None
    rejected_at: int | None
    believed_at: int | None
    counted: str | None = None


class KeepReply(NamedTuple):
    """Keep a reply that nobody could read.

    Attributes:
        fence: of the lease under which it came.
        client: that presented the pair; pair and reply are sealed for it.
        version: of the pair that was presented; so are the fields down to `root`, as in `Commit`.
        pair: sealed.
        sealed: the reply.
        streak: of the grant, with this attempt.
        event: of the grant, where this begins a bout.
        outage: the event of the endpoint, where this makes it unavailable.
        event_id: of `outage`.
        is_probe: the grant was let through to probe the endpoint.
        first_probe_ms: until the first probe.
        longest_probe_ms: the longest wait between two probes.
        counted: as in `RecordOutcome`.
    """

    id: str
    client: str
    fence: int
    version: int
    lineage: bytes
    pair: bytes
    issued_at: int
    access_expires_at: int | None
    refresh_issued_at: int
    refresh_expires_at: int | None
    scope: str | None
    stated_life_ms: int | None
    root: bytes
    sealed: bytes
    size: int
    detail: str
    sent_at: int
    received_at: int
    registration: str
    reason: str
    streak: int
    event: bytes | None
    token_url: str
    outage: bytes
    event_id: str
    events_kept: int
    is_probe: bool
    first_probe_ms: int
    longest_probe_ms: int
    counted: str | None = None


class DropReply(NamedTuple):
    """Give a kept reply up.

    Attributes:
        reason: why the grant is failing from then on.
    """

    number: int
    reason: str


class ExpireReply(NamedTuple):
    """Let a grant fail whose access token has ended while its reply could not be read.

    Attributes:
        number: of the reply.
        id: of the grant.
    """

    number: int
    id: str
    reason: str | None
    event: bytes | None
    events_kept: int


class ReopenEndpoint(NamedTuple):
    """Let an endpoint be used again whose kept replies are all read.

    Attributes:
        reason: why it was stopped.
        grant: the grant whose reply was read last.
    """

    token_url: str
    reason: str
    event: bytes
    events_kept: int
    event_id: str
    grant: str


class RecordRefusal(NamedTuple):
    """Find out whom a refusal means.

    Attributes:
        words: a `RefusalWords`: what its words mean.
        grant: the grant whose refresh was refused.
        sent_at: when that request left.
        is_probe: the grant was let through to probe the client.
        is_comparison: it was tried, due or not, to compare others with it.
        believe_ms: how long the rejection of every grant is not believed.
        first_probe_ms: until the first probe.
        longest_probe_ms: the longest wait between two probes.
    """

    client: str
    words: str
    event: bytes
    events_kept: int
    event_id: str
    grant: str
    sent_at: int
    is_probe: bool
    is_comparison: bool
    first_probe_ms: int
    longest_probe_ms: int
    believe_ms: int
    reason: str


class AcceptClient(NamedTuple):
    """Let a rejected client work again.

    Attributes:
        grant: the grant whose refresh was answered.
        is_refreshed: it got tokens.
    """

    client: str
    event: bytes
    events_kept: int
    event_id: str
    grant: str
    is_refreshed: bool


class RecordFailure(NamedTuple):
    """Attribute an attempt without a usable answer.

    Attributes:
        grant: the grant that was tried.
        sent_at: when that request left.
        is_probe: the grant was let through to probe the endpoint.
        is_failure: false where the endpoint works and only wants fewer requests.
        throttled: the endpoint asked for fewer requests.
        retry_after_ms: for how long; `None` where it did not say.
        chance: 0 to 1, spreads the waits.
        first_probe_ms: until the first probe.
        longest_probe_ms: the longest wait between two probes.
    """

    token_url: str
    event: bytes
    events_kept: int
    event_id: str
    grant: str
    client: str
    sent_at: int
    is_probe: bool
    reason: str
    is_failure: bool
    throttled: bool
    retry_after_ms: int | None
    chance: float
    first_probe_ms: int
    longest_probe_ms: int


class RecordRecovery(NamedTuple):
    """Let an unavailable endpoint be used again.

    Attributes:
        grant: the grant whose refresh was answered.
    """

    token_url: str
    event: bytes
    events_kept: int
    event_id: str
    grant: str


class DueClients(NamedTuple):
    """Name the clients that something may be claimed of now.

    Attributes:
        offset: how many names the pages before this one returned.
        limit: how long a page is.
    """

    offset: int
    limit: int


class ReserveRunners(NamedTuple):
    """Reserve runners for what is due.

    Attributes:
        share: due grants that one runner takes on.
        place_ms: how long a place is kept for a runner that does not claim.
        candidates: ids of new runners, as many as there may be at once.
    """

    share: int
    place_ms: int
    candidates: tuple[str, ...]


class ReleaseRunner(NamedTuple):
    """Give a runner's place back."""

    runner: str


class Heartbeat(NamedTuple):
    """Say that a process lives.

    Attributes:
        recovery_ms: the longest that a recovery takes.
        trouble: why the process claims nothing; `None` where it claims.
        untaken: the grants whose answers the store fails at.
        at_least: what the store's clock has reached, as this process knows; `None` if it was never told.
        leapt_ms: by how much the process saw the clock leap since its last heartbeat; `None` if it did not.
        recovered_epoch: the epoch in which this process finished its recovery; 0 for none.
        is_worker: it runs refresh tasks.
        batch: the number of `counts`, which grows.
        counts: what it has counted: a client or none, a counter, by how much.
    """

    owner: str
    recovery_ms: int
    trouble: str | None
    untaken: tuple[str, ...] = ()
    at_least: int | None = None
    leapt_ms: int | None = None
    recovered_epoch: int = 0
    is_worker: bool = False
    batch: int = 0
    counts: tuple[tuple[str, str, int], ...] = ()


class FinishRecovery(NamedTuple):
    """Say that a process has given back what it knows.

    Attributes:
        recovery_ms: the longest that a recovery takes.
        known_epoch: the epoch that the process recovered in.
        at_least: as in `Heartbeat`.
    """

    owner: str
    recovery_ms: int
    known_epoch: int
    at_least: int | None = None


class NameInstance(NamedTuple):
    """Name the present life of a server whose run id may not be read.

    Attributes:
        known: the name that the store has; `None` where it has none.
    """

    known: bytes | None


class Leave(NamedTuple):
    """Say that a process is gone.

    Attributes:
        is_dead: it did not say so itself.
        alive_ms: a worker is alive for so long after a heartbeat.
    """

    owner: str
    is_dead: bool
    alive_ms: int


class ImportGrant(NamedTuple):
    """Store a grant that came from outside.

    Attributes:
        packed: its record.
        due_at: `None` for never.
        attention_at: as in `Commit`.
        replaces: the version that must be stored; `None` where the grant must be new.
        by: who asked for it, for the audit stream; `None` for nobody. So in the calls that follow.
        audit_kept: about how many entries that stream holds.
    """

    id: str
    packed: bytes
    due_at: int | None
    attention_at: int | None
    replaces: int | None
    by: By | None = None
    audit_kept: int = 0


class PauseGrant(NamedTuple):
    """Take a grant out of the schedule.

    Attributes:
        only_if: the status that it must have; `None` for any.
    """

    id: str
    only_if: str | None = None
    by: By | None = None
    audit_kept: int = 0


class ResumeGrant(NamedTuple):
    """Put a paused or failed grant back into the schedule; `only_if` as for `PauseGrant`."""

    id: str
    only_if: str | None = None
    by: By | None = None
    audit_kept: int = 0


class DeleteGrant(NamedTuple):
    """Delete a grant; `only_if` as for `PauseGrant`."""

    id: str
    only_if: str | None = None
    by: By | None = None
    audit_kept: int = 0


class ResealGrant(NamedTuple):
    """Put a grant's pair back, sealed anew.

    Attributes:
        sealed: the pair as it was read.
    """

    id: str
    sealed: bytes
    resealed: bytes


class ResealReply(NamedTuple):
    """Put a kept reply back, sealed anew; `sealed` is the reply as it was read."""

    number: int
    sealed: bytes
    resealed: bytes


class ForgetRevoked(NamedTuple):
    """Delete a grant whose tokens were revoked under a lease.

    Attributes:
        fence: of that lease.
        sealed: the pair that was revoked, as it is stored.
    """

    id: str
    fence: int
    sealed: bytes


class IndexGrants(NamedTuple):
    """Put some grants into the order of a client's ids, or take them out, by whether the client has them."""

    client: str
    ids: tuple[str, ...]


class AddApiKey(NamedTuple):
    """Store an API key.

    Attributes:
        name: the key's.
        packed: what is stored of it (api_keys.py).
    """

    id: str
    name: str
    packed: bytes
    by: By | None = None
    audit_kept: int = 0


class RemoveApiKey(NamedTuple):
    """Forget an API key."""

    id: str
    name: str
    by: By | None = None
    audit_kept: int = 0


class NoteKeyUse(NamedTuple):
    """Note that an API key was used now.

    Attributes:
        pause_ms: how long the last use must be ago to be written anew.
    """

    id: str
    pause_ms: int
    by: By | None = None
    audit_kept: int = 0


class EndSession(NamedTuple):
    """End a session of the console.

    Attributes:
        session: names it.
        kept_ms: how long that is remembered.
    """

    session: str
    kept_ms: int


class NoteAudit(NamedTuple):
    """Write an audit entry that belongs to no change in the store.

    Attributes:
        request_id: names it; a repeated one writes no second entry.
        what: a `What`.
        id: of the grant that it concerns; `None` for none.
    """

    request_id: str
    what: str
    by: By
    id: str | None
    audit_kept: int


class OpenSignIn(NamedTuple):
    """Note a new sign-in.

    Attributes:
        id: that the grant is to have.
        labels: of that grant, as JSON; `None` for none.
        link: the SHA-256 of the link's secret; `state`, `browser` and `code` below are digests too.
        wanted: what the sign-in is for (sign_ins.py).
        link_ms: how long the link works.
        kept_ms: how long a sign-in is remembered after its end.
    """

    sign_in: str
    id: str
    labels: str | None
    link: bytes
    wanted: bytes
    link_ms: int
    kept_ms: int
    by: By
    audit_kept: int


class StartSignIn(NamedTuple):
    """Note that a browser sets out to the provider.

    Attributes:
        most: how often the link may be opened.
    """

    sign_in: str
    link: bytes
    state: bytes
    browser: bytes
    most: int


class EndSignIn(NamedTuple):
    """Use a state up.

    Attributes:
        return_id: names this attempt; a repeated one gets the same answer.
    """

    sign_in: str
    state: bytes
    browser: bytes
    return_id: str


class FailSignIn(NamedTuple):
    """End a sign-in that brought nothing."""

    sign_in: str
    by: By
    audit_kept: int


class KeepConsent(NamedTuple):
    """Keep what a provider gave for a code.

    Attributes:
        packed: the record that it would be.
        until_at: when it is revoked, unless somebody confirms it.
    """

    sign_in: str
    id: str
    fence: int
    code: bytes
    until_at: int
    packed: bytes
    wanted: bytes
    by: By
    audit_kept: int


class FindConsent(NamedTuple):
    """The consent that a code confirms."""

    sign_in: str
    code: bytes


class ConfirmConsent(NamedTuple):
    """Make a confirmed consent a grant.

    Attributes:
        packed: the grant's record.
        base_version: of the stored grant that it replaces; `None` where there is none.
        base_status: of that grant.
        revokes: keep the replaced pair, to be revoked.
        kept_ms: how long a sign-in is remembered after its end.
    """

    sign_in: str
    id: str
    packed: bytes
    base_version: int | None
    base_status: str | None
    due_at: int | None
    attention_at: int | None
    event: bytes | None
    events_kept: int
    revokes: bool
    kept_ms: int
    by: By
    audit_kept: int


class TakeRevocations(NamedTuple):
    """Pairs that are to be revoked now.

    Attributes:
        pause_ms: until one is tried again; twice as long each time.
        most_tries: for one pair.
        kept_ms: how long a sign-in is remembered after its end.
        recovery_ms: the longest that a recovery takes.
        at_least: as in `Claim`.
    """

    most: int
    pause_ms: int
    most_tries: int
    kept_ms: int
    recovery_ms: int
    at_least: int | None = None


class ForgetConsent(NamedTuple):
    """Forget the pair of a sign-in; `kept_ms` is how long the sign-in itself is still remembered."""

    sign_in: str
    kept_ms: int


class Survey(NamedTuple):
    """Read what a scrape tells of some clients.

    Attributes:
        clients: each with the token URL that it is configured with; empty where nobody knows.
        now: the store's clock.
        looked_at: how many grants of each client are read, those that are due first.
    """

    clients: tuple[tuple[str, str], ...]
    now: int
    looked_at: int


class AddWebhook(NamedTuple):
    """Store a webhook under a new id; `most` is how many there may be."""

    id: str
    packed: bytes
    most: int
    by: By | None
    audit_kept: int


class ReplaceWebhook(NamedTuple):
    """Replace a webhook's secrets; `base` is what was stored. Without `by` they are the same, resealed."""

    id: str
    base: bytes
    packed: bytes
    by: By | None
    audit_kept: int


class RemoveWebhook(NamedTuple):
    """Forget a webhook."""

    id: str
    by: By | None
    audit_kept: int


class EnableWebhook(NamedTuple):
    """Let a webhook be sent to again."""

    id: str
    by: By | None
    audit_kept: int


class RewindWebhook(NamedTuple):
    """Move a webhook's place back.

    Attributes:
        since: the stream id after which events are sent once more.
        place_before: where it stands, as the caller read it.
        number: events between the two.
    """

    id: str
    since: str
    place_before: str
    number: int
    by: By | None
    audit_kept: int


class ServeWebhook(NamedTuple):
    """Read what a webhook is to be sent.

    Attributes:
        task: that has the place for delivering.
        most: due events to read.
        page_size: events of the stream to read.
        most_waiting: how long its queue may be.
    """

    id: str
    task: str
    most: int
    page_size: int
    most_waiting: int


class EnqueueDeliveries(NamedTuple):
    """Put events into a webhook's queue.

    Attributes:
        from_place: where the caller found its place.
        to_place: of the last event that was looked at.
        number: events that were looked at.
        events: those that it wants: stream id and event.
    """

    id: str
    from_place: str
    to_place: str
    number: int
    events: tuple[tuple[str, bytes], ...]


class RecordDelivery(NamedTuple):
    """Record a try of an event.

    Attributes:
        place: of the event in the stream.
        tries: how often it had been tried before.
        outcome: `delivered`, `retry` or `given_up`.
        in_ms: until the next try.
        hold_ms: for how long nothing is sent to the webhook; 0 for no time.
        detail: what came of it.
        disables: why the webhook is sent no more; `None` where it goes on.
        event: of a webhook that is disabled.
        grant: on whose page it is shown; `None` for none.
        most_shown: of one grant.
        shown_ms: for how long.
    """

    id: str
    place: str
    tries: int
    outcome: str
    in_ms: int
    hold_ms: int
    detail: str
    disables: str | None
    event: bytes | None
    events_kept: int
    grant: str | None
    event_id: str
    most_shown: int
    shown_ms: int


class ReserveDeliverer(NamedTuple):
    """Reserve the place for a task that delivers.

    Attributes:
        task: its id.
        place_ms: how long the place is kept.
        most_waiting: how long the queue of a webhook may be.
        is_at_work: the task has begun.
    """

    task: str
    place_ms: int
    most_waiting: int
    is_at_work: bool


class ReleaseDeliverer(NamedTuple):
    """Give that place back."""

    task: str


class NoteBeat(NamedTuple):
    """Say that a beat lives, or that it has ended."""

    name: str
    is_gone: bool


class NoteUnreadable(NamedTuple):
    """Note that a grant's record could not be read."""

    id: str


Call = (
    Claim
    | Lease
    | HandOut
    | RenewPromise
    | Reassert
    | Commit
    | RecordOutcome
    | RecordRefusal
    | KeepReply
    | DropReply
    | ExpireReply
    | ReopenEndpoint
    | AcceptClient
    | RecordFailure
    | RecordRecovery
    | DueClients
    | ReserveRunners
    | ReleaseRunner
    | Heartbeat
    | FinishRecovery
    | NameInstance
    | Leave
    | ImportGrant
    | PauseGrant
    | ResumeGrant
    | DeleteGrant
    | ForgetRevoked
    | ResealGrant
    | ResealReply
    | NoteUnreadable
    | IndexGrants
    | AddApiKey
    | RemoveApiKey
    | NoteKeyUse
    | EndSession
    | NoteAudit
    | OpenSignIn
    | StartSignIn
    | EndSignIn
    | FailSignIn
    | KeepConsent
    | FindConsent
    | ConfirmConsent
    | TakeRevocations
    | ForgetConsent
    | Survey
    | AddWebhook
    | ReplaceWebhook
    | RemoveWebhook
    | EnableWebhook
    | RewindWebhook
    | ServeWebhook
    | EnqueueDeliveries
    | RecordDelivery
    | ReserveDeliverer
    | ReleaseDeliverer
    | NoteBeat
)


def _script_name(kind: type[Call]) -> str:
    """`RecordOutcome` calls `lua/record_outcome.lua`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


SIGNATURES: Final[dict[str, type[Call]]] = {_script_name(kind): kind for kind in get_args(Call)}
_NAMES: Final = {kind: name for name, kind in SIGNATURES.items()}


def name_of(call: Call) -> str:
    """The script that a call runs."""
    return _NAMES[type(call)]


def pack(call: Call) -> bytes:
    """The one argument of a call.

    Raises:
        UnicodeEncodeError: a text holds what UTF-8 cannot, a lone surrogate.
    """
    # The old raw type for strings, which every cmsgpack reads.
    packed: bytes = msgpack.packb(call, use_bin_type=False)
    return packed


def lua_arguments(name: str) -> str:
    """The line of Lua that names a script's arguments.

    The line states the number of arguments, because a nil among them would end the list.
    """
    fields = SIGNATURES[name]._fields
    return f"local {', '.join(fields)} = unpack(cmsgpack.unpack(ARGV[1]), 1, {len(fields)})\n"
