"""The rules, broken one at a time: the simulation must notice each.

A mutant is a script with its text patched, or a process with a part of it replaced; the product's files
stay as they are. A patch names the words it replaces, so that one that no longer applies is an error and
not a silent pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.simulation import clock_stories, promise_stories, sign_in_stories, stories
from tests.simulation.deployment import Mutation, Parts
from tests.simulation.redis import Patch
from tests.simulation.scene import Break
from tests.simulation.stories import Tale
from worker.core.connecting import Confirmed, Consent
from worker.core.grant import Status
from worker.core.ports import (
    Commit,
    Entry,
    Epoch,
    FailureOf,
    FailureVerdict,
    KeptReply,
    Lease,
    Refusal,
    RefusalVerdict,
    RefusalWords,
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule broken.

    Attributes:
        name: what is wrong, as the end of a sentence.
        broken: how.
        breaks: the invariants that may be the first to tell; 0 is the product's own surprise.
        faults: what brings it out.
    """

    name: str
    broken: Break
    breaks: frozenset[int]
    faults: Sequence[str]


def _numbers(breaks: str) -> frozenset[int]:
    """The invariants, a digit each; `a` is the tenth, `b` the eleventh, `c` the twelfth."""
    return frozenset(int(each, 16) for each in breaks)


def _mutant(name: str, breaks: str, faults: Sequence[str], **how: Any) -> Mutant:
    return Mutant(name, Break(**how), _numbers(breaks), faults)


def _replacing(script: str, words: Mapping[str, str]) -> Patch:
    """Other words in one script, or in all of them where none is named."""

    def patch(name: str, text: str) -> str:
        if script not in {name, EVERY}:
            return text
        for old, new in words.items():
            if old not in text:
                raise RuntimeError(f"{name}.lua has no {old!r} to break")
            text = text.replace(old, new)
        return text

    return patch


def _together(*patches: Patch) -> Patch:
    """Several patches, each of another script."""

    def patch(name: str, text: str) -> str:
        for each in patches:
            text = each(name, text)
        return text

    return patch


EVERY: Final = "every script"


async def _forget_to_write(commit: Commit) -> None:
    del commit


def _skip_the_journal_with_replies(parts: Parts) -> None:
    write = parts.journal.write

    async def write_answers_alone(answer: Commit | KeptReply) -> None:
        if isinstance(answer, Commit):
            await write(answer)

    parts.replace(parts.journal, "write", write_answers_alone)


def _skip_the_journal_with(kind: type[Entry]) -> Mutation:
    def mutate(parts: Parts) -> None:
        write = parts.journal.write

        async def write_others(entry: Entry) -> None:
            if not isinstance(entry, kind):
                await write(entry)

        parts.replace(parts.journal, "write", write_others)

    return mutate


def _skip_the_journal(parts: Parts) -> None:
    parts.replace(parts.journal, "write", _forget_to_write)


def _journal_after_the_commit(parts: Parts) -> None:
    write, offer = parts.journal.write, parts.answers.replay

    async def keep(commit: Commit) -> None:
        await offer([commit])
        await write(commit)

    parts.replace(parts.answers, "keep", keep)


def _leases_are_forgotten(parts: Parts) -> None:
    async def reassert(lease: Lease) -> None:
        del lease

    parts.replace(parts.store, "reassert", reassert)


def _no_replay(parts: Parts) -> None:
    async def replay(commits: Sequence[Commit]) -> list[None]:
        return [None] * len(commits)

    parts.replace(parts.answers, "replay", replay)


def _outages_count(parts: Parts) -> None:
    """An attempt without an answer is taken for a refusal of the grant."""
    settle = parts.store.record_outcome

    async def harsh(lease: Lease, change: Any, **given: Any) -> Any:
        if given.get("answered_at") is None:
            failed = replace(change.grant, status=Status.FAILED, reason="revoked")
            change = replace(change, grant=failed, due_at=None)
        return await settle(lease, change, **given)

    parts.replace(parts.store, "record_outcome", harsh)


