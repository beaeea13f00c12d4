"""Import lines -> stored grants, in batches.

Rules:
- A bad line is refused with its number and its reason; every good line is stored all the same.
- An id that exists is refused unless it may be replaced. Importing the pair that is already stored keeps the
  version; any other pair counts as a rotation.
- A refresh token that a journal knows to be used is never stored: the grant gets the newest pair that was
  made from it. So an old file does no harm after a store lost everything, as far as the journals reach.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import BinaryIO, Final

from worker.core import lifecycle
from worker.core.audit import By
from worker.core.grant import Status
from worker.core.interchange import Line, LineError, read_line
from worker.core.policy import Rules
from worker.core.ports import KeptReply, Sealer, UnsealError, Verdict
from worker.core.providers import Client
from worker.core.registry import ImportVerdict, Registry, UnreadableRecordError
from worker.fleet.journaled import Journaled


class LineProblem(StrEnum):
    """Why a line was not stored."""

    BAD_LINE = "bad_line"
    EXISTS = "exists"  # and nothing may be replaced
    OUTDATED = "outdated"  # what is stored is newer than this pair
    OTHER_LABELS = "other_labels"  # than those that every line here must have
    FOREIGN = "foreign"  # the stored grant with this id has other labels than every grant here must have
    NEWER_FORMAT = "newer_format"  # a newer release wrote what is stored
    BUSY = "busy"  # it is being refreshed again and again


Refused = tuple[LineProblem, str]
"""Why a line was not stored, as a code and as one clause."""

BATCH: Final = 500
MAX_LINE_BYTES: Final = 256 * 1024
EXISTS: Final = LineProblem.EXISTS, "id exists already; --replace puts this grant in its place"
REFUSED: Final[Mapping[ImportVerdict, Refused]] = {
    ImportVerdict.DESCENDS: (
        LineProblem.OUTDATED,
        "what is stored was made from this pair, which is dead by now",
    ),
    ImportVerdict.NEWER: (LineProblem.OUTDATED, "what is stored was issued after this pair"),
    ImportVerdict.UNKNOWN_FORMAT: (
        LineProblem.NEWER_FORMAT,
        "what is stored was written by a newer release; upgrade first",
    ),
}
FOREIGN: Final = LineProblem.FOREIGN, "id is that of a grant with other labels"
USED_UP: Final = "its refresh token is used up, and a journal on this machine has the newer one"
REPLY_FIRST_MS: Final = 60_000
MOST_TRIES: Final = 5  # to replace a grant that is being refreshed at the same time

NumberedLine = tuple[int, bytes | None]  # `None` stands for a line that is too long
NumberedGrant = tuple[int, Line]


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that was not stored, and why."""

    number: int
    reason: str
    code: LineProblem = LineProblem.BAD_LINE


class OtherLabelsError(LineError):
    """A line has another value for a label than every line here must have."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of one batch: how many lines were stored, and which ones were refused.

    Attributes:
        without_end: how many of the stored lines do not say when their access token ends.
        repaired: how many of the stored lines had a dead pair, and got a newer one from a journal.
        ids: of the grants that were stored, by the numbers of their lines.
    """

    stored: int
    refusals: Sequence[RefusedLine]
    without_end: int
    repaired: int
    ids: Mapping[int, str]


