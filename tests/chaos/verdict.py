"""The judge's view of a chaos run: what was lost, why, and whether it was said.

Rules:
- A grant is lost if the stored pair is not the provider's live one. Two windows that nobody can close excuse
  it: the provider's answer was on its way to a process that was killed, or the provider dropped it.
- How long requests and answers were on their way is measured in the same run: what all but the slowest
  hundredth of those that were stored took, and longer by what the machine was held up meanwhile. An answer
  that a journal has was not on its way.
- Everything else that is wrong is a violation, reported in one line.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Final

from tests.chaos.counters import miscounted
from tests.chaos.driver import Struck
from tests.chaos.evidence import Evidence, Visit
from tests.chaos.metronome import stalled_seconds
from tests.chaos.plan import FREEZES, STORE_STRIKES, WORKER_KILLS, Kind
from tests.support.punctuality import Delay, delays

AFTERMATH_SECONDS: Final = 1.0  # in which what was stopped does what it was about to do
REFUSED_AT_MOST: Final = 2
NAMED_AT_MOST: Final = 5

JOURNALED = "though a journal has the answer"
KILLED = "in flight to a killed worker"
DROPPED = "answer dropped by the provider"
IN_FROZEN = "in a stopped worker that went on"
OUTSIDE = "outside both windows"

AFTER_LOSS = "after a reply that was lost"
WHILE_FROZEN = "while its reply waited in a stopped worker"
WHILE_STORE_AWAY = "while its reply waited for the store"
UNCALLED_FOR = "without a reason"


class Verdict:
    """What the evidence comes to.

    Args:
        evidence: what the run left behind.
        refresh_at: the share of an access token's life after which its grant was due.
    """

    def __init__(self, evidence: Evidence, *, refresh_at: float) -> None:
        self._evidence = evidence
        self._refresh_at = refresh_at

    # Losses

    @cached_property
    def lost(self) -> Mapping[str, str]:
        """Why each grant was lost."""
        return {grant_id: self._why_lost(grant_id) for grant_id in self._evidence.lost()}

    @cached_property
    def on_the_way(self) -> tuple[float, float]:
        """Seconds from a worker to the provider's log, and from the provider's reply back to the worker."""
        there, back = [], []
        for event in (*self._evidence.told("grant.refreshed"), *self._evidence.told("grant.recovered")):
            visit = self._evidence.rotations_of[event["subject"]][event["data"]["version"] - 1]
            lives = self._evidence.lines[event["subject"]]["expires_in"]
            sent_at, read_at = _unix(event["data"]["expires_at"]) - lives, _unix(event["time"])
            if not self._within(FREEZES, sent_at, read_at):
                there.append(visit["at"] - sent_at)
                back.append(read_at - visit["ended_at"])
        return _all_but_the_slowest(there), _all_but_the_slowest(back)

    def _why_lost(self, grant_id: str) -> str:
        if self._evidence.is_journaled(grant_id):
            return JOURNALED
        last = self._evidence.rotations_of[grant_id][-1]
        if last["fault"] is not None:
            return DROPPED
        if self._kill_of(last) is not None:
            return KILLED
        return IN_FROZEN if self._within(FREEZES, last["at"], last["ended_at"]) else OUTSIDE

    def _kill_of(self, visit: Visit) -> Struck | None:
        """The kill that a reply may have met.

        One that was written died on its way back; one that was not had nobody to be written to.
        """
        (there, back), stalls = self.on_the_way, self._evidence.stalls
        before, after = (0.0, back) if visit["delivered"] else (there, 0.0)
        for kill in self._evidence.struck:
            if kill.kind in WORKER_KILLS:
                before_log = before + stalled_seconds(stalls, kill.done_at, visit["at"])
                after_log = after + stalled_seconds(stalls, visit["ended_at"], kill.at)
                if visit["at"] - before_log <= kill.done_at and kill.at <= visit["ended_at"] + after_log:
                    return kill
        return None

    @cached_property
    def longest_unread_seconds(self) -> float:
        """The longest that a reply had been written when its worker was killed."""
        unread = [0.0]
        for grant_id, why in self.lost.items():
            visit = self._evidence.rotations_of[grant_id][-1]
            kill = self._kill_of(visit) if why == KILLED else None
            if kill is not None:
                unread.append(kill.at - visit["ended_at"])
        return max(unread)

    # Failures

    @cached_property
    def failed(self) -> Mapping[str, str | None]:
        """The grants that are `failed` in the store, and the reason it has."""
        grants = self._evidence.grants.items()
        return {
            grant_id: stored.grant.reason for grant_id, stored in grants if stored.grant.status == "failed"
        }

    def _is_intent_lost(self, grant_id: str) -> bool:
        """Whether the store may have forgotten the intent of a lost rotation whose worker was killed, too.

        This double fault gets the wrong name: docs/reliability.md.
        """
        return self.lost.get(grant_id) == KILLED and any(
            struck.kind is Kind.STORE_FORGETS
            and struck.at <= self._evidence.rotations_of[grant_id][-1]["at"] <= struck.done_at
            for struck in self._evidence.struck
        )

    @cached_property
    def announced(self) -> set[str]:
        """The grants of which the stream's last word is that they failed."""
        last: dict[str, str] = {}
        for event in self._evidence.events:
            if event["type"] in {"evergrant.grant.failed", "evergrant.grant.recovered"}:
                last[event["subject"]] = event["type"]
        return {grant_id for grant_id, kind in last.items() if kind == "evergrant.grant.failed"}

    @cached_property
    def false_alarms(self) -> int:
        """How often a grant was said to have failed whose answer was stored later."""
        return len(self._evidence.told("grant.failed")) - len(self.announced)

    # Presentations

    @cached_property
    def superseded(self) -> Counter[str]:
        """How often a token was presented that a later one had replaced, and what for."""
        return Counter(
            self._why_superseded(visit)
            for visits in self._evidence.visits_of.values()
            for visit in visits
            if visit["verdict"] == "superseded"
        )

    def _why_superseded(self, visit: Visit) -> str:
        rotations = self._evidence.rotations_of[visit["grant"]]
        before = next(each for each in reversed(rotations) if each["at"] <= visit["at"])
        if not before["delivered"] or self._kill_of(before) is not None:
            return AFTER_LOSS
        if self._within(FREEZES, before["at"], visit["at"]):
            return WHILE_FROZEN
        if self._within(STORE_STRIKES, before["at"], visit["at"]):
            return WHILE_STORE_AWAY
        return UNCALLED_FOR

    @cached_property
    def heard(self) -> list[Visit]:
        """The refusals that no strike can have kept from the store."""
        return [visit for visit in self._evidence.refusals if not self._may_be_forgotten(visit)]

    def _deaf(self) -> list[str]:
        """Grants whose dead token was refused more than once and, with the client in doubt, once more."""
        told = Counter(visit["grant"] for visit in self.heard)
        return [grant_id for grant_id, times in told.items() if times > REFUSED_AT_MOST]

    def _may_be_forgotten(self, visit: Visit) -> bool:
        """Whether a strike may have kept a refusal from the store, or the client's check from its answer.

        Then the token is tried again.
        """
        return any(
            struck.kind not in {Kind.BEAT_KILLED, Kind.DISK_REFUSES}
            and visit["at"] <= struck.ended_at
            and struck.at <= visit["ended_at"] + AFTERMATH_SECONDS
            for struck in self._evidence.struck
        )

    def _within(self, kinds: frozenset[Kind], begin: float, end: float) -> bool:
        return any(
            struck.kind in kinds and struck.at <= end and begin <= struck.ended_at + AFTERMATH_SECONDS
            for struck in self._evidence.struck
        )

    @cached_property
    def overlapping(self) -> list[Visit]:
        """Requests for a grant that began while another was under way and no worker was stopped."""
        return [
            visit
            for visit in self._evidence.visits
            if visit["concurrent"] and not self._within(FREEZES, visit["at"], visit["at"])
        ]

    # Punctuality

    @cached_property
    def overdue_seconds(self) -> float:
        """The longest that a grant was rotated after it was due."""
        return max((delay.late for delay in self._delays), default=0.0)

    @cached_property
    def margin_seconds(self) -> float:
        """The least that was left of an access token when it was replaced."""
        return min((delay.left for delay in self._delays), default=0.0)

    @cached_property
    def _delays(self) -> list[Delay]:
        return [*delays(self._evidence.lines, self._evidence.rotations_of, self._refresh_at)]

    # Sentence

    def violations(self) -> list[str]:
        """What must never happen and did, a line each; empty where all is well."""
        evidence, lost, failed = self._evidence, self.lost, self.failed
        ids = Counter(event["id"] for event in evidence.events)
        named = {
            "lost, and no window excuses it": [
                f"{each} ({why})" for each, why in lost.items() if why not in {KILLED, DROPPED}
            ],
            "lost, and not failed": [each for each in lost if each not in failed],
            "failed, and honoured by the provider": [each for each in failed if each not in lost],
            "failed, and not announced": [each for each in failed if each not in self.announced],
            "announced as failed, and not failed": [each for each in self.announced if each not in failed],
            "announced as failed for another reason than reply_lost": [
                f"{event['subject']} ({event['data']['reason']})"
                for event in evidence.told("grant.failed")
                if event["data"]["reason"] != "reply_lost" and not self._is_intent_lost(event["subject"])
            ],
            "events with one id": [each for each, times in ids.items() if times > 1],
            "access tokens expired": [each for each in evidence.expired if each not in lost],
            "presented superseded tokens without a reason": [
                visit["grant"]
                for visit in evidence.visits
                if visit["verdict"] == "superseded" and self._why_superseded(visit) == UNCALLED_FOR
            ],
            "presented superseded tokens though told twice": self._deaf(),
            "presented by two at once": [visit["grant"] for visit in self.overlapping],
            "secrets": list(evidence.leaks),
        }
        counts = miscounted(evidence, lost=len(lost), sure_refusals=len(self.heard))
        return [*(f"{len(each)} {what}: {_some(each)}" for what, each in named.items() if each), *counts]


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:NAMED_AT_MOST]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


def _all_but_the_slowest(seconds: Sequence[float]) -> float:
    """What 99 of 100 took at most."""
    return sorted(seconds)[int(len(seconds) * 0.99)] if seconds else 0.0


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
