"""Confirming: the application says that the person who came back is the one it sent, and the grant is live.

Rules:
- A confirmed consent takes the place of a stored grant by its lineage: a refresh of the old pair that is
  under way finds another one, and changes nothing. Labels that were not named anew are kept; a paused grant
  stays paused.
- The confirmation is on this machine's disk before the store is asked to take it. A store that forgot its
  last writes is given it back.
- A code confirms once.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from worker.core import lifecycle
from worker.core.audit import By
from worker.core.connecting import (
    CodeProblem,
    Confirmed,
    StoredConsent,
    following,
    ticket_in,
)
from worker.core.events import EventType, grant_event
from worker.core.policy import Rules
from worker.core.ports import (
    Clients,
    Clock,
    Sealer,
    SignInStore,
    StoreUnavailableError,
    Verdict,
)
from worker.core.registry import NewerRecordError, Registry, StoredGrant, UnreadableRecordError
from worker.fleet.connecting import signing_client
from worker.fleet.interrupts import to_its_end
from worker.refreshing.answers import Answers


class CodeError(Exception):
    """A code that confirms nothing.

    Attributes:
        problem: why.
    """

    def __init__(self, problem: CodeProblem) -> None:
        super().__init__(problem.value)
        self.problem = problem


class OutdatedConsentError(Exception):
    """Newer tokens of the grant are stored than those that were to be confirmed."""


class Confirming:
    """Makes grants of what people consented to.

    Args:
        sign_ins: where consents wait.
        answers: of this process.
        registry: where grants are read.
        clients: the configured clients.
        sealer: opens what was given, and seals it for the grant.
        rules: the deployment's; they say when a grant is due.
        clock: the store's.
    """

    def __init__(
        self,
        *,
        sign_ins: SignInStore,
        answers: Answers,
        registry: Registry,
        clients: Clients,
        sealer: Sealer,
        rules: Rules,
        clock: Clock,
    ) -> None:
        self._sign_ins = sign_ins
        self._answers = answers
        self._registry = registry
        self._clients = clients
        self._sealer = sealer
        self._rules = rules
        self._clock = clock

    async def confirm(self, code: str, sees: Callable[[Mapping[str, str]], bool], by: By) -> str:
        """Make what a person consented to a grant; returns its id.

        Args:
            code: what the person came back to the application with.
            sees: whether grants with these labels exist for the caller.
            by: who confirms it.

        Raises:
            CodeError: the code is unknown, used or too old.
            OutdatedConsentError: newer tokens are stored meanwhile.
            UnreadableRecordError: a newer release wrote the stored grant.
            UnsealError: the key that sealed the tokens is gone.
            StoreUnavailableError: the store went away; what was given is safe, and may be confirmed again.
        """
        ticket = ticket_in(code)
        found = CodeProblem.UNKNOWN if ticket is None else await self._sign_ins.find(ticket)
        if isinstance(found, CodeProblem):
            raise CodeError(found)
        stored = await self._stored(found.grant.id)
        labels = found.wanted.labels if stored is None else stored.grant.labels
        if not sees(found.wanted.labels) or not sees(labels):
            raise CodeError(CodeProblem.UNKNOWN)
        confirmed = self._confirmed(found, stored, by)
        match await to_its_end(self._answers.keep(confirmed)):
            case None:
                raise StoreUnavailableError("the confirmation is on this machine's disk, and not stored yet")
            case Verdict.STORED | Verdict.KNOWN:
                return found.grant.id
            case _:
                raise OutdatedConsentError

    def _confirmed(self, consent: StoredConsent, stored: StoredGrant | None, by: By) -> Confirmed:
        client = signing_client(self._clients, consent.wanted.client)
        pair = self._sealer.open(consent.grant)
        known = {} if stored is None else stored.grant.labels
        grant = replace(consent.grant, labels={**known, **consent.wanted.labels})
        change = lifecycle.admit(grant, client, self._rules, self._clock.now())
        event = grant_event(
            EventType.GRANT_RECOVERED,
            grant,
            client,
            attempt=consent.fence,
            now=self._clock.now(),
            expires_at=grant.access_expires_at,
        )
        first = Confirmed(
            fence=consent.fence,
            sign_in=consent.sign_in,
            base_version=None,
            base_status=None,
            change=replace(change, event=event),
            revokes=client.revoke_url is not None and not client.revoking_ends_consent,
            by=by,
        )
        if stored is None:
            confirmed = following(first, None, None)
        else:
            confirmed = following(first, stored.grant.version, stored.grant.status)
        grant = confirmed.change.grant
        sealed = replace(grant, sealed=self._sealer.seal(grant, pair))
        return replace(confirmed, change=replace(confirmed.change, grant=sealed))

    async def _stored(self, grant_id: str) -> StoredGrant | None:
        try:
            return await self._registry.find(grant_id)
        except NewerRecordError:
            raise
        except UnreadableRecordError:
            return None  # it is replaced, as by an import