def _outages_are_blamed_on_grants(parts: Parts) -> None:
    """A grant without an answer is failing, whether others had one or not."""

    async def record_failure(*_: Any, **__: Any) -> FailureVerdict:
        return FailureVerdict(FailureOf.GRANT, claims_stop=False)

    parts.replace(parts.store, "record_failure", record_failure)


def _present_twice(parts: Parts) -> None:
    """Every token is presented once more, even after a readable reply."""
    refresh = parts.endpoint.refresh

    async def twice(client: Any, pair: Any, now: int) -> Any:
        await refresh(client, pair, now)
        return await refresh(client, pair, now)

    parts.replace(parts.endpoint, "refresh", twice)


def _leases_never_end(parts: Parts) -> None:
    """A process takes each lease for one that lasts for ever."""
    claim = parts.store.claim

    async def endless(*args: Any) -> Any:
        claimed = await claim(*args)
        leases = [replace(lease, until=lease.until * 2) for lease in claimed.leases]
        return replace(claimed, leases=leases)

    parts.replace(parts.store, "claim", endless)


_LINEAGE: Final = "if not forgot and (not same_token or"
_ONLY_UNDER_ITS_LEASE: Final = """local now = now_ms()
if r[FENCE] ~= fence or not is_leased(r, now) then
  release_ours()
  save(id, r)
  return {'superseded', r[VERSION], r[STATUS]}
end
"""


def _rejections_are_believed(parts: Parts) -> None:
    compare = parts.store.record_refusal

    async def believe(*args: Any, words: RefusalWords, **given: Any) -> RefusalVerdict:
        verdict = await compare(*args, words=words, **given)
        return RefusalVerdict(Refusal.GRANT, claims_stop=False) if words is RefusalWords.GRANT else verdict

    parts.replace(parts.store, "record_refusal", believe)


def _oldest_first(parts: Parts) -> None:
    """Journals are offered from their oldest answer on."""
    replay = parts.answers.replay

    async def backwards(commits: Sequence[Commit]) -> Any:
        return await replay(commits[::-1])

    parts.replace(parts.answers, "replay", backwards)


def _journals_are_not_asked(parts: Parts) -> None:
    async def nothing(lease: Lease) -> None:  # noqa: ARG001
        return None

    parts.replace(parts.answers, "catch_up", nothing)


def _other_journals_are_not_looked_at(parts: Parts) -> None:
    parts.replace(parts.directory, "look", lambda own: None)  # noqa: ARG005


def _promises_are_not_given_back(parts: Parts) -> None:
    async def nothing(epoch: Epoch) -> None:
        del epoch

    parts.replace(parts.recovery._promises, "give_back", nothing)  # noqa: SLF001 no other part has it


@dataclass(frozen=True, slots=True)
class Loss:
    """One mechanism taken away.

    Attributes:
        name: what is wrong, as the end of a sentence.
        broken: how.
        breaks: the invariants that may be the first to tell.
        tale: what brings it out, every time.
    """

    name: str
    broken: Break
    breaks: frozenset[int]
    tale: Tale


def _loss(name: str, breaks: str, tale: Tale, **how: Any) -> Loss:
    return Loss(name, Break(**how), _numbers(breaks), tale)


# The store's clock follows Redis's, wherever that goes.
_LEAPS_END_LEASES: Final = _replacing(EVERY, {"return r[LEASE_UNTIL] > held_since": "return false"})
_FOLLOWS: Final = _replacing(EVERY, {"if reached > now then": "if false then"})

_KEPT_BESIDE_ITS_GRANT: Final = _replacing(
    "keep_consent", {"if grant and grant[ISSUED_AT] >= r[ISSUED_AT] then return 'superseded' end": ""}
)
_REVOKED_BESIDE_ITS_GRANT: Final = _replacing(
    "take_revocations", {"if not revoke or of_line(id, cmsgpack.unpack(revoke)) then": "if not revoke then"}
)