class Importer:
    """Stores the import lines of one run.

    Args:
        registry: where grants are stored.
        sealer: seals their tokens.
        clients: the configured clients; a line that names another one is refused.
        rules: the deployment's; they say when an imported grant is due.
        replace_existing: whether a line may replace the stored grant with the same id.
        journaled: what this machine's journals know of the tokens that come in; `None` for nothing.
        keep_reply: stores a reply that could not be read; needed where a journal may have one.
        bound_to: labels that every stored grant gets. A line that has another value for one of them is
            refused, and a grant that has not all of them is not replaced.
        by: who imports, for the audit stream; `None` for nobody.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        sealer: Sealer,
        clients: Iterable[Client],
        rules: Rules,
        replace_existing: bool,
        journaled: Journaled | None = None,
        keep_reply: Callable[[KeptReply], Awaitable[Verdict]] | None = None,
        bound_to: Mapping[str, str] | None = None,
        by: By | None = None,
    ) -> None:
        self._registry = registry
        self._sealer = sealer
        self._clients = {client.name: client for client in clients}
        self._rules = rules
        self._replace_existing = replace_existing
        self._journaled = journaled or Journaled()
        self._keep_reply = keep_reply
        self._bound_to = dict(bound_to or {})
        self._by = by

    async def take_all(self, lines: Iterator[NumberedLine]) -> AsyncIterator[Taken]:
        """Store lines in batches, in order; each batch is read while the store works on the one before."""
        before: asyncio.Task[Taken] | None = None
        try:
            while batch := list(islice(lines, BATCH)):
                now = await self._registry.now()
                good, refusals = self._sort(batch, now)
                # One batch at a time: of two lines with the same id the first one must win.
                taken = None if before is None else await before
                before = asyncio.create_task(self._store_all(good, refusals, now))
                if taken is not None:
                    yield taken
            if before is not None:
                yield await before
        finally:
            if before is not None:
                before.cancel()

    def _sort(
        self, batch: Sequence[NumberedLine], now: int
    ) -> tuple[dict[str, NumberedGrant], list[RefusedLine]]:
        refusals, good = [], dict[str, NumberedGrant]()
        for number, text in batch:
            try:
                line = self._read(text, now)
            except OtherLabelsError as problem:
                refusals.append(RefusedLine(number, str(problem), LineProblem.OTHER_LABELS))
                continue
            except LineError as problem:
                refusals.append(RefusedLine(number, str(problem)))
                continue
            if line.grant.id in good:
                first, _ = good[line.grant.id]
                refusals.append(RefusedLine(number, f"id is the same as in line {first}"))
            else:
                good[line.grant.id] = number, line
        return good, refusals

    async def _store_all(
        self, good: dict[str, NumberedGrant], refusals: list[RefusedLine], now: int
    ) -> Taken:
        refused = await asyncio.gather(*(self._store(line, now) for _, line in good.values()))
        without_end = repaired = 0
        ids: dict[int, str] = {}
        for (number, line), problem in zip(good.values(), refused, strict=True):
            if problem is not None:
                code, reason = problem
                refusals.append(RefusedLine(number, reason, code))
                continue
            ids[number] = line.grant.id
            without_end += not line.states_end
            repaired += bool(line.grant.root)
        refusals.sort(key=lambda refusal: refusal.number)
        return Taken(len(ids), refusals, without_end, repaired, ids)

    def _read(self, text: bytes | None, now: int) -> Line:
        if text is None:
            raise LineError(f"is longer than {MAX_LINE_BYTES} bytes")
        return self._repaired(self._bound(read_line(text, self._clients, now)))

    def _bound(self, line: Line) -> Line:
        """The line with the labels that every line here gets.

        Raises:
            OtherLabelsError: it has another value for one of them.
        """
        if not self._bound_to:
            return line
        labels = {**self._bound_to, **line.grant.labels}
        if not self._bound_to.items() <= labels.items():
            wanted = ", ".join(f"{name}={value}" for name, value in self._bound_to.items())
            raise OtherLabelsError(f"labels takes {wanted} here")
        return replace(line, grant=replace(line.grant, labels=labels))

    def _repaired(self, line: Line) -> Line:
        """The line with the newest pair that descends from its refresh token, as far as the journals know.

        Raises:
            LineError: that pair cannot be used here.
        """
        given = line.grant
        answer = self._journaled.newest(given.id, given.lineage) if given.has_refresh_token else None
        known = given if answer is None else answer.change.grant
        reply = self._journaled.reply(given.id, known.lineage)
        if reply is not None:
            known = reply.change.grant
        if known.lineage == given.lineage and reply is None:
            return line
        try:
            if known.client not in self._clients:
                raise LineError(f"{USED_UP} of the client {known.client!r}, which is not configured")
            pair = self._sealer.open(known)
        except UnsealError as problem:
            raise LineError(f"{USED_UP}; {problem}") from None
        is_paused = given.status is Status.PAUSED
        grant = replace(
            known, labels=given.labels, status=Status.PAUSED if is_paused else Status.ACTIVE, kept_reply=None
        )
        return Line(replace(grant, reason=None, streak=0, in_doubt=False), pair, states_end=True)

    async def _store(self, line: Line, now: int) -> Refused | None:
        """Store one grant; returns why it was refused."""
        version, replaces = line.grant.version, None
        for _ in range(MOST_TRIES):
            grant = replace(line.grant, version=version)
            grant = replace(grant, sealed=self._sealer.seal(grant, line.pair))
            change = lifecycle.admit(grant, self._clients[grant.client], self._rules, now)
            reply = self._journaled.reply(grant.id, grant.lineage)
            if reply is not None:  # due later, so that nobody presents its token before the reply is kept
                change = replace(change, due_at=now + REPLY_FIRST_MS)
            result = await self._registry.import_grant(change, replaces=replaces, by=self._by)
            if result.verdict is ImportVerdict.STORED:
                if reply is not None and self._keep_reply is not None:
                    await self._keep_reply(reply)
                return None
            if self._bound_to and await self._is_foreign(grant.id):
                return FOREIGN
            if not self._replace_existing:
                return EXISTS
            if result.verdict in REFUSED:
                return REFUSED[result.verdict]
            if result.verdict is ImportVerdict.MOVED and result.lineage == b"" and result.version == 0:
                replaces = None  # it was deleted meanwhile
            else:
                replaces = result.version
                same_pair = result.lineage == grant.lineage
                version = result.version if same_pair else max(line.grant.version, result.version + 1)
        return LineProblem.BUSY, "is being refreshed again and again; try once more"

    async def _is_foreign(self, grant_id: str) -> bool:
        """Whether the stored grant lacks a label that every grant here has.

        Only an import changes labels, and the version with them: what is looked at here is what is replaced.
        """
        try:
            stored = await self._registry.find(grant_id)
        except UnreadableRecordError:
            return True  # nobody knows whose it is
        return stored is not None and not self._bound_to.items() <= stored.grant.labels.items()


def numbered_lines(file: BinaryIO) -> Iterator[NumberedLine]:
    """The lines of a file, counted from 1, without the blank ones; `None` stands for a line over the cap.

    However long a line is, no more than the cap is kept in memory.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        elif line.strip():
            yield number, line
