"""Grants put in while the fleet is at work: import lines from a caller, with a result for each.

Rules:
- As an import, a deposit never stores a refresh token that a journal of this machine knows to be used. It
  asks this process, which follows those journals: reading them all would take seconds for each call.
- A caller that is bound to labels puts its grants in under them, and replaces no other's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from worker.core.audit import By
from worker.core.interchange import LineError, read_line
from worker.core.policy import Rules
from worker.core.ports import Clients, Entry, KeptReply, Sealer, Verdict
from worker.core.registry import Registry
from worker.fleet.importing import Importer, LineProblem, NumberedLine
from worker.fleet.journaled import Journaled
from worker.refreshing.answers import Answers


@dataclass(frozen=True, slots=True)
class Deposited:
    """What became of one line.

    Attributes:
        number: of the line.
        grant_id: of the grant that is stored; `None` where the line was refused.
        problem: why it was refused.
        reason: the same in one clause.
    """

    number: int
    grant_id: str | None
    problem: LineProblem | None = None
    reason: str | None = None


class Depositing:
    """Stores what callers put in.

    Args:
        registry: where grants are stored.
        sealer: seals their tokens.
        clients: the configured clients.
        rules: the deployment's.
        answers: of this process; they know the journals of this machine.
        keep_reply: stores a reply that could not be read.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        sealer: Sealer,
        clients: Clients,
        rules: Rules,
        answers: Answers,
        keep_reply: Callable[[KeptReply], Awaitable[Verdict]],
    ) -> None:
        self._registry = registry
        self._sealer = sealer
        self._clients = clients
        self._rules = rules
        self._answers = answers
        self._keep_reply = keep_reply

    async def deposit(
        self,
        lines: Sequence[NumberedLine],
        *,
        replace_existing: bool,
        bound_to: Mapping[str, str],
        by: By,
    ) -> list[Deposited]:
        """Store lines; returns what became of each, in order.

        Args:
            lines: the lines, with their numbers.
            replace_existing: whether a line may replace the stored grant with the same id.
            bound_to: labels that each grant gets, and that a grant must have to be replaced.
            by: who puts them in, for the audit stream.

        Raises:
            JournalError: an answer to one of the tokens is in a journal that cannot be read.
            StoreUnavailableError: the store went away; some lines may be stored.
        """
        importer = Importer(
            registry=self._registry,
            sealer=self._sealer,
            clients=self._clients,
            rules=self._rules,
            replace_existing=replace_existing,
            journaled=Journaled(await self._known_of(lines)),
            keep_reply=self._keep_reply,
            bound_to=bound_to,
            by=by,
        )
        deposited: list[Deposited] = []
        async for taken in importer.take_all(iter(lines)):
            deposited += [Deposited(number, grant_id) for number, grant_id in taken.ids.items()]
            deposited += [
                Deposited(refusal.number, None, refusal.code, refusal.reason) for refusal in taken.refusals
            ]
        return sorted(deposited, key=lambda each: each.number)

    async def _known_of(self, lines: Sequence[NumberedLine]) -> list[Entry]:
        clients = {client.name: client for client in self._clients}
        now = await self._registry.now()
        known: list[Entry] = []
        for _, text in lines:
            with suppress(LineError):  # the importer says so
                lineage = read_line(text or b"", clients, now).grant.lineage
                known += await self._answers.that_follow(lineage) if lineage else ()
        return known