LOSSES: Final = (
    *(
        _loss(f"the store's clock follows Redis's and {tale.name}", "b", tale, patch=_FOLLOWS)
        for tale in (
            clock_stories.BACK_WHILE_IDLE,
            clock_stories.BACK_IN_FLIGHT,
            clock_stories.BACK_BESIDE_A_FROZEN_PROCESS,
        )
    ),
    _loss(
        "what a process knows of the clock is not heard",
        "b",
        clock_stories.BACK_WITH_A_RESTART,
        patch=_replacing(EVERY, {"at_least or 0": "0"}),
    ),
    _loss(
        "a leap of the clock ends leases",
        "12",
        clock_stories.FORWARD_IN_FLIGHT,
        patch=_LEAPS_END_LEASES,
    ),
    _loss(
        "nobody is waited for once its lease has ended",
        "5",
        stories.FROZEN_HOLDER,
        patch=_replacing(EVERY, {"local patience_ms = math.min": "local patience_ms = 0 * math.min"}),
    ),
    _loss(
        "a silence begins no epoch",
        "57",
        stories.SILENCE,
        patch=_replacing(EVERY, {"local SILENCE_MS = 3000": "local SILENCE_MS = 2^53"}),
    ),
    _loss(
        "recovery does not wait for processes that the store forgot",
        "2",
        stories.FORGOTTEN_PROCESS,
        patch=_replacing(EVERY, {"local LEAST_RECOVERY_MS = 2000": "local LEAST_RECOVERY_MS = 0"}),
    ),
    _loss(
        "a process claims before it has itself recovered",
        "57",
        stories.NEW_PROCESS,
        patch=_replacing("claim", {"recovering or in_epoch ~= recovered_epoch": "recovering"}),
    ),
    _loss(
        "a process leases on demand before it has itself recovered",
        "57",
        stories.NEW_PROCESS,
        patch=_replacing("lease", {"recovering or number ~= recovered_epoch": "recovering"}),
    ),
    _loss(
        "an answer does not jump over rotations that the store forgot",
        "25",
        stories.TWO_ROTATIONS,
        patch=_replacing("commit", {"local forgot = ": "local forgot = false and "}),
    ),
    _loss(
        "a token is presented to which the journal has the answer",
        "25",
        stories.FAILING_COMMIT,
        mutate=_journals_are_not_asked,
    ),
    _loss(
        "a token is presented to which a journal in other hands has the answer",
        "25",
        stories.JOURNAL_IN_OTHER_HANDS,
        mutate=_other_journals_are_not_looked_at,
    ),
    _loss(
        "an outcome releases another's lease",
        "1",
        stories.JOURNAL_IN_OTHER_HANDS,
        patch=_replacing("commit", {"local is_ours = r[FENCE] <= fence": "local is_ours = true"}),
    ),
    _loss("a journal is offered from its oldest answer on", "2", stories.LONG_JOURNAL, mutate=_oldest_first),
    _loss(
        "a claim that is asked again gives other leases",
        "8",
        stories.LOST_CLAIM,
        patch=_replacing("claim", {"if before then return repeated(before[place]) end": ""}),
    ),
    _loss(
        "a lease that is asked for again is refused",
        "8",
        stories.LOST_LEASE,
        patch=_replacing("lease", {"if before then": "if false then"}),
    ),
    _loss(
        "a client is paused for the same grant again",
        "6",
        stories.REFUSED_ALONE,
        patch=_replacing("record_refusal", {"if refreshed_at > mine[2] then return {'grant', 0} end": ""}),
    ),
    _loss(
        "the healthiest grant is not asked for comparison",
        "6",
        stories.REFUSED_BY_THREES,
        patch=_replacing("claim", {"if is_single and known.wary_at then": "if false then"}),
    ),
    _loss(
        "refusals of a client are not compared",
        "6",
        stories.REFUSED_BY_THREES,
        patch=_replacing("record_refusal", {"if refreshed_at > mine[2] then return {'grant', 0} end": ""}),
    ),
    _loss(
        "refusals without words are not compared",
        "6",
        stories.REFUSED_WITHOUT_WORDS,
        patch=_replacing("record_refusal", {"if refreshed_at > mine[2] then return {'grant', 0} end": ""}),
    ),
    _loss(
        "the rejection of every grant is believed at once",
        "56",
        stories.EVERY_GRANT_REJECTED,
        mutate=_rejections_are_believed,
    ),
    _loss(
        "one more rejection ends the incident that every grant is rejected",
        "6",
        stories.EVERY_GRANT_REJECTED,
        patch=_replacing(
            "accept_client", {"if known[2] and not is_refreshed then return 'unchanged' end": ""}
        ),
    ),
    _loss(
        "a new registration is tried with many grants",
        "9",
        stories.NEW_REGISTRATION,
        patch=_replacing("claim", {"is_unproven = known.proved ~= registration": "is_unproven = false"}),
    ),
    _loss(
        "a second grant is risked before the first one's reply is known",
        "9",
        stories.NEW_REGISTRATION,
        patch=_replacing(
            "claim",
            {"local at_risk = is_single and is_unproven and grant_at_risk(client, known)": "local at_risk"},
        ),
    ),
    _loss(
        "others are tried after a new registration's reply could not be read",
        "9",
        stories.UNREAD_REPLY,
        patch=_replacing("claim", {"if is_unproven and known.unread == registration then": "if false then"}),
    ),
    _loss(
        "a reply that nobody could read is not journaled",
        "9",
        stories.UNREAD_REPLY,
        mutate=_skip_the_journal_with_replies,
    ),
    _loss(
        "an endpoint is left alone for the same grant again",
        "6",
        stories.UNANSWERED_ALONE,
        patch=_replacing(
            "record_failure",
            {"if redis.call('HGET', endpoint, 'suspect') == grant then return true end": ""},
        ),
    ),
    _loss(
        "a promise puts no refresh off",
        "a",
        promise_stories.DUE,
        patch=_replacing("hand_out", {"if due_at < promised_until then": "if false then"}),
    ),
    _loss(
        "a grant that is resumed is due before its promise ends",
        "a",
        promise_stories.RESUMED,
        patch=_replacing(EVERY, {"math.max(due_at, r[PROMISED_UNTIL] or 0)": "due_at"}),
    ),
    _loss(
        "a lease for a caller ends another's promise",
        "a",
        promise_stories.ON_DEMAND,
        patch=_replacing("lease", {"if is_promised(whole, now) and not overrides then": "if false then"}),
    ),
    _loss(
        "a probe takes a grant whose token is promised",
        "a",
        promise_stories.PROBED,
        patch=_replacing("claim", {"if not (r and is_promised(r, now)) then": "if true then"}),
    ),
    _loss(
        "a token is promised under a refresh",
        "a",
        promise_stories.UNDER_WAY,
        patch=_replacing(
            "hand_out", {"if free_at > now then": "if false then", "if r[INTENT] then": "if false then"}
        ),
    ),
    _loss(
        "a token is promised that may be dead",
        "a",
        promise_stories.IN_DOUBT,
        patch=_replacing("hand_out", {"if r[INTENT] then": "if false then"}),
    ),
    _loss(
        "a token is promised while the store recovers",
        "a",
        promise_stories.FORGOTTEN_LEASE,
        patch=_replacing("hand_out", {"if recovering then": "if false then"}),
    ),
    _loss(
        "promises put a refresh off for ever",
        "a",
        promise_stories.PUT_OFF,
        patch=_replacing("hand_out", {"math.min(ends_at, r[PROMISABLE_UNTIL])": "ends_at"}),
    ),
    _loss("promises are not given back", "a", promise_stories.FORGOTTEN, mutate=_promises_are_not_given_back),
    _loss(
        "every refused token is refreshed",
        "a",
        promise_stories.REFUSED,
        patch=_replacing("lease", {"if allowed_at > now then": "if false then"}),
    ),
    _loss(
        "what a provider gave for a code is not journaled",
        "c",
        sign_in_stories.UNHEARD,
        mutate=_skip_the_journal_with(Consent),
    ),
    _loss(
        "a confirmation is not journaled",
        "c",
        sign_in_stories.FORGOTTEN_CONFIRMATION,
        mutate=_skip_the_journal_with(Confirmed),
    ),
    _loss(
        "a store that recovers has consents revoked",
        "c",
        sign_in_stories.ENDED_MEANWHILE,
        patch=_replacing("take_revocations", {"if recovering then return {} end": ""}),
    ),
    _loss(
        "a consent is kept and revoked beside its grant",
        "c",
        sign_in_stories.IMPORTED,
        patch=_together(_KEPT_BESIDE_ITS_GRANT, _REVOKED_BESIDE_ITS_GRANT),
    ),
    _loss(
        "a replaced pair is revoked though its token was given again",
        "c",
        sign_in_stories.SAME_TOKEN,
        patch=_together(
            _replacing("confirm_consent", {"old[LINEAGE] ~= new[LINEAGE] and old": "old"}),
            _REVOKED_BESIDE_ITS_GRANT,
        ),
    ),
    _loss(
        "a consent is revoked that is a grant's",
        "c",
        sign_in_stories.SAME_TOKEN_UNCONFIRMED,
        patch=_REVOKED_BESIDE_ITS_GRANT,
    ),
    _loss(
        "a replaced pair is not revoked",
        "c",
        sign_in_stories.REPLACED,
        patch=_replacing("confirm_consent", {"settle(revokes and": "settle(false and"}),
    ),
    _loss(
        "a state can be used again",
        "c",
        sign_in_stories.STATE_TWICE,
        patch=_replacing(
            "end_sign_in",
            {
                "if not known or phase ~= 'open' then": "if not known then",
                "redis.call('HDEL', key, 'state:' .. state)": "",
            },
        ),
    ),
)

