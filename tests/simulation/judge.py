"""What must hold, checked after every effect and at the end of a run.

The invariants, by number; a violation names one:

1. One presenter at a time. A process presents a refresh token from its decision to send it until the server
   has acted on it, or it is certain that it never will. Two presentations of one token never overlap. Each
   begins, and is acted on, within a lease that the store gave this process for this very token. What
   happens to the lease after the server has acted does not matter: a process that is frozen then has an
   answer, not a token to present.
2. A superseded token is presented only as a retry: the same lease has presented it before and got no
   reply, or the store said with the lease that an earlier reply is in doubt.
3. One successor per version. A stored pair is only ever replaced by one that the server made from it,
   directly or over pairs that the store has forgotten; its version counts the server's rotations.
4. Every change of status or version has exactly one event in the same step, no event is without its change,
   and no event id is used twice or means two things. What an operator does has no event.
5. No live pair is lost while a process that lives, or a disk, holds it. In the end every grant is active
   with the live pair, or failed for the right reason: `reply_lost` where the only holder died with it, and
   where no holder had it; `revoked` only where a person revoked it.
6. An outage or a refused client fails no grant. A `failed` grant was refused itself, or its answer was
   lost. If a grant is `failing` without an answer, the server answered another grant after its first
   failure. One grant's own failures stop its client, or its endpoint, once at most.
7. No claim passes while the store recovers, after a restart and after a silence, and none by a process that
   has not itself recovered in the store's epoch. An answer is on a disk before it is committed.
8. A claim that is asked again, because its reply was lost, gives the same leases again.
9. A registration that has brought no tokens yet risks one grant at a time, unless another's access token is
   about to end. A reply that nobody could read is kept, and its token is not presented again.
10. No access token that a caller was promised dies by our hand before the promise ends, but for a person's
    order or an API that refused it; and none is promised that our hand has ended already. A promise counts
    by the store's clock.
11. The store's clock never runs back. A store that forgot its last writes goes on from what processes know.
12. What a provider gives for a code is a grant in the end, or it is revoked, unless no disk ever had it. An
    application that was told that somebody is connected finds the grant, with a living pair. No pair is
    revoked that a stored grant lives by, and no code is presented again whose reply reached a disk.

Leases are measured by a clock that nobody sets. A leap of the store's clock ends none of them.

The exceptions, each listed here and nowhere else; most are double faults:

- forgotten intent: Redis forgot the intent, and the process that wrote it died with the answer before it
  could re-assert its lease, or was out of reach while the store recovered. Nobody else knows of the request:
  the next presentation is not known to be a retry (2), and its refusal reads as `revoked` (5). The old access
  token looks alive, and is promised (10).
- forgotten promise: Redis forgot that a token was handed out, and the process that did it died, or was out of
  reach while the store recovered (10).
- forgotten doubt: no reply came, the store recorded that, and then Redis forgot it. Outcomes without tokens
  are in no journal, so the next refusal reads as `revoked` (5).
- late answer: the process with the answer was out of reach (frozen, or cut off from the store) for longer
  than its lease and the patience after it, or Redis forgot that lease. The retry then revoked the family at a
  server that does that, and the late answer, stored because its lineage was undisputed, is dead. Its grant is
  active until its next refresh, which says `revoked` (5).
- forgotten import: Redis forgot that an operator had put another consent in the place of one. It goes on
  with the old one; imports are not journaled.
- deleted and brought back: an operator deleted a grant and imported an old pair of the same consent, perhaps
  in the middle of a refresh. That grant is not judged any more.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from tests.simulation.disk import Disk, SimulatedJournal
from tests.simulation.provider import Bank, Family, Mode, Witness
from tests.simulation.redis import Look, Snapshot
from tests.simulation.world import Process, World
from worker.adapters.store.record import FIELDS
from worker.core.events import EventType
from worker.core.grant import lineage_of
from worker.core.outcomes import Outcome, Refreshed, Rejected, Unavailable, Unknown
from worker.core.promises import HandedOut

FIELD = {name: i for i, name in enumerate(FIELDS)}
NO_ANSWER = {"unavailable", "reply_unknown"}  # reasons of `grant.failing`
NOT_CONFIRMED = "client_not_confirmed"
BY_OPERATORS = {"import_grant", "pause_grant", "resume_grant", "delete_grant", "confirm_consent"}
MEMORY_US = 305_000_000  # so long the store remembers failures, and some more for the clocks
BACK_US = 2_500_000  # who is back in reach offers what it holds within this, and knows what its disk shows
SILENCE_US = 3_000_000  # without a word from any process: the next one begins an epoch
PATIENCE_MS = 900_000  # the longest that the holder of an ended lease is waited for
LAG_US = 20_000  # a process's clock is behind the store's by as long as the reply that set it took (seeds.py)
CLOCK_US = 100_000  # where the clock was set: it is slower than the true one by a hundredth, then
SPEAKS = {
    "heartbeat",
    "finish_recovery",
    "claim",
    "lease",
    "hand_out",
    "take_revocations",
}  # what ends a silence


class ViolationError(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: int, text: str) -> None:
        super().__init__(f"invariant {invariant}: {text}")
        self.invariant = invariant


@dataclass(slots=True)
class Granted:
    """A lease that the store gave."""

    process: Process
    grant_id: str
    lineage: bytes
    fence: int
    until: int
    in_doubt: bool
    claimable_at: int  # not before then by another, unless the holder is known to be gone
    given_at: int
    ends_at: int  # by the clock that nobody sets


@dataclass(slots=True)
class Promise:
    """An access token that a caller has."""

    process: Process
    grant_id: str
    token: str  # the refresh token beside it
    until: int
    given_at_us: int
    promised_at: int  # Unix ms, by the store
    forgotten_at_us: int | None = None


@dataclass(slots=True)
class Presentation:
    """One presentation of a refresh token."""

    process: Process
    grant_id: str
    token: str
    lease: Granted | None
    at_us: int
    open: bool = True  # the server may yet act on it
    outcome: Outcome | None = None  # what the server made of it
    heard: Outcome | None = None


@dataclass(slots=True)
class Held:
    """An answer that a process has in its memory."""

    process: Process
    lineage: bytes


@dataclass(slots=True)
class Books:
    """What the judge has seen."""

    leases: dict[int, Granted] = field(default_factory=dict)
    presentations: list[Presentation] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    events: dict[str, tuple[str, str]] = field(default_factory=dict)  # by event id: its type and subject
    claims: dict[bytes, list[int]] = field(default_factory=dict)  # by claim id: the fences it gave
    incidents: dict[str, "Incident"] = field(default_factory=dict)  # by client or URL: the last one
    promises: list[Promise] = field(default_factory=list)
    told: dict[str, Family] = field(default_factory=dict)  # by grant: whom its application was told last
    # By refresh token: when a person's order, or an API that refused it, last ended its promises; Unix ms.
    overridden: dict[str, int] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)  # lineages that the server refused
    forgotten: dict[bytes, Granted] = field(default_factory=dict)  # lineages whose intents Redis forgot
    doubts: dict[bytes, int] = field(default_factory=dict)  # lineages, and when the store was told
    forgotten_doubts: set[bytes] = field(default_factory=set)
    late: set[str] = field(
        default_factory=set
    )  # tokens whose holders were out of reach when a retry revoked them
    notes: set[str] = field(default_factory=set)  # exceptions that were made


@dataclass(frozen=True, slots=True)
class Incident:
    """One grant's answer stopped its client, or its endpoint."""

    grant_id: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What a store knew at some moment."""

    families: Mapping[str, Family]  # the present consent of each grant
    present: Mapping[str, int]  # when it last heard of each process


class Judge(Witness):
    """Sees every effect, and knows both the server's and the store's side of it."""

    def __init__(self, world: World, bank: Bank, disks: Callable[[Process], Disk], lease_us: int) -> None:
        self.world = world
        self.on_unknown: Callable[[Process], None] = lambda _: None
        self.bank = bank
        self.books = Books()
        self.families: dict[str, Family] = {}  # the present one of each grant
        self.violation: ViolationError | None = None
        self.counts: dict[str, int] = {}
        self.journals: dict[str, SimulatedJournal] = {}  # by process
        self._disks = disks
        self._lease_us = lease_us
        self._consents: dict[str, Family] = {}  # the last one that was brought, of each grant
        self.under_way = 0  # presentations that the server may yet act on
        self.epoch = 0  # the present one, as the store last said
        self.agreed: dict[str, int] = {}  # the last epoch that each process confirmed
        self._by_lineage: dict[bytes, str] = {}
        self._present: dict[str, int] = {}  # when each process was last heard of by the store
        self._last_word_us = 0  # when any process last spoke to the store
        self._epoch_began_us: int | None = None  # by a restart or a silence
        self._expected: set[str] = set()  # who must confirm it
        self._confirmed: set[str] = set()
        self._lasts_us = lease_us  # at most, as the store counts: a leap makes it shorter
        self.read_clock: Callable[[], int] = lambda: world.true_ms  # the store's
        self._last_ms = 0  # what it was at the last word
        self._ahead_ms = 0  # so far it was ahead of the true one then, or behind
        self._slack_ms = 0  # so much the store's clock has lost in all: leases last longer
        self._has_forgotten = False
        self._records: Mapping[str, bytes | None] = {}

    def fail(self, invariant: int, text: str) -> None:
        """Note a violation; the first one counts."""
        if self.violation is None:
            self.violation = ViolationError(invariant, text)

    def count(self, what: str) -> None:
        """Count what a run has met, to know that it tests something."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def lineage(self, token: str) -> bytes:
        """A refresh token's lineage."""
        lineage = lineage_of(self.bank.families[token].grant_id, token)
        self._by_lineage[lineage] = token
        return lineage

    def token(self, lineage: bytes) -> str:
        """The refresh token of a lineage."""
        if lineage not in self._by_lineage:
            for token in self.bank.families:
                self.lineage(token)
        return self._by_lineage[lineage]

    @property
    def store_ms(self) -> int:
        """The store's clock, as far as is known."""
        return self.world.true_ms + self._ahead_ms

    def _store_us(self) -> int:
        return self.world.now_us + self._ahead_ms * 1000

    # The provider's side

    def presents(self, process: Process, token: str) -> int:
        lineage = self.lineage(token)
        lease = self._lease_of(process, lineage)
        if lease is None:
            self.fail(1, f"{process} presents {token} without a lease")
        grant_id = self.bank.families[token].grant_id
        is_judged = grant_id in self.families
        for other in self.books.presentations:
            if other.open and other.token == token and is_judged:
                self.fail(1, f"{process} presents {token} while {other.process} does")
        presentation = Presentation(process, grant_id, token, lease, self.world.now_us)
        if not self._is_current(token) and is_judged:
            self._excuse(presentation, lineage)
        self.books.presentations.append(presentation)
        self.under_way += 1
        self.world.note(process, f"presents {token}")
        self.count("presentations")
        return len(self.books.presentations) - 1

    def acted(self, number: int, outcome: Outcome) -> None:
        presentation = self.books.presentations[number]
        presentation.open, presentation.outcome = False, outcome
        self.under_way -= 1
        family = self.bank.families[presentation.token]
        if isinstance(outcome, Refreshed | Unknown):
            self._check_promises(presentation)
        is_new = family.revoked_by == "reuse" and family.revoked_at_us == self.world.now_us
        if is_new and self.families.get(family.grant_id) is family:
            self._check_reuse(family, presentation)
        lineage = self.lineage(presentation.token)
        if (
            presentation.lease is not None
            and self.world.true_ms > presentation.lease.ends_at + self._slack_ms
        ):
            self.fail(1, f"{presentation.token} of {presentation.process} is acted on after its lease")
        if isinstance(outcome, Rejected) or presentation.grant_id in self.bank.weather.refused_alone():
            self.books.refused.add(lineage)

    def never_acts(self, number: int) -> None:
        presentation = self.books.presentations[number]
        presentation.open = False
        self.under_way -= 1
        presentation.outcome = Unavailable("never arrived")

    def heard(self, number: int, outcome: Outcome) -> None:
        presentation = self.books.presentations[number]
        presentation.heard = outcome
        if isinstance(outcome, Refreshed) and outcome.refresh_token is not None:
            self.books.held.append(Held(presentation.process, self.lineage(outcome.refresh_token)))
        if isinstance(outcome, Unknown):
            self.on_unknown(presentation.process)

    def handed_out(self, process: Process, handed_out: HandedOut) -> None:
        """A caller has a token."""
        grant = handed_out.grant
        if handed_out.unpromised is not None:
            self.count("tokens without a promise")
            return
        self.count("promised tokens")
        token = self.token(grant.lineage)
        family = self.bank.families[token]
        promise = Promise(process, grant.id, token, handed_out.until, self.world.now_us, handed_out.now)
        self.books.promises.append(promise)
        if handed_out.until > self.store_ms and not self._is_current(token):
            is_excused = self._is_overridden(promise) or self._is_forgotten_doubt(grant.lineage, process)
            if not is_excused and self.families.get(grant.id) is family:
                self.fail(10, f"{process} hands out the access token of {token}, which is dead")

    def _is_forgotten_doubt(self, lineage: bytes, process: Process) -> bool:
        is_forgotten = lineage in self.books.forgotten or lineage in self.books.forgotten_doubts
        return is_forgotten and not self._is_within_reach(lineage, process)

    def _check_promises(self, presentation: Presentation) -> None:
        """The server has acted on a refresh token: the access token beside it is dead."""
        token = presentation.token
        if self.bank.mode is Mode.STATIC or self._is_current(token):
            return
        for promise in self.books.promises:
            is_broken = promise.token == token and promise.until > self.store_ms
            is_broken = is_broken and not self._is_overridden(promise)
            if not is_broken or self.families.get(promise.grant_id) is not self.bank.families[token]:
                continue
            if self._is_forgotten(promise):
                self.books.notes.add("forgotten promise")
                self.count("exception: forgotten promise")
            else:
                self.fail(10, f"{presentation.process} ends the access token of {token}, which is promised")

    def _is_overridden(self, promise: Promise) -> bool:
        """Whether a promise was ended by order; whatever refreshes the grant then breaks nothing."""
        return promise.promised_at <= self.books.overridden.get(promise.token, -1)

    def _is_forgotten(self, promise: Promise) -> bool:
        """Whether the store forgot a promise, and who gave it could not give it back."""
        if promise.forgotten_at_us is None:
            return False
        out_until_us = promise.process.out_of_reach_until_us()
        was_out = out_until_us > 0 and out_until_us + BACK_US > promise.forgotten_at_us
        return was_out or not promise.process.alive

    def _check_reuse(self, family: Family, retry: Presentation) -> None:
        """A retry revoked a family: the holder of its live pair was out of reach, and was waited for."""
        lineage = self.lineage(family.live)
        holders = self._holders(lineage)
        on_its_way = [
            each.process
            for each in self.books.presentations
            if isinstance(each.outcome, Refreshed)
            and each.outcome.refresh_token == family.live
            and each.heard is None
            and each.process.alive
        ]
        if any(map(self._can_act, holders)):
            self.fail(5, f"a retry revoked {family.grant_id}, whose live pair {family.live} is held")
        elif holders or on_its_way or any(disk.holds(lineage) for disk in self._all_disks()):
            self._check_patience(family, retry)
            self.books.late.add(family.live)

    def _check_patience(self, family: Family, retry: Presentation) -> None:
        """Who has the live pair was waited for: for as long as its lease, and the patience after it."""
        lease = next(
            each.lease
            for each in self.books.presentations
            if isinstance(each.outcome, Refreshed) and each.outcome.refresh_token == family.live
        )
        is_gone = lease is None or lease.process.name not in self._present
        if is_gone or lease is None or retry.lease is None or lease.lineage in self.books.forgotten:
            return
        if retry.lease.given_at < lease.claimable_at:
            self.fail(5, f"a retry revoked {family.grant_id} while {lease.process} was to be waited for")

    def _all_disks(self) -> list[Disk]:
        return list({id(disk): disk for disk in map(self._disks, self.world.processes)}.values())

    def presented(self) -> list[str]:
        """The grants whose tokens are on their way at the moment."""
        return [self.bank.families[each.token].grant_id for each in self.books.presentations if each.open]

    def _is_current(self, token: str) -> bool:
        return self.bank.families[token].live == token or self.bank.mode is Mode.STATIC

    def _lease_of(self, process: Process, lineage: bytes) -> Granted | None:
        now = self.world.true_ms - self._slack_ms
        leases = [
            lease
            for lease in self.books.leases.values()
            if lease.process is process and lease.lineage == lineage and lease.ends_at > now
        ]
        return max(leases, key=lambda lease: lease.fence, default=None)

    def _excuse(self, presentation: Presentation, lineage: bytes) -> None:
        """Whether this presentation of a superseded token is a deliberate retry."""
        lease = presentation.lease
        before = [
            each
            for each in self.books.presentations
            if each.token == presentation.token and each.lease is lease and isinstance(each.heard, Unknown)
        ]
        if before or (lease is not None and lease.in_doubt):
            self.count("retries of superseded tokens")
        elif lineage in self.books.forgotten and not self._is_within_reach(lineage, presentation.process):
            self.books.notes.add("forgotten intent")
        else:
            self.fail(2, f"{presentation.process} presents {presentation.token}, which is superseded")

    def _is_within_reach(self, lineage: bytes, presenter: Process) -> bool:
        """Whether a process that can act has the answer to this refresh token, or a later one."""
        token = self.token(lineage)
        family = self.bank.families[token]
        later = family.live
        while later != token and later in family.parents:
            answer = self.lineage(later)
            if any(self._can_act(process) for process in self._holders(answer)):
                return True
            if self._can_act(presenter) and self._disks(presenter).shows(answer, self.world.now_us - BACK_US):
                return True
            later = family.parents[later]
        return False

    def _holders(self, lineage: bytes) -> list[Process]:
        """Who has the answer with this refresh token in memory, or could read it."""
        holders = [held.process for held in self.books.held if held.lineage == lineage and held.process.alive]
        for disk in self._all_disks():
            holders += disk.readers(
                lineage, [each for each in self.world.processes if self._disks(each) is disk]
            )
        return holders

    def _can_act(self, process: Process) -> bool:
        return process.out_of_reach_until_us() + BACK_US <= self.world.now_us

    def is_held(self, lineage: bytes) -> bool:
        """Whether a living process or a disk has the answer with this refresh token."""
        in_memory = any(held.process.alive for held in self.books.held if held.lineage == lineage)
        return in_memory or any(disk.holds(lineage) for disk in self._all_disks())

    def exchanged(self, code: str, outcome: Outcome) -> None:
        if isinstance(outcome, Refreshed):
            self.count("exchanges")
        elif self._was_kept(self.bank.given[code]):
            self.fail(12, f"the code {code} is presented again, and a disk has what it gave")
        else:
            self.count("codes presented again, whose reply was lost")

    def revoked(self, token: str) -> None:
        family = self.bank.families[token]
        self.count("revocations")
        if family.revoked_by == "us" and self._is_stored(family):
            self.fail(12, f"{token} is revoked, and {family.grant_id} lives by it")
        if family.revoked_by == "us" and self.books.told.get(family.grant_id) is family:
            self.fail(12, f"{token} is revoked, and {family.grant_id} was said to be connected")

    def connected(self, code: str) -> None:
        """An application is told that the person who came back with a code is connected."""
        family = self.bank.given[code]
        self.books.told[family.grant_id] = family
        self.count("connected")

    def _is_stored(self, family: Family) -> bool:
        packed = self._records.get(family.grant_id)
        if packed is None:
            return False
        lineage = msgpack.unpackb(packed, raw=True)[FIELD["LINEAGE"]]
        return self.bank.families[self.token(lineage)] is family

    # The store's side

    def observe(self, process: Process, name: str, call: Any, reply: Any, before: Look, after: Look) -> None:
        """A script ran; `call` is its signature with bytes for text."""
        self.world.note(process, f"store {name}{_said(name, call, reply)}")
        self._records = after.records
        if name in SPEAKS:
            self._listen(call)
        if name == "due_clients":  # it changes no grant, no client and no endpoint
            return
        if name in {"heartbeat", "finish_recovery", "leave"}:
            self._hear_of(process, name, call, reply)
            return
        if name == "reassert" and reply == b"restored":
            self.books.forgotten.pop(self.books.leases[call.fence].lineage, None)
        if name == "claim" and not reply[1]:
            self._claimed(process, call, _claimed_in(reply), after)
        elif name == "lease" and reply[0] in {b"leased", b"held"}:
            found = [*reply[2:4], call.id] if reply[0] == b"leased" else []
            ends_promise = call.ends_promise or call.refused_version is not None
            self._claimed(process, call, found, after, ends_promise=ends_promise)
        elif name == "commit" and reply[0] == b"stored":
            self._committed(process, call)
        elif name == "record_outcome" and reply == b"stored" and call.in_doubt:
            self.books.doubts[call.lineage] = self.world.now_us
        elif name in {"import_grant", "confirm_consent"} and reply[0] == b"stored":
            self._came(name, call, reply, before)
        self._compare(process, name, call, before, after)

    def memory(self) -> "Memory":
        """What the store knows now, as far as it matters if it comes back with this."""
        return Memory(dict(self.families), dict(self._present))

    def restarted(self, snapshot: Snapshot | None, before: Look, memory: "Memory | None" = None) -> None:
        """Redis was restarted; it may have forgotten what came after the snapshot."""
        if snapshot is not None and memory is not None:
            self._forget(before, snapshot.look)
            self.books.forgotten_doubts |= {
                lineage for lineage, at_us in self.books.doubts.items() if at_us > snapshot.taken_at_us
            }
            self.families, self._present = dict(memory.families), dict(memory.present)
            self._consents = dict(memory.families)
            self.books.incidents.clear()
            self._has_forgotten = True
            for promise in self.books.promises:
                if promise.given_at_us > snapshot.taken_at_us:
                    promise.forgotten_at_us = self.world.now_us
        self._begin_epoch(self._store_us())

    def _listen(self, call: Any) -> None:
        """A process speaks to the store; after a silence, or a leap like one, that begins an epoch."""
        now_ms = self.read_clock()
        known_ms = max(call.at_least or 0, 0 if self._has_forgotten else self._last_ms)
        if now_ms < known_ms:
            self.fail(11, f"the store's clock runs back by {known_ms - now_ms} ms")
        gained_us = (now_ms - self.store_ms) * 1000
        if gained_us > CLOCK_US:
            self._lasts_us -= gained_us
        margin_us = CLOCK_US if self.world.clock_was_set else 1_000
        if self.world.now_us - self._last_word_us + gained_us > SILENCE_US + margin_us:
            self._begin_epoch(self._last_word_us + self._ahead_ms * 1000)
        self._slack_ms += max(-gained_us // 1000, 0)
        self._last_word_us = self.world.now_us
        self._last_ms, self._ahead_ms = now_ms, now_ms - self.world.true_ms

    def _begin_epoch(self, last_word_us: int) -> None:
        """Nobody may claim until those present then have confirmed it, or a lease's time has passed."""
        margin_us = CLOCK_US if self.world.clock_was_set else 0
        self._expected = {
            name for name, at_us in self._present.items() if last_word_us - at_us < self._lease_us - margin_us
        }
        self._confirmed = set()
        self._epoch_began_us = self.world.now_us // 1000 * 1000
        self._lasts_us = self._lease_us - margin_us

    def _forget(self, before: Look, after: Look) -> None:
        for grant_id, packed in before.records.items():
            old = after.records[grant_id]
            if packed is None:
                continue
            was = msgpack.unpackb(packed, raw=True)
            if old is None or msgpack.unpackb(old, raw=True)[FIELD["FENCE"]] < was[FIELD["FENCE"]]:
                self.count("forgotten leases or commits")
        for lease in self.books.leases.values():
            packed = after.records[lease.grant_id]
            if packed is None or msgpack.unpackb(packed, raw=True)[FIELD["FENCE"]] < lease.fence:
                self.books.forgotten[lease.lineage] = lease
                if any(each.lease is lease and each.open for each in self.books.presentations):
                    self.count("leases forgotten under a request")

    def _hear_of(self, process: Process, name: str, call: Any, reply: Any) -> None:
        if name == "heartbeat":
            self._present[process.name] = self._store_us()
            self.epoch = reply[1]
        elif name == "leave":
            self._present.pop(call.owner.decode(), None)
            self._expected.discard(call.owner.decode())
        else:
            self.epoch = reply[0]
            if reply[0] == call.known_epoch:
                self._confirmed.add(process.name)
                self.agreed[process.name] = reply[0]

    def _claimed(
        self, process: Process, call: Any, found: Sequence[Any], after: Look, *, ends_promise: bool = False
    ) -> None:
        for packed, in_doubt in zip(found[::3], found[1::3], strict=True):
            self._lease(process, packed, in_doubt=bool(in_doubt), ends_promise=ends_promise)
        self._check_repeated(call.claim_id, found[::3], after)

    def _lease(self, process: Process, packed: bytes, *, in_doubt: bool, ends_promise: bool) -> None:
        r = msgpack.unpackb(packed, raw=True)
        fence, lineage = r[FIELD["FENCE"]], r[FIELD["LINEAGE"]]
        if fence in self.books.leases:
            return  # the same claim again
        grant_id = self.bank.families[self.token(lineage)].grant_id
        until = r[FIELD["LEASE_UNTIL"]]
        self.books.leases[fence] = Granted(
            process,
            grant_id,
            lineage,
            fence,
            until,
            in_doubt,
            claimable_at=until + _patience_ms(r[FIELD["ACCESS_EXPIRES_AT"]], until),
            given_at=self.store_ms,
            ends_at=self.world.true_ms + until - self.store_ms,
        )
        if ends_promise:
            self.books.overridden[self.token(lineage)] = self.store_ms
        self.count("leases")
        self._check_recovered(process)

    def _check_repeated(self, claim_id: bytes, leases: Sequence[bytes], after: Look) -> None:
        given = [msgpack.unpackb(packed, raw=True)[FIELD["FENCE"]] for packed in leases]
        for fence in self.books.claims.setdefault(claim_id, given):
            packed = after.records[self.books.leases[fence].grant_id]
            if packed is None or fence in given:
                continue
            r = msgpack.unpackb(packed, raw=True)
            if r[FIELD["FENCE"]] == fence and r[FIELD["LEASE_UNTIL"]] > self.store_ms:
                self.fail(8, f"a claim that is asked again does not give {_short(fence)} again")

    def _check_recovered(self, process: Process) -> None:
        if self.agreed.get(process.name) != self.epoch:
            self.fail(7, f"{process} claims, and has not recovered in the store's epoch")
        if self._epoch_began_us is None or self.world.now_us - self._epoch_began_us >= self._lasts_us:
            return
        missing = self._expected - self._confirmed
        if process.name not in self._confirmed:
            self.fail(7, f"{process} claims in an epoch that it has not confirmed")
        elif missing:
            self.fail(7, f"{process} claims while {', '.join(sorted(missing))} has yet to confirm")

    def _imported(self, grant_id: str, lineage: bytes, *, is_new: bool) -> None:
        family = self.bank.families[self.token(lineage)]
        was = self._consents.get(grant_id)
        if is_new and was is not None and was.root == family.root:
            # An operator deleted it and brought an old pair of it back, perhaps in the middle of a refresh.
            self.families.pop(grant_id, None)
        elif was is None or was.root != family.root:
            self.families[grant_id] = self._consents[grant_id] = family

    def _came(self, name: str, call: Any, reply: Any, before: Look) -> None:
        """A pair came from outside."""
        grant_id = call.id.decode()
        if name == "import_grant":
            self._imported(grant_id, reply[2], is_new=before.records[grant_id] is None)
            return
        lineage = msgpack.unpackb(call.packed, raw=True)[FIELD["LINEAGE"]]
        self.families[grant_id] = self._consents[grant_id] = self.bank.families[self.token(lineage)]

    def _committed(self, process: Process, call: Any) -> None:
        grant_id, fence = call.id.decode(), call.fence
        self.count("commits")
        lease = self.books.leases.get(fence)
        owner = process if lease is None else lease.process
        journal = self.journals.get(owner.name)
        journal_refused = journal is not None and fence in journal.refused
        if not journal_refused and not any(disk.has(grant_id, fence) for disk in self._all_disks()):
            self.fail(7, f"{process} commits an answer for {grant_id} that is on no disk")

    def _compare(self, process: Process, name: str, call: Any, before: Look, after: Look) -> None:
        events = [json.loads(event) for event in after.events]
        for event in events:
            self._read_event(event)
        for grant_id, packed in after.records.items():
            if packed != before.records[grant_id]:
                mine = [event for event in events if event["subject"] == grant_id]
                self._compare_grant(process, name, call, grant_id, before.records[grant_id], packed, mine)
            elif any(event["subject"] == grant_id for event in events):
                self.fail(4, f"{name} tells of {grant_id}, which did not change")
        self._compare_states(name, before.clients, after.clients, events)
        self._compare_states(name, before.endpoints, after.endpoints, events)
        for event in events:
            if event["type"] in {EventType.CLIENT_REJECTED, EventType.PROVIDER_UNAVAILABLE}:
                grant_id = call.id if name == "keep_reply" else call.grant
                self._check_incident(event["subject"], grant_id.decode())

    def _check_incident(self, subject: str, grant_id: str) -> None:
        """The same grant stopped everybody before; then others were answered, and it never was."""
        last = self.books.incidents.get(subject)
        self.books.incidents[subject] = Incident(grant_id, self.world.now_us)
        if last is None or last.grant_id != grant_id:
            return
        since = [each for each in self.books.presentations if each.at_us > last.at_us]
        answered = {each.grant_id for each in since if _is_readable(each.heard)}
        unanswered = {each.grant_id for each in since if each.heard and not _is_readable(each.heard)}
        if answered and grant_id not in answered and unanswered == {grant_id}:
            self.fail(6, f"{grant_id} alone is in trouble, and stops {subject} a second time")

    def _read_event(self, event: dict[str, Any]) -> None:
        meaning = event["type"], event["subject"]
        if self.books.events.setdefault(event["id"], meaning) != meaning:
            self.fail(4, f"the id {event['id']} means two events: {meaning}")
        self.world.note(
            "store", f"tells {event['type']} of {event['subject']} ({event['data'].get('reason')})"
        )
        self.count(event["type"].removeprefix("evergrant."))

    def _compare_states(self, name: str, before: Any, after: Any, events: list[dict[str, Any]]) -> None:
        for subject, state in after.items():
            told = [event for event in events if event["subject"] == subject]
            changed = (state or b"") not in {before[subject] or b"", b"accepted", b"available"} or (
                before[subject] in {b"rejected", b"unavailable"} and state != before[subject]
            )
            if len(told) != int(changed):
                self.fail(
                    4, f"{name}: {subject} went from {before[subject]} to {state} with {len(told)} events"
                )

    def _compare_grant(
        self,
        process: Process,
        name: str,
        call: Any,
        grant_id: str,
        was: bytes | None,
        now: bytes | None,
        events: list[dict[str, Any]],
    ) -> None:
        if was is None or now is None:
            if events:
                self.fail(4, f"{name} tells of {grant_id}, which came or went")
            return
        old, new = msgpack.unpackb(was, raw=True), msgpack.unpackb(now, raw=True)
        self._compare_lease(process, name, call, grant_id, old, new)
        version_changed = old[FIELD["VERSION"]] != new[FIELD["VERSION"]]
        status = new[FIELD["STATUS"]].decode()
        status_changed = old[FIELD["STATUS"]] != new[FIELD["STATUS"]]
        noticed = old[FIELD["NOTICED_AT"]] != new[FIELD["NOTICED_AT"]]
        is_ours = name not in BY_OPERATORS
        expected = int(is_ours and (version_changed or status_changed or noticed))
        if len(events) != expected:
            change = f"{_state(old)} to {_state(new)}"
            self.fail(4, f"{name}: {grant_id} went from {change} with {len(events)} events")
        for event in events:
            self._check_event(name, grant_id, new, event)
        if is_ours and old[FIELD["LINEAGE"]] != new[FIELD["LINEAGE"]]:
            self._check_descent(name, grant_id, old, new)
        elif is_ours and version_changed and self.bank.mode is not Mode.STATIC:
            self.fail(3, f"{name}: {grant_id} has another version of the same pair")
        if is_ours and status_changed and status == "failed":
            self._check_failure(grant_id, new)

    def _check_event(self, name: str, grant_id: str, new: Any, event: dict[str, Any]) -> None:
        data = event["data"]
        if data["status"] != new[FIELD["STATUS"]].decode() or data["version"] != new[FIELD["VERSION"]]:
            self.fail(4, f"{name}: the event {event['id']} is not about the record as it stands")
        if data.get("reason") in NO_ANSWER and data.get("detail") != NOT_CONFIRMED:
            self._check_comparison(grant_id)

    def _compare_lease(
        self, process: Process, name: str, call: Any, grant_id: str, old: Any, new: Any
    ) -> None:
        """Only the lease's own outcome ends it before its time."""
        owner, until, fence = old[FIELD["LEASE_OWNER"]], old[FIELD["LEASE_UNTIL"]], old[FIELD["FENCE"]]
        if name not in {"commit", "record_outcome"} or not owner or until <= self.store_ms:
            return
        if new[FIELD["LEASE_OWNER"]] != owner and call.fence < fence:
            self.fail(1, f"{name} of {process} ends the lease of {owner.decode()} on {grant_id}")

    def _check_descent(self, name: str, grant_id: str, old: Any, new: Any) -> None:
        older, newer = self.token(old[FIELD["LINEAGE"]]), self.token(new[FIELD["LINEAGE"]])
        family = self.bank.families[newer]
        rotations, ancestor = 0, newer
        while ancestor != older and ancestor in family.parents:
            ancestor, rotations = family.parents[ancestor], rotations + 1
        if ancestor != older:
            self.fail(3, f"{name}: {grant_id} went from {older} to {newer}, which does not descend from it")
        elif new[FIELD["VERSION"]] - old[FIELD["VERSION"]] != rotations:
            self.fail(3, f"{name}: {grant_id} skipped from {older} to {newer} without counting")
        elif rotations > 1:
            self.count("jumps over forgotten rotations")

    def _check_failure(self, grant_id: str, new: Any) -> None:
        lineage = new[FIELD["LINEAGE"]]
        if lineage not in self.books.refused:
            self.fail(6, f"{grant_id} is failed, and the server never refused its token")

    def _check_comparison(self, grant_id: str) -> None:
        """A grant is blamed for an answer that did not come: another was answered since it first had none.

        When the two were sent is compared by their processes' clocks.
        """
        its_own = [each for each in self.books.presentations if each.grant_id == grant_id]
        refreshed = [each.at_us for each in its_own if isinstance(each.heard, Refreshed)]
        recent = max(self.world.now_us - MEMORY_US, *refreshed, 0)
        without = [each.at_us for each in its_own if not _is_readable(each.heard) and each.at_us > recent]
        if not any(
            each.at_us + LAG_US >= min(without, default=recent)
            for each in self.books.presentations
            if each.grant_id != grant_id and _is_readable(each.heard)
        ):
            self.fail(6, f"{grant_id} is blamed for an answer that did not come, and no other was answered")

    # The end

    def sum_up(self, look: Look) -> None:
        """Check every grant, after the faults have been lifted and everything has settled."""
        for grant_id, packed in look.records.items():
            if packed is not None and grant_id in self.families:
                self._sum_up_grant(grant_id, msgpack.unpackb(packed, raw=True))
        self._records = look.records
        for family in self.bank.given.values():
            self._sum_up_sign_in(family)

    def _sum_up_sign_in(self, family: Family) -> None:
        is_stored, was_kept = self._is_stored(family), self._was_kept(family)
        if self.books.told.get(family.grant_id) is family and not is_stored:
            self.fail(12, f"{family.grant_id} was said to be connected, and is not stored")
        elif not is_stored and was_kept and family.revoked_by is None:
            self.fail(12, f"{family.live} is no grant's, and nobody revokes it")

    def _was_kept(self, family: Family) -> bool:
        """Whether what a provider gave for a code reached a disk."""
        return any(disk.holds(self.lineage(family.root)) for disk in self._all_disks())

    def _sum_up_grant(self, grant_id: str, r: Any) -> None:
        family = self.families[grant_id]
        status, reason = r[FIELD["STATUS"]].decode(), r[FIELD["REASON"]] or b""
        stored = self.token(r[FIELD["LINEAGE"]])
        self.count(f"ends {status}")
        if status == "failed":
            self.count(f"ends failed: {reason.decode()}")
            self._check_reason(grant_id, family, reason.decode())
        elif family.revoked_by == "person":
            return  # nobody has asked since
        elif family.live in self.books.late:
            self.books.notes.add("late answer")
            self.count("exception: late answer")
        elif stored != family.live and self._was_forgotten(family):
            self.count("exception: forgotten intent")
        elif stored != family.live and r[FIELD["INTENT"]] and not self.is_held(self.lineage(family.live)):
            self.count("ends active in doubt")
        elif stored != family.live and self.bank.mode is not Mode.STATIC:
            held = "held" if self.is_held(self.lineage(family.live)) else "lost"
            self.fail(5, f"{grant_id} is {status} with {stored}, and {family.live}, which lives, is {held}")
        elif family.revoked_by is not None:
            self.fail(5, f"{grant_id} is {status}, and its family was revoked for {family.revoked_by}")

    def _check_reason(self, grant_id: str, family: Family, reason: str) -> None:
        if family.revoked_by == "person":
            return
        if family.live in self.books.late:
            self.count("exception: late answer")
        elif self.is_held(self.lineage(family.live)):
            self.fail(5, f"{grant_id} is failed ({reason}), and {family.live} is held")
        elif reason != "reply_lost":
            if reason == "revoked" and self._was_forgotten(family):
                self.count("exception: forgotten intent")
            else:
                self.fail(5, f"{grant_id} is failed with {reason}, and its answer was lost")

    def _was_forgotten(self, family: Family) -> bool:
        """Whether the live pair was lost together with the intent of its request."""
        made_from = family.parents.get(family.live)
        if made_from is None or self.is_held(self.lineage(family.live)):
            return False
        if self.lineage(made_from) in self.books.forgotten_doubts:
            self.books.notes.add("forgotten doubt")
            return True
        lease = self.books.forgotten.get(self.lineage(made_from))
        if lease is None or (lease.process.alive and not lease.process.out_of_reach_until_us()):
            return False
        self.books.notes.add("forgotten intent")
        return True


def _patience_ms(access_expires_at: int | None, until: int) -> int:
    """How long the holder of a lease that ended is waited for: half of the access token's rest."""
    if not access_expires_at:
        return PATIENCE_MS
    return min(PATIENCE_MS, max((access_expires_at - until) // 2, SILENCE_US // 1000))


def _is_readable(heard: Outcome | None) -> bool:
    return isinstance(heard, Refreshed | Rejected)


def _state(r: Sequence[Any]) -> str:
    return f"{r[FIELD['STATUS']].decode()} v{r[FIELD['VERSION']]}"


def _leases_of(found: Sequence[Any]) -> str:
    leases = [
        f"{grant_id.decode()} {_short(msgpack.unpackb(packed, raw=True)[FIELD['FENCE']])}"
        + (" in doubt" if in_doubt else "")
        for packed, in_doubt, grant_id in zip(found[::3], found[1::3], found[2::3], strict=True)
    ]
    return ", ".join(leases) or "nothing"


def _claimed_in(reply: Any) -> list[Any]:
    """The leases of all clients in a claim's reply."""
    return [each for answer in reply[2] for each in answer[4]]


def _short(fence: int) -> int:
    return fence % 1_000_000_000


def _said(name: str, call: Any, reply: Any) -> str:
    """A script's reply, for the trace."""
    if name == "hand_out":
        until = f" until {reply[3] % 1_000_000}" if reply[0] == b"promised" else ""
        return f" {call.id.decode()}: {reply[0].decode()}{until}"
    if name == "claim":
        return ": recovering" if reply[1] else f": {_leases_of(_claimed_in(reply))}"
    if name == "renew_promise":
        return f" {call.id.decode()}: {reply.decode()}"
    if name in {"commit", "record_outcome", "lease", "reassert"} | BY_OPERATORS:
        said = reply[0] if isinstance(reply, list) else reply
        fence = f" {_short(call.fence)}" if name in {"commit", "record_outcome", "reassert"} else ""
        return f" {call.id.decode()}{fence}: {said.decode()}"
    return f": {reply}"