MUTANTS: Final = (
    _mutant(
        "a leap of the clock ends leases",
        "125",
        ["clock set", "provider slow"],
        patch=_LEAPS_END_LEASES,
    ),
    _mutant("the store's clock follows Redis's", "b", ["clock set"], patch=_FOLLOWS),
    _mutant(
        "what processes know of the clock is not heard",
        "b",
        ["restart with another clock"],
        patch=_replacing(EVERY, {"at_least or 0": "0"}),
    ),
    _mutant(
        "a commit is taken whatever its lineage",
        "2345",
        ["connects again", "a freeze", "cut off"],
        patch=_replacing("commit", {_LINEAGE: "if false and (not same_token or"}),
    ),
    _mutant(
        "a late commit is refused",
        "25",
        ["a freeze", "cut off"],
        patch=_replacing("commit", {"local now = now_ms()\n": _ONLY_UNDER_ITS_LEASE}),
    ),
    _mutant("an answer is not journaled", "7", ["a crash"], mutate=_skip_the_journal),
    _mutant(
        "an answer is committed before it is journaled", "7", ["a crash"], mutate=_journal_after_the_commit
    ),
    _mutant("an outage counts against the grant", "46", ["provider answers 503"], mutate=_outages_count),
    _mutant(
        "an outage makes its grants failing",
        "6",
        ["provider answers 503"],
        mutate=_outages_are_blamed_on_grants,
    ),
    _mutant(
        "claims do not wait for the store to recover",
        "257",
        ["restart without the last writes"],
        patch=_replacing("claim", {"if recovering or in_epoch ~= recovered_epoch then": "if false then"}),
    ),
    _mutant(
        "leases are not taken back",
        "125",
        ["restart without the last writes", "provider slow"],
        mutate=_leases_are_forgotten,
    ),
    _mutant(
        "journals are not replayed", "25", ["restart without the last writes", "a crash"], mutate=_no_replay
    ),
    _mutant("a token is presented twice", "2", ["a crash"], mutate=_present_twice),
    _mutant(
        "a lease is not looked at before a request",
        "1",
        ["a freeze before a retry"],
        mutate=_leases_never_end,
    ),
    _mutant(
        "a grant that is leased is leased again",
        "12",
        ["on demand", "provider slow"],
        patch=_replacing(
            "lease",
            {
                "if is_leased(r, now) then": "if false then",
                "if claimable_from(r) > now then": "if false then",
            },
        ),
    ),
    _mutant(
        "no intent is left",
        "25",
        ["a crash"],
        patch=_replacing(EVERY, {"r[INTENT] = true": "r[INTENT] = false"}),
    ),
    _mutant(
        "a commit has no event",
        "4",
        ["a crash"],
        patch=_replacing("commit", {"emit(event, events_kept)\nreturn {'stored'": "return {'stored'"}),
    ),
)
